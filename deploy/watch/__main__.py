"""``python -m deploy.watch``: write Grafana's dashboards, ``deploy/watch/grafana/*.json``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fibflow.deploy.watch.dashboards import DASHBOARDS, render

FOLDER = Path(__file__).with_name("grafana")


def main() -> None:
    """Run the command line."""
    argparse.ArgumentParser(prog="deploy.watch", description=__doc__).parse_args()
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(render(name))


if __name__ == "__main__":
    main()

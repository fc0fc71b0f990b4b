"""``python -m deploy.scale``: print the tables, or write ``docs/scale.md``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fibflow.deploy.scale.report import render

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


def main() -> None:
    """Run the command line."""
    made = argparse.ArgumentParser(prog="deploy.scale", description=__doc__)
    made.add_argument("--write", action="store_true", help=f"write {DOCUMENT.parent.name}/{DOCUMENT.name}")
    text = render()
    if made.parse_args().write:
        DOCUMENT.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()

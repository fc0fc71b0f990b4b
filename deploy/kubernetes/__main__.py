"""``python -m deploy.kubernetes VALUES [FILE ...]``: print filled manifests.

    python -m deploy.kubernetes mine.env | kubectl apply -f -
    python -m deploy.kubernetes mine.env jobs/stop.yaml | kubectl create -f -

Without files: those that make an installation, and neither the jobs, which are done when somebody wants them,
nor the daily run, which AWS's scheduler starts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fibflow.deploy.kubernetes.fill import ALWAYS, FillError, filled, read_values


def main() -> int:
    """Run the command line and return its exit code."""
    made = argparse.ArgumentParser(
        prog="deploy.kubernetes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("values", type=Path, help="a file of NAME=value lines, as values.env")
    made.add_argument("files", nargs="*", default=ALWAYS, help=f"default: {' '.join(ALWAYS)}")
    args = made.parse_args()
    try:
        values = read_values(args.values)
        sys.stdout.write("---\n".join(filled(name, values) for name in args.files))
    except FillError as error:
        sys.stderr.write(f"deploy.kubernetes: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

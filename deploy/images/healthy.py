"""Ask the address in ``FIBFLOW_HEALTH`` whether the container is well; without one there is nobody to ask."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

_WITHIN_S = 4.0


def main() -> int:
    """Return 0 where all is well, else 1."""
    address = os.environ.get("FIBFLOW_HEALTH")
    if not address:
        return 0
    try:
        with urllib.request.urlopen(address, timeout=_WITHIN_S):
            return 0
    except (OSError, ValueError, urllib.error.URLError) as error:
        sys.stderr.write(f"{address}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())

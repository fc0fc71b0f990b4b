"""What the command lines that ask the vendor share: its address, the key, how often and how many at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from fibflow.io.vendor.access import KEY_VARIABLES, OFFICIAL, URL_VARIABLE, vendor_key, vendor_url
from fibflow.io.vendor.errors import VendorError
from fibflow.io.vendor.rest import Vendor
from fibflow.pipelines.cli import UsageError, date_of

KNOWN_ERRORS = (VendorError,)
"""What asking the vendor raises: one line that says what to do."""

#: Calls a second, and calls at once.
RATE, AT_ONCE = 10.0, 4


def add_vendor_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``vendor_of`` reads."""
    group = parser.add_argument_group(
        "the vendor", f"The key comes from {' or '.join(KEY_VARIABLES)}, or from a file; never from here."
    )
    group.add_argument(
        "--vendor-url", metavar="URL", help=f"its address (default: {URL_VARIABLE}, else {OFFICIAL})"
    )
    group.add_argument("--key-file", metavar="FILE", help="a file that holds the key and nothing else")
    group.add_argument(
        "--rate", type=float, default=RATE, metavar="N", help="calls a second at most (default: %(default)s)"
    )
    group.add_argument(
        "--at-once", type=int, default=AT_ONCE, metavar="N", help="calls at a time (default: %(default)s)"
    )


def add_history_arguments(parser: argparse.ArgumentParser, recheck: int) -> None:
    """Add which history is fetched, and where its files lie; ``recheck``: the default of that option."""
    parser.add_argument(
        "--raw", required=True, metavar="URI", help="the folder for the vendor's files, or s3://bucket/folder"
    )
    parser.add_argument(
        "--from",
        dest="first",
        type=date_of,
        metavar="DATE",
        help="first date of history (default: the first that is held; the first run needs it)",
    )
    parser.add_argument(
        "--to", dest="last", type=date_of, metavar="DATE", help="last date (default: the last closed one)"
    )
    parser.add_argument("--symbols", metavar="A,B", help="keep only these (default: all that the vendor has)")
    parser.add_argument("--minutes", action="store_true", help="also the minutes of the symbols")
    parser.add_argument(
        "--recheck",
        type=int,
        default=recheck,
        metavar="K",
        help="fetch the last K sessions again and write what the vendor corrected (default: %(default)s)",
    )


def vendor_of(args: argparse.Namespace, environ: Mapping[str, str] | None = None, **more: Any) -> Vendor:
    """Return the vendor that a command line names; ``more`` goes to ``Vendor``.

    Raises:
        UsageError: a number or the address cannot be.
        WrongKey: there is no key.
    """
    environ = os.environ if environ is None else environ
    if not 0 < args.rate <= 10_000:
        raise UsageError(f"--rate is {args.rate:g}: give calls a second, above 0")
    if not 1 <= args.at_once <= 256:
        raise UsageError(f"--at-once is {args.at_once}: give 1 to 256")
    try:
        url = vendor_url(environ, args.vendor_url)
    except ValueError as error:
        raise UsageError(str(error)) from None
    key = vendor_key(environ, args.key_file)
    return Vendor(url, key, args.rate, connections=args.at_once, **more)

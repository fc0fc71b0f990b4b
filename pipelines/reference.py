"""Reference data into the lake: ``python -m pipelines.reference``.

Brings the tables ``reference.symbols``, ``splits``, ``dividends`` and ``renames`` up to date, from the vendor
or from Parquet or CSV. Columns of files may have the vendor's names (``ticker``, ``primary_exchange``,
``currency_name``, ``list_date``, ``execution_date`` ...). Rows of new keys are added, those that differ are
replaced, all others stay; a column that a file lacks keeps what is stored. Each change is appended to
``reference.changes``. A second run does nothing.

    python -m pipelines.reference --lake lake --from-vendor
    python -m pipelines.reference --lake lake --symbols tickers.csv --splits splits.csv
    python -m pipelines.reference --lake s3://bucket/lake --dividends s3://bucket/dividends.parquet
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from fibflow.io.reference import DIVIDENDS, RENAMES, SPLITS, SYMBOLS
from fibflow.io.referencefiles import read_dividends, read_renames, read_splits, read_symbols
from fibflow.io.referenceupdates import Given, Updated, update
from fibflow.io.referencevendor import Question, today_of
from fibflow.pipelines import cli
from fibflow.pipelines.vendors import KNOWN_ERRORS, add_vendor_arguments, vendor_of

_FILES = (
    ("symbols", SYMBOLS, read_symbols, "symbol (or ticker), name, type, exchange, currency, active, ..."),
    ("splits", SPLITS, read_splits, "symbol (or ticker), execution_date, split_from, split_to, id"),
    ("dividends", DIVIDENDS, read_dividends, "symbol (or ticker), ex_dividend_date, cash_amount, ..., id"),
    ("renames", RENAMES, read_renames, "symbol (the new one), old_symbol, date"),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.reference",
        description="Bring the lake's reference data up to date, from the vendor or from files.",
        allow_abbrev=False,
    )
    cli.add_lake_arguments(made)
    for name, _, _, columns in _FILES:
        made.add_argument(f"--{name}", metavar="FILE", help=f"Parquet or CSV, also s3://: {columns}")
    made.add_argument(
        "--from-vendor",
        action="store_true",
        help="ask the vendor: for its tickers, for splits and dividends that may be new, and for renames",
    )
    made.add_argument("--only", metavar="A,B,...", help="with --from-vendor: of these symbols only")
    made.add_argument(
        "--full", action="store_true", help="with --from-vendor: all splits and dividends again"
    )
    add_vendor_arguments(made)
    return made


def run(argv: Sequence[str] | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments.
        now: the time of day.

    Raises:
        UsageError: neither the vendor nor a file is named, or both.
        VendorError: the vendor does not answer, or refuses.
        InputError, LakeError, AwsError: something cannot be read or written. All is read before the first
            table is written.
    """
    args = parser().parse_args(argv)
    began = time.monotonic()
    files = [(spec, read, getattr(args, name)) for name, spec, read, _ in _FILES if getattr(args, name)]
    if bool(files) == args.from_vendor:
        raise cli.UsageError(
            "name files (--symbols, --splits, --dividends, --renames), or ask with --from-vendor; not both"
        )
    if (args.only or args.full) and not args.from_vendor:
        raise cli.UsageError("--only and --full go with --from-vendor")
    lake = cli.lake_of(args)
    shown: list[tuple[str, str]] = []
    if args.from_vendor:
        today = today_of(lake, now())
        question = Question(vendor_of(args), lake, today, cli.symbols_of(args.only, "--only"), args.full)
        work = [(given, len(given.rows)) for given in question.ask()]
        shown = [("note", note) for note in question.notes]
    else:
        aws = cli.aws_of(args, *(uri for _, _, uri in files))
        found = [(spec, read(uri, aws)) for spec, read, uri in files]
        work = [(Given(spec, read.rows), read.given) for spec, read in found]
    run_id = cli.new_run_id()
    rows = [row for given, read in work for row in _told(update(lake, given, run_id), read, len(given.rows))]
    cli.print_table("reference", [*rows, *shown, ("seconds", f"{time.monotonic() - began:.1f}")])
    return cli.OK


def _told(done: Updated, read: int, kept: int) -> Iterator[tuple[str, str]]:
    """Yield names and values of what an update did."""
    what = done.spec.name.partition(".")[2]
    yield f"{what} read", f"{read:,}"
    yield f"{what} of a key that comes again", f"{read - kept:,}"
    yield f"{what} new", f"{done.rows.new:,}"
    yield f"{what} changed", f"{done.rows.changed:,}"
    if done.rows.gone:
        yield f"{what} called off", f"{done.rows.gone:,}"
    yield f"{what} as they were", f"{done.rows.unchanged:,}"
    yield f"version of {done.spec.name}", "none" if done.rows.version < 0 else f"{done.rows.version}"


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], known=KNOWN_ERRORS)

"""Raw files to bronze: ``python -m pipelines.load``.

Lands daily or minute rows of Parquet and CSV files, one a symbol, a day, a month or a year, in the table
``bronze.daily`` or ``bronze.minutes``. A second run lands only new and changed files, and of them only rows
that differ. Of rows with one key the winner is as ``docs/data-model.md`` says; the others go to
``dead_letters``, and so do rows that are refused.

    python -m pipelines.load --input history/ --lake lake --price-basis split-adjusted
    python -m pipelines.load --input s3://bucket/bronze/raw_ohlcv --lake s3://bucket/lake --price-basis raw
    python -m pipelines.load --input minutes/ --lake lake --price-basis raw --kind minutes
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from fibflow.io import tables
from fibflow.io.files import filesystem_for
from fibflow.io.lake import Lake
from fibflow.io.storage import Storage
from fibflow.pipelines import cli
from fibflow.pipelines.runner import KNOWN_ERRORS, Place, Runner, add_runner_arguments
from fibflow.runners.memory import keep_freed_memory


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; what it does not know goes to Beam."""
    made = cli.Parser(
        prog="pipelines.load",
        description="Land raw files in the lake's bronze tables; only new and changed ones on a second run.",
        epilog="Options that are not listed here go to Beam.",
        allow_abbrev=False,
    )
    cli.add_lake_arguments(made)
    made.add_argument(
        "--input", required=True, metavar="URI", help="a folder or file, or s3://bucket/folder: Parquet, CSV"
    )
    made.add_argument(
        "--price-basis",
        choices=tables.PRICE_BASES,
        help="what the prices are; declared at the first load, kept from then on",
    )
    made.add_argument(
        "--kind", choices=("daily", "minutes"), default="daily", help="of the rows (default: daily)"
    )
    made.add_argument("--calendar", help="as exchange_calendars names it (default: the table's, else XNYS)")
    made.add_argument("--symbols", metavar="A,B,...", help="land only these")
    made.add_argument(
        "--full-refresh",
        action="store_true",
        help="land all files anew, in place of all that the table holds",
    )
    made.add_argument("--dry-run", action="store_true", help="say what would be landed, and write nothing")
    cli.add_work_arguments(made)
    add_runner_arguments(made)
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError, CalendarError: the request cannot be met.
        InputError, LakeError, AwsError: the load failed; the lake is as before.
        JobServerError, ServiceError: the runner's job server does not start.
    """
    args, beam_flags = parser().parse_known_args(argv)
    began = time.monotonic()
    symbols = frozenset(filter(None, map(str.strip, (args.symbols or "").split(","))))
    if args.symbols is not None and not symbols:
        raise cli.UsageError("--symbols names no symbol")
    if symbols and args.full_refresh:
        raise cli.UsageError("--full-refresh replaces the whole table: leave --symbols out")
    workers = cli.workers_of(args)
    place = Place.of(args)
    lake = Lake(args.lake, cli.aws_of(args, args.lake, args.input, args.staging))
    _check_places(args.input, lake)
    # Beam takes a second to import: not before the command line is known to be right.
    from fibflow.pipelines.landing import Request, load

    keep_freed_memory()
    with Runner(place, beam_flags) as runner:
        request = Request(
            input=args.input,
            kind=args.kind,
            price_basis=args.price_basis,
            calendar=args.calendar,
            symbols=symbols or None,
            full_refresh=args.full_refresh,
            dry_run=args.dry_run,
            runner=runner,
            threads=workers,
            staging=args.staging,
            run=cli.new_run_id(),
            year=datetime.now(UTC).year,
        )
        report = load(lake, request)
    seconds = f"{time.monotonic() - began:.1f}"
    cli.print_table(f"load {request.spec.name}", [*report.rows(), ("seconds", seconds)])
    return cli.OK


def _check_places(source: str, lake: Lake) -> None:
    """Refuse a lake that lies within the input: its own files would be landed."""
    place, base = Storage(lake.uri, lake.aws), filesystem_for(source, lake.aws)[1]
    on_s3 = source.startswith(("s3://", "s3a://"))
    if on_s3 == place.is_s3 and f"{place.base}/".startswith(f"{base.rstrip('/')}/"):
        raise cli.UsageError(f"the lake {lake.uri} lies within --input {source}: put it beside it")


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], known=KNOWN_ERRORS)

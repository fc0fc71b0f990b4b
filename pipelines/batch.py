"""History to bars: ``python -m pipelines.batch``.

Rows of ``bronze.daily`` (Fibonacci timeframes), of ``bronze.minutes`` (intraday ones), or of a raw folder,
become bars in ``silver.bars``, in one commit.

From the bronze tables a run is incremental: it makes anew what rows that landed since the last run, and
sessions that ended since, can change; without any it does nothing and says so. A raw folder is for a full run
without a bronze table.

    python -m pipelines.batch --lake lake --timeframes fibonacci
    python -m pipelines.batch --lake lake --input history/ --price-basis raw --timeframes 3d,5d
    python -m pipelines.batch --lake s3://bucket/lake --timeframes 5m,1h --symbols AAPL,IBM --start 2024-01-02
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.pipelines import cli
from fibflow.pipelines.runner import KNOWN_ERRORS, Place, Runner, add_runner_arguments
from fibflow.runners.memory import keep_freed_memory
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, Timeframe, parse_timeframes


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; what it does not know goes to Beam."""
    made = cli.Parser(
        prog="pipelines.batch",
        description="Make OHLCV bars of daily and minute history, and commit them to the lake.",
        epilog="Options that are not listed here go to Beam.",
        allow_abbrev=False,
    )
    cli.add_lake_arguments(made)
    made.add_argument(
        "--input",
        metavar="TABLE|URI",
        help="bronze.daily or bronze.minutes of the lake (default: what the timeframes need), "
        "or a raw folder for a full run",
    )
    made.add_argument(
        "--timeframes", default="fibonacci", help="such as 3d,5d,5m,1h; fibonacci (default), intraday"
    )
    made.add_argument(
        "--anchor", choices=list(Anchor), default=Anchor.EXCHANGE, help="of <N>d (default: exchange)"
    )
    made.add_argument(
        "--intraday-anchor",
        choices=list(IntradayAnchor),
        default=IntradayAnchor.MIDNIGHT,
        help="of minutes and hours (default: midnight)",
    )
    made.add_argument(
        "--calendar", help="as exchange_calendars names it (default: the input table's, else XNYS)"
    )
    made.add_argument(
        "--price-basis", choices=tables.PRICE_BASES, help="of a raw folder; a bronze table knows its own"
    )
    made.add_argument("--symbols", metavar="A,B,...", help="only these")
    made.add_argument(
        "--start", type=cli.date_of, metavar="DATE", help="only windows that begin on this date or later"
    )
    made.add_argument(
        "--end", type=cli.date_of, metavar="DATE", help="only windows that begin before this date"
    )
    made.add_argument(
        "--as-of",
        type=cli.date_of,
        metavar="DATE",
        help="use sessions up to this one (default: the input's newest)",
    )
    made.add_argument("--complete-only", action="store_true", help="leave out windows that have not ended")
    made.add_argument(
        "--full-refresh", action="store_true", help="make all bars anew and replace what is there"
    )
    made.add_argument(
        "--rewrite-calendar", action="store_true", help="make anew what a changed calendar moves"
    )
    made.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    cli.add_work_arguments(made)
    add_runner_arguments(made)
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError, TimeframeError, CalendarError: the request cannot be met.
        InputError, LakeError, AwsError: the run failed; nothing was committed.
        JobServerError, ServiceError: the runner's job server does not start.
    """
    args, beam_args = parser().parse_known_args(argv)
    began = time.monotonic()
    timeframes = parse_timeframes(args.timeframes)
    symbols = frozenset(filter(None, map(str.strip, (args.symbols or "").split(","))))
    if args.symbols is not None and not symbols:
        raise cli.UsageError("--symbols names no symbol")
    workers = cli.workers_of(args)
    parts = [part for part in (_of_days(timeframes), _of_minutes(timeframes)) if part]
    if args.input and len(parts) > 1:
        raise cli.UsageError("--input names one source: ask for days, or for minutes and hours, not for both")
    if args.start and args.end and args.start >= args.end:
        raise cli.UsageError(f"--start {args.start} is not before --end {args.end}")
    place = Place.of(args)
    # Beam takes a second to import: not before the command line is known to be right.
    from fibflow.pipelines.job import BatchJob
    from fibflow.pipelines.request import Request

    keep_freed_memory()
    lake = Lake(args.lake, cli.aws_of(args, args.lake, args.input, args.staging))
    with Runner(place, beam_args) as runner:
        jobs = []
        for part in parts:
            request = Request(
                timeframes=part,
                anchor=Anchor(args.anchor),
                intraday_anchor=IntradayAnchor(args.intraday_anchor),
                input=args.input,
                calendar=args.calendar,
                price_basis=args.price_basis,
                symbols=symbols or None,
                start=_day(args.start),
                end=_day(args.end),
                as_of=_day(args.as_of),
                complete_only=args.complete_only,
                full_refresh=args.full_refresh,
                rewrite_calendar=args.rewrite_calendar,
                dry_run=args.dry_run,
                runner=runner,
                workers=workers,
                staging=args.staging,
                run=cli.new_run_id(),
                year=datetime.now(UTC).year,
            )
            jobs.append(BatchJob(lake, lake.aws, request))
        if len(jobs) > 1:
            # Each is a commit of its own: none of them, where one would be refused.
            for job in jobs:
                job.check()
        for job, part in zip(jobs, parts, strict=True):
            summary = job.run()
            cli.print_table(
                f"batch {', '.join(t.name for t in part)}", summary.rows(time.monotonic() - began)
            )
    return cli.OK


def _of_days(timeframes: Sequence[Timeframe]) -> tuple[Timeframe, ...]:
    return tuple(timeframe for timeframe in timeframes if not timeframe.is_intraday)


def _of_minutes(timeframes: Sequence[Timeframe]) -> tuple[Timeframe, ...]:
    return tuple(timeframe for timeframe in timeframes if timeframe.is_intraday)


def _day(value: date | None) -> int | None:
    return None if value is None else int(np.datetime64(value, "D").astype(int))


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], known=KNOWN_ERRORS)

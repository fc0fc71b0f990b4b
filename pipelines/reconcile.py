"""Official history over a stream's bars: ``python -m pipelines.reconcile``.

Bars of days are made of ``bronze.daily``, of minutes and hours of ``bronze.minutes``, and, for sessions that
it does not hold, of all that the stream archived: late messages too, cancels and corrections applied. They go
to ``silver.bars``, and readers turn to them; the table ``reconciliation`` names each bar that changed, and
why. Only what is new is made: a second run does nothing. A stream may write meanwhile.

    python -m pipelines.reconcile --lake lake
    python -m pipelines.reconcile --lake lake --timeframes 5m,1h,1d --as-of 2024-03-11 --dry-run
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np

from fibflow.io import tables, ticksessions
from fibflow.io.lake import Lake
from fibflow.io.live import LiveReader
from fibflow.io.reconciliation import UNEXPLAINED
from fibflow.io.snapshot import Snapshot
from fibflow.pipelines import cli
from fibflow.pipelines.runner import KNOWN_ERRORS, Place, Runner, add_runner_arguments
from fibflow.runners.memory import keep_freed_memory
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, Timeframe, parse_timeframes

if TYPE_CHECKING:
    from fibflow.pipelines.report import Report
    from fibflow.pipelines.request import Request, Summary


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; what it does not know goes to Beam."""
    made = cli.Parser(
        prog="pipelines.reconcile",
        description="Make the bars of ended sessions of all that is known of them, and report what changed.",
        epilog="Options that are not listed here go to Beam.",
        allow_abbrev=False,
    )
    cli.add_lake_arguments(made)
    made.add_argument(
        "--timeframes", help="such as 5m,1h,1d (default: those that silver.live or silver.bars hold)"
    )
    made.add_argument(
        "--bars-from",
        choices=(ticksessions.TRADES, ticksessions.MINUTES),
        help="which messages the stream's bars are made of (default: what its tables tell)",
    )
    made.add_argument(
        "--as-of",
        type=cli.date_of,
        metavar="DATE",
        help="sessions up to this one (default: of ticks, the last one that the stream calls final; "
        "of a bronze table, its newest)",
    )
    made.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    cli.add_work_arguments(made)
    add_runner_arguments(made)
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError, TimeframeError, CalendarError: the request cannot be met.
        InputError, LakeError, AwsError: the run failed; what it committed before is whole, run again.
        JobServerError, ServiceError: the runner's job server does not start.
    """
    args, beam_args = parser().parse_known_args(argv)
    began = time.monotonic()
    cli.workers_of(args)
    if args.timeframes:
        parse_timeframes(args.timeframes)
    place = Place.of(args)
    keep_freed_memory()
    lake = Lake(args.lake, cli.aws_of(args, args.lake, args.staging))
    with Runner(place, beam_args) as runner:
        report = reconcile(
            lake, args, runner, lambda name, done: cli.print_table(name, done.rows(time.monotonic() - began))
        )
    if report is not None:
        _print(report)
    return cli.OK


def reconcile(
    lake: Lake, args: argparse.Namespace, runner: Runner, told: Callable[[str, Summary], object]
) -> Report | None:
    """Reconcile, and return the report; None for a dry run.

    Args:
        lake: where.
        args: of the command line.
        runner: where bars are made.
        told: is given what each part did, as it ends.

    Raises:
        As ``run``.
    """
    # Beam takes a second to import: not before the command line is known to be right.
    from fibflow.pipelines import facts
    from fibflow.pipelines.job import BatchJob
    from fibflow.pipelines.report import Report
    from fibflow.pipelines.tickjob import TickJob

    live, bars = LiveReader(lake).snapshot(), facts.snapshot_of(lake.table(tables.BARS))
    asked = parse_timeframes(args.timeframes) if args.timeframes else None
    timeframes = asked or parse_timeframes(facts.timeframes_in(live) | facts.timeframes_in(bars))
    calendar = load_calendar(live.properties.get(tables.CALENDAR, "XNYS"), _year() + 2)
    through = _through(args.as_of, live, calendar)
    jobs: list[tuple[str, BatchJob | TickJob]] = []
    days, minutes = (tuple(t for t in timeframes if t.is_intraday is kind) for kind in (False, True))
    for spec, own in ((tables.DAILY, days), (tables.MINUTES, minutes)):
        if own and lake.table(spec).exists:
            request = _request(args, runner, own, live, bars)
            jobs.append((f"{_names(own)} of {spec.name}", BatchJob(lake, lake.aws, request)))
    if minutes and through >= 0 and (feed := _feed(args.bars_from, lake, live)):
        request = _request(args, runner, minutes, live, bars)
        basis = live.properties.get(tables.PRICE_BASIS, tables.PRICE_BASES[0])
        job = TickJob(lake, request, feed, calendar, basis, through)
        jobs.append((f"{_names(minutes)} of {tables.TICKS.name}", job))
    # Each has commits of its own: none of them, where one would be refused.
    for _, each in jobs:
        each.check()
    for name, each in jobs:
        told(name, each.run())
    if args.dry_run:
        return None
    report = Report(lake, live, calendar, through, cli.new_run_id())
    report.write(timeframes)
    return report


def _year() -> int:
    return datetime.now(UTC).year


def _names(timeframes: Sequence[Timeframe]) -> str:
    return ", ".join(timeframe.name for timeframe in timeframes)


def _through(as_of: date | None, live: Snapshot, calendar: TradingCalendar) -> int:
    """Return the position of the last session that has ended, -1 for none: by the data, not by the clock."""
    if as_of is not None:
        return calendar.position_on_or_before(int(np.datetime64(as_of, "D").astype(int)))
    until = ticksessions.final_until(live)
    return -1 if until is None else int(np.searchsorted(calendar.day_ends, until, side="right")) - 1


def _feed(given: str | None, lake: Lake, live: Snapshot) -> str | None:
    """Return which messages make the bars; None where no message of either kind is archived."""
    from fibflow.pipelines import facts

    found = given or live.properties.get(tables.BARS_FROM)
    if found is not None:
        return found
    ticks, late = (facts.snapshot_of(lake.table(spec)) for spec in (tables.TICKS, tables.LATE))
    # Only what makes bars can be late for them.
    feeds = ticksessions.feeds_of(late) or ticksessions.feeds_of(ticks)
    if len(feeds) > 1:
        raise cli.UsageError(
            f"{tables.TICKS.name} holds trades and minutes: say with --bars-from which of them the stream's "
            "bars are made of"
        )
    return next(iter(feeds), None)


def _request(
    args: argparse.Namespace,
    runner: Runner,
    timeframes: tuple[Timeframe, ...],
    live: Snapshot,
    bars: Snapshot,
) -> Request:
    """Return what batch is asked for: with the anchors that the lake's bars have."""
    from fibflow.pipelines.request import Request

    told = live.properties | bars.properties
    return Request(
        timeframes=timeframes,
        anchor=Anchor(told.get(tables.ANCHOR, Anchor.EXCHANGE)),
        intraday_anchor=IntradayAnchor(told.get(tables.INTRADAY_ANCHOR, IntradayAnchor.MIDNIGHT)),
        input=None,
        calendar=live.properties.get(tables.CALENDAR),
        price_basis=live.properties.get(tables.PRICE_BASIS),
        symbols=None,
        start=None,
        end=None,
        as_of=None if args.as_of is None else int(np.datetime64(args.as_of, "D").astype(int)),
        complete_only=False,
        full_refresh=False,
        rewrite_calendar=False,
        dry_run=args.dry_run,
        runner=runner,
        workers=cli.workers_of(args),
        staging=args.staging,
        run=cli.new_run_id(),
        year=_year(),
    )


def _print(report: Report) -> None:
    """Print how many bars changed, by timeframe and reason."""
    rows = [
        (f"{timeframe} {why}", f"{count:,}")
        for (timeframe, why), count in sorted(
            report.counts.items(), key=lambda item: (Timeframe.parse(item[0][0]), item[0][1])
        )
    ]
    cli.print_table("bars that changed for readers", rows or [("none", "0")])
    if unexplained := sum(count for (_, why), count in report.counts.items() if why == UNEXPLAINED):
        print(
            f"reconcile: {unexplained:,} bars of the stream differ from batch's for no reason that is known: "
            f"look at the rows of the table reconciliation with why = '{UNEXPLAINED}' and run {report.run}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], known=KNOWN_ERRORS)

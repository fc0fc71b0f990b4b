"""History from the vendor: ``python -m pipelines.backfill``.

Finds which sessions, and which symbols' sessions, neither the lake nor the raw folder has whole, asks the
vendor for just those, writes them to the raw folder and lands them. The first run fetches years, the next
ones a day; a run that was killed goes on where it was. Prices are as they were traded: the basis is ``raw``.

The key comes from ``MASSIVE_API_KEY`` or ``POLYGON_API_KEY``, or from a file.

    python -m pipelines.backfill --lake lake --raw raw --from 2023-01-01
    python -m pipelines.backfill --lake lake --raw raw --recheck 5
    python -m pipelines.backfill --lake lake --raw raw --symbols AAPL,MSFT --from 2024-01-01 --minutes
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import csv

from fibflow.io import tables
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake
from fibflow.io.vendor.errors import NoAccess, Unreachable, VendorError, WrongKey
from fibflow.io.vendor.files import DAILY, MINUTES, RawFolder
from fibflow.io.vendor.held import Window, first_session
from fibflow.io.vendor.rest import Vendor
from fibflow.pipelines import cli, vendors
from fibflow.pipelines.backfilling.minutes import Minutes
from fibflow.pipelines.backfilling.request import BackfillReport, BackfillRequest
from fibflow.pipelines.backfilling.sessions import Sessions
from fibflow.pipelines.backfilling.state import State
from fibflow.pipelines.backfilling.symbols import Symbols
from fibflow.pipelines.runner import KNOWN_ERRORS, Place, Runner, add_runner_arguments
from fibflow.transforms.calendar import TradingCalendar, load_calendar

__all__ = ["BackfillReport", "BackfillRequest", "backfill", "parser", "run"]

BASIS = "raw"
#: How long after its close a session is first asked for: plans are up to so late.
DELAY_US = 15 * 60 * 1_000_000
#: A file that is half written for so long is no running backfill's.
ABANDONED = timedelta(hours=1)


def backfill(lake: Lake, vendor: Vendor, request: BackfillRequest) -> BackfillReport:
    """Bring the raw folder up to date with the vendor; lands nothing.

    Args:
        lake: what is held already; with ``lake.aws`` where the folder is on S3 too.
        vendor: is asked.
        request: what is wanted.

    Raises:
        UsageError: nothing says where history begins, the lake's prices are adjusted, or minutes are asked
            for without symbols.
        WrongKey, NoAccess, Unreachable: no more will come; what came is kept. Other failures are reported.
        CalendarError: there is no such calendar.
        LakeError, InputError: the lake or the folder cannot be read or written.
    """
    report = gather(lake, vendor, request)
    if report.ended is not None:
        raise report.ended
    return report


def gather(lake: Lake, vendor: Vendor, request: BackfillRequest) -> BackfillReport:
    """Do as ``backfill``, but leave the error after which no more would come in the report, as ``ended``."""
    if request.minutes and not request.symbols:
        raise cli.UsageError("--minutes takes the symbols that --symbols names: name some")
    folder = RawFolder.at(request.raw, lake.aws)
    calendar = _calendar(lake, request)
    window = _window(lake, folder, request, calendar)
    if not request.dry_run:
        folder.sweep(request.now() - ABANDONED)
    report = BackfillReport(dry_run=request.dry_run)
    before = vendor.calls
    if len(window):
        try:
            _fetch(State(lake, vendor, folder, request, window, report))
        except (WrongKey, NoAccess, Unreachable) as error:
            report.ended = error
    report.fetched = dict(sorted(report.fetched.items()))
    report.calls = vendor.calls - before
    if folder.raw_files(DAILY):
        report.daily_input = folder.uri(DAILY)
    if request.minutes and folder.raw_files(MINUTES):
        report.minutes_input = folder.uri(MINUTES)
    report.changes = report.changes.sort_by([("session", "ascending"), ("symbol", "ascending")])
    return report


def _fetch(state: State) -> None:
    sessions = Sessions(state)
    sessions.ask(sessions.wanted())
    Symbols(state, sessions).fill()
    if state.request.minutes:
        Minutes(state).fill()


def _calendar(lake: Lake, request: BackfillRequest) -> TradingCalendar:
    """Return the calendar, compared with what the lake was made with."""
    name = request.calendar
    for spec in (tables.DAILY, tables.MINUTES):
        table = lake.table(spec)
        properties = table.properties
        basis = properties.get(tables.PRICE_BASIS, BASIS)
        if basis != BASIS:
            raise cli.UsageError(
                f"{spec.name} of {lake.uri} holds {basis} prices, and the vendor's come as they were "
                "traded: give another lake"
            )
        name = name or properties.get(tables.CALENDAR)
        table.check({tables.CALENDAR: name or ""} if name else {}, properties)
    return load_calendar(name or "XNYS", request.now().year + 2)


def _window(lake: Lake, folder: RawFolder, request: BackfillRequest, calendar: TradingCalendar) -> Window:
    """Return the sessions from the first date to the last one that has closed."""
    first = _days_of(request.first) if request.first is not None else _first_held(lake, folder)
    if first is None:
        raise cli.UsageError(
            f"neither {lake.uri} nor {request.raw} says where history begins: name its first date with --from"
        )
    now = int(request.now().timestamp() * 1_000_000)
    last = int(np.searchsorted(calendar.closes, now - DELAY_US, side="right")) - 1
    if request.last is not None:
        last = min(last, calendar.position_on_or_before(_days_of(request.last)))
    return Window(calendar, int(np.searchsorted(calendar.days, first)), last)


def _first_held(lake: Lake, folder: RawFolder) -> int | None:
    day = folder.first()
    held = (first_session(lake), None if day is None else _days_of(day))
    return min((first for first in held if first is not None), default=None)


def _days_of(day: date) -> int:
    return int(np.datetime64(day, "D").astype(np.int64))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; what it does not know goes to Beam."""
    made = cli.Parser(
        prog="pipelines.backfill",
        description="Fetch what is missing of the vendor's history, and land it.",
        epilog="Options that are not listed here go to Beam.",
        allow_abbrev=False,
    )
    cli.add_lake_arguments(made)
    vendors.add_history_arguments(made, recheck=0)
    made.add_argument(
        "--holes",
        choices=("all", "likely", "recent", "none"),
        default="recent",
        help="which sessions that a symbol lacks to ask about alone (default: %(default)s)",
    )
    made.add_argument(
        "--whole",
        action="store_true",
        help="also sessions that are held but came from elsewhere, or for other symbols",
    )
    made.add_argument(
        "--ask-again", action="store_true", help="also about those in which the vendor had no trade"
    )
    made.add_argument("--calendar", help="as exchange_calendars names it (default: the lake's, else XNYS)")
    made.add_argument("--changes", metavar="FILE", type=Path, help="write all rows that changed, as CSV")
    made.add_argument("--no-load", action="store_true", help="leave landing to pipelines.load")
    made.add_argument("--dry-run", action="store_true", help="say what would be fetched, and ask for nothing")
    vendors.add_vendor_arguments(made)
    cli.add_work_arguments(made)
    add_runner_arguments(made)
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError, CalendarError: the request cannot be met.
        VendorError: the vendor did not give all; what came is kept, and landed.
        InputError, LakeError, AwsError: something cannot be read or written.
    """
    args, beam_flags = parser().parse_known_args(argv)
    began = time.monotonic()
    if args.recheck < 0:
        raise cli.UsageError(f"--recheck is {args.recheck}: give 0 or more")
    if args.changes is not None and (args.changes.is_dir() or not args.changes.absolute().parent.is_dir()):
        raise cli.UsageError(f"--changes {args.changes}: name a file in a folder that is there")
    symbols = cli.symbols_of(args.symbols)
    workers, place = cli.workers_of(args), Place.of(args)
    lake = Lake(args.lake, cli.aws_of(args, args.lake, args.raw, args.staging))
    request = BackfillRequest(
        raw=args.raw,
        first=args.first,
        last=args.last,
        symbols=symbols,
        minutes=args.minutes,
        recheck=args.recheck,
        holes=args.holes,
        whole=args.whole,
        ask_again=args.ask_again,
        calendar=args.calendar,
        dry_run=args.dry_run,
        at_once=args.at_once,
        tick=_said,
    )
    report = gather(lake, vendors.vendor_of(args), request)
    rows = list(report.rows())
    if args.changes is not None:
        csv.write_csv(report.changes, args.changes)
    cli.print_table("backfill", [*rows, ("seconds", f"{time.monotonic() - began:.1f}")])
    if len(report.changes):
        cli.print_table("changes", report.change_rows())
    if not (args.no_load or args.dry_run) and (report.daily_input or report.minutes_input):
        with Runner(place, beam_flags) as runner:
            land(lake, report, runner, workers, args.staging)
    if report.ended is not None:
        raise report.ended
    if report.problem is not None:
        raise VendorError(report.problem)
    return cli.OK


def land(lake: Lake, report: BackfillReport, runner: Runner, threads: int, staging: str | None) -> None:
    """Land what a backfill left in the raw folder, and print what that did."""
    # Beam takes a second to import: not before there is something to land.
    from fibflow.pipelines.landing import Request, load

    kinds: list[tuple[str | None, Any, TableSpec]] = [
        (report.daily_input, "daily", tables.DAILY),
        (report.minutes_input, "minutes", tables.MINUTES),
    ]
    for source, kind, spec in kinds:
        if source is None:
            continue
        began = time.monotonic()
        request = Request(
            input=source,
            kind=kind,
            price_basis=BASIS,
            calendar=None,
            symbols=None,
            full_refresh=False,
            dry_run=False,
            runner=runner,
            threads=threads,
            staging=staging,
            run=cli.new_run_id(),
            year=datetime.now(UTC).year,
        )
        landed = load(lake, request)
        seconds = f"{time.monotonic() - began:.1f}"
        cli.print_table(f"load {spec.name}", [*landed.rows(), ("seconds", seconds)])


def _said(what: str, done: int, of: int) -> None:
    """Print a line at the beginning and at each quarter."""
    if done * 4 // of > (done - 1) * 4 // of or not done:
        print(f"{what}: {done:,} of {of:,}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], known=(*KNOWN_ERRORS, *vendors.KNOWN_ERRORS))

"""The data quality report: ``python -m pipelines.quality --lake LAKE``.

Of the newest sessions: days and minutes that symbols lack, symbols that have gone quiet, bars that cannot
be, what the daily run's reconciliation found, and refused rows by reason. What is usual for a symbol, the
sessions before say. Only these sessions are read. With ``--write`` it is left in the lake, for who watches.

    python -m pipelines.quality --lake lake
    python -m pipelines.quality --lake lake --sessions 20 --output json
    python -m pipelines.quality --lake s3://bucket/lake --write

Exit codes: 0 nothing found, 3 something was, 2 bad usage, 1 the lake cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from rich.console import RenderableType

from fibflow.io.lake import Lake
from fibflow.io.quality import QualityReader, write_report
from fibflow.pipelines import cli, show
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.quality.assess import Told, assess
from fibflow.transforms.quality.evidence import LIVE, MADE, OFFICIAL, Evidence
from fibflow.transforms.quality.report import QualityReport, text_of
from fibflow.transforms.quality.span import Span

FOUND = 3
#: Sessions before the window that say what is usual: of days, of minutes.
BEFORE, MINUTES_BEFORE = 20, 10
SESSIONS, QUIET = 5, 3
_MOST_SESSIONS = 260
_SHOWN = 20


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.quality",
        description="What is missing, quiet, broken or refused in the newest sessions of a lake.",
        allow_abbrev=False,
    )
    cli.add_lake_arguments(made)
    made.add_argument(
        "--sessions", type=int, default=SESSIONS, metavar="N", help=f"the newest N (default: {SESSIONS})"
    )
    made.add_argument(
        "--quiet",
        type=int,
        default=QUIET,
        metavar="K",
        help=f"sessions without anything after which a symbol is quiet (default: {QUIET})",
    )
    made.add_argument("--exchange", metavar="NAME", help="its calendar (default: the lake's, else XNYS)")
    made.add_argument("--output", choices=("text", "json"), default="text", help="default: text")
    made.add_argument("--write", action="store_true", help="leave it in the lake: _quality/latest.json")
    return made


def run(argv: Sequence[str] | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments.
        now: the time of day.

    Raises:
        UsageError, CalendarError: the command line asks for what cannot be.
        LakeError, AwsError: the lake cannot be read or written.
    """
    args = parser().parse_args(argv)
    if not 0 < args.sessions <= _MOST_SESSIONS:
        raise cli.UsageError(f"--sessions is {args.sessions}: give 1 to {_MOST_SESSIONS}")
    if args.quiet < 1:
        raise cli.UsageError(f"--quiet is {args.quiet}: give 1 or more")
    if args.exchange:
        load_calendar(args.exchange)
    report = report_of(cli.lake_of(args), now(), args.sessions, args.quiet, args.exchange)
    written = write(cli.lake_of(args), report) if args.write else []
    if args.output == "json":
        print(json.dumps(report.document(), indent=1, ensure_ascii=False))
    else:
        for each in grids(report):
            show.console().print(each)
        print(line_of(report))
    for place in written:
        print(f"quality: wrote {place}", file=sys.stderr)
    return FOUND if report.found else cli.OK


def write(lake: Lake, report: QualityReport) -> list[str]:
    """Leave a report in the lake, and return the places.

    Raises:
        LakeError: it cannot be written.
    """
    return write_report(lake, report.document(), report.rows[-1].session.isoformat())


def report_of(
    lake: Lake, now: datetime, sessions: int = SESSIONS, quiet: int = QUIET, exchange: str | None = None
) -> QualityReport:
    """Return what there is to say of a lake's newest sessions.

    Args:
        lake: where.
        now: the time of day; it is told, and decides nothing.
        sessions: how many.
        quiet: sessions without anything after which a symbol is quiet.
        exchange: its calendar; None for the lake's.

    Raises:
        LakeError, AwsError: the lake cannot be read, or has no session.
        CalendarError: the calendar is unknown.
    """
    reader = QualityReader(lake)
    calendar = load_calendar(exchange or reader.calendar_name or "XNYS", now.year + 2)
    span = Span.until(calendar, reader.newest(calendar), sessions, BEFORE)
    seen = Evidence(span, MINUTES_BEFORE)
    for part in reader.minute_keys(seen.minutes.span):
        seen.see_keys(part)
    for part in reader.official_minutes(span):
        seen.see_minutes(OFFICIAL, part)
    for part in reader.minute_bars(span):
        seen.see_minutes(MADE, part)
    for part in reader.live_bars(span):
        seen.see_bars(LIVE, part)
    seen.see_days(reader.days(span))
    seen.compare_days()
    return assess(seen, _told(reader, span), quiet, reader.has_days, now)


def _told(reader: QualityReader, span: Span) -> Told:
    """Return what reference data, the reconciliation and those that refuse rows say."""
    symbols, renames = reader.reference()
    return Told(symbols, renames, reader.differences(span), reader.refused(span), reader.undated())


def line_of(report: QualityReport) -> str:
    """Return one line of what was found."""
    counts = (
        (len(report.day_gaps), "missing days"),
        (report.minutes_missing, "missing minutes"),
        (len(report.quiet), "quiet symbols"),
        (sum(report.broken.values()), "broken bars"),
        (report.unexplained, "unexplained differences"),
        (report.faulty, "refused rows"),
    )
    found = ", ".join(f"{what} {count:,}" for count, what in counts if count)
    first, last = report.rows[0].session, report.rows[-1].session
    return f"{first} to {last}, {report.symbols:,} symbols: {found or 'nothing found'}"


def grids(report: QualityReport) -> Iterator[RenderableType]:
    """Yield the tables to print: sessions first, then what was found of each kind, if any."""
    names = [
        "session",
        "symbols",
        "days missing",
        "minutes missing",
        "of symbols",
        "broken",
        "differ",
        "refused",
    ]
    cells = [
        (
            f"{row.session}{' half day' if row.half else ''}",
            *(
                f"{number:,}"
                for number in (
                    row.symbols,
                    row.day_gaps,
                    row.minutes_missing,
                    row.symbols_missing_minutes,
                    row.broken,
                    row.differences,
                    row.refused,
                )
            ),
        )
        for row in report.rows
    ]
    notes = []
    if not report.has_days:
        notes.append("no official days in this lake: only minutes are judged")
    if not report.has_minutes:
        notes.append("no minutes in these sessions")
    elif not report.dense:
        notes.append("no symbol had minutes in three sessions before: none is judged by them")
    title = "; ".join([report.exchange, *notes])
    yield show.grid(title, names, cells, left=("session",))
    yield from _lists(report)


def _lists(report: QualityReport) -> Iterator[RenderableType]:
    lists: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
        ("days missing", ("symbol", "session"), [(g.symbol, str(g.session)) for g in report.day_gaps]),
        (
            "minutes that most symbols lack",
            ("from", "minutes", "symbols"),
            [(text_of(o.ts), f"{o.minutes:,}", f"{o.symbols:,}") for o in report.outages],
        ),
        (
            "minutes missing",
            ("symbol", "from", "minutes"),
            [(g.symbol, text_of(g.ts), f"{g.minutes:,}") for g in report.minute_gaps],
        ),
        (
            "symbols gone quiet",
            ("symbol", "last session", "sessions without"),
            [(q.symbol, str(q.last or "before"), str(q.sessions)) for q in report.quiet],
        ),
        (
            "bars that break a rule",
            ("table", "timeframe", "rule", "bars"),
            [(*key, f"{count:,}") for key, count in sorted(report.broken.items())],
        ),
        (
            "some of them",
            ("table", "timeframe", "rule", "symbol", "ts"),
            [(*each[:4], text_of(each.ts)) for each in report.broken_bars],
        ),
        (
            "what the daily run found",
            ("timeframe", "why", "bars"),
            [(*key, f"{count:,}") for key, count in sorted(report.differences.items())],
        ),
        (
            "rows refused",
            ("reason", "rows"),
            [(reason, f"{count:,}") for reason, count in sorted(report.refused.items())],
        ),
        (
            "rows refused that have no time, of all days",
            ("reason", "rows"),
            [(reason, f"{count:,}") for reason, count in sorted(report.undated.items())],
        ),
    ]
    for title, columns, rows in lists:
        if rows:
            of = f": {_SHOWN} of {len(rows):,}" if len(rows) > _SHOWN else ""
            left = [name for name in columns if name not in ("minutes", "symbols", "bars", "rows")]
            yield show.grid(f"{title}{of}", columns, rows[:_SHOWN], left=left)


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:])

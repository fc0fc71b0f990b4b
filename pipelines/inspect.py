"""A look into a lake: ``python -m pipelines.inspect --lake LAKE COMMAND``.

    bars AAPL --timeframe 5d --last 10        bars as a table, CSV, JSON or Parquet
    chart AAPL --timeframe 5d --output a.png  a candlestick picture: PNG, SVG or HTML
    tables                                    the tables of the lake
    versions                                  what was committed, and when
    dead-letters                              refused rows, by reason
    compact, vacuum                           upkeep: says what it would do; --apply does it
    compare --silver DIR                      the predecessor's silver files against this lake

``bars`` and ``chart`` read older versions with ``--as-of``. Dates are sessions; a range includes its
start and not its end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.bars import BarReader
from fibflow.io.lake import Lake
from fibflow.io.silver import Silver
from fibflow.io.storage import LakeError
from fibflow.pipelines import cli, inspect_tables, show
from fibflow.transforms.timeframe import Timeframe, parse_timeframes

_SHOWN_BARS = 20
_CHART_BARS = 120
_SAMPLE = 10


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_lake_arguments(made)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=cli.Parser)

    def command(name: str, run: Callable[[argparse.Namespace, Lake], int], text: str) -> cli.Parser:
        added: cli.Parser = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    for name, run, text in (
        ("bars", _bars, "bars of a symbol"),
        ("chart", _chart, "a candlestick picture of a symbol"),
    ):
        sub = command(name, run, text)
        sub.add_argument("symbol")
        sub.add_argument("--timeframe", required=True, type=_timeframe, help="such as 5d or 1h")
        sub.add_argument("--start", type=_instant, metavar="TIME", help="bars that begin then or later")
        sub.add_argument("--end", type=_instant, metavar="TIME", help="bars that begin before")
        sub.add_argument("--last", type=_positive, metavar="N", help="only the last N of them")
        sub.add_argument(
            "--as-of",
            type=_as_of,
            metavar="V|TIME",
            help="of a version of the table, or as it was at a time (a date: at its end)",
        )
        sub.add_argument("--complete-only", action="store_true", help="leave out windows that have not ended")
        if name == "bars":
            sub.add_argument(
                "--format", choices=("table", *show.FORMATS), help="default: the file's, or table"
            )
        sub.add_argument("--output", type=Path, metavar="FILE", required=name == "chart")

    sub = command("versions", inspect_tables.versions, "the versions of a table, newest first")
    sub.add_argument("--table", choices=list(tables.TABLES), default=tables.BARS.name)
    sub.add_argument("--limit", type=_positive, default=20, metavar="N", help="at most N (default: 20)")
    command("tables", inspect_tables.sizes, "the tables of the lake")
    sub = command(
        "dead-letters", inspect_tables.dead_letters, "refused rows: how many by reason, and a sample"
    )
    sub.add_argument("--reason", help="only rows refused for this reason")
    sub.add_argument("--symbol", help="only rows of this symbol")
    sub.add_argument(
        "--limit", type=_positive, default=_SAMPLE, metavar="N", help=f"sample of N (default: {_SAMPLE})"
    )
    sub.add_argument("--format", choices=show.FORMATS, help="of --output (default: by its suffix)")
    sub.add_argument("--output", type=Path, metavar="FILE", help="write all of the rows there")

    for name, run, text in (
        ("compact", inspect_tables.compact, "merge small files"),
        ("vacuum", inspect_tables.vacuum, "delete files that no version within the retention holds"),
    ):
        sub = command(name, run, text)
        sub.add_argument("--table", choices=list(tables.TABLES), help="default: all")
        if name == "vacuum":
            sub.add_argument("--retention-days", type=float, default=30.0, metavar="DAYS", help="default: 30")
        either = sub.add_mutually_exclusive_group()
        either.add_argument(
            "--dry-run", action="store_true", help="only say what would be done (the default)"
        )
        either.add_argument("--apply", action="store_true", help="do it")

    sub = command(
        "compare", _compare, "the predecessor's silver files against this lake; exit code 1: they differ"
    )
    sub.add_argument(
        "--silver", required=True, metavar="URI", help="the folder that holds silver_3d, silver_5d, ..."
    )
    sub.add_argument("--timeframes", metavar="3d,5d,...", help="default: all that --silver has")
    sub.add_argument(
        "--anchor", default="rows", help="which the lake must have been made with (default: rows)"
    )
    sub.add_argument(
        "--tolerance", type=float, default=0.0, metavar="PART", help="of a value; default: 0, exact"
    )
    sub.add_argument("--ignore-trailing", action="store_true", help="trailing partial windows count as equal")
    sub.add_argument(
        "--show", type=int, default=_SAMPLE, metavar="N", help=f"print N differences (default: {_SAMPLE})"
    )
    sub.add_argument("--format", choices=show.FORMATS, help="of --output (default: by its suffix)")
    sub.add_argument("--output", type=Path, metavar="FILE", help="write all differences there")
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError: the request makes no sense.
        InputError, LakeError, AwsError: something cannot be read or written.
    """
    args = parser().parse_args(argv)
    code: int = args.run(args, cli.lake_of(args))
    return code


def _timeframe(text: str) -> str:
    try:
        return Timeframe.parse(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _instant(text: str) -> date | datetime:
    """A date, or an instant; UTC where no zone is said."""
    try:
        if len(text) == 10:
            return date.fromisoformat(text)
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write 2024-03-11 or 2024-03-11T14:30Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _as_of(text: str) -> int | datetime:
    if text.isdecimal() and len(text) < 8:
        return int(text)
    found = _instant(text)
    if isinstance(found, datetime):
        return found
    return datetime(found.year, found.month, found.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)


# --- bars --------------------------------------------------------------------------------------------


def _read(args: argparse.Namespace, reader: BarReader, last: int | None) -> pa.Table:
    """The bars that the arguments name, at least one."""
    options = {"as_of": args.as_of, "complete_only": args.complete_only}
    if last is not None and args.start is None and args.end is None:
        bars = reader.last(args.symbol, args.timeframe, last, **options)
    else:
        bars = reader.bars(args.symbol, args.timeframe, args.start, args.end, **options)
        bars = bars if last is None else bars[max(0, len(bars) - last) :]
    if not len(bars):
        raise LakeError(f"no bars of {args.symbol} {args.timeframe} are in that range")
    return bars


def _bars(args: argparse.Namespace, lake: Lake) -> int:
    reader = BarReader(lake)
    form = show.form_of(args.format, args.output, "table")
    few = args.last or (_SHOWN_BARS if form == "table" and not (args.start or args.end) else None)
    bars = _read(args, reader, few)
    if form != "table":
        with show.exporting(args.output, bars.schema, form) as export:
            export.write(bars)
        return cli.OK
    shown = show.bar_grid(bars, f"{args.symbol} {args.timeframe}", reader.calendar)
    if args.output is None:
        show.console().print(shown)
    else:
        with show.writing(args.output) as sink:
            sink.write(show.as_text(shown).encode())
    return cli.OK


def _chart(args: argparse.Namespace, lake: Lake) -> int:
    # matplotlib takes most of a second to import: only a picture pays for it.
    from fibflow.pipelines import chart

    if args.output.suffix not in chart.FORMATS:
        raise cli.UsageError(f"--output {args.output}: name a file that ends in {', '.join(chart.FORMATS)}")
    reader = BarReader(lake)
    few = args.last or (_CHART_BARS if not (args.start or args.end) else None)
    bars = _read(args, reader, few)
    chart.candlesticks(bars, args.symbol, args.timeframe, reader.calendar, args.output)
    print(f"{args.output}: {len(bars)} bars")
    return cli.OK


# --- compare -----------------------------------------------------------------------------------------


def _compare(args: argparse.Namespace, lake: Lake) -> int:
    from fibflow.pipelines import compare

    reader = BarReader(lake)
    snapshot = reader.snapshot()
    if (anchor := compare.anchor_of(snapshot)) != args.anchor:
        raise cli.UsageError(
            f"the bars of {lake.uri} have the anchor {anchor}, the predecessor's have rows: make a lake with "
            f"pipelines.batch --anchor rows, or say --anchor {anchor}"
        )
    silver = Silver(args.silver, cli.aws_of(args, args.silver))
    wanted = parse_timeframes(args.timeframes or silver.timeframes)
    with ExitStack() as stack:
        export = None
        if args.output is not None:
            form = show.form_of(args.format, args.output, "csv")
            export = stack.enter_context(show.exporting(args.output, compare.DIFFERENCES, form))

        def one(timeframe: str) -> tuple[compare.Summary, pa.Table]:
            """The summary of a timeframe and its first differences; all of them go to the file."""
            summary, found = compare.compare(silver, snapshot, timeframe, reader.calendar, args.tolerance)
            first = [compare.DIFFERENCES.empty_table()]
            left = max(0, args.show)
            for table in found:
                if left:
                    # A copy: a slice would keep the whole table in memory.
                    first.append(table.take(np.arange(min(left, len(table)))))
                    left -= len(first[-1])
                if export is not None:
                    export.write(table)
                elif not left:
                    break
            return summary, pa.concat_tables(first)

        summaries, firsts = zip(*(one(timeframe.name) for timeframe in wanted), strict=True)
    out = show.console()
    for found in compare.grids(summaries, pa.concat_tables(list(firsts))):
        out.print(found)
    return cli.OK if all(found.is_equal(args.ignore_trailing) for found in summaries) else cli.FAILED


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:])

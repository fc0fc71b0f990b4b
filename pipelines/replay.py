"""History as a live feed: ``python -m pipelines.replay``.

Makes a tape of some sessions, the messages of a vendor's feed in the order in which they arrive, and plays
it into a Kinesis stream or a folder. Prices and volumes are those of the lake's days or minutes, or made up;
what lies between, when each trade was and at what price, is synthetic. The same options and ``--seed`` send
the same bytes.

    python -m pipelines.replay --lake lake --sessions 2024-11-27,2024-11-29 --to kinesis://ticks --speed 60x
    python -m pipelines.replay --synthetic 5350 --sessions 2024-11-29 --feed both --to file:ticks --speed max
    python -m pipelines.replay --lake lake --sessions 2024-11-29 --late 0.01 --duplicates 0.01 \
        --broken 0.001 --shuffle 3 --to kinesis://ticks --rate 20000
    python -m pipelines.replay --synthetic 500 --sessions 2024-11-29 --save ticks.arrow
    python -m pipelines.replay --tape ticks.arrow --to kinesis://ticks --create-stream 4
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.kinesis.errors import KinesisError, explain, kinesis_client
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.io.lake import Lake, TableMissing
from fibflow.pipelines import cli, tape
from fibflow.pipelines.playback import SUFFIXES, FileSink, KinesisSink, Sink, at_rate, at_speed, play
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar, load_calendar

_SOURCE_TABLES = {"daily": tables.DAILY, "minutes": tables.MINUTES}
_COLUMNS = ("open", "high", "low", "close", "volume")
_KINESIS = "kinesis://"
_FILE = "file:"
_CREATED_WITHIN = 120.0
_NAMED = 5


def parser() -> cli.Parser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.replay",
        description="Play history as the messages of a live feed, into a stream or a folder.",
        allow_abbrev=False,
    )
    source = made.add_argument_group("what to play")
    one = source.add_mutually_exclusive_group(required=True)
    one.add_argument(
        "--lake", metavar="URI", help="days or minutes of a lake: a folder, or s3://bucket/prefix"
    )
    one.add_argument("--synthetic", type=count_of, metavar="SYMBOLS", help="made-up days of so many symbols")
    one.add_argument("--tape", type=Path, metavar="FILE", help="what --save wrote")
    source.add_argument(
        "--of", choices=list(_SOURCE_TABLES), default="daily", help="rows of the lake (default: daily)"
    )
    source.add_argument("--sessions", metavar="DATE,...", help="which; needed but for --tape")
    source.add_argument("--symbols", metavar="A,B,...", help="only these of the lake")
    source.add_argument(
        "--calendar", help="as exchange_calendars names it (default: the lake's table's, else XNYS)"
    )
    source.add_argument(
        "--feed", choices=list(tape.Feed), default=tape.Feed.TRADES, help="messages T, AM or both"
    )
    source.add_argument("--seconds", action="store_true", help="messages A too")
    source.add_argument(
        "--no-stamps", action="store_true", help="minutes without ver: the later one to come is the newer"
    )
    source.add_argument(
        "--trades", type=_positive, default=300.0, metavar="N", help="a symbol and session, on average"
    )
    source.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    _add_disorder(made.add_argument_group("what goes wrong (parts from 0 to 1, event time in seconds)"))
    sending = made.add_argument_group("where to, and how fast")
    sending.add_argument("--to", metavar="URI", help="kinesis://NAME or file:FOLDER")
    sending.add_argument("--save", type=Path, metavar="FILE", help="keep the tape, to play it again")
    pace = sending.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed", type=_speed, default=None, metavar="1x|60x|max", help="of event time (default: max)"
    )
    pace.add_argument("--rate", type=_positive, metavar="N", help="messages a second")
    sending.add_argument(
        "--per-record", type=count_of, default=500, metavar="N", help="messages a record (default: 500)"
    )
    sending.add_argument(
        "--aggregate",
        action=argparse.BooleanOptionalAction,
        help="gather records as the Kinesis Producer Library does (default: with --speed and --rate)",
    )
    sending.add_argument("--compression", choices=list(SUFFIXES), default="none")
    sending.add_argument(
        "--create-stream", type=count_of, metavar="SHARDS", help="make the stream where there is none"
    )
    aws = made.add_argument_group("AWS (default: the environment, as for every AWS tool)")
    aws.add_argument("--region", help="region of the stream and the buckets")
    aws.add_argument("--endpoint-url", metavar="URL", help="other services than Amazon's")
    aws.add_argument("--profile", help="a profile of the AWS configuration files")
    return made


def _add_disorder(group: Any) -> None:
    default = tape.Disorder()
    for name, what in (
        ("late", "come late, but within the lateness"),
        ("too-late", "come after the lateness"),
        ("duplicates", "come twice"),
        ("resent", "minutes of which an older version follows the newest"),
        ("broken", "are followed by a broken copy"),
    ):
        group.add_argument(f"--{name}", type=_number, default=0.0, metavar="PART", help=what)
    for name, what in (
        ("shuffle", "messages overtake each other by up to this much"),
        ("lateness", "the job's"),
        ("out-of-orderness", "the job's"),
        ("heartbeat", "between heartbeats"),
    ):
        value = getattr(default, name.replace("-", "_"))
        group.add_argument(
            f"--{name}", type=_number, default=value, metavar="S", help=f"{what} (default: {value:g})"
        )
    group.add_argument(
        "--final-heartbeat",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="end with a heartbeat that closes every window (default: yes)",
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return number


def count_of(text: str) -> int:
    """Return the whole number from 1 on that an argument is."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _speed(text: str) -> float | None:
    return None if text == "max" else _positive(text.removesuffix("x"))


def run(
    argv: Sequence[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: its arguments.
        clock: seconds, for the pace.
        sleep: waits.

    Raises:
        UsageError, CalendarError: the request cannot be met.
        LakeError, AwsError: the lake cannot be read, or AWS not used.
        KinesisError: the stream cannot be written.
    """
    args = parser().parse_args(argv)
    _check(args)
    began = time.monotonic()
    try:
        sink = _sink(args, clock, sleep) if args.to else None
        played: tape.Messages = tape.SavedTape(args.tape) if args.tape else tape_of(args)
        if args.save:
            tape.save(played, args.save)
            played = tape.SavedTape(args.save)
        made = time.monotonic() - began
        if sink is not None:
            due = _due(args, played)
            with _progress(len(played.sent)) as told:
                play(played, sink, clock, sleep, due, told)
    except tape.TapeError as error:
        raise cli.UsageError(str(error)) from error
    sending = time.monotonic() - began - made
    cli.print_table("replay", _rows(played, sink, made, sending))
    return cli.OK


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything is made."""
    if not args.to and not args.save:
        raise cli.UsageError("name where to play it with --to, or a file to keep it in with --save")
    if args.to and not args.to.startswith((_KINESIS, _FILE)):
        raise cli.UsageError(f"--to is {args.to}: write it as kinesis://NAME or file:FOLDER")
    if not args.tape and not args.sessions:
        raise cli.UsageError("--sessions is missing: name one or more, such as 2024-11-27,2024-11-29")
    if args.tape and (args.sessions or args.symbols or args.save):
        raise cli.UsageError("--tape is played as it is: leave --sessions, --symbols and --save out")
    if args.synthetic and (args.symbols or args.of != "daily"):
        raise cli.UsageError("--synthetic makes its own symbols and days: leave --symbols and --of out")
    if args.create_stream and not (args.to or "").startswith(_KINESIS):
        raise cli.UsageError("--create-stream needs --to kinesis://NAME")


def tape_of(args: argparse.Namespace) -> tape.Tape:
    """Return the tape that a command line asks for.

    Raises:
        UsageError, TapeError, CalendarError: it cannot be made.
        LakeError, AwsError: the lake cannot be read.
    """
    days = sorted({_date(text.strip()) for text in args.sessions.split(",") if text.strip()})
    if args.lake:
        rows, calendar = _rows_of_lake(args, days)
    else:
        calendar = load_calendar(args.calendar or "XNYS")
        sessions = np.array(days, "datetime64[D]").astype(np.int32)
        rows = tape.synthetic_daily(args.synthetic, sessions, np.random.default_rng([args.seed, 5]))
    names = (
        "shuffle",
        "late",
        "too_late",
        "duplicates",
        "resent",
        "broken",
        "lateness",
        "out_of_orderness",
        "heartbeat",
    )
    return tape.make(
        rows,
        calendar,
        feed=args.feed,
        trades=args.trades,
        seconds=args.seconds,
        stamped=not args.no_stamps,
        disorder=tape.Disorder(**{name: getattr(args, name) for name in names}),
        seed=args.seed,
        final_heartbeat=args.final_heartbeat,
    )


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise cli.UsageError(f"--sessions: {text!r} is no date: write YYYY-MM-DD") from None


def _rows_of_lake(args: argparse.Namespace, days: Sequence[date]) -> tuple[pa.Table, TradingCalendar]:
    """The lake's rows of the sessions and symbols, and their calendar."""
    spec = _SOURCE_TABLES[args.of]
    table = Lake(args.lake, cli.aws_of(args, args.lake)).table(spec)
    try:
        snapshot = table.snapshot()
    except TableMissing as error:
        raise cli.UsageError(f"{error}: pipelines.load makes it") from error
    calendar = load_calendar(args.calendar or table.properties.get(tables.CALENDAR, "XNYS"))
    at = calendar.positions(np.array(days, "datetime64[D]").astype(np.int32))
    if (at == NO_SESSION).any():
        closed = days[int(np.flatnonzero(at == NO_SESSION)[0])]
        raise cli.UsageError(f"{closed} is no session of {calendar.name}: leave it out")
    symbols = sorted({name.strip() for name in (args.symbols or "").split(",") if name.strip()})
    columns = ["symbol", spec.time_column or "", *_COLUMNS]
    parts = []
    for day, place in zip(days, at.tolist(), strict=True):
        if args.of == "daily":
            begin: Any = day
            end: Any = date.fromordinal(day.toordinal() + 1)
        else:
            begin, end = (int(edge[place]) for edge in (calendar.day_starts, calendar.day_ends))
        parts.append(snapshot.read(columns, symbols or None, begin, end)[0])
    rows = pa.concat_tables(parts)
    held = set(rows["symbol"].unique().to_pylist())
    if missing := [name for name in symbols if name not in held]:
        named = ", ".join(missing[:_NAMED]) + (" and more" if len(missing) > _NAMED else "")
        raise cli.UsageError(f"{spec.name} has no rows of {named} in these sessions")
    if not rows.num_rows:
        raise cli.UsageError(f"{spec.name} has no rows of these sessions: pipelines.inspect says what it has")
    return rows, calendar


def _sink(args: argparse.Namespace, clock: Callable[[], float], sleep: Callable[[float], None]) -> Sink:
    if args.to.startswith(_FILE):
        return FileSink(Path(args.to.removeprefix(_FILE).removeprefix("//")), args.compression)
    stream = KinesisAddress.parse(args.to).stream
    aws = AwsConfig.resolve(
        os.environ, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
    )
    client = kinesis_client(aws)
    make_ready(client, stream, args.create_stream, clock, sleep)
    paced = args.speed is not None or args.rate is not None
    options = PutOptions(
        messages=args.per_record,
        codec=args.compression,
        aggregate=paced if args.aggregate is None else args.aggregate,
    )
    # What is drawn here is how long to wait after failures: no byte of what is sent depends on it.
    draw = random.Random(args.seed).random
    return KinesisSink(PutTicks(client, stream, clock, sleep, draw, options))


def make_ready(
    client: Any, stream: str, shards: int | None, clock: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    """Wait until a stream takes records; make it where there is none.

    Args:
        client: boto3's client of Kinesis.
        stream: its name.
        shards: how many a new one gets; one that is there keeps its own. None: it has to be there.
        clock: seconds.
        sleep: waits.

    Raises:
        KinesisError: it is not there, cannot be made or reached, or takes no records for too long.
    """
    try:
        if shards:
            with suppress(client.exceptions.ResourceInUseException):
                client.create_stream(StreamName=stream, ShardCount=shards)
        began = clock()
        while True:
            told = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
            if told["StreamStatus"] in ("ACTIVE", "UPDATING"):
                return
            if clock() - began > _CREATED_WITHIN:
                raise KinesisError(f"kinesis://{stream} is {told['StreamStatus']} for too long: run again")
            sleep(1.0)
    except KinesisError:
        raise
    except Exception as error:
        raise KinesisError(explain(error, stream)) from error


def _due(args: argparse.Namespace, played: tape.Messages) -> Any:
    if args.rate:
        return at_rate(len(played.sent), args.rate)
    return at_speed(played.sent, args.speed) if args.speed else None


@contextmanager
def _progress(messages: int) -> Iterator[Callable[[int], None]]:
    """Show how many messages went out: on a terminal a bar, elsewhere nothing before the table."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    task = bar.add_task("replay", total=messages)
    if console.is_terminal:
        bar.start()
    try:
        yield lambda done: bar.update(task, completed=done)
    finally:
        if console.is_terminal:
            bar.stop()


def _rows(played: tape.Messages, sink: Sink | None, made: float, sending: float) -> Iterable[tuple[str, str]]:
    """The table at the end: what the tape holds, what went out, and how fast."""
    truth = played.truth
    for kind, cases in truth.of.items():
        for case, number in cases.items():
            yield f"{kind} {case.replace('_', ' ')}", f"{number:,}"
    for kind, number in truth.behind.items():
        if number:
            yield f"{kind} behind one that came before", f"{number:,}"
    yield "symbols", f"{truth.symbols:,}"
    yield "seconds to make it", f"{made:.1f}"
    if sink is not None:
        yield from sink.rows()
        yield "seconds to send it", f"{sending:.1f}"
        yield "messages a second", f"{len(played.sent) / max(sending, 1e-9):,.0f}"


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], (KinesisError,))

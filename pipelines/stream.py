r"""Make live bars: ticks from Kinesis to the live store and the lake, on Flink.

    python -m pipelines.stream --source 'kinesis://ticks?start=TRIM_HORIZON' --bars-from trades \
        --lake LAKE --redis redis://localhost:6379 --runner flink --flink-master localhost:8081 \
        --worker-pool localhost:50000 --checkpoints file:///var/fibflow/checkpoints --detach

The job runs until it is stopped: `python -m pipelines.jobs stop` takes a savepoint, and `--savepoint` goes on
from it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fibflow.io import dynamofeed, tables
from fibflow.io.alerts import link
from fibflow.io.aws import AwsConfig
from fibflow.io.dynamodb import DynamoAway, DynamoError, PriceTable, TickTable
from fibflow.io.dynamofeed import PriceFeed
from fibflow.io.flinkrest import FlinkError
from fibflow.io.history import HistoryStart
from fibflow.io.historystart import history_start
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.kinesis.errors import KinesisError, kinesis_client
from fibflow.io.kinesis.shards import kept_us, plan
from fibflow.io.kinesis.source import SourceOptions
from fibflow.io.lake import Lake
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livestore import LiveStore
from fibflow.io.postgres import PostgresError
from fibflow.io.redisaddress import PASSWORD, split_password
from fibflow.io.streamfiles import FileLimits
from fibflow.io.streamtables import STREAM_TABLES, StreamJob, check_start, next_start
from fibflow.pipelines import cli, runner
from fibflow.pipelines.cli import UsageError
from fibflow.pipelines.livegraph import LiveJob
from fibflow.pipelines.livestart import begins, check_begins, check_kept, first_session, resolve
from fibflow.pipelines.options import checked_options
from fibflow.pipelines.submit import Place, submit
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.livebars import StreamPolicy
from fibflow.transforms.timeframe import INTRADAY, Anchor, IntradayAnchor, Timeframe, parse_timeframes

_DEFAULT = (*INTRADAY, Timeframe(1, 0))
_MICROS = 1_000_000
_SESSIONS_A_YEAR = 240
_DYNAMODB_S = 2.0
#: Each is one line that says what to do.
KNOWN_ERRORS = (*runner.KNOWN_ERRORS, KinesisError, FlinkError, LiveStoreError, DynamoError, PostgresError)


def parser() -> cli.Parser:
    """Return the command line's parser."""
    found = cli.Parser(
        prog="stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument(
        "--source",
        required=True,
        metavar="URI",
        help="kinesis://NAME?start=TRIM_HORIZON|SESSION|LATEST|2024-03-08T14:30:00Z&lanes=2",
    )
    found.add_argument(
        "--bars-from",
        required=True,
        choices=("trades", "minutes"),
        help="which messages make the bars; the others only move the last price",
    )
    cli.add_lake_arguments(found)
    found.add_argument(
        "--redis",
        metavar="URL",
        help="the live store; without it only the lake is written. Its password is read from REDIS_PASSWORD, "
        "here and by the workers",
    )
    dynamodb = found.add_argument_group("DynamoDB (python -m pipelines.tables makes the tables)")
    dynamodb.add_argument(
        "--dynamodb", metavar="TABLE", help="last prices go there too; it never holds the bars back"
    )
    dynamodb.add_argument("--dynamodb-ticks", metavar="TABLE", help="and the last day's, by symbol and time")
    dynamodb.add_argument(
        "--dynamodb-rate",
        type=float,
        default=dynamofeed.RATE,
        metavar="ITEMS",
        help="a second, of the whole job; of a symbol at most one a second (%(default)g)",
    )
    found.add_argument(
        "--alerts",
        metavar="URL",
        help="postgresql://USER@HOST/DATABASE, whose alerts are held against prices; its password is read "
        "from PGPASSWORD or ~/.pgpass, here and by the workers",
    )
    found.add_argument("--job", default="live", help="name of the job: its savepoints go on under it (live)")
    found.add_argument(
        "--replaces", metavar="JOB", help="a stopped job of another name whose tables this one takes over"
    )
    bars = found.add_argument_group("bars")
    bars.add_argument(
        "--timeframes",
        default=",".join(timeframe.name for timeframe in _DEFAULT),
        help="%(default)s; fibonacci or any <N>d comes with history, which the lake's bronze.daily holds",
    )
    bars.add_argument(
        "--from-session",
        type=cli.date_of,
        metavar="DATE",
        help="of <N>d: the first session that the stream holds whole (default: after bronze.daily's newest)",
    )
    bars.add_argument("--calendar", default="XNYS", help="of exchange_calendars (%(default)s)")
    bars.add_argument(
        "--intraday-anchor", default="midnight", choices=[anchor.value for anchor in IntradayAnchor]
    )
    bars.add_argument("--price-basis", default="raw", choices=tables.PRICE_BASES)
    bars.add_argument(
        "--lateness",
        type=float,
        default=15.0,
        metavar="MINUTES",
        help="for which a minute takes late rows (15)",
    )
    bars.add_argument(
        "--out-of-order",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="by which a message may be older than one before it in its shard (5)",
    )
    bars.add_argument(
        "--idle-after",
        type=float,
        metavar="SECONDS",
        help="live only: a shard that is read to its end counts as up to so many seconds before the clock",
    )
    run = runner.add_runner_arguments(found, ("flink", "flink-local"), "flink")
    run.add_argument("--parallelism", type=int, default=2)
    run.add_argument(
        "--buckets", type=int, default=16, help="of symbols; fixed for a job's life (%(default)s)"
    )
    run.add_argument(
        "--checkpoints", metavar="URI", help="file:///... or s3://... that all task managers write"
    )
    run.add_argument("--checkpoint-every", type=float, default=10.0, metavar="SECONDS")
    run.add_argument("--commit-every", type=float, default=5.0, metavar="SECONDS", help="to the lake (5)")
    run.add_argument("--savepoint", metavar="URI", help="a savepoint or retained checkpoint to go on from")
    run.add_argument("--detach", action="store_true", help="leave when the job runs")
    return found


def run(argv: Sequence[str] | None = None) -> int:
    """Look at all that the job needs, submit it, and wait for its end unless detached."""
    given = list(sys.argv[1:] if argv is None else argv)
    args, flags = parser().parse_known_args(given)
    _take_password(args)
    checked_options((), flags)
    place = Place(
        runner=args.runner,
        flink_master=args.flink_master,
        worker_pool=args.worker_pool,
        job_endpoint=args.job_endpoint,
        parallelism=args.parallelism,
        checkpoints=args.checkpoints or _checkpoints_in(args.lake),
        checkpoint_ms=int(args.checkpoint_every * 1000),
        savepoint=args.savepoint,
    )
    kept = place.check(cli.aws_of(args, args.savepoint))
    job = live_job(args, None if kept is None else kept.written)
    place.reach()
    return submit(job, place, given, flags, args.detach)


def _take_password(args: argparse.Namespace) -> None:
    """Take the password out of ``--redis``: what is submitted, and how, can be read by others.

    Raises:
        UsageError: it is no address.
    """
    if not args.redis:
        return
    try:
        args.redis, password = split_password(args.redis)
    except ValueError as error:
        raise UsageError(f"--redis: {error}") from None
    if password is not None:
        # For this process, which looks whether Redis answers, and may be the worker.
        os.environ[PASSWORD] = password
        if args.runner == "flink":
            print(
                f"stream: --redis is kept without its password: the workers take it from {PASSWORD}",
                file=sys.stderr,
            )


def live_job(args: argparse.Namespace, written: int | None) -> LiveJob:
    """Return the job that a command line asks for, with its stream's shards as they are now.

    Args:
        args: the command line.
        written: when the savepoint was that the job starts from, UTC microseconds; None without one.

    Raises:
        UsageError, KinesisError, AwsError, LakeError, LiveStoreError, DynamoError, PostgresError,
            CalendarError: it cannot be.
    """
    given = KinesisAddress.parse(args.source)
    timeframes = parse_timeframes(args.timeframes)
    long = [timeframe for timeframe in timeframes if timeframe.sessions > 1]
    if args.from_session is not None and not long:
        raise UsageError("--from-session is for timeframes of several sessions: add some to --timeframes")
    aws = AwsConfig.resolve(
        os.environ, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
    )
    now = int(time.time() * _MICROS)
    longest = max((timeframe.sessions for timeframe in long), default=0)
    calendar = load_calendar(args.calendar, datetime.now(UTC).year + 2 + longest // _SESSIONS_A_YEAR)
    lake = cli.lake_of(args)
    history = None
    if long:
        # A state that there is knows more.
        history = HistoryStart(0, 0, 0)
        if written is None:
            first = first_session(given.start, args.from_session, calendar, now)
            history = history_start(lake, long, calendar, args.price_basis, first)
    address = resolve(given, calendar, now)
    client = kinesis_client(aws)
    lanes = plan(client, address, now, time.sleep, random.Random().random)
    if written is not None:
        check_kept(written, kept_us(client, address.stream), calendar, now)
    elif history is not None:
        check_begins(history, calendar, begins(client, lanes))
    job = StreamJob(args.job, next_start(lake), cli.new_run_id(), args.replaces)
    check_start(lake, job, written)
    store = None
    if args.redis:
        store = LiveStore(args.redis, buckets=args.buckets)
        with store:
            store.status()
    anchor = IntradayAnchor(args.intraday_anchor)
    shared = {tables.CALENDAR: calendar.name, tables.PRICE_BASIS: args.price_basis}
    return LiveJob(
        lanes=lanes,
        aws=aws,
        feed=args.bars_from,
        spec=BarSpec(timeframes, calendar, intraday_anchor=anchor),
        policy=StreamPolicy(lateness_us=round(args.lateness * 60 * _MICROS), buckets=args.buckets),
        source=SourceOptions.of(
            address,
            out_of_orderness=round(args.out_of_order * _MICROS),
            idle_after=None if args.idle_after is None else round(args.idle_after * _MICROS),
        ),
        lake=lake,
        job=job,
        store=store,
        dynamodb=_dynamodb(args, aws),
        alerts=_alerts(args, lake),
        history=history,
        properties={
            tables.TICKS.name: shared,
            tables.LATE.name: shared,
            tables.LIVE.name: {
                **shared,
                tables.INTRADAY_ANCHOR: anchor.value,
                tables.ANCHOR: Anchor.EXCHANGE.value,
                tables.BARS_FROM: args.bars_from,
            },
        },
        limits={spec.name: FileLimits(age=args.commit_every) for spec in STREAM_TABLES},
        commit_s=args.commit_every,
    )


def _alerts(args: argparse.Namespace, lake: Lake) -> str | None:
    """Return the address of the alerts' database, which answers and is migrated.

    Raises:
        UsageError: it is no address, or one with a password.
        PostgresError: it does not answer, refuses, or is not migrated.
        LakeError: percentages would be of closes on another price basis.
    """
    if not args.alerts:
        return None
    try:
        link.check(args.alerts)
    except ValueError as error:
        raise UsageError(f"--alerts: {error}") from None
    lake.table(tables.DAILY).check({tables.PRICE_BASIS: args.price_basis})
    return str(args.alerts)


def _dynamodb(args: argparse.Namespace, aws: AwsConfig) -> PriceFeed | None:
    """Return where last prices go besides. One that does not answer is no reason not to start.

    Raises:
        UsageError: the options do not fit together.
        DynamoError: DynamoDB refuses, or there is no such table.
    """
    if not args.dynamodb:
        if args.dynamodb_ticks:
            raise UsageError("--dynamodb-ticks goes with --dynamodb: name a table of last prices too")
        return None
    if not args.dynamodb_rate > 0:
        raise UsageError(f"--dynamodb-rate is {args.dynamodb_rate:g}: give more than 0")

    def table(kind: type[PriceTable] | type[TickTable], name: str) -> Any:
        try:
            kind(name, aws, timeout_s=_DYNAMODB_S).check()
        except DynamoAway as error:
            print(f"stream: {error}; last prices wait for it", file=sys.stderr)
        return kind(name, aws, timeout_s=_DYNAMODB_S, attempts=2)

    return PriceFeed(
        table(PriceTable, args.dynamodb),
        table(TickTable, args.dynamodb_ticks) if args.dynamodb_ticks else None,
        # Each worker has one.
        rate=args.dynamodb_rate / max(1, args.parallelism),
    )


def _checkpoints_in(lake: str) -> str:
    """Return where checkpoints go by default: beside the lake's tables."""
    return (
        f"{lake.rstrip('/')}/_checkpoints"
        if "://" in lake
        else (Path(lake).absolute() / "_checkpoints").as_uri()
    )


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], KNOWN_ERRORS)

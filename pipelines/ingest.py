"""The live feed into a stream: ``python -m pipelines.ingest``.

Takes the messages of the vendor's WebSocket and puts them into Kinesis, with heartbeats, through a spool on
disk: what Kinesis does not take waits there, in order, and outlives the process. A connection that breaks is
made again, and what it missed is fetched from the vendor's REST interface. ``docs/ingest.md`` says what is
guaranteed. Runs until a signal says to end (SIGTERM, Ctrl-C), and then sends what waits.

    python -m pipelines.ingest --to kinesis://ticks --subscribe 'AM.*' --spool spool
    python -m pipelines.ingest --to kinesis://ticks --subscribe 'T.*' --spool /data --listen 0.0.0.0:9190
    python -m pipelines.ingest --to kinesis://ticks --subscribe AM.AAPL,AM.MSFT --spool spool \
        --feed-url ws://127.0.0.1:8100/stocks --vendor-url http://127.0.0.1:8100
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from botocore.config import Config

from fibflow.io.aws import AwsConfig
from fibflow.io.ingest.feed import OFFICIAL, Feed, FeedRefused, feed_url
from fibflow.io.ingest.receiver import ReceiveOptions
from fibflow.io.ingest.sender import SendOptions
from fibflow.io.ingest.service import Ingest, NotListening, Settings, Unsent
from fibflow.io.ingest.spool import LEAST_LIMIT, SpoolError
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.kinesis.errors import Fault, KinesisError, fault_of, kinesis_client
from fibflow.io.vendor.access import vendor_key
from fibflow.pipelines import cli, replay, vendors
from fibflow.transforms.calendar import NO_SESSION, load_calendar

URL_VARIABLE = "FIBFLOW_FEED_URL"
KINDS = ("T", "AM", "A")
LISTEN = "127.0.0.1:9190"

_MB = 1_000_000


def parser() -> cli.Parser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.ingest",
        description="Put the vendor's live feed into a Kinesis stream.",
        allow_abbrev=False,
    )
    made.add_argument("--to", required=True, metavar="URI", help="the stream: kinesis://NAME")
    made.add_argument(
        "--subscribe",
        default="AM.*",
        metavar="T.*,AM.AAPL,...",
        help=f"what to receive: {', '.join(KINDS)}, of all symbols or some (default: %(default)s)",
    )
    made.add_argument(
        "--feed-url", metavar="URL", help=f"the WebSocket (default: {URL_VARIABLE}, else {OFFICIAL})"
    )
    made.add_argument(
        "--compressed-feed", action="store_true", help="ask the vendor to compress: fewer bytes, more work"
    )
    vendors.add_vendor_arguments(made)
    spool = made.add_argument_group("the spool, where messages lie until Kinesis has them")
    spool.add_argument(
        "--spool", type=Path, default=Path("spool"), metavar="FOLDER", help="default: %(default)s"
    )
    spool.add_argument(
        "--spool-limit",
        type=_number,
        default=10_000.0,
        metavar="MB",
        help="at this nothing more is read from the feed (default: %(default)g)",
    )
    sending = made.add_argument_group("sending")
    sending.add_argument(
        "--heartbeat",
        type=_number,
        default=1.0,
        metavar="S",
        help="between heartbeats (default: %(default)g)",
    )
    sending.add_argument(
        "--grace",
        type=_number,
        default=0.0,
        metavar="S",
        help="heartbeats stay so far behind the feed's time (default: %(default)g)",
    )
    sending.add_argument(
        "--aggregate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="gather records as the Kinesis Producer Library does (default: yes)",
    )
    sending.add_argument(
        "--create-stream", type=replay.count_of, metavar="SHARDS", help="make the stream where there is none"
    )
    sending.add_argument("--compression", choices=["none", "gzip", "zstd"], default="none")
    sending.add_argument(
        "--drain",
        type=_number,
        default=30.0,
        metavar="S",
        help="time to send what waits once it is to end (default: %(default)g)",
    )
    holes = made.add_argument_group("what a broken connection missed")
    holes.add_argument("--no-fill", action="store_true", help="say what is missing, and fetch nothing")
    holes.add_argument(
        "--fill-within",
        type=_number,
        default=60.0,
        metavar="S",
        help="everything else waits so long for it; what takes longer comes late (default: %(default)g)",
    )
    holes.add_argument(
        "--silence",
        type=_number,
        default=120.0,
        metavar="S",
        help="connect anew after so long without a message in a session; 0: never (default: %(default)g)",
    )
    holes.add_argument("--calendar", default="XNYS", help="of the sessions (default: %(default)s)")
    made.add_argument(
        "--listen",
        default=LISTEN,
        metavar="HOST:PORT",
        help="where /healthz and /metrics are; 'none' for nowhere (default: %(default)s)",
    )
    cli.add_aws_arguments(made)
    return made


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return number


def run(
    argv: Sequence[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: its arguments.
        clock: seconds that only grow.
        sleep: waits.

    Raises:
        UsageError: the request cannot be met.
        WrongKey, FeedRefused: there is no key, or the vendor refuses it or what it is asked for.
        AwsError, KinesisError: AWS or the stream cannot be used.
        SpoolError: nor can the spool.
        Unsent: it was told to end, and something waits in the spool.
    """
    args = parser().parse_args(argv)
    ingest = ingest_of(args, clock, sleep)
    try:
        ingest.run()
    except NotListening as error:
        raise cli.UsageError(f"--listen {error}") from error
    return cli.OK


def ingest_of(
    args: argparse.Namespace,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Ingest:
    """Return the ingest that a command line asks for. The stream is asked for, and the vendor not yet.

    Raises:
        UsageError, WrongKey, AwsError, KinesisError: as of ``run``.
    """
    topics = topics_of(args.subscribe)
    stream = _stream(args.to)
    host, port = _listen(args.listen)
    if args.spool_limit * _MB < LEAST_LIMIT:
        least = -(-LEAST_LIMIT // _MB)
        raise cli.UsageError(f"--spool-limit is {args.spool_limit:g}: give {least} MB or more")
    if not args.heartbeat:
        raise cli.UsageError("--heartbeat is 0: give seconds above 0")
    try:
        url = feed_url(args.feed_url or os.environ.get(URL_VARIABLE) or OFFICIAL)
    except ValueError as error:
        raise cli.UsageError(str(error)) from None
    key = vendor_key(os.environ, args.key_file)
    vendor_of = None if args.no_fill else _vendor_of(args)
    settings = Settings(
        spool=args.spool,
        limit=round(args.spool_limit * _MB),
        host=host,
        port=port,
        drain=args.drain,
        aggregate=args.aggregate,
        codec=args.compression,
        receive=ReceiveOptions(
            heartbeat=args.heartbeat, grace=args.grace, silence=args.silence or float("inf")
        ),
        send=SendOptions(fill_within=args.fill_within),
        fill_threads=args.at_once,
    )
    in_session = sessions_of(args.calendar) if args.silence else lambda _: False
    aws = AwsConfig.resolve(
        os.environ, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
    )
    # One that hangs would hold the end up, and nobody would know that Kinesis is gone.
    client = kinesis_client(aws, Config(connect_timeout=5, read_timeout=20))
    _check_stream(client, stream, args.create_stream, clock, sleep)
    feed = Feed(url, key, topics, compressed=args.compressed_feed)
    return Ingest(feed, client, stream, vendor_of, in_session, settings, say, clock, dice=random.Random())


def _check_stream(
    client: Any,
    stream: str,
    shards: int | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Wait until the stream takes records; one that is merely away is no reason not to receive.

    Raises:
        KinesisError: there is no such stream, or it may not be used.
    """
    try:
        replay.make_ready(client, stream, shards, clock, sleep)
    except KinesisError as error:
        if error.__cause__ is None or fault_of(error.__cause__) is Fault.FATAL:
            raise
        say(f"{error}: what comes is spooled")


def _vendor_of(args: argparse.Namespace) -> Callable[[Callable[[float], None]], Any]:
    vendors.vendor_of(args)  # what is wrong with the options is told before anything begins
    return lambda wait: vendors.vendor_of(args, sleep=wait)


def topics_of(text: str) -> list[str]:
    """Return the topics that ``--subscribe`` names.

    Raises:
        UsageError: one is none.
    """
    topics = [topic.strip() for topic in text.split(",") if topic.strip()]
    for topic in topics:
        kind, dot, symbol = topic.partition(".")
        if kind not in KINDS or not dot or not symbol or any(mark.isspace() for mark in symbol):
            raise cli.UsageError(
                f"--subscribe: {topic!r} is none of what the stream reads: write T.*, AM.* or AM.AAPL"
            )
    if not topics:
        raise cli.UsageError("--subscribe is empty: write T.*, AM.* or AM.AAPL")
    for kind in KINDS:
        # The vendor would send them twice.
        if f"{kind}.*" in topics:
            topics = [topic for topic in topics if topic == f"{kind}.*" or not topic.startswith(f"{kind}.")]
    return topics


def _stream(uri: str) -> str:
    address = KinesisAddress.parse(uri)
    if "?" in uri:
        raise cli.UsageError(f"--to is {uri}: the options after '?' are for who reads: write kinesis://NAME")
    return address.stream


def _listen(text: str) -> tuple[str, int | None]:
    if text == "none":
        return "", None
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise cli.UsageError(f"--listen is {text}: write HOST:PORT, such as {LISTEN}, or none")
    return host.strip("[]"), int(port)


def sessions_of(name: str) -> Callable[[int], bool]:
    """Return what says whether a calendar's regular hours hold a time, UTC microseconds.

    Raises:
        CalendarError: there is no such calendar.
    """
    calendar = load_calendar(name)

    def in_session(time_us: int) -> bool:
        at = int(calendar.positions_at(np.array([time_us], np.int64))[0])
        return at != NO_SESSION and bool(calendar.opens[at] <= time_us < calendar.closes[at])

    return in_session


def say(line: str) -> None:
    """Print a line with the time, at once."""
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", flush=True)


KNOWN_ERRORS = (FeedRefused, KinesisError, SpoolError, Unsent, *vendors.KNOWN_ERRORS)

if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], KNOWN_ERRORS)

"""``python -m serving.standin``: the vendor stand-in, until it is told to stop.

python -m serving.standin --symbols 500 --first 2023-01-03 --last 2024-12-31
python -m serving.standin --lake lake --faults 429:0.02,500:0.02:path=grouped --key secret
python -m serving.standin --symbols 100 --rate 10000 --trades 20
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from fibflow.serving import cli, logs
from fibflow.serving.__main__ import is_loopback
from fibflow.serving.cli import UsageError
from fibflow.serving.server import listen, url_of
from fibflow.serving.standin.faults import FaultError, parse
from fibflow.serving.standin.handle import Announced
from fibflow.serving.standin.make import Wanted, make
from fibflow.serving.standin.paces import Pace, parse_feed
from fibflow.serving.standin.plans import PLANS
from fibflow.serving.standin.script import LEAST_TRADES

_FEEDS = ("minutes", "trades", "both")
_TRADES = 8
_FAULTS = (
    "comma separated KIND[:SHARE][:path=NAME][:times=N][:seconds=S][:percent=P], KIND one of 429 500 401 403 "
    "slow cut nonsense partial empty; NAME grouped, days, minutes, tickers, splits, ... or a path with *"
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="python -m serving.standin",
        description="The vendor stand-in: what the vendor's REST answers and its WebSocket /stocks tells, "
        "of a made-up market or a lake, with faults to order. Official clients come with base= and feed=.",
        epilog="For tests and demos on this machine: who reaches it may order faults at /standin. "
        "Exit codes: 0 told to stop, 1 failed, 2 bad usage.",
    )
    data = made.add_argument_group("data")
    data.add_argument(
        "--lake", metavar="FOLDER", help="serve this lake, which stays as it is, instead of a market"
    )
    data.add_argument(
        "--symbols", type=int, default=50, help="companies of the market (default: %(default)s)"
    )
    data.add_argument(
        "--first", type=_date, default=date(2023, 1, 3), help="its first session (default: %(default)s)"
    )
    data.add_argument(
        "--last", type=_date, default=date(2024, 12, 31), help="its last session (default: %(default)s)"
    )
    data.add_argument(
        "--minutes",
        type=int,
        default=2,
        metavar="N",
        help="its last N sessions have minutes (default: %(default)s)",
    )
    data.add_argument(
        "--news", type=int, default=20, metavar="N", help="articles a session (default: %(default)s)"
    )
    data.add_argument(
        "--seed", type=int, default=0, help="of the market and of faults (default: %(default)s)"
    )
    data.add_argument(
        "--now", type=_instant, metavar="TIME", help="what it takes for now, ISO 8601 (default: the clock)"
    )
    who = made.add_argument_group("who may ask")
    who.add_argument("--key", help="the only key that is known (default: any)")
    who.add_argument(
        "--plan", choices=sorted(PLANS), default="all", help="what a key may ask for (default: %(default)s)"
    )
    made.add_argument_group("faults").add_argument("--faults", default="", metavar="LIST", help=_FAULTS)
    feed = made.add_argument_group("the feed, played once somebody follows it")
    feed.add_argument(
        "--play", type=_date, metavar="DATE", help="the session (default: the newest that has minutes)"
    )
    feed.add_argument(
        "--tape", metavar="FILE", help="play what `python -m pipelines.replay --save FILE` wrote"
    )
    feed.add_argument("--no-play", action="store_true", help="play nothing until /standin/play says so")
    feed.add_argument(
        "--feed", choices=_FEEDS, default="minutes", help="AM, T or both (default: %(default)s)"
    )
    feed.add_argument(
        "--trades",
        type=int,
        default=_TRADES,
        metavar="N",
        help="T a symbol and minute (default: %(default)s)",
    )
    feed.add_argument(
        "--feed-faults",
        default="",
        metavar="LIST",
        help="comma separated KIND:at=N[:length=N][:seconds=S][:code=N][:rate=N], after N messages; KIND one "
        "of cut close silence slow",
    )
    pace = feed.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed", default="1x", help="as in 60x; max for as fast as it is read (default: %(default)s)"
    )
    pace.add_argument("--rate", type=float, metavar="N", help="N messages a second")
    listening = made.add_argument_group("listening")
    listening.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    listening.add_argument("--port", type=int, default=8100, help="0 takes a free one (default: %(default)s)")
    listening.add_argument("--json", action="store_true", help="say the address as JSON")
    return made


def wanted_of(argv: Sequence[str] | None) -> tuple[Wanted, argparse.Namespace]:
    """Read the command line.

    Raises:
        UsageError: it asks for something that cannot be.
    """
    args = parser().parse_args(argv)
    if not is_loopback(args.host):
        raise UsageError(
            f"--host {args.host} is no loopback address: the stand-in lets everybody order faults"
        )
    if not 0 <= args.port <= 65_535:
        raise UsageError(f"--port is {args.port}: give 0 to 65535")
    for name, least in (("symbols", 1), ("minutes", 0), ("news", 0), ("trades", LEAST_TRADES)):
        if getattr(args, name) < least:
            raise UsageError(f"--{name} is {getattr(args, name)}: give {least} or more")
    if args.first > args.last:
        raise UsageError(f"--first {args.first} is after --last {args.last}")
    if args.lake is not None and not Path(args.lake).is_dir():
        raise UsageError(f"there is no lake at {args.lake}")
    for option, read, text in (
        ("--faults", parse, args.faults),
        ("--feed-faults", parse_feed, args.feed_faults),
    ):
        try:
            read(text)
        except FaultError as error:
            raise UsageError(f"{option}: {error}") from None
    now = args.now
    played = None if args.no_play else _played(args)
    made = Wanted(
        lake=args.lake,
        symbols=args.symbols,
        first=args.first,
        last=args.last,
        minutes=args.minutes,
        news=args.news,
        seed=args.seed,
        faults=args.faults,
        key=args.key,
        plan=args.plan,
        clock=(lambda: now) if now is not None else (lambda: datetime.now(UTC)),
        play=played,
        feed_faults=tuple(map(asdict, parse_feed(args.feed_faults))),
    )
    return made, args


def _played(args: argparse.Namespace) -> dict[str, Any]:
    speed = None if args.rate is not None else _speed(args.speed)
    try:
        Pace(speed, args.rate)
    except FaultError as error:
        raise UsageError(f"--speed or --rate: {error}") from None
    return {
        "session": None if args.play is None else args.play.isoformat(),
        "speed": speed,
        "rate": args.rate,
        "minutes": args.feed != "trades",
        "trades": 0 if args.feed == "minutes" else args.trades,
        "tape": args.tape,
    }


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise UsageError(f"--speed {text} is none: write 60x, or max") from None


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no date: write YYYY-MM-DD") from None


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no time: write 2024-12-31T21:30Z") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def run(argv: Sequence[str] | None = None) -> int:
    """Stand in until SIGTERM or SIGINT."""
    wanted, args = wanted_of(argv)
    logs.set_up(os.environ.get("FIBFLOW_LOG", "WARNING").upper())
    with (
        tempfile.TemporaryDirectory(prefix="fibflow-standin-") as folder,
        listen(args.host, args.port) as listening,
    ):
        try:
            made = make(wanted, Path(folder))
        except ValueError as error:
            raise UsageError(str(error)) from None
        server = Announced(made.app, args.port, args.host)
        server.alone = True
        port = listening.getsockname()[1]
        told = {"url": url_of(args.host, port), "port": port, "lake": made.lake.uri}
        stopping = threading.Event()
        threading.Thread(target=_tell, args=(server, told, args.json, stopping), daemon=True).start()
        # uvicorn raises the signal again when it is done: it is to end the server and not the process.
        before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            server.run([listening])
        except SystemExit:
            raise cli.ServeError("the stand-in does not start: the log above says why") from None
        finally:
            stopping.set()
            server.ready.set()
            signal.signal(signal.SIGTERM, before)
    return cli.OK


def _tell(server: Announced, told: dict[str, Any], as_json: bool, stopping: threading.Event) -> None:
    """Say the address once it answers."""
    server.ready.wait()
    if stopping.is_set():
        return
    lines = [json.dumps(told)] if as_json else [f"stand-in at {told['url']}", f"lake {told['lake']}"]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    cli.run_main(run, "python -m serving.standin")

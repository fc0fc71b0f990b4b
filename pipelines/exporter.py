"""The pipelines' metrics for Prometheus: ``python -m pipelines.exporter``.

A small process beside the stream. Whenever it is scraped it asks what it was given: Flink for the live job's
counters, Kinesis for the shards, the lake for its tables' ages, PostgreSQL for the outbox, and the exchange's
calendar. It writes nothing. A source that does not answer costs a scrape at most ``--timeout`` and shows as
``fibflow_exporter_up`` 0; the others are told all the same. ``docs/metrics.md`` has every metric.

    python -m pipelines.exporter --lake lake --flink-master localhost:8081
    python -m pipelines.exporter --lake s3://bucket/lake --source kinesis://ticks --host 0.0.0.0 \
        --flink-master flink-rest:8081 --postgres postgresql://fibflow@db/fibflow
    python -m pipelines.exporter --lake lake --once

Exit codes: 0 told to stop, 1 failed, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fibflow.io.aws import AwsConfig
from fibflow.io.checkup.laketables import DEFAULT_CALENDAR
from fibflow.io.checkup.site import ANSWER_S, Site
from fibflow.io.exporter.collector import THREADS, Exporter, Source
from fibflow.io.exporter.flinknumbers import FlinkNumbers
from fibflow.io.exporter.places import Outbox, Reports, Shards, Tables
from fibflow.io.exporter.sessions import Sessions
from fibflow.io.exporter.stream import Stream
from fibflow.io.flinkrest import FlinkError
from fibflow.io.ingest.web import WebServer
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.lake import Lake
from fibflow.io.storage import LakeError, Storage
from fibflow.pipelines import cli
from fibflow.transforms.calendar import load_calendar

PORT = 9420
_TIMEOUT_S, _MOST_S = 8.0, 600.0
#: A bucket and Kinesis are asked once a minute: each look is dozens of calls that cost.
_SELDOM_S, _OFTEN_S = 60.0, 10.0
_LAKE, _SOURCE = "FIBFLOW_LAKE", "FIBFLOW_SOURCE"
_POSTGRES, _FLINK = "DATABASE_URL", "FLINK_REST_URL"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.exporter",
        description="Tell Prometheus how the pipelines are.",
        epilog="What is not named is not asked; '' for none, where the environment names it. Passwords come "
        "from their own variables. Exit codes: 0 told to stop, 1 failed, 2 bad usage.",
        allow_abbrev=False,
    )
    made.add_argument("--flink-master", metavar="HOST:PORT", help=f"of the REST API (default: {_FLINK})")
    made.add_argument("--job", default="live", help="the live job (default: %(default)s)")
    made.add_argument("--source", metavar="URI", help=f"kinesis://NAME (default: {_SOURCE})")
    made.add_argument("--lake", metavar="URI", help=f"a folder, or s3://bucket/prefix (default: {_LAKE})")
    made.add_argument(
        "--postgres", metavar="URL", help=f"postgresql://user@host:5432/database (default: {_POSTGRES})"
    )
    made.add_argument(
        "--calendar", default=DEFAULT_CALENDAR, help="of the exchange's sessions (default: %(default)s)"
    )
    made.add_argument(
        "--host", default="127.0.0.1", metavar="HOST", help="where it listens (default: %(default)s)"
    )
    made.add_argument(
        "--port", type=int, default=PORT, metavar="PORT", help="0 for any that is free (default: %(default)s)"
    )
    made.add_argument(
        "--timeout",
        type=float,
        default=_TIMEOUT_S,
        metavar="S",
        help="of a scrape, less than Prometheus' own (default: %(default)g)",
    )
    made.add_argument("--once", action="store_true", help="print the metrics, and end")
    cli.add_aws_arguments(made)
    return made


def exporter_of(
    args: argparse.Namespace,
    env: Mapping[str, str],
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Exporter:
    """Return the exporter that a command line asks for.

    Args:
        args: of the command line.
        env: variables of the environment.
        now: seconds since 1970.
        clock: seconds that only grow.

    Raises:
        UsageError: something is named that cannot be.
        CalendarError: there is no such calendar.
    """

    def named(option: str, variable: str) -> str | None:
        given = getattr(args, option)
        return (env.get(variable) if given is None else given) or None

    source = named("source", _SOURCE)
    site = Site(
        lake=named("lake", _LAKE),
        source=None if source is None else _usable("--source", KinesisAddress.parse, source),
        postgres=named("postgres", _POSTGRES),
        flink=named("flink_master", _FLINK),
        job=args.job,
        aws_of=lambda: AwsConfig.resolve(
            env, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
        ),
        env=env,
        now=now,
        clock=clock,
    )
    if not 0 < args.timeout <= _MOST_S:
        raise cli.UsageError(f"--timeout is {args.timeout:g}: give seconds above 0, up to {_MOST_S:g}")
    if not 0 <= args.port <= 65_535:
        raise cli.UsageError(f"--port is {args.port}: give one from 0 to 65535")
    load_calendar(args.calendar, datetime.fromtimestamp(now(), UTC).year + 2)
    return Exporter(_sources(site, args.calendar), args.timeout, now, clock, say, site.scrubbed)


def _sources(site: Site, calendar: str) -> list[Source]:
    found = [Source("calendar", Sessions(calendar, site.now).look)]
    if site.flink is not None:
        flink = _usable("--flink-master", lambda address: FlinkNumbers(address, ANSWER_S / 2), site.flink)
        found.append(Source("flink", Stream(flink, site.job).look))
    if site.source is not None:
        found.append(Source("kinesis", Shards(site.source.stream, site.aws_of).look, _SELDOM_S))
    if site.lake is not None:
        if not site.is_on_s3:
            _usable("--lake", Storage, site.lake)
        lake = Lake(site.lake, site.lake_aws())
        every_s = _SELDOM_S if site.is_on_s3 else 0.0
        found += [Source("lake", Tables(lake).look, every_s), Source("reports", Reports(lake).look, every_s)]
    if site.postgres is not None:
        found.append(Source("postgres", Outbox(site.postgres).look, _OFTEN_S))
    return found


def _usable(option: str, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except (FlinkError, KinesisError, LakeError, ValueError) as error:
        raise cli.UsageError(f"{option}: {error}") from None


def run(argv: Sequence[str] | None = None, stop: threading.Event | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: its arguments.
        stop: ends it when it is set; None: a signal does.

    Raises:
        UsageError: something is named that cannot be, or the port cannot be listened on.
        AwsError: the lake is in a bucket, and there are no credentials, or no region.
    """
    args = parser().parse_args(argv)
    exporter = exporter_of(args, os.environ)
    if args.once:
        sys.stdout.write(exporter.metrics().decode())
        return cli.OK
    ended = threading.Event() if stop is None else stop
    told: Any = exporter
    try:
        server = WebServer(told, args.host, args.port)
    except OSError as error:
        raise cli.UsageError(
            f"--port: {args.host}:{args.port} cannot be had: {error.strerror or error}"
        ) from None
    # Only the main thread may.
    with suppress(ValueError):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
    with server:
        say(f"http://{args.host}:{server.server_port} has /healthz and /metrics")
        ended.wait()
        exporter.stopping = True
    return cli.OK


def say(line: str) -> None:
    """Print a line with the time, at once."""
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the command line as a program, and leave also where a look still hangs."""
    try:
        cli.run_main(run, sys.argv[1:])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else cli.FAILED
        sys.stdout.flush()
        sys.stderr.flush()
        if any(each.name.startswith(THREADS) for each in threading.enumerate()):
            # Libraries wait at the end for calls that never come back.
            os._exit(code)
        raise


if __name__ == "__main__":
    main()

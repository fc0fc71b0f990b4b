"""``python -m serving``: serves a lake's bars and a live store's prices until it is told to stop."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fibflow.io.storage import Storage
from fibflow.serving import cli, logs
from fibflow.serving.cli import UsageError
from fibflow.serving.settings import Settings

_OWN_NAMES = ("localhost", "127.0.0.1", "::1")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="python -m serving",
        description="Serves the bars of a lake and the prices of a live store: a REST API under /v1 "
        "(/openapi.json), the surface that clients of Polygon and Massive know, and WebSockets at /stocks.",
        epilog="Passwords belong into the environment: REDIS_URL, DATABASE_URL, FIBFLOW_KEY_PEPPER. "
        "Exit codes: 0 told to stop, 1 failed, 2 bad usage.",
    )
    made.add_argument("--lake", required=True, metavar="URI", help="a folder, or s3://bucket/prefix")
    live = made.add_argument_group("live data (all optional)")
    live.add_argument("--redis", metavar="URL", help="the live store (default: REDIS_URL; '' for none)")
    live.add_argument("--prefix", default="fibflow", help="of the live store's keys (default: %(default)s)")
    live.add_argument(
        "--buckets", type=int, default=256, help="of the live store: the job's (default: %(default)s)"
    )
    live.add_argument("--dynamodb", metavar="TABLE", help="table of last prices, asked where Redis has none")
    cli.add_key_arguments(made)
    made.add_argument("--open", action="store_true", help="answer without a key; on a loopback address only")
    listen = made.add_argument_group("listening")
    listen.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    listen.add_argument(
        "--port", type=int, default=8000, help="0 takes a free one and says it as JSON (default: %(default)s)"
    )
    listen.add_argument("--workers", type=int, default=1, help="server processes (default: %(default)s)")
    listen.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="another site whose pages may ask, such as https://example.org; '*' for all; may be repeated",
    )
    listen.add_argument(
        "--stop-within",
        type=float,
        default=20.0,
        metavar="S",
        help="for running answers (default: %(default)g s)",
    )
    tuning = made.add_argument_group("tuning, a process")
    tuning.add_argument("--threads", type=int, default=4, help="reads at once (default: %(default)s)")
    tuning.add_argument("--cache-mb", type=int, default=32, help="memory for answers (default: %(default)s)")
    tuning.add_argument(
        "--refresh",
        type=float,
        default=1.0,
        metavar="S",
        help="how old the lake's state may be (default: %(default)g s)",
    )
    tuning.add_argument(
        "--queue",
        type=int,
        default=1_000,
        help="messages that a WebSocket may be behind (default: %(default)s)",
    )
    tuning.add_argument("--exports", type=int, default=2, help="exports at once (default: %(default)s)")
    tuning.add_argument(
        "--most-alerts", type=int, default=10_000, help="alerts that an owner may have (default: %(default)s)"
    )
    tuning.add_argument("--quiet", action="store_true", help="no line a request")
    cli.add_aws_arguments(made)
    return made


def settings_of(argv: Sequence[str] | None, env: Mapping[str, str]) -> Settings:
    """Read the command line.

    Raises:
        UsageError: it asks for something that cannot be.
        AwsError: AWS is needed and not set up.
        LakeError: the address of the lake is none.
    """
    args = parser().parse_args(argv)
    for name, least in (
        ("workers", 1),
        ("threads", 1),
        ("buckets", 1),
        ("queue", 1),
        ("exports", 1),
        ("most_alerts", 0),
        ("cache_mb", 0),
    ):
        if getattr(args, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(args, name)}: give {least} or more")
    if not 0 <= args.port <= 65_535:
        raise UsageError(f"--port is {args.port}: give 0 to 65535")
    if not 0 <= args.refresh <= 3_600 or not 0 <= args.stop_within <= 3_600:
        raise UsageError("--refresh and --stop-within take 0 to 3600 seconds")
    if args.open and not is_loopback(args.host):
        raise UsageError(
            f"--open lets everybody in, and {args.host} is not a loopback address: make keys instead "
            "(python -m serving.keys create), or listen on 127.0.0.1"
        )
    for origin in args.origin:
        if origin != "*" and not origin.startswith(("http://", "https://")):
            raise UsageError(f"--origin {origin!r} is none: write https://example.org")
    _check_lake(args.lake)
    postgres = cli.given(args.postgres, env, "DATABASE_URL")
    remote = cli.is_remote(args.lake)
    settings = Settings(
        lake=args.lake,
        aws=cli.aws_of(args, remote or bool(args.dynamodb)),
        redis=cli.given(args.redis, env, "REDIS_URL"),
        prefix=args.prefix,
        buckets=args.buckets,
        dynamodb=args.dynamodb,
        postgres=postgres,
        keys=args.keys,
        pepper=env.get(cli.PEPPER, ""),
        open_access=args.open,
        host=args.host,
        port=args.port,
        hosts=tuple({*_OWN_NAMES, args.host}) if args.open else (),
        origins=tuple(args.origin),
        workers=args.workers,
        refresh_s=args.refresh,
        cache_mb=args.cache_mb,
        threads=args.threads,
        queue=args.queue,
        exports_at_once=args.exports,
        most_alerts=args.most_alerts,
        stop_s=args.stop_within,
        log_requests=not args.quiet,
    )
    if not args.open:
        cli.store_of(settings.postgres, settings.keys, settings.lake).close()
    return settings


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_lake(uri: str) -> None:
    if cli.is_remote(uri):
        return
    folder = Path(Storage(uri).base)
    if not folder.is_dir():
        raise UsageError(f"there is no lake at {uri}: pipelines.batch makes one, `make demo` a small one")


def run(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    settings = settings_of(argv, os.environ)
    logs.set_up(os.environ.get("FIBFLOW_LOG", "WARNING").upper())
    if not settings.open_access and (settings.keys or settings.postgres is None):
        path = cli.keys_path(settings.keys, settings.lake)
        if path is not None and not Path(path).exists():
            make = f"python -m serving.keys create --owner NAME --keys {path}"
            sys.stderr.write(f"there are no keys yet, so nobody gets in: {make}\n")
    from fibflow.serving.server import serve

    return serve(settings)


if __name__ == "__main__":
    cli.run_main(run, "python -m serving")

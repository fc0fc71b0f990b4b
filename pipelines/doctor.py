"""An installation, looked at from end to end: ``python -m pipelines.doctor``.

Each part that is named gets a line or some: ok, warning or failed, what was seen, and what to do. What is not
named is not looked at, and said so. All is looked at side by side, within ``--timeout``; what hangs fails
alone. Nothing is written but a small file in the lake, which is taken away again, and with ``--canary`` a
tick (docs/doctor.md).

    python -m pipelines.doctor --lake lake --redis redis://localhost:6379
    python -m pipelines.doctor --lake s3://bucket/lake --source 'kinesis://ticks?lanes=2' \
        --flink-master flink:8081 --worker-pool workers:50000 --server https://bars.example.org --canary
    python -m pipelines.doctor --lake lake --json

Exit codes: 0 nothing failed, 1 something did, 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import fibflow
from fibflow.io.aws import AwsConfig
from fibflow.io.checkup import checks, together
from fibflow.io.checkup.findings import Finding, State
from fibflow.io.checkup.served import KEY_VARIABLE
from fibflow.io.checkup.site import CANARY, Site, is_canary
from fibflow.io.flinkrest import FlinkError, FlinkRest
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.notices import region_of
from fibflow.io.storage import LakeError, Storage
from fibflow.io.vendor.access import vendor_url
from fibflow.pipelines import cli

_TIMEOUT_S, _MOST_S = 30.0, 3_600.0
_LAKE, _SOURCE, _SERVER = "FIBFLOW_LAKE", "FIBFLOW_SOURCE", "FIBFLOW_SERVER_URL"
_DYNAMODB, _TICKS, _SNS = "FIBFLOW_DYNAMODB", "FIBFLOW_DYNAMODB_TICKS", "FIBFLOW_SNS_TOPIC"
_REDIS, _POSTGRES, _FLINK, _POOL = "REDIS_URL", "DATABASE_URL", "FLINK_REST_URL", "BEAM_WORKER_POOL"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.doctor",
        description="Look at an installation from end to end, and say what to do.",
        epilog="What is not named is not looked at; '' for none, where the environment names it. "
        f"The API's key comes from {KEY_VARIABLE}, the vendor's as for every command, passwords from their "
        "own variables. Exit codes: 0 nothing failed, 1 something did, 2 bad usage.",
        allow_abbrev=False,
    )
    made.add_argument("--lake", metavar="URI", help=f"a folder, or s3://bucket/prefix (default: {_LAKE})")
    made.add_argument("--source", metavar="URI", help=f"kinesis://NAME?lanes=2 (default: {_SOURCE})")
    made.add_argument("--flink-master", metavar="HOST:PORT", help=f"of the REST API (default: {_FLINK})")
    made.add_argument("--job", default="live", help="the live job; '' for none (default: %(default)s)")
    made.add_argument("--worker-pool", metavar="HOST:PORT", help=f"Python workers (default: {_POOL})")
    made.add_argument("--redis", metavar="URL", help=f"the live store (default: {_REDIS})")
    made.add_argument("--prefix", default="fibflow", help="of the live store's keys (default: %(default)s)")
    made.add_argument(
        "--postgres", metavar="URL", help=f"postgresql://user@host:5432/database (default: {_POSTGRES})"
    )
    made.add_argument("--dynamodb", metavar="TABLE", help=f"of last prices (default: {_DYNAMODB})")
    made.add_argument("--dynamodb-ticks", metavar="TABLE", help=f"of the last day's (default: {_TICKS})")
    made.add_argument("--sns", metavar="ARN", help=f"a topic of notices or alerts (default: {_SNS})")
    made.add_argument("--server", metavar="URL", help=f"the API (default: {_SERVER})")
    made.add_argument("--vendor", action="store_true", help="ask the vendor one small thing")
    made.add_argument("--vendor-url", metavar="URL", help="its address (default: as for every command)")
    made.add_argument("--key-file", metavar="FILE", help="a file that holds the vendor's key")
    made.add_argument(
        "--canary",
        action="store_true",
        help="put a tick in --source, and look for it in --redis and --server",
    )
    made.add_argument(
        "--canary-symbol", default=CANARY, metavar="SYMBOL", help="of it; ends in CANARY (%(default)s)"
    )
    made.add_argument(
        "--timeout", type=float, default=_TIMEOUT_S, metavar="S", help="for everything (default: %(default)g)"
    )
    made.add_argument("--json", action="store_true", help="a JSON document instead of lines")
    cli.add_aws_arguments(made)
    return made


def site_of(args: argparse.Namespace, env: Mapping[str, str]) -> Site:
    """Return the installation that a command line names.

    Raises:
        UsageError: something is named that cannot be.
    """

    def named(option: str, variable: str) -> str | None:
        given = getattr(args, option)
        return (env.get(variable) if given is None else given) or None

    source = named("source", _SOURCE)
    site = Site(
        lake=named("lake", _LAKE),
        source=None if source is None else _usable("--source", KinesisAddress.parse, source),
        redis=named("redis", _REDIS),
        prefix=args.prefix,
        postgres=named("postgres", _POSTGRES),
        dynamodb=named("dynamodb", _DYNAMODB),
        dynamodb_ticks=named("dynamodb_ticks", _TICKS),
        flink=named("flink_master", _FLINK),
        job=args.job,
        worker_pool=_address("--worker-pool", named("worker_pool", _POOL)),
        server=_url("--server", named("server", _SERVER)),
        key=env.get(KEY_VARIABLE, "").strip(),
        vendor=_usable("--vendor-url", lambda url: vendor_url(env, url), args.vendor_url)
        if args.vendor
        else None,
        key_file=args.key_file,
        sns=named("sns", _SNS),
        canary=args.canary_symbol if args.canary else None,
        aws_of=lambda: AwsConfig.resolve(
            env, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
        ),
        env=env,
    )
    _check(site, args)
    return site


def _check(site: Site, args: argparse.Namespace) -> None:
    if not 0 < args.timeout <= _MOST_S:
        raise cli.UsageError(f"--timeout is {args.timeout:g}: give seconds above 0, up to {_MOST_S:g}")
    if site.lake is not None and not site.is_on_s3:
        _usable("--lake", Storage, site.lake)
    if site.flink is not None:
        _usable("--flink-master", FlinkRest, site.flink)
    if site.sns is not None:
        _usable("--sns", region_of, site.sns)
    if site.canary is None:
        return
    if not is_canary(site.canary):
        raise cli.UsageError(
            f"--canary-symbol {site.canary}: write capitals, digits or '.', and CANARY at the end, so that "
            "it can be no real one"
        )
    if site.source is None or (site.redis is None and site.server is None):
        raise cli.UsageError(
            "--canary needs --source to put a tick in, and --redis or --server to look for it"
        )


def _usable(option: str, read: Callable[[Any], Any], text: str | None) -> Any:
    try:
        return read(text)
    except (FlinkError, KinesisError, LakeError, ValueError) as error:
        raise cli.UsageError(f"{option}: {error}") from None


def _address(option: str, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise cli.UsageError(f"{option} is no address: write HOST:PORT")
    return host.strip("[]"), int(port)


def _url(option: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or parts.username is not None or parts.query or parts.fragment:
        raise cli.UsageError(
            f"{option} has to read https://host, or http://host:port, with no name, password or query"
        )
    return text.rstrip("/")


def run(argv: Sequence[str] | None = None, **more: Any) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: its arguments.
        more: other clocks, dice and disks than this machine's: attributes of ``Site``.

    Raises:
        UsageError: something is named that cannot be.
    """
    args = parser().parse_args(argv)
    site = replace(site_of(args, os.environ), **more)
    began = site.clock()
    found = together.look(checks.of(site), site, args.timeout)
    if args.json:
        print(json.dumps(_document(found, site, site.clock() - began), indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(found)))
    return cli.OK if together.is_well(found) else cli.FAILED


def _lines(found: Sequence[Finding]) -> list[str]:
    wide = max(len(each.check) for each in found)
    made = [
        f"{each.state:<9}  {each.check:<{wide}}  {each.reason}{f': {each.advice}' if each.advice else ''}"
        for each in found
    ]
    counts = Counter(each.state for each in found)
    told = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    return [*made, told]


def _document(found: Sequence[Finding], site: Site, took_s: float) -> dict[str, Any]:
    return {
        "fibflow": fibflow.__version__,
        "at": datetime.fromtimestamp(site.now(), UTC).isoformat(timespec="seconds"),
        "took_s": round(took_s, 3),
        "well": together.is_well(found),
        "checks": [asdict(each) for each in found],
    }


def main() -> None:
    """Run the command line as a program, and leave also where a look still hangs."""
    try:
        cli.run_main(run, sys.argv[1:])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else cli.FAILED
        sys.stdout.flush()
        sys.stderr.flush()
        if any(each.name.startswith(together.THREADS) for each in threading.enumerate()):
            # Libraries wait at the end for calls that never come back.
            os._exit(code)
        raise


if __name__ == "__main__":
    main()

"""Events of alerts to webhooks and SNS: ``python -m pipelines.notify``.

Sends what waits in PostgreSQL's outbox, at least once, with an id that is the same each time, and tries again
what failed. Several may share an outbox. Runs until a signal says to end (SIGTERM, Ctrl-C), and then finishes
what is under way. ``docs/notify.md`` says what receivers get, and what is tried again.

    python -m pipelines.notify --postgres postgresql://fibflow@db/fibflow --metrics-port 9191
    python -m pipelines.notify --once
    python -m pipelines.notify dead --owner desk
    python -m pipelines.notify enable 17 --replay
    python -m pipelines.notify replay --destination 17
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from fibflow.io.alerts import deadletters
from fibflow.io.alerts.model import SNS, Conflict, NotFound
from fibflow.io.aws import AwsConfig
from fibflow.io.notify.service import Notifier, NotListening, Settings, Unsettled
from fibflow.io.notify.sns import Topics
from fibflow.io.notify.webhook import Webhooks
from fibflow.io.postgresql.session import PostgresError
from fibflow.pipelines import cli

KNOWN_ERRORS = (PostgresError, NotFound, Conflict, Unsettled)
_URL = "DATABASE_URL"
_COMMANDS = ("run", "dead", "replay", "enable")
# A lease that ends before a call does lets two send the same.
_LEAST_LEASE_S = 15.0
_MOST_WORKERS = 512


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.notify",
        description="Send events of alerts to webhooks and SNS. Without a command: run.",
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = cli.Parser(add_help=False, allow_abbrev=False)
    shared.add_argument(
        "--postgres",
        metavar="URL",
        default=os.environ.get(_URL),
        help=f"postgresql://user@host:5432/database (default: {_URL}); passwords in PGPASSWORD or ~/.pgpass",
    )
    _add_run(commands.add_parser("run", parents=[shared], allow_abbrev=False, help="send what waits"))
    dead = commands.add_parser("dead", parents=[shared], allow_abbrev=False, help="list what was given up")
    dead.add_argument("--limit", type=_count, default=100, help="at most so many (default: 100)")
    dead.add_argument(
        "--after", type=int, default=0, metavar="ID", help="go on after this one of an earlier list"
    )
    again = commands.add_parser(
        "replay", parents=[shared], allow_abbrev=False, help="send what was given up again"
    )
    again.add_argument("--delivery", type=_count, metavar="ID", help="this one")
    for one in (dead, again):
        one.add_argument("--destination", type=_count, metavar="ID", help="all for this destination")
        one.add_argument("--owner", help="all of this owner")
    enable = commands.add_parser(
        "enable", parents=[shared], allow_abbrev=False, help="use a destination that was disabled again"
    )
    enable.add_argument("destination", type=_count, metavar="DESTINATION", help="its id")
    enable.add_argument("--replay", action="store_true", help="and send what was given up meanwhile")
    return made


def _add_run(made: argparse.ArgumentParser) -> None:
    settings = Settings()
    made.add_argument(
        "--workers",
        type=_count,
        default=settings.workers,
        help="calls at a time (default: %(default)s)",
    )
    made.add_argument(
        "--per-destination",
        type=_count,
        default=settings.room,
        metavar="N",
        help="of these to one webhook, or calls of ten to one topic (default: %(default)s)",
    )
    made.add_argument(
        "--lease",
        type=float,
        default=settings.lease_s,
        metavar="S",
        help="what a notifier that died had begun is begun again after so long (default: %(default)g)",
    )
    made.add_argument("--once", action="store_true", help="send what is due, and end")
    made.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="of /healthz and /metrics; 0 for any that is free (default: none)",
    )
    made.add_argument(
        "--metrics-host",
        default=settings.host,
        metavar="HOST",
        help="where it listens (default: %(default)s)",
    )
    made.add_argument(
        "--allow-http-loopback",
        action="store_true",
        help="let webhooks be on this machine, also with http: for development and tests only",
    )
    cli.add_aws_arguments(made)


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return number


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError: the request cannot be met.
        PostgresError: PostgreSQL does not answer, or refuses.
        NotFound, Conflict: of what is replayed or enabled.
        Unsettled: it was told to end, and PostgreSQL did not take what was done.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in (*_COMMANDS, "-h", "--help"):
        words.insert(0, "run")
    args = parser().parse_args(words)
    if not args.postgres:
        raise cli.UsageError(f"name the database with --postgres, or in {_URL}")
    return {"run": _run, "dead": _dead, "replay": _replay, "enable": _enable}[args.command](args)


def _run(args: argparse.Namespace) -> int:
    notifier = notifier_of(args)
    try:
        notifier.run()
    except NotListening as error:
        raise cli.UsageError(f"--metrics-port: {error}") from error
    return cli.OK


def notifier_of(args: argparse.Namespace) -> Notifier:
    """Return the notifier that a command line asks for.

    Raises:
        UsageError: the request cannot be met.
    """
    if not _LEAST_LEASE_S <= args.lease <= 86_400:
        raise cli.UsageError(f"--lease is {args.lease:g}: give {_LEAST_LEASE_S:g} seconds to a day")
    if args.workers > _MOST_WORKERS:
        raise cli.UsageError(
            f"--workers is {args.workers}: give at most {_MOST_WORKERS}, and start more of us"
        )
    if args.metrics_port is not None and not 0 <= args.metrics_port <= 65_535:
        raise cli.UsageError(f"--metrics-port is {args.metrics_port}: give one from 0 to 65535")
    settings = Settings(
        workers=args.workers,
        room=args.per_destination,
        lease_s=args.lease,
        once=args.once,
        host=args.metrics_host,
        port=args.metrics_port,
    )
    topics = Topics(
        lambda: AwsConfig.resolve(
            os.environ, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
        ),
        say,
    )
    webhooks = Webhooks(allow_http_loopback=args.allow_http_loopback)
    worker = f"{socket.gethostname()[:64]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return Notifier(args.postgres, worker, webhooks, topics, settings, say, dice=random.Random())


def _dead(args: argparse.Namespace) -> int:
    found = deadletters.dead_letters(
        args.postgres, owner=args.owner, destination=args.destination, after=args.after, limit=args.limit
    )
    for each in found:
        when = f"{each.finished:%Y-%m-%dT%H:%M:%SZ}" if each.finished else "-"
        state = "disabled" if each.disabled else "removed" if not each.kind else "enabled"
        print(
            f"{each.id} {when} owner={each.owner} event={each.event} symbol={each.symbol} "
            f"destination={each.destination} ({place_of(each.kind, each.target)}, {state}) "
            f"attempts={each.attempts}: {each.error or '-'}"
        )
    if not found:
        print("nothing was given up")
    elif len(found) == args.limit:
        print(f"there may be more: --after {found[-1].id}")
    return cli.OK


def place_of(kind: str, target: str) -> str:
    """Return a destination for people: of a webhook its host alone, as the rest may be a secret."""
    if not kind:
        return "-"
    try:
        return target if kind == SNS else f"https://{urlsplit(target).hostname}"
    except ValueError:
        return kind


def _replay(args: argparse.Namespace) -> int:
    if args.delivery is None and args.destination is None and args.owner is None:
        raise cli.UsageError("say what to replay: --delivery ID, --destination ID or --owner OWNER")
    count = deadletters.replay(
        args.postgres, delivery=args.delivery, destination=args.destination, owner=args.owner
    )
    print(f"{count:,} deliveries wait again")
    return cli.OK


def _enable(args: argparse.Namespace) -> int:
    was_disabled = deadletters.enable(args.postgres, args.destination)
    print(f"destination {args.destination} {'is enabled' if was_disabled else 'was not disabled'}")
    if args.replay:
        count = deadletters.replay(args.postgres, destination=args.destination)
        print(f"{count:,} deliveries wait again")
    return cli.OK


def say(line: str) -> None:
    """Print a line with the time, at once."""
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", flush=True)


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], KNOWN_ERRORS)

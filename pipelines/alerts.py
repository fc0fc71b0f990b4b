"""Alerts in PostgreSQL, for whoever runs them: ``python -m pipelines.alerts``.

``import`` brings the predecessor's alerts over, from its tables of DynamoDB; it is safe to run twice.
``list`` shows alerts, ``purge`` forgets what is old.

    python -m pipelines.alerts import --config-table alert-config --history-table alert-history --dry-run
    python -m pipelines.alerts list --owner ada
    python -m pipelines.alerts purge --before 2025-01-01
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from datetime import time as clock
from pathlib import Path
from typing import TextIO
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fibflow.io.alerts import importing
from fibflow.io.alerts.model import ZONE, Alert
from fibflow.io.alerts.predecessor import Reading, understood
from fibflow.io.alerts.predecessorwords import ALIASES, CONFIG, HISTORY
from fibflow.io.alerts.scan import scan
from fibflow.io.alerts.store import AlertStore
from fibflow.io.aws import AwsConfig
from fibflow.io.dynamodb import DynamoError
from fibflow.io.files import InputError
from fibflow.io.postgresql.session import PostgresError
from fibflow.pipelines import cli
from fibflow.transforms.alerts.definition import OPERATORS

KNOWN_ERRORS = (PostgresError, DynamoError)
_URL = "DATABASE_URL"
#: Bulk statements take longer than a server's.
_TIMEOUT_S = 300.0
#: Refused items that are told one by one; all of them go to ``--refused``.
_TOLD = 20
_CONFIG_SAYS = ", ".join(ALIASES[CONFIG])
_HISTORY_SAYS = ", ".join(ALIASES[HISTORY])

Shown = list[tuple[str, str]]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.alerts",
        description="Import the predecessor's alerts, list alerts, forget old ones.",
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
    _add_import(commands.add_parser("import", parents=[shared], help="bring the predecessor's alerts over"))
    shows = commands.add_parser("list", parents=[shared], help="show alerts")
    shows.add_argument("--owner", help="of this one only")
    shows.add_argument("--symbol", help="of this one only; with --owner")
    shows.add_argument("--after", type=int, default=0, metavar="ID", help="from the one behind this on")
    shows.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (default: 100)")
    old = commands.add_parser(
        "purge",
        parents=[shared],
        help="forget old events with their deliveries, and alerts that were deleted",
        description="Forget events that fired before a day (UTC) with their deliveries and tries, unless "
        "they are still to be delivered, and alerts that were deleted before it and have no events left. "
        "Name a day before the oldest savepoint of the job that may still be restored: an event that is "
        "forgotten would be new to a job that computes it again.",
    )
    old.add_argument("--before", required=True, type=cli.date_of, metavar="DATE", help="YYYY-MM-DD")
    return made


def _add_import(made: argparse.ArgumentParser) -> None:
    made.description = (
        "Bring the predecessor's alerts over, from its tables of DynamoDB. Attributes are found by their "
        "usual names; see with --dry-run how they are understood. What was imported before stays as it is. "
        "Events of the past are kept and delivered nowhere."
    )
    made.add_argument("--config-table", metavar="NAME", help="of the alerts")
    made.add_argument("--history-table", metavar="NAME", help="of what fired; its alerts come first")
    made.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="[TABLE.]OURS=THEIRS",
        help=f"what an attribute is called there; of config: {_CONFIG_SAYS}; of history: {_HISTORY_SAYS}",
    )
    made.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help=f"what a condition is called there; ours: {', '.join(OPERATORS)}",
    )
    made.add_argument("--owner", help="whose items are that name no owner (default: they are refused)")
    made.add_argument("--zone", default=ZONE, help=f"of the exchange (default: {ZONE})")
    made.add_argument("--refused", metavar="FILE", help="write each refused item there, a line of JSON each")
    made.add_argument("--dry-run", action="store_true", help="say how items are understood; write nothing")
    cli.add_aws_arguments(made)


def run(argv: Sequence[str] | None = None, now: datetime | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: its arguments.
        now: UTC; the clock's by default.

    Raises:
        UsageError: the arguments do not fit together.
        PostgresError, DynamoError, AwsError, InputError: what cannot be reached, read or written.
    """
    args = parser().parse_args(argv)
    at = now or datetime.now(UTC)
    if not args.postgres and not getattr(args, "dry_run", False):
        raise cli.UsageError(f"name the database with --postgres, or in {_URL}")
    commands = {"import": _import, "list": _list, "purge": _purge}
    commands[args.command](args, at)
    return cli.OK


def _import(args: argparse.Namespace, now: datetime) -> None:
    if not (args.config_table or args.history_table):
        raise cli.UsageError("name a table with --config-table or --history-table")
    readings = _readings(args)
    try:
        ZoneInfo(args.zone)
    except (LookupError, ValueError, OSError):
        raise cli.UsageError(f"--zone {args.zone} is none: write one such as {ZONE}") from None
    aws = AwsConfig.resolve(
        os.environ, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
    )
    began, shown = time.monotonic(), Shown()
    with ExitStack() as stack:
        refusals = _Refusals(stack, args.refused)
        store = None
        if not args.dry_run:
            store = AlertStore(args.postgres, timeout_s=_TIMEOUT_S, zone=args.zone)
            stack.callback(store.close)
            store.check()
        for table, name in ((CONFIG, args.config_table), (HISTORY, args.history_table)):
            if not name:
                continue
            items, reading = scan(name, aws), readings[table]
            if table == CONFIG:
                counted = args.history_table is None
                done = importing.import_alerts(store, items, reading, now, refusals.take, counted=counted)
            else:
                done = importing.import_history(store, items, reading, refusals.take)
            shown += [(f"{table}: {ours}", taken) for ours, taken in understood(reading)]
            shown += _counts(table, done, refusals, args.dry_run)
        refusals.end()
    shown.append(("seconds", f"{time.monotonic() - began:.1f}"))
    cli.print_table("import (dry run: nothing was written)" if args.dry_run else "import", shown)


def _counts(table: str, done: importing.Done, refusals: _Refusals, dry: bool) -> Shown:
    counts = [("items", done.read), ("would be taken" if dry else "new", done.new)]
    if not dry:
        counts.append(("known before", done.known))
    counts += [(f"refused, {reason}", items) for reason, items in refusals.of(table)]
    return [(f"{table}: {what}", f"{items:,}") for what, items in counts]


def _readings(args: argparse.Namespace) -> dict[str, Reading]:
    """Return how each table's items are to be understood."""
    named: dict[str, dict[str, str]] = {CONFIG: {}, HISTORY: {}}
    for pair in args.column:
        place, theirs = _pair("--column", pair)
        table, dot, ours = place.rpartition(".")
        tables = [table] if dot else [one for one in named if place in ALIASES[one]]
        if not tables or tables[0] not in named or ours not in ALIASES[tables[0]]:
            raise cli.UsageError(
                f"--column {pair}: ours are, of config, {_CONFIG_SAYS}; of history, {_HISTORY_SAYS}"
            )
        for one in tables:
            named[one][ours] = theirs
    words = {}
    for pair in args.condition:
        ours, theirs = _pair("--condition", pair)
        if ours not in OPERATORS:
            raise cli.UsageError(f"--condition {pair}: ours are {', '.join(OPERATORS)}")
        words[theirs] = ours
    return {table: Reading(table, columns, words, args.owner) for table, columns in named.items()}


def _pair(option: str, pair: str) -> tuple[str, str]:
    ours, mark, theirs = pair.partition("=")
    if not (ours and mark and theirs):
        raise cli.UsageError(f"{option} {pair}: write OURS=THEIRS")
    return ours, theirs


class _Refusals:
    """Items that were not taken: counted by reason, the first ones told, and all written where asked.

    Args:
        stack: closes the file.
        path: of the file; None for none.
    """

    def __init__(self, stack: ExitStack, path: str | None) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._console = Console(stderr=True, soft_wrap=True)
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 the stack closes it
                stack.callback(self._file.close)
            except OSError as error:
                raise InputError(f"{path} cannot be written: {error.strerror}") from None

    def take(self, table: str, item: str, reason: str) -> None:
        """Count an item."""
        # What the item holds is not part of the reason that many share.
        self._counts[table, reason.partition(":")[0]] += 1
        if self._file is not None:
            line = {"table": table, "item": item, "reason": reason}
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self._counts.total() <= _TOLD:
            self._console.print(f"refused: {table} {item}: {reason}", markup=False, highlight=False)

    def end(self) -> None:
        """Say how many more there were."""
        more = self._counts.total() - _TOLD
        if more > 0:
            where = "see --refused's file" if self._file is not None else "write all with --refused FILE"
            self._console.print(f"refused: {more:,} more; {where}", markup=False, highlight=False)

    def of(self, table: str) -> list[tuple[str, int]]:
        """Return the reasons of a table with how many items they are of."""
        return sorted((reason, items) for (one, reason), items in self._counts.items() if one == table)


def _list(args: argparse.Namespace, now: datetime) -> None:
    if args.symbol is not None and args.owner is None:
        raise cli.UsageError("--symbol goes with --owner")
    if args.limit < 1:
        raise cli.UsageError(f"--limit is {args.limit}: give 1 or more")
    store = AlertStore(args.postgres)
    try:
        if args.owner is None:
            found = store.of_all(after=args.after, limit=args.limit + 1)
        else:
            found = store.find(args.owner, symbol=args.symbol, after=args.after, limit=args.limit + 1)
    finally:
        store.close()
    table = Table(title="alerts", title_justify="left")
    for name in ("id", "owner", "state", "symbol", "waits for", "how often", "fired", "firings", "note"):
        table.add_column(name, overflow="fold")
    for alert in found[: args.limit]:
        table.add_row(*_cells(alert))
    console = Console()
    console.print(table)
    if len(found) > args.limit:
        console.print(f"there are more: --after {found[args.limit - 1].id}", highlight=False)


def _cells(alert: Alert) -> list[str]:
    wanted = alert.definition
    often = wanted.frequency if wanted.timeframe is None else f"{wanted.frequency} of {wanted.timeframe}"
    waits = f"{wanted.operator} {wanted.value:g}" if wanted.bars is None else str(wanted.bars)
    if wanted.reference is not None:
        waits += f" % of {wanted.reference}"
    fired = "" if alert.fired is None else alert.fired.isoformat(timespec="seconds").replace("+00:00", "Z")
    words = [
        str(alert.id),
        alert.owner,
        alert.state,
        wanted.symbol,
        waits,
        often,
        fired,
        f"{alert.firings:,}",
    ]
    return [escape(word) for word in (*words, wanted.note)]


def _purge(args: argparse.Namespace, now: datetime) -> None:
    before = datetime.combine(args.before, clock(), UTC)
    if before > now:
        raise cli.UsageError(f"--before {args.before} lies ahead: give a day that has begun")
    store = AlertStore(args.postgres, timeout_s=_TIMEOUT_S)
    try:
        done = store.purge(before)
    finally:
        store.close()
    cli.print_table("purge", [(f"{what} forgotten", f"{rows:,}") for what, rows in vars(done).items()])


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], KNOWN_ERRORS)

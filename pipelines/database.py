"""PostgreSQL's schema and content: ``python -m pipelines.database``.

``upgrade`` and ``downgrade`` move the schema, ``current`` says where it is. ``import`` brings the
predecessor's tables over, from another PostgreSQL or from files; ``export`` brings official days and other
data of a lake into ``raw_ohlcv`` and the tables of symbols. Every one is safe to run twice.

    python -m pipelines.database upgrade
    python -m pipelines.database import --from postgresql://old/market --price-basis raw --dry-run
    python -m pipelines.database export --lake lake
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from rich.console import Console

from fibflow.io.postgresql import exporting, importing, migrate
from fibflow.io.postgresql.dumps import dumps, is_database, is_place
from fibflow.io.postgresql.importing import TABLES, Imported, Terms
from fibflow.io.postgresql.session import PostgresError
from fibflow.io.postgresql.upserts import Upserted
from fibflow.io.tables import PRICE_BASES
from fibflow.pipelines import cli
from fibflow.transforms.calendar import load_calendar

KNOWN_ERRORS = (PostgresError,)
_URL, _FROM = "DATABASE_URL", "FIBFLOW_IMPORT_URL"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.database",
        description="Move PostgreSQL's schema, import the predecessor's tables, export a lake's days.",
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
    up = commands.add_parser("upgrade", parents=[shared], help="bring the schema up")
    up.add_argument("--to", default="head", metavar="REVISION", help="default: head")
    down = commands.add_parser("downgrade", parents=[shared], help="take the schema down")
    down.add_argument("--to", required=True, metavar="REVISION", help="base, a revision, or -1")
    down.add_argument("--force", action="store_true", help="throw away the rows of the tables that go")
    commands.add_parser("current", parents=[shared], help="say where the schema is")
    _add_import(commands.add_parser("import", parents=[shared], help="bring the predecessor's tables over"))
    out = commands.add_parser("export", parents=[shared], help="bring a lake's days and symbols in")
    cli.add_lake_arguments(out)
    out.add_argument("--full", action="store_true", help="compare all days, not only what was landed since")
    return made


def _add_import(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--from",
        dest="place",
        metavar="PLACE",
        default=os.environ.get(_FROM),
        help=f"another postgresql://..., or a folder of CSV or Parquet, also s3:// (default: {_FROM})",
    )
    made.add_argument("--schema", help="of the other database (default: its search path)")
    made.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="what a table is called there; given once, only the tables named are imported",
    )
    made.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="TABLE.OURS=THEIRS",
        help="what a column is called there",
    )
    made.add_argument(
        "--price-basis", choices=PRICE_BASES, help="of the bars; must be said where there are any"
    )
    made.add_argument("--interval", help="of bars whose table has no column for it, such as 1d")
    made.add_argument("--calendar", default="XNYS", help="of the bars' sessions (default: XNYS)")
    made.add_argument("--dry-run", action="store_true", help="say how columns are understood; read no rows")
    aws = made.add_argument_group("AWS (default: the environment, as for every AWS tool)")
    aws.add_argument("--region", help="region of the buckets")
    aws.add_argument("--endpoint-url", metavar="URL", help="another S3 service than Amazon's")
    aws.add_argument("--profile", help="a profile of the AWS configuration files")


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError: the arguments do not fit together.
        PostgresError, InputError, LakeError, AwsError: what cannot be reached, read or written.
    """
    args = parser().parse_args(argv)
    if not args.postgres:
        raise cli.UsageError(f"name the database with --postgres, or in {_URL}")
    commands = {
        "upgrade": _upgrade,
        "downgrade": _downgrade,
        "current": _current,
        "import": _import,
        "export": _export,
    }
    began = time.monotonic()
    shown = commands[args.command](args)
    cli.print_table(args.command, [*shown, ("seconds", f"{time.monotonic() - began:.1f}")])
    return cli.OK


Shown = list[tuple[str, str]]


def _upgrade(args: argparse.Namespace) -> Shown:
    moved = migrate.upgrade(args.postgres, args.to)
    return [("revision before", moved.before or "none"), ("revision now", moved.after or "none")]


def _downgrade(args: argparse.Namespace) -> Shown:
    moved = migrate.downgrade(args.postgres, args.to, force=args.force)
    lost = [(f"rows lost of {table}", f"{rows:,}") for table, rows in moved.lost.items()]
    return [("revision before", moved.before or "none"), ("revision now", moved.after or "none"), *lost]


def _current(args: argparse.Namespace) -> Shown:
    state = migrate.current(args.postgres)
    return [
        ("revision", state.revision or "none"),
        ("this release's", state.head),
        ("to come", ", ".join(state.pending) or "nothing"),
    ]


def _import(args: argparse.Namespace) -> Shown:
    if not args.place:
        raise cli.UsageError(f"name what to import with --from, or in {_FROM}")
    if not is_place(args.place):
        raise cli.UsageError(
            "--from is no place: write postgresql://user@host:5432/database, a folder, or s3://bucket/folder"
        )
    tables = _pairs("--table", args.table) or {table: table for table in TABLES}
    if strange := tables.keys() - set(TABLES):
        raise cli.UsageError(f"--table {min(strange)}: ours are {', '.join(TABLES)}")
    columns: dict[str, dict[str, str]] = {}
    for ours, theirs in _pairs("--column", args.column).items():
        table, dot, name = ours.partition(".")
        if not dot or table not in tables:
            raise cli.UsageError(
                f"--column {ours}={theirs}: write TABLE.OURS=THEIRS, such as raw_ohlcv.close=px"
            )
        columns.setdefault(table, {})[name] = theirs
    aws = None if is_database(args.place) else cli.aws_of(args, args.place)
    shown: Shown = []
    with dumps(args.place, tables, args.schema, aws) as found:
        planned = importing.plan(found, columns)
        if "raw_ohlcv" in planned and not (args.price_basis or args.dry_run):
            raise cli.UsageError("say with --price-basis whether the bars' prices are raw or split-adjusted")
        for table, sources in planned.items():
            for dump, mapped in sources:
                taken = [f"{theirs} as {ours}" for ours, theirs in mapped.sources.items() if theirs != ours]
                shown.append((f"{table} is", dump.place))
                shown.append((f"{table}: read", ", ".join(taken) or "all as named"))
                shown.append((f"{table}: columns left aside", ", ".join(mapped.unknown) or "none"))
        if args.dry_run:
            return shown
        run_id, progress = cli.new_run_id(), _Progress()
        for table, sources in planned.items():
            terms = None
            if table == "raw_ohlcv":
                terms = Terms(load_calendar(args.calendar), args.price_basis, args.interval)
            part = partial(progress.add, table)
            done = importing.import_table(args.postgres, table, sources, run_id, terms, part)
            shown += _of_import(table, done)
    return shown


def _of_import(table: str, done: Imported) -> Shown:
    refused = [
        (f"{table}: refused, {reason}", f"{rows:,}") for reason, rows in sorted((+done.refused).items())
    ]
    return [(f"{table}: read rows", f"{done.read:,}"), *_of_rows(table, done.rows), *refused]


def _of_rows(table: str, done: Upserted) -> Shown:
    told = [
        (f"{table}: new", done.new),
        (f"{table}: changed", done.changed),
        (f"{table}: as they were", done.unchanged),
    ]
    if done.outdated:
        told.append((f"{table}: known later, left", done.outdated))
    if done.gone:
        told.append((f"{table}: removed", done.gone))
    return [(name, f"{rows:,}") for name, rows in told]


def _export(args: argparse.Namespace) -> Shown:
    lake, run_id, progress = cli.lake_of(args), cli.new_run_id(), _Progress()
    days = exporting.export_daily(lake, args.postgres, run_id, full=args.full, part=progress.add)
    others = exporting.export_reference(lake, args.postgres, run_id)
    read = "everything" if days.since is None else f"what was landed since version {days.since}"
    shown = [
        ("compared", read),
        ("version of bronze.daily", str(days.version)),
        *_of_rows("raw_ohlcv", days.rows),
    ]
    for table, done in others.items():
        shown += _of_rows(table, done)
    return shown


def _pairs(option: str, given: Sequence[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for pair in given:
        ours, mark, theirs = pair.partition("=")
        if not (ours and mark and theirs):
            raise cli.UsageError(f"{option} {pair}: write OURS=THEIRS")
        found[ours] = theirs
    return found


class _Progress:
    """Says now and then how many rows of something were read."""

    _EVERY = 1_000_000

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._rows: Counter[str] = Counter()

    def add(self, what: str, rows: int) -> None:
        """Count rows, and say so at each million, or at each part that has a name of its own."""
        before, self._rows[what] = self._rows[what], self._rows[what] + rows
        if before // self._EVERY < self._rows[what] // self._EVERY or rows == self._rows[what]:
            self._console.print(f"{what}: {self._rows[what]:,} rows", highlight=False)


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], KNOWN_ERRORS)

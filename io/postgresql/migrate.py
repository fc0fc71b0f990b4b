"""The schema's migrations: up, down, and where a database is. One transaction each, one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from fibflow.io.postgresql.session import PostgresError, connect, explained

__all__ = ["VERSION_TABLE", "Lossy", "Moved", "State", "current", "downgrade", "upgrade"]

#: Where a database remembers its revision; alembic's own default may be another program's.
VERSION_TABLE = "fibflow_schema_version"
BASE, HEAD = "base", "head"
_SCRIPTS = Path(__file__).parent / "migrations"
# Two that migrate at once go one after the other.
_LOCK = 0x66696264
_LOCK_TIMEOUT_S = 30.0


class Lossy(PostgresError):
    """A step down would throw rows away, and was not told to."""


@dataclass(frozen=True)
class Moved:
    """What a migration did.

    Attributes:
        before: the revision before; None for a database without.
        after: the revision now.
        lost: rows thrown away, by table; of a step down only.
    """

    before: str | None
    after: str | None
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """Where a database is.

    Attributes:
        revision: its own; None for a database without.
        head: this release's.
        pending: the revisions that it lacks, in their order.
    """

    revision: str | None
    head: str
    pending: tuple[str, ...]


def current(url: str) -> State:
    """Return where a database is.

    Raises:
        PostgresError: it cannot be reached, or is newer than this release.
    """
    with _database(url) as connection:
        revision = _revision(connection)
        return State(revision, _names()[-1], _between(revision, _names()[-1]))


def upgrade(url: str, to: str = HEAD) -> Moved:
    """Bring the schema up to a revision; where it is there already nothing is done.

    Args:
        url: ``postgresql://user@host/database``.
        to: ``head``, a revision, or ``+1``.

    Raises:
        PostgresError: it cannot be reached, there is no such revision, or a table that is there already does
            not fit. Nothing is changed then.
    """
    with _database(url) as connection:
        before = _revision(connection)
        target = _target(before, to, up=True)
        if target != before:
            command.upgrade(_config(connection), target or HEAD)
        return Moved(before, _revision(connection))


def downgrade(url: str, to: str, *, force: bool = False) -> Moved:
    """Take the schema down to a revision; the tables that came after it go, with their rows.

    Args:
        url: ``postgresql://user@host/database``.
        to: ``base`` for nothing, a revision, or ``-1``.
        force: throw rows away.

    Raises:
        Lossy: rows would be thrown away, and ``force`` is not given. Nothing is changed.
        PostgresError: as ``upgrade``.
    """
    with _database(url) as connection:
        before = _revision(connection)
        target = _target(before, to, up=False)
        lost = _rows(connection, _held(_between(target, before)))
        if lost and not force:
            told = ", ".join(f"{rows:,} of {table}" for table, rows in lost.items())
            raise Lossy(
                f"a step down to {target or BASE} would throw rows away: {told}. Nothing was changed: back "
                "them up (pg_dump), and say --force"
            )
        if target != before:
            command.downgrade(_config(connection), target or BASE)
        return Moved(before, _revision(connection), lost)


@contextmanager
def _database(url: str) -> Iterator[Connection]:
    """Yield a transaction in which nobody else migrates; what it did is kept where no error leaves it."""
    engine = create_engine(
        "postgresql+psycopg2://",
        creator=partial(connect, url, program="fibflow migrations", lock_timeout_s=_LOCK_TIMEOUT_S),
        poolclass=NullPool,
    )
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection
    except DBAPIError as error:
        raise explained(error.orig, url) from None
    except psycopg2.Error as error:
        raise explained(error, url) from None
    finally:
        engine.dispose()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    # A value of alembic's settings may hold variables, which begin with a per cent sign.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    revision = context.get_current_revision()
    if revision is not None and revision not in _names():
        raise PostgresError(
            f"the database is at revision {revision}, which this release does not know: use the release that "
            "made it, or a later one"
        )
    return revision


def _names() -> tuple[str, ...]:
    """Return all revisions, the oldest first."""
    return tuple(reversed([script.revision for script in _scripts().walk_revisions()]))


def _between(lower: str | None, upper: str | None) -> tuple[str, ...]:
    """Return the revisions after one up to another, in their order; None is before all."""
    names = _names()
    first, last = (0 if name is None else names.index(name) + 1 for name in (lower, upper))
    return names[first:last]


def _target(before: str | None, to: str, up: bool) -> str | None:
    """Return the revision that ``to`` names: in a direction, seen from where the database is; None for none.

    Raises:
        PostgresError: there is none of that name, or it lies the other way.
    """
    names: list[str | None] = [None, *_names()]
    here = names.index(before)
    if to in (BASE, HEAD):
        place = 0 if to == BASE else len(names) - 1
    elif to in names:
        place = names.index(to)
    elif re.fullmatch(r"\+\d+" if up else r"-\d+", to) and 0 <= here + int(to) < len(names):
        place = here + int(to)
    else:
        raise PostgresError(f"there is no revision {to}: name one of {BASE}, {', '.join(_names())}, {HEAD}")
    if (place < here) if up else (place > here):
        way, other = ("below", "downgrade") if up else ("above", "upgrade")
        raise PostgresError(
            f"revision {to} lies {way} the database's {before or BASE}: use pipelines.database {other}"
        )
    return names[place]


def _held(revisions: Sequence[str]) -> list[str]:
    """Return the tables whose rows go with steps down."""
    scripts = _scripts()
    return [table for name in revisions for table in scripts.get_revision(name).module.HOLDS]


def _rows(connection: Connection, tables: list[str]) -> dict[str, int]:
    """Return how many rows each table holds that holds any. Nobody can add some any more."""
    found = {}
    for table in tables:
        connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        if rows := connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one():
            found[table] = rows
    return found

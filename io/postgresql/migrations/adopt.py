"""Tables that may be there already, made by hand or by another program: taken over where they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alembic import op
from sqlalchemy import text

from fibflow.io.postgres import PostgresError

#: Types that serve as well as the one that we make.
_AS_GOOD = {"text": ("character varying",)}
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.atthasdef OR a.attidentity <> '' FROM pg_attribute a
WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_KEY = """
SELECT a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = to_regclass(:name) AND i.indisprimary ORDER BY k.place
"""
_KIND = "SELECT relkind FROM pg_class WHERE oid = to_regclass(:name)"


class Added(NamedTuple):
    """A column that a table which is there already may lack: its definition, and its default afterwards."""

    definition: str
    default: str | None = None


def make_or_adopt(
    name: str,
    create: str,
    columns: Mapping[str, str],
    key: Sequence[str],
    added: Mapping[str, Added] | None = None,
) -> None:
    """Make a table, or take over the one of that name, with its rows.

    Args:
        name: the table's.
        create: the statement that makes it.
        columns: the types that its columns must have.
        key: its primary key.
        added: columns that are added where they lack.

    Raises:
        PostgresError: what is there under the name does not fit; nothing is changed.
    """
    bind, more = op.get_bind(), added or {}
    kind = bind.execute(text(_KIND), {"name": name}).scalar()
    if kind is None:
        op.execute(text(create))
        return
    found = {row[0]: row for row in bind.execute(text(_COLUMNS), {"name": name})}
    primary = [row[0] for row in bind.execute(text(_KEY), {"name": name})]
    wrong = _wrong(found, columns, more)
    if kind not in ("r", "p"):
        wrong.insert(0, "it is no table")
    elif primary != list(key):
        wrong.insert(0, f"its primary key is ({', '.join(primary)}), not ({', '.join(key)})")
    if wrong:
        raise PostgresError(
            f"there is a {name} already, and it does not fit: {'; '.join(wrong[:3])}. Rename it (ALTER TABLE "
            f"{name} RENAME TO {name}_old), run this again, and import its rows (pipelines.database import)"
        )
    for column in (column for column in more if column not in found):
        op.execute(text(f'ALTER TABLE {name} ADD COLUMN "{column}" {more[column].definition}'))
        if default := more[column].default:
            op.execute(text(f'ALTER TABLE {name} ALTER COLUMN "{column}" SET DEFAULT {default}'))


def _wrong(
    found: Mapping[str, Sequence], columns: Mapping[str, str], added: Mapping[str, Added]
) -> list[str]:
    """Return in which ways a table's columns do not fit."""
    wrong = []
    for column, kind in columns.items():
        if column in found:
            there = found[column][1]
            if there != kind and there not in _AS_GOOD.get(kind, ()):
                wrong.append(f"{column} is {there}, not {kind}")
        elif column not in added:
            wrong.append(f"it has no column {column}")
    # Nobody would fill these.
    wrong += [
        f"{column} may not be null and has no default"
        for column, (_, _, needed, filled) in found.items()
        if column not in columns and needed and not filled
    ]
    return wrong

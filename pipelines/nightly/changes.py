"""What changed in a lake since the last daily run that told it: rows of days, and reference data.

Up to where that was told stands in a file of the lake, which is written when it has been told: what a run
changed that died before its end the next one tells.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.landed import landed_rows
from fibflow.io.reference import RENAMES, SPLITS, SYMBOLS, key_texts, read_reference, same_values
from fibflow.io.referencechanges import CHANGED, CHANGES, GONE, NEW
from fibflow.io.snapshot import read_files
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.schemas import DAILY_ROWS

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_STATE = "_daily/told.json"
_VALUES = [name for name in DAILY_ROWS.names if name not in ("symbol", "session")]
#: Lines of each kind that are shown.
SHOWN = 20

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Told:
    """Up to which versions of tables their changes were told; -1 for a table that was not there."""

    daily: int = -1
    reference: int = -1

    @classmethod
    def read(cls, lake: Lake) -> Told | None:
        """Return what the lake says; None where no run has told anything."""
        content = Storage(lake.uri, lake.aws).read(_STATE)
        if content is None:
            return None
        try:
            found = json.loads(content)
            return cls(int(found[tables.DAILY.name]), int(found[CHANGES.name]))
        except (ValueError, KeyError, TypeError):
            return None

    @classmethod
    def now(cls, lake: Lake) -> Told:
        """Return the versions that there are."""
        return cls(lake.table(tables.DAILY).version, lake.table(CHANGES).version)

    def write(self, lake: Lake) -> None:
        """Note it in the lake.

        Raises:
            LakeError: it cannot be written.
        """
        storage = Storage(lake.uri, lake.aws)
        content = json.dumps({tables.DAILY.name: self.daily, CHANGES.name: self.reference})
        try:
            storage.write(_STATE, content.encode())
        except OSError as error:
            raise LakeError(storage.explain("write to", error)) from error


@dataclass
class Named:
    """Changes, to show.

    Attributes:
        lines: names and values.
        counts: of all changes, by kind.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, lines: Sequence[tuple[str, str]], more: str) -> None:
        """Add lines of one kind; ``more`` says where the others are that are not shown."""
        self.counts[kind] += len(lines)
        self.lines += lines[:SHOWN]
        if len(lines) > SHOWN:
            self.lines.append((f"... and {len(lines) - SHOWN:,} more {kind}", more))


def name_changes(lake: Lake, since: Told, until: Told) -> Named:
    """Return what changed between two points.

    Raises:
        LakeError: a table cannot be read.
    """
    named = Named()
    _name_reference(lake, since.reference, until.reference, named)
    _name_days(lake, since.daily, until.daily, named)
    return named


# Days ------------------------------------------------------------------------------------------------------


def _name_days(lake: Lake, since: int, until: int, named: Named) -> None:
    table = lake.table(tables.DAILY)
    if until < 0 or until == since:
        return
    if since < 0:
        named.add("days", [("days", f"{table.snapshot(until).rows:,} rows: the first ones")], "")
        return
    try:
        found = landed_rows(table, since, until, ["symbol", "session", *_VALUES])
        if found is None:
            named.add("days", [("days", "landed anew, as a whole")], "")
            return
        rows = found[0]
        if not len(rows):
            return
        symbols: list[Any] = pc.unique(rows["symbol"].cast(pa.string())).to_pylist()
        before, _ = table.snapshot(since).read(["symbol", "session", *_VALUES], symbols, *_bounds(rows))
    except (LakeError, FileNotFoundError) as error:
        # Upkeep deletes what no version of the last weeks holds.
        named.add("days", [("days", f"changed; which, can no longer be told ({error})")], "")
        return
    plain: Any = rows["symbol"].cast(pa.string())
    rows = rows.set_column(0, "symbol", plain)
    rows = rows.combine_chunks().sort_by([("session", "ascending"), ("symbol", "ascending")])
    at: Any = pc.index_in(key_texts(rows, tables.DAILY), value_set=key_texts(before, tables.DAILY))
    known = np.asarray(at.is_valid())
    where = f"rows of {tables.DAILY.name} since version {since}"
    corrected = rows.filter(pa.array(known))
    named.add("corrections", list(_corrections(corrected, before.take(at.drop_null()))), where)
    added = rows.filter(pa.array(~known))
    held = _sessions(lake, since, added)
    named.add("sessions", list(_new_sessions(added.filter(pa.array(~held)))), where)
    named.add("holes", list(_filled(added.filter(pa.array(held)))), where)


def _bounds(rows: pa.Table) -> tuple[int, int]:
    days = rows["session"].cast(pa.int32())
    return pc.min(days).as_py(), pc.max(days).as_py() + 1


def _sessions(lake: Lake, since: int, rows: pa.Table) -> Bool:
    """Return which rows are of sessions that had rows at a version."""
    if not len(rows):
        return np.zeros(0, np.bool_)
    held, _ = lake.table(tables.DAILY).snapshot(since).read(["session"], None, *_bounds(rows))
    return np.asarray(pc.is_in(rows["session"], value_set=pc.unique(held["session"])))


def _corrections(now: pa.Table, before: pa.Table) -> Iterator[tuple[str, str]]:
    differs = {name: ~same_values(now[name], before[name]) for name in _VALUES}
    old, new = before.to_pylist(), now.to_pylist()
    for place in range(len(now)):
        row = new[place]
        texts = [f"{name} {old[place][name]} -> {row[name]}" for name, mask in differs.items() if mask[place]]
        # What changed and changed back is as it was.
        if texts:
            yield f"corrected {row['symbol']} {row['session']}", ", ".join(texts)


def _new_sessions(rows: pa.Table) -> Iterator[tuple[str, str]]:
    counts = rows.group_by("session").aggregate([("symbol", "count")]).sort_by("session")
    for row in counts.to_pylist():
        yield f"new session {row['session']}", f"{row['symbol_count']:,} rows"


def _filled(rows: pa.Table) -> Iterator[tuple[str, str]]:
    asked = [("session", "min"), ("session", "max"), ("session", "count")]
    days = rows.group_by("symbol").aggregate(asked)
    for row in days.sort_by("symbol").to_pylist():
        first, last, count = row["session_min"], row["session_max"], row["session_count"]
        text = f"{first}" if count == 1 else f"{count:,} sessions, {first} to {last}"
        yield f"filled {row['symbol']}", text


# Reference data --------------------------------------------------------------------------------------------


def _name_reference(lake: Lake, since: int, until: int, named: Named) -> None:
    table = lake.table(CHANGES)
    if until < 0 or until == since:
        return
    try:
        added, _ = table.changes(since, until)
        rows, _ = read_files(table.storage, CHANGES, added)
    except LakeError as error:
        line = f"changed; how, can no longer be told ({error})"
        named.add("reference data", [("reference data", line)], "")
        return
    counted: Any = rows.filter(_initial(rows))["table"].value_counts()
    for row in counted.to_pylist():
        # Each rename and split counts, also where it is a table's first row; a whole history does not.
        if row["values"] in (RENAMES.name, SPLITS.name) and row["counts"] <= SHOWN:
            continue
        named.add("tables", [(row["values"], f"{row['counts']:,} rows: the first ones")], "")
        rows = rows.filter(pc.invert(pc.and_(_initial(rows), pc.equal(rows["table"], row["values"]))))
    where = f"rows of {CHANGES.name} since version {since}"
    named.add("renames", list(_renames(lake, _of(rows, RENAMES.name))), where)
    named.add("splits", list(_splits(lake, _of(rows, SPLITS.name))), where)
    for kind, lines in _symbols(_of(rows, SYMBOLS.name)).items():
        named.add(kind, lines, where)
    paid = _of(rows, tables.DIVIDENDS.name)
    if len(paid):
        symbols = len(paid["symbol"].unique())
        named.add("dividends", [("dividends", f"{len(paid):,} changes of {symbols:,} symbols")], where)


def _initial(rows: pa.Table) -> Any:
    return pc.and_(pc.equal(rows["version"], 0), pc.equal(rows["change"], NEW))


def _of(rows: pa.Table, name: str) -> pa.Table:
    mine = rows.filter(pc.equal(rows["table"], name))
    return mine.sort_by([(column, "ascending") for column in ("symbol", "key", "field")])


def _keys(rows: pa.Table) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        found.setdefault((row["symbol"], row["key"]), []).append(row)
    return found


def _renames(lake: Lake, rows: pa.Table) -> Iterator[tuple[str, str]]:
    known = {
        (row["symbol"], row["date"].isoformat()): row for row in read_reference(lake, RENAMES)[0].to_pylist()
    }
    for (symbol, day), changes in _keys(rows).items():
        row = known.get((symbol, day))
        if row is not None and changes[0]["change"] == NEW:
            yield f"renamed {row['old_symbol']}", f"to {symbol}, from {day} on"
        else:
            yield f"rename to {symbol}", f"of {day}: {changes[0]['change']}"


def _splits(lake: Lake, rows: pa.Table) -> Iterator[tuple[str, str]]:
    known = {
        (row["symbol"], row["execution_date"].isoformat()): row
        for row in read_reference(lake, SPLITS)[0].to_pylist()
    }
    for (symbol, day), changes in _keys(rows).items():
        row = known.get((symbol, day))
        if row is None:
            yield f"split of {symbol}", f"on {day}: called off"
        else:
            word = "" if changes[0]["change"] == NEW else " (changed)"
            yield f"split of {symbol}", f"on {day}: {row['split_to']:g} for {row['split_from']:g}{word}"


def _symbols(rows: pa.Table) -> dict[str, list[tuple[str, str]]]:
    kinds: dict[str, list[tuple[str, str]]] = {"listed": [], "delisted": [], "facts": []}
    for (symbol, _), changes in _keys(rows).items():
        fields = {row["field"]: row for row in changes}
        if None in fields and fields[None]["change"] == NEW:
            kinds["listed"].append((f"new symbol {symbol}", ""))
        elif fields.get("active", {}).get("new") == "false":
            day = fields.get("delisted", {}).get("new") or "a day that is not known"
            kinds["delisted"].append((f"trades no more {symbol}", f"since {day}"))
        else:
            texts = [
                f"{row['field']} {row['old']} -> {row['new']}"
                for row in changes
                if row["change"] in (CHANGED, GONE)
            ]
            kinds["facts"].append((f"changed {symbol}", ", ".join(texts)))
    return kinds

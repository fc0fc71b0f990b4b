"""Until when the vendor was asked for splits and dividends, and of which symbols: a file of the lake.

What is stored cannot say so: a symbol that is asked for from today on had its splits before the newest one
that another one has. Without the file, or a symbol in it, all days are asked for again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake
from fibflow.io.storage import LakeError, Storage

_STATE = "_daily/asked.json"


@dataclass(frozen=True)
class Asked:
    """Until when one table's rows were asked for.

    Attributes:
        all: of all symbols; None for never.
        single: of some more.
    """

    all: date | None = None
    single: Mapping[str, date] = field(default_factory=dict)

    def until(self, symbols: Collection[str] | None) -> date | None:
        """Return until when the rows of all these symbols (None: of all) are known; None for not at all."""
        if symbols is None:
            return self.all
        days = [self._of(symbol) for symbol in symbols]
        return None if not days or None in days else min(day for day in days if day is not None)

    def joined(self, symbols: Collection[str] | None, day: date) -> Asked:
        """Return this with symbols (None: all) that were asked for until a day."""
        if symbols is None:
            day = day if self.all is None else max(day, self.all)
            return Asked(day, {name: single for name, single in self.single.items() if single > day})
        return Asked(self.all, {**self.single, **{name: max(day, self._of(name) or day) for name in symbols}})

    def _of(self, symbol: str) -> date | None:
        days = [day for day in (self.all, self.single.get(symbol)) if day is not None]
        return max(days, default=None)


def read_asked(lake: Lake, spec: TableSpec) -> Asked:
    """Return until when a table's rows were asked for.

    Raises:
        LakeError: the lake cannot be read.
    """
    return _asked(_read(lake).get(spec.name))


def note_asked(lake: Lake, spec: TableSpec, symbols: Collection[str] | None, day: date) -> None:
    """Note that a table has the rows of symbols (None: of all) until a day; again, it writes nothing.

    Raises:
        LakeError: the lake cannot be read or written.
    """
    content = _read(lake)
    before = _asked(content.get(spec.name))
    after = before.joined(symbols, day)
    if after == before:
        return
    content[spec.name] = {
        "all": None if after.all is None else after.all.isoformat(),
        "symbols": {name: single.isoformat() for name, single in sorted(after.single.items())},
    }
    storage = Storage(lake.uri, lake.aws)
    try:
        storage.write(_STATE, json.dumps(content).encode())
    except OSError as error:
        raise LakeError(storage.explain("write to", error)) from error


def _read(lake: Lake) -> dict[str, Any]:
    try:
        found = json.loads(Storage(lake.uri, lake.aws).read(_STATE) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _asked(found: Any) -> Asked:
    """Return what an entry of the file says; nothing where it cannot be read."""
    try:
        until = found["all"]
        single = {str(name): date.fromisoformat(day) for name, day in found["symbols"].items()}
        return Asked(None if until is None else date.fromisoformat(until), single)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Asked()

"""What alerts need beside prices, read on and on: their changes, and facts of symbols."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from fibflow.io import tables
from fibflow.io.alerts import feed
from fibflow.io.alerts.link import Circuit, Link
from fibflow.io.alerts.tail import Look, Position, Tail
from fibflow.io.lake import Lake
from fibflow.io.postgresql.session import Connection, PostgresError
from fibflow.transforms.alerts.hold import with_through
from fibflow.transforms.alerts.schema import ALWAYS, FACTS, Fact
from fibflow.transforms.partials import as_arrow, numbers

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

CHANGES_EVERY_S = 0.5
FACTS_EVERY_S = 5.0
#: Days before the newest session of which closes are told: a session has one before it within these.
_CLOSES_OF_DAYS = 14
_UNREAD = -1
_MICROS, _DAY_S = 1_000_000, 86_400


@dataclass
class ChangeFeed:
    """Changes of alerts in PostgreSQL, as ``feed.read_changes`` gives them.

    A position is (revision up to which all was told, revision up to which only what is in force then was);
    ``(-1, 0)`` for nothing. The last table of ``BAR_CHANGES``, and of ``CHANGES``, for now, says up to which
    instant all of its kind is told.

    Attributes:
        url: as of ``Link``.
        every_s: from one look to the next.
        most: changes a table.
        clock: seconds since 1970.
    """

    url: str = field(repr=False)
    every_s: float = CHANGES_EVERY_S
    most: int = feed.MOST
    clock: Callable[[], float] = time.time
    name: str = field(default="changes", init=False)
    start: Position = field(default=(_UNREAD, 0), init=False)
    _link: Link | None = field(default=None, init=False, repr=False)

    def look(self, position: Position) -> Look:
        """Return the next changes.

        Raises:
            PostgresError: PostgreSQL does not answer or refuses, or it is another database.
        """
        if self._link is None:
            # A page of a first load takes seconds where a machine is busy; nobody waits for it.
            self._link = Link(self.url, Circuit(0.0), answer_s=30.0, autocommit=True)
        began = int(self.clock() * _MICROS)
        after, top = position
        page, top = self._link.ask(lambda connection: self._page(connection, after, top))
        found = [page.bars, page.prices]
        if page.more:
            found = [changes for changes in found if len(changes)]
        else:
            found = [with_through(changes, began) for changes in found]
        return Look((page.last, top), found, page.more)

    def _page(self, connection: Connection, after: int, top: int) -> tuple[feed.Page, int]:
        if after == _UNREAD:
            after, top = 0, feed.last_revision(connection)
        page = feed.read_changes(connection, after, self.most, top)
        is_empty = not len(page.prices) + len(page.bars)
        if is_empty and (newest := feed.last_revision(connection)) < after:
            raise PostgresError(
                f"the alerts in PostgreSQL have {newest} changes, and the job knows {after}: it is another "
                "database, or an older copy. Start the job without its savepoint"
            )
        return page, top


@dataclass
class FactFeed:
    """Official closes of the newest sessions, and splits, of a lake; a table anew when it has a new version.

    A position is (version of ``bronze.daily``, version of ``reference.splits``, last day of splits told).

    Attributes:
        lake: with these tables, or without.
        through: closes of sessions before this one are told too (days since 1970); None: those of the newest.
        every_s: from one look to the next.
        clock: seconds since 1970.
    """

    lake: Lake
    through: int | None = None
    every_s: float = FACTS_EVERY_S
    clock: Callable[[], float] = time.time
    name: str = field(default="facts", init=False)
    start: Position = field(default=(_UNREAD - 1, _UNREAD - 1, 0), init=False)

    def look(self, position: Position) -> Look:
        """Return the facts of tables that have changed.

        Raises:
            LakeError: the lake cannot be read.
        """
        daily, splits = self.lake.table(tables.DAILY), self.lake.table(tables.SPLITS)
        # A split is announced for a day that may be moved until then.
        day = int(self.clock() // _DAY_S) + 1
        reached = daily.version, splits.version, day
        made = []
        if reached != position:
            known = self._splits(day) if reached[1] > _UNREAD else FACTS.empty_table()
            if reached[0] != position[0] and reached[0] > _UNREAD:
                made.append(self._closes(known))
            if reached[1:] != position[1:]:
                made.append(known)
            made = [facts for facts in made if len(facts)]
        if position == self.start:
            made.append(no_facts())
        return Look(reached, made)

    def _splits(self, last: int) -> pa.Table:
        rows, _ = (
            self.lake.table(tables.SPLITS)
            .snapshot()
            .read(["symbol", "execution_date", "split_from", "split_to"], None, None, last + 1)
        )
        factor = rows["split_from"].to_numpy() / rows["split_to"].to_numpy()
        days = rows["execution_date"].cast(pa.int32())
        facts = _facts(rows["symbol"], Fact.SPLIT, days, factor)
        return facts.filter(as_arrow(np.isfinite(factor) & (factor > 0)))

    def _closes(self, splits: pa.Table) -> pa.Table:
        snapshot = self.lake.table(tables.DAILY).snapshot()
        newest = pc.max(snapshot.files["max.session"].cast(pa.int32())).as_py() if len(snapshot) else None
        if newest is None:
            return FACTS.empty_table()
        since = min(newest, newest if self.through is None else self.through) - _CLOSES_OF_DAYS
        rows, _ = snapshot.read(["symbol", "session", "close"], None, since, dictionary=["symbol"])
        closes = _facts(
            rows["symbol"], Fact.CLOSE, rows["session"].cast(pa.int32()), rows["close"].to_numpy()
        )
        adjusted = snapshot.properties.get(tables.PRICE_BASIS) == "split-adjusted"
        return _unsplit(closes, splits) if adjusted else closes


def _facts(symbols: Any, kind: Fact, days: Any, values: Any) -> pa.Table:
    kinds = as_arrow(np.full(len(days), kind, np.int8))
    plain = symbols.cast(pa.string()).combine_chunks()
    columns = [plain.dictionary_encode(), kinds, days, as_arrow(np.asarray(values, np.float64))]
    return pa.table(columns, names=FACTS.names).cast(FACTS)


def _unsplit(closes: pa.Table, splits: pa.Table) -> pa.Table:
    """Leave out closes before a split of their symbol: they are of its shares already, and it is told too."""
    names = closes["symbol"].cast(pa.string()).combine_chunks()
    of_split = pc.index_in(names, value_set=splits["symbol"].cast(pa.string()).combine_chunks().unique())
    known = splits["symbol"].cast(pa.string()).combine_chunks()
    last = np.full(len(known.unique()), -(1 << 31), np.int64)
    np.maximum.at(last, pc.index_in(known, value_set=known.unique()).to_numpy(), numbers(splits, "day"))
    at = of_split.fill_null(0).to_numpy()
    before = np.zeros(len(closes), np.bool_)
    if len(last):
        before = of_split.is_valid().to_numpy(zero_copy_only=False) & (numbers(closes, "day") < last[at])
    return closes.filter(as_arrow(~before))


def tail_alerts(url: str, *, every_s: float = CHANGES_EVERY_S) -> Tail:
    """Return a transform that reads all changes of alerts, tables of ``CHANGES`` and ``BAR_CHANGES``."""
    return Tail(ChangeFeed(url, every_s))


def no_facts() -> pa.Table:
    """Return what says that no facts will come."""
    return with_through(FACTS.empty_table(), ALWAYS)


def tail_facts(lake: Lake, through: int | None = None, *, every_s: float = FACTS_EVERY_S) -> Tail:
    """Return a transform that reads facts of symbols: tables of ``FACTS``; see ``FactFeed``."""
    return Tail(FactFeed(lake, through, every_s))

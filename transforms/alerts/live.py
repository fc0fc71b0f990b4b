"""The alerts of one bucket for one call: tables in, events out. Free of Beam.

A bucket's whole state lies in its cells (``cells``). The events are a function of each symbol's prices,
changes and facts in the order in which they came, however they are cut into tables. A change that comes
before the first price later than its ``since`` has the same effect wherever it comes: so a job that is
restored, and reads its prices again while changes come in other places, makes the same events.
"""

from __future__ import annotations

import pyarrow as pa

from fibflow.transforms.alerts.cells import ALERTS, MOVES, Keeper, Memo, Plan
from fibflow.transforms.alerts.evaluate import evaluate
from fibflow.transforms.alerts.schema import kind_of
from fibflow.transforms.livecells import Cells

__all__ = ["LiveAlerts", "Memo", "Plan"]


class LiveAlerts:
    """One bucket, for one call or for many."""

    def __init__(self, plan: Plan, cells: Cells, memo: Memo | None = None) -> None:
        """Take a bucket.

        Args:
            plan: of the job.
            cells: the bucket's.
            memo: what an earlier call kept of this bucket; read anew where the cells say otherwise.
        """
        self._plan, self._cells = plan, cells
        self._memo = Memo() if memo is None else memo

    def take(self, table: pa.Table) -> pa.Table | None:
        """Take changes, facts or prices of the bucket's symbols; return what fired, None for nothing.

        Args:
            table: of ``CHANGES``, ``FACTS`` or ``PRICES``, in the order in which they came.

        Returns:
            A table of ``EVENTS``.

        Raises:
            StateError: where the state was written by another release, or with other options.
            ValueError: where the table is none of these.
        """
        kind = kind_of(table)
        if not len(table):
            return None
        keeper = Keeper(self._plan, self._cells, self._memo)
        keeper.begin()
        if kind == "prices":
            return self._take_prices(keeper, table)
        if kind == "changes":
            keeper.append(ALERTS, keeper.book.take_changes(keeper.new_of(table)))
        else:
            keeper.book.learn(table)
            keeper.put_facts()
        keeper.save()
        return None

    def _take_prices(self, keeper: Keeper, table: pa.Table) -> pa.Table | None:
        plan, book = self._plan, keeper.book
        found = evaluate(book, table, plan.calendar, plan.anchor)
        if found.counted:
            keeper.append(MOVES, book.moves_of(found.moved))
            keeper.put_last()
            keeper.sweep(int(book.last["day"].max()))
        keeper.save()
        return None if found.firings is None else found.firings.table(book.names)

"""What fired, on its way to a table of ``EVENTS``.

An event's id tells the alert, its version and the generation in which it was armed, and the bar or the
session where the alert fires once in each; never the price that fired it. After a restore another price
may be the first that does, the event stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.alerts.schema import EVENTS, NEVER, Frequency
from fibflow.transforms.partials import as_arrow

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Firings:
    """Alerts that fired; shape (n,) each.

    Attributes:
        at: row of the batch of the price that fired it.
        alert, version, frequency: of the alert.
        place: of its symbol.
        ts, seq, price, before, level: as in ``EVENTS``.
        gen_ts, gen_seq: of the price that armed it, ``gen_ts`` is ``NEVER`` for the version itself.
        period: the bar's start, UTC microseconds, or the session's day, days since 1970; else 0.
    """

    at: Int64
    alert: Int64
    version: npt.NDArray[np.int32]
    frequency: npt.NDArray[np.int8]
    place: Int64
    ts: Int64
    seq: Int64
    price: Float64
    before: Float64
    level: Float64
    gen_ts: Int64
    gen_seq: Int64
    period: Int64

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def concat(cls, parts: Sequence[Firings]) -> Firings | None:
        """Return all of them in the order of their prices, and of alerts; None for none."""
        if not parts:
            return None
        found = cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))
        order = np.lexsort((found.version, found.alert, found.at))
        return cls(*(getattr(found, each.name)[order] for each in fields(cls)))

    def table(self, names: Sequence[str]) -> pa.Table:
        """Return a table of ``EVENTS``.

        Args:
            names: the symbols by place.
        """
        used, codes = np.unique(self.place, return_inverse=True)
        symbol: Any = pa.array([names[place] for place in used.tolist()], pa.string())
        columns = {name: as_arrow(getattr(self, name)) for name in EVENTS.names if hasattr(self, name)}
        columns["previous"] = as_arrow(self.before)
        columns["symbol"] = symbol.take(as_arrow(codes))
        columns["id"] = self._ids()
        return pa.Table.from_arrays([columns[name] for name in EVENTS.names], schema=EVENTS)

    def _ids(self) -> Any:
        join: Any = pc.binary_join_element_wise
        generation: Any = "0"
        again = self.gen_ts != NEVER
        if again.any():
            generation = pc.if_else(as_arrow(again), join(_text(self.gen_ts), _text(self.gen_seq), "."), "0")
        ids = join(_text(self.alert), _text(self.version), generation, "-")
        bar, daily = self.frequency == Frequency.BAR, self.frequency == Frequency.DAILY
        if bar.any():
            ids = pc.if_else(as_arrow(bar), join(ids, _text(self.period), "-"), ids)
        if daily.any():
            day = np.where(daily, self.period, 0).astype(np.int32)
            text = as_arrow(day).view(pa.date32()).cast(pa.string())
            ids = pc.if_else(as_arrow(daily), join(ids, text, "-"), ids)
        return ids


def _text(numbers: npt.NDArray[Any]) -> Any:
    return as_arrow(numbers).cast(pa.string())

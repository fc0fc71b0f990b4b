"""Beam sinks of the live store: last prices at once, open bars as they are let out, closed bars."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from fibflow.io import lastprices
from fibflow.io.livestore import LiveStore
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.openbars import Flush

_MICROS = 1_000_000
_MILLIS = 1_000
#: A bundle's tables are written together; a long one in between as well.
_MOST_ROWS = 20_000


class LiveMetrics:
    """Counters and latencies of one kind of write.

    ``<kind>_written`` counts what changed the store, ``redis_errors`` how often Redis was away.
    ``<kind>_latency_ms`` is how old the newest value of a write was when it had been written, by the writer's
    clock: a price since its trade, a closed bar since its window's end, an open bar since it was let out.
    """

    def __init__(self, kind: str) -> None:
        self._written = Metrics.counter("live", f"{kind}_written")
        self._errors = Metrics.counter("live", "redis_errors")
        self._latency = Metrics.distribution("live", f"{kind}_latency_ms")
        self._seen_errors = 0

    def wrote(self, count: int, newest: int | None, now: float, errors: int) -> None:
        """Count a write.

        Args:
            count: how many values changed the store.
            newest: the newest of what was given, UTC microseconds.
            now: seconds since 1970.
            errors: of the connection, in all.
        """
        self._written.inc(count)
        if errors > self._seen_errors:
            self._errors.inc(errors - self._seen_errors)
            self._seen_errors = errors
        if newest is not None:
            self._latency.update(max(0, int(now * _MILLIS) - newest // _MILLIS))


@dataclass
class LiveMarker:
    """The marker of a store, asked for once a second: all open bars are sent again when it changes.

    Attributes:
        store: not opened yet.
        for_s: how long an answer holds.
        clock: ``time.monotonic``.
    """

    store: LiveStore
    for_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    _answer: tuple[float, str] | None = field(default=None, init=False, repr=False)

    def open(self) -> None:
        """Make a store of this worker's own."""
        self.store, self._answer = replace(self.store), None

    def current(self) -> str:
        """Return the store's marker."""
        now = self.clock()
        if self._answer is None or now - self._answer[0] >= self.for_s:
            self._answer = now, self.store.marker()
        return self._answer[1]

    def close(self) -> None:
        """Close the store."""
        self.store.close()


class _Writer(beam.DoFn):
    """Keeps what comes in a bundle, and writes it when the bundle ends: in one round trip, and all of it.

    A write waits for Redis as long as the store's ``patience`` says, and raises ``LiveStoreError`` then: the
    runner goes back to its last checkpoint and writes all since then again. Nothing is skipped.
    """

    kind: str

    def __init__(self, store: LiveStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def setup(self) -> None:
        """Make a store of this instance's own; it connects at the first write."""
        self._store = replace(self._store)
        self._metrics = LiveMetrics(self.kind)

    def start_bundle(self) -> None:
        """Begin with nothing kept."""
        self._kept: list[Any] = []
        self._rows = 0

    def finish_bundle(self) -> None:
        """Write what is kept."""
        if self._kept:
            count, newest = self._write(self._kept)
            self._metrics.wrote(count, newest, self._clock(), self._store.connection.errors)
        self.start_bundle()

    def teardown(self) -> None:
        """Close the connections."""
        self._store.close()

    def _keep(self, value: Any, rows: int) -> None:
        self._kept.append(value)
        self._rows += rows
        if self._rows >= _MOST_ROWS:
            self.finish_bundle()

    def _write(self, kept: list[Any]) -> tuple[int, int | None]:
        """Write what was kept, in order; return how many changed the store, and the newest instant."""
        raise NotImplementedError


@beam.typehints.with_input_types(pa.Table)
class WriteLastPrices(_Writer):
    """Move last prices forward, at the end of each bundle.

    Args:
        store: not opened yet.
        source: what comes in: ``trade`` for tables of ``schemas.TRADE_INPUT``, ``second`` or ``minute`` for
            ``schemas.AGGREGATES``.
        rule: of trades: the bit of ``conditions.Rule`` that says that a trade may set a close.
        calendar: of trades: says when the rule outside regular hours counts; None: never.
        clock: seconds since 1970, for the latency.
    """

    kind = "prices"

    def __init__(
        self,
        store: LiveStore,
        source: str,
        rule: int = 0,
        calendar: TradingCalendar | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(store, clock)
        if (source == lastprices.TRADE) != bool(rule):
            raise ValueError("give the rule's bit for trades, and none for aggregates")
        self._source = source
        self._rule = rule
        self._calendar = calendar

    def process(self, element: pa.Table) -> None:
        """Keep the newest price of each symbol."""
        if self._source == lastprices.TRADE:
            prices = lastprices.of_trades(element, self._rule, self._calendar)
        else:
            prices = lastprices.of_aggregates(element, self._source)
        if len(prices):
            self._keep(prices, len(prices))

    def _write(self, kept: list[pa.Table]) -> tuple[int, int | None]:
        prices = lastprices.newest(kept)
        return self._store.write_prices(prices), _newest(prices["ts"])


@beam.typehints.with_input_types(tuple[int, int, bool, pa.Table])
class WriteOpenBars(_Writer):
    """Write the open bars of ``AggregateBars``, in their order: no shuffle may come between the two."""

    kind = "open_bars"

    def process(self, element: tuple[int, int, bool, pa.Table]) -> None:
        """Keep a flush."""
        flush = Flush(*element)
        self._keep(flush, len(flush.bars))

    def _write(self, kept: list[Flush]) -> tuple[int, int | None]:
        return self._store.write_open(kept), max(flush.stamp for flush in kept)


@beam.typehints.with_input_types(pa.Table)
class WriteClosedBars(_Writer):
    """Write bars of windows that have ended into the lists of the last ones.

    Input: ``partials.BAR_BATCH``, straight from what makes them: revisions of a bar in their order. Bars that
    are not complete are passed over.
    """

    kind = "closed_bars"

    def process(self, element: pa.Table) -> None:
        """Keep the bars of windows that have ended."""
        ended = element.filter(element["complete"])
        if len(ended):
            self._keep(ended, len(ended))

    def _write(self, kept: list[pa.Table]) -> tuple[int, int | None]:
        bars = pa.concat_tables(kept)
        return self._store.write_closed(bars, int(self._clock() * _MICROS)), _newest(bars["end"])


def _newest(instants: pa.ChunkedArray) -> int:
    return int(pc.max(instants).cast(pa.int64()).as_py())

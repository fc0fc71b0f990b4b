"""Beam sinks of the live store: last prices at once, open bars as they are let out, closed bars.

Last prices go to DynamoDB beside it, or alone, where they are asked for there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from fibflow.io import dynamofeed, lastprices
from fibflow.io.dynamofeed import PriceFeed
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


@dataclass(frozen=True)
class PricesOf:
    """Takes the newest price of each symbol out of what comes in.

    Attributes:
        source: what that is: ``trade`` for tables of ``schemas.TRADE_INPUT``, ``second`` or ``minute`` for
            ``schemas.AGGREGATES``.
        rule: of trades: the bit of ``conditions.Rule`` that says that a trade may set a close.
        calendar: of trades: says when the rule outside regular hours counts; None: never.
    """

    source: str
    rule: int = 0
    calendar: TradingCalendar | None = None

    def __post_init__(self) -> None:
        if (self.source == lastprices.TRADE) != bool(self.rule):
            raise ValueError("give the rule's bit for trades, and none for aggregates")

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return them, of ``liverecords.PRICES``."""
        if self.source == lastprices.TRADE:
            return lastprices.of_trades(rows, self.rule, self.calendar)
        return lastprices.of_aggregates(rows, self.source)


class _Beside:
    """Last prices on their way to DynamoDB, which holds nothing back: what cannot be written waits there.

    Counters: ``dynamodb_written``, ``dynamodb_ticks_written``, ``dynamodb_errors``, ``dynamodb_refused``,
    and the distribution ``dynamodb_waiting_ms``: how long the price that waits longest has waited when a
    bundle ends.
    """

    def __init__(self, feed: PriceFeed | None) -> None:
        self._given = feed
        self._feed: PriceFeed | None = None

    def open(self) -> None:
        if self._given is not None:
            self._feed = dynamofeed.shared(self._given)
            names = ("written", "ticks_written", "errors", "refused")
            self._counters = [Metrics.counter("live", f"dynamodb_{name}") for name in names]
            self._waiting = Metrics.distribution("live", "dynamodb_waiting_ms")

    def offer(self, prices: pa.Table) -> None:
        if self._feed is not None:
            self._feed.offer(prices)

    def count(self) -> None:
        if self._feed is None:
            return
        told = self._feed.told()
        numbers = (told.prices, told.ticks, told.errors, told.refused)
        for counter, number in zip(self._counters, numbers, strict=True):
            counter.inc(number)
        self._waiting.update(int(told.waiting_s * _MILLIS))

    def close(self) -> None:
        if self._feed is not None:
            dynamofeed.release(self._feed)
            self._feed = None


@beam.typehints.with_input_types(pa.Table)
class WriteLastPrices(_Writer):
    """Move last prices forward, at the end of each bundle.

    Args:
        store: not opened yet.
        source: as in ``PricesOf``, likewise ``rule`` and ``calendar``.
        rule: of trades.
        calendar: of trades.
        clock: seconds since 1970, for the latency.
        beside: where prices go besides; not started. It is never waited for.
    """

    kind = "prices"

    def __init__(
        self,
        store: LiveStore,
        source: str,
        rule: int = 0,
        calendar: TradingCalendar | None = None,
        clock: Callable[[], float] = time.time,
        beside: PriceFeed | None = None,
    ) -> None:
        super().__init__(store, clock)
        self._prices_of = PricesOf(source, rule, calendar)
        self._beside = _Beside(beside)

    def setup(self) -> None:
        """Make a store of this instance's own."""
        super().setup()
        self._beside.open()

    def process(self, element: pa.Table) -> None:
        """Keep the newest price of each symbol."""
        prices = self._prices_of(element)
        if len(prices):
            self._beside.offer(prices)
            self._keep(prices, len(prices))

    def finish_bundle(self) -> None:
        """Write what is kept."""
        self._beside.count()
        super().finish_bundle()

    def teardown(self) -> None:
        """Close the connections."""
        super().teardown()
        self._beside.close()

    def _write(self, kept: list[pa.Table]) -> tuple[int, int | None]:
        prices = lastprices.newest(kept)
        return self._store.write_prices(prices), _newest(prices["ts"])


@beam.typehints.with_input_types(pa.Table)
class SendLastPrices(beam.DoFn):
    """Move last prices forward in DynamoDB alone; as ``WriteLastPrices`` does beside the live store."""

    def __init__(self, prices_of: PricesOf, feed: PriceFeed) -> None:
        self._prices_of = prices_of
        self._beside = _Beside(feed)

    def setup(self) -> None:
        """Start to write."""
        self._beside.open()

    def process(self, element: pa.Table) -> None:
        """Offer the newest price of each symbol."""
        prices = self._prices_of(element)
        if len(prices):
            self._beside.offer(prices)

    def finish_bundle(self) -> None:
        """Count what was written meanwhile."""
        self._beside.count()

    def teardown(self) -> None:
        """Write what waits, for some seconds, and close the connections."""
        self._beside.close()


@beam.typehints.with_input_types(tuple[int, int, bool, bool, pa.Table])
class WriteOpenBars(_Writer):
    """Write the open bars of ``AggregateBars``, in their order: no shuffle may come between the two."""

    kind = "open_bars"

    def process(self, element: tuple[int, int, bool, bool, pa.Table]) -> None:
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

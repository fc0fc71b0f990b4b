"""The one thread of a process that follows the live store. It makes JSON of what that tells, once for all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import pyarrow as pa

from fibflow.io import livefollow
from fibflow.io.livefollow import Position, Update
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livestore import LiveStore
from fibflow.serving.live.fragments import (
    BAR_MEMBERS,
    PRICE_MEMBERS,
    by_timeframe,
    frames,
    objects,
    of_symbols,
)
from fibflow.serving.live.minutes import MINUTE_NAME, Minutes, trades
from fibflow.serving.live.store import Live
from fibflow.serving.live.topics import CLOSED, LAST, MINUTES, OPEN, TRADES
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import DAY

Room = tuple[str, str]

# While Redis says nothing, so often the thread looks whether it is to end.
_BLOCK_MS = 200
_READ_S = 5.0
_RETRY_S = 0.5
_UPDATES = 256
#: Of so many (timeframe, symbol) the last closed bar is sent anew after a gap; who follows more reads them.
_CLOSED_AGAIN = 1_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Objects for the clients of one room, oldest first.

    Attributes:
        room: channel and timeframe.
        symbols: whose each is.
        texts: the objects.
        frames: the same as frames, for who follows every symbol; empty where nobody does.
    """

    room: Room
    symbols: list[str]
    texts: list[str]
    frames: list[str]


@dataclass(frozen=True)
class Interest:
    """What a room's clients follow: every symbol, or an array of them; ``wild`` also where both are."""

    wild: bool
    symbols: Any

    def of(self, rows: pa.Table) -> pa.Table:
        """Return the rows that somebody follows."""
        return rows if self.wild else of_symbols(rows, self.symbols)


class Follower:
    """Follows a live store in a thread of its own, from ``start`` to ``stop``.

    Args:
        live: the store.
        interests: what clients follow now, by room.
        deliver: takes parts, in order; blocks while the loop has enough of them.
        reached: told up to where all was delivered, after it was.
        missed: told when something may have been missed, before what is there now is sent anew.
        changed: told what is wrong with the store, one line or None, when that changes.
    """

    def __init__(
        self,
        live: Live,
        interests: Callable[[], dict[Room, Interest]],
        deliver: Callable[[Sequence[Part]], None],
        reached: Callable[[Position], None],
        missed: Callable[[], None],
        changed: Callable[[str | None], None],
    ) -> None:
        self._live = live
        self._interests = interests
        self._deliver = deliver
        self._reached = reached
        self._missed = missed
        self._tell = changed
        self._wrong: str | None = ""
        self._minutes = Minutes()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it: a fraction of a second where Redis answers."""
        self._stopping.set()
        self._thread.join()

    @property
    def is_stopping(self) -> bool:
        """Whether the thread is to end."""
        return self._stopping.is_set()

    def _changed(self, wrong: str | None) -> None:
        if wrong != self._wrong:
            self._wrong = wrong
            self._tell(wrong)

    def _run(self) -> None:
        store: LiveStore | None = None
        here: Position | None = None
        while not self.is_stopping:
            try:
                if store is None:
                    store = self._live.store(_READ_S)
                if here is None:
                    # Who came before the first position may have missed what was before it.
                    end = livefollow.position(store)
                    self._anew(store)
                    here = end
                    self._reached(here)
                    self._changed(None)
                updates = livefollow.read(store, here, block_ms=_BLOCK_MS, count=_UPDATES)
                self._changed(None)
                if any(update.kind == livefollow.RESET for update in updates):
                    # It may be another store, with other buckets.
                    store.close()
                    store = self._live.store(_READ_S)
                    self._anew(store)
                else:
                    self._hand_on(updates)
                if updates:
                    here = updates[-1].position
                    self._reached(here)
            except LiveStoreError as error:
                store = _no_more(store)
                self._changed(str(error))
                self._stopping.wait(_RETRY_S)
            except Exception as error:
                # An entry that cannot be read: go on behind it, from what the store holds.
                _log.exception("the live store cannot be followed; reading it anew")
                store, here = _no_more(store), None
                self._changed(f"the live store cannot be read ({type(error).__name__})")
                self._stopping.wait(_RETRY_S)
        _no_more(store)

    def _hand_on(self, updates: Sequence[Update]) -> None:
        """Make JSON of updates and deliver it; those of one kind in a row go together."""
        for kind, run in groupby(updates, lambda update: update.kind):
            interests = self._interests()
            table = pa.concat_tables([update.table for update in run])
            if kind == livefollow.PRICES:
                parts = _of_prices(table, interests)
            else:
                parts = self._of_bars(kind, table, interests)
            made = [part for part in parts if part.symbols]
            if made:
                self._deliver(made)

    def _of_bars(self, kind: str, bars: pa.Table, interests: dict[Room, Interest]) -> Iterator[Part]:
        self._minutes.learn(bars)
        if kind == livefollow.CLOSED:
            news = self._minutes.news(bars)
            if interest := interests.get((MINUTES, "")):
                rows = interest.of(news)
                yield _part((MINUTES, ""), interest, rows["symbol"], self._minutes.encode(rows))
        channel = CLOSED if kind == livefollow.CLOSED else OPEN
        yield from bars_parts(channel, bars, interests)

    def _anew(self, store: LiveStore) -> None:
        """Send what the store holds now of what clients follow."""
        self._minutes.begin(store.open_bars(None, [DAY.name]))
        interests = self._interests()
        if interests:
            self._missed()
            made = [part for part in self._there(store, interests) if part.symbols]
            if made:
                self._deliver(made)

    def _there(self, store: LiveStore, interests: dict[Room, Interest]) -> Iterator[Part]:
        pairs = _pairs(interests, CLOSED)
        if pairs:
            yield from bars_parts(CLOSED, last_closed(store, pairs), interests)
        if minutes := interests.get((MINUTES, "")):
            news = self._minutes.news(last_closed(store, _pairs(interests, MINUTES, MINUTE_NAME)))
            yield _part((MINUTES, ""), minutes, news["symbol"], self._minutes.encode(news))
        if frames_ := [timeframe for channel, timeframe in interests if channel == OPEN]:
            yield from bars_parts(OPEN, store.open_bars(None, frames_), interests)
        if last := interests.get((LAST, "")):
            yield _prices_part(store.last_prices(), last)


def _pairs(
    interests: dict[Room, Interest], channel: str, timeframe: str | None = None
) -> list[tuple[str, str]]:
    """Return the (symbol, timeframe) that are named on a channel, as many as are sent anew."""
    named = (
        (symbol, timeframe or of)
        for (name, of), interest in interests.items()
        if name == channel
        for symbol in interest.symbols.to_pylist()
    )
    return list(islice(named, _CLOSED_AGAIN))


def last_closed(store: LiveStore, pairs: Sequence[tuple[str, str]]) -> pa.Table:
    """Return the last closed bar of each (symbol, timeframe) that has one."""
    return pa.concat_tables([BARS.empty_table(), *(store.closed_bars(*pair, limit=1) for pair in pairs)])


def bars_parts(channel: str, bars: pa.Table, interests: dict[Room, Interest]) -> Iterator[Part]:
    """Yield bars (``schemas.BARS``) as parts for those who follow them on a channel of our own."""
    if not any(room[0] == channel for room in interests):
        return
    for timeframe, rows in by_timeframe(bars):
        interest = interests.get((channel, timeframe))
        if interest is not None:
            rows = interest.of(rows)
            yield _part((channel, timeframe), interest, rows["symbol"], objects(rows, BAR_MEMBERS, channel))


def _of_prices(prices: pa.Table, interests: dict[Room, Interest]) -> Iterator[Part]:
    if last := interests.get((LAST, "")):
        yield _prices_part(prices, last)
    if traded := interests.get((TRADES, "")):
        yield _part((TRADES, ""), traded, *trades(traded.of(prices)))


def _prices_part(prices: pa.Table, interest: Interest) -> Part:
    rows = interest.of(prices)
    return _part((LAST, ""), interest, rows["symbol"], objects(rows, PRICE_MEMBERS, LAST))


def _part(room: Room, interest: Interest, symbols: Any, made: Any) -> Part:
    return Part(room, symbols.to_pylist(), made.to_pylist(), frames(made) if interest.wild else [])


def _no_more(store: LiveStore | None) -> LiveStore | None:
    """Close a store, and return none."""
    if store is not None:
        store.close()
    return None

"""Following the live store: what changes, as it changes, for servers that push it on. No Beam."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import redis

from fibflow.io import livestore_scripts as scripts
from fibflow.io.liverecords import BAR, PRICE, Grouped, Packed, symbols_of, unpack_bars, unpack_prices
from fibflow.io.livestore import LiveStore

#: What an update tells. OPEN and CLOSED come with bars, PRICE with last prices, RESET with nothing.
PRICES = "price"
OPEN = "open"
CLOSED = "closed"
RESET = "reset"

_START = "0-0"
#: The kind of the first entry of a store, so that ``push`` always has an end to begin at.
_MADE = b"made"


@dataclass(frozen=True)
class Position:
    """A place in ``push``: all up to ``id`` was seen, in the store of ``generation``."""

    generation: str
    id: str

    @property
    def number(self) -> tuple[int, int]:
        """The place in the order of a store's entries."""
        return _number(self.id)


@dataclass(frozen=True)
class Update:
    """One entry of ``push``, or RESET: something was missed, so read the store anew and go on from here.

    Attributes:
        kind: PRICES, OPEN, CLOSED or RESET.
        table: of ``liverecords.PRICES`` for PRICES, of ``schemas.BARS`` for OPEN and CLOSED; empty for RESET.
        position: from where to go on.
        bucket: of OPEN: the bucket of the symbols. They have no other open bars of the kind than these.
        whole: of OPEN: nor has any other symbol of the bucket.
        of_days: of OPEN: the kind: bars of one session and more, or of minutes and hours.
    """

    kind: str
    table: pa.Table
    position: Position
    bucket: int | None = None
    whole: bool = False
    of_days: bool = False


def position(store: LiveStore) -> Position:
    """Return the end of ``push``. Take it first, then read the store, then follow: nothing is missed."""
    generation, _, last = _edges(store)
    return Position(generation, last or _START)


def read(store: LiveStore, after: Position, block_ms: int = 1_000, count: int = 100) -> list[Update]:
    """Return what came after a position, oldest first; waits for it.

    Args:
        store: the store.
        after: of ``position``, or of the last update.
        block_ms: how long to wait where nothing has come; less than the store's ``timeout_s``.
        count: how many updates at most.

    Returns:
        Updates; none where nothing came. One RESET where entries were dropped that come after the position,
        or the store was emptied, or has lost its end in a failover.

    Raises:
        ValueError: ``block_ms`` is not less than ``timeout_s``.
    """
    if not 0 < block_ms < store.timeout_s * 1_000:
        raise ValueError(f"block_ms={block_ms}: it must lie between 0 and timeout_s, {store.timeout_s:g} s")
    key = store.key("push")

    def question(client: redis.Redis) -> Any:
        return client.xread({key: after.id}, count, block_ms)

    # The edges are looked at after the entries: what is dropped between the two looks like a gap, and never
    # is unseen.
    found = store.connection.ask(question)
    generation, first, last = _edges(store)
    if generation != after.generation or _is_gap(after.id, first, last):
        here = Position(generation, last or _START)
        return [Update(RESET, pa.table({}), here)]
    entries = found[0][1] if found else []
    return [decode(entry.decode(), fields, generation) for entry, fields in entries if fields[b"k"] != _MADE]


def follow(store: LiveStore, after: Position, block_ms: int = 1_000, count: int = 100) -> Iterator[Update]:
    """Yield what comes after a position, for ever. Arguments are those of ``read``."""
    while True:
        for update in read(store, after, block_ms, count):
            yield update
            after = update.position


def decode(entry: str, fields: dict[bytes, bytes], generation: str) -> Update:
    """Return an entry of ``push`` as read by any client, an asynchronous one for instance."""
    kind = fields[b"k"].decode()
    here = Position(generation, entry)
    packed = packed_of(kind, fields)
    if kind == PRICES:
        return Update(kind, unpack_prices(packed), here)
    if kind == CLOSED:
        return Update(kind, unpack_bars(packed), here)
    whole, of_days = (fields[name] == b"1" for name in (b"w", b"d"))
    return Update(kind, unpack_bars(packed), here, int(fields[b"b"]), whole, of_days)


def packed_of(kind: str, fields: dict[bytes, bytes]) -> Packed:
    """Return the records of an entry with their symbols; ``kind`` is PRICES, OPEN or CLOSED."""
    sizes, names, records = fields[b"s"], fields[b"n"], fields[b"r"]
    if kind == OPEN:
        return Grouped.of_parts(sizes, names, fields[b"c"], records).flat()
    packed = Packed.of_parts(sizes, names, records, PRICE if kind == PRICES else BAR)
    return packed if kind == PRICES else Packed(symbols_of(packed.names), packed.rows)


def _edges(store: LiveStore) -> tuple[str, str, str]:
    keys = [store.key("meta"), store.key("push")]
    generation, first, last = store.connection.call(scripts.EDGES, [(keys, [])])[0]
    return generation.decode(), first.decode(), last.decode()


def _is_gap(after: str, first: str, last: str) -> bool:
    """Return whether entries after an id are no longer there, or the stream has gone back behind it."""
    if not last:
        return after != _START
    return not _number(first) <= _number(after) <= _number(last)


def _number(entry: str) -> tuple[int, int]:
    millis, place = entry.split("-")
    return int(millis), int(place)

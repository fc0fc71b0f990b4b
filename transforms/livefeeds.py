"""What rows of an element add to the minutes of a bucket, by kind of feed, and which of them do not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms import tickrows
from fibflow.transforms.grid import Placed
from fibflow.transforms.livekeys import encode_keys, seen
from fibflow.transforms.livestate import PLACE as PLACE_ROW
from fibflow.transforms.livestate import (
    RAW_COUNT,
    RAW_VOLUME,
    SEQ_FROM,
    SEQ_TO,
    SHARD,
    SUB,
    VERSION,
    VWAP,
    WORD,
    Entries,
    Ring,
    precedes,
)
from fibflow.transforms.partials import Partials, as_arrow, numbers, run_starts
from fibflow.transforms.schemas import MINUTE_INPUT
from fibflow.transforms.ticks import NO_OPEN, fold_trades, minute_partials, repeats

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Rows of an element, each in some session's day and inside the horizon; arrays have shape (n,).

    Attributes:
        table: TRADE_INPUT or MINUTE_INPUT.
        symbol: place in the bucket.
        minute: place in ``minutes``.
        minutes: distinct, in order, UTC microseconds; shape (k,).
        placed: where they lie.
    """

    table: pa.Table
    symbol: Int64
    minute: Int64
    minutes: Int64
    placed: Placed


@dataclass
class Accepted:
    """What an element adds.

    Attributes:
        entries: by minute, each minute once, in order.
        keys: parts of the bags of keys, by minute.
        dead_letters: rows that are not counted, or no longer are.
    """

    entries: list[Entries] = field(default_factory=list)
    keys: list[tuple[int, bytes]] = field(default_factory=list)
    dead_letters: list[pa.Table] = field(default_factory=list)


def accept_trades(
    rows: Rows, ring: Ring, ring_placed: Placed, read_keys: Callable[[set[int]], list[bytes]]
) -> Accepted:
    """Fold trades whose key was not seen.

    Args:
        rows: of TRADE_INPUT.
        ring: what the bucket holds.
        ring_placed: where its minutes lie.
        read_keys: gives the parts of the bags that hold some minutes.
    """
    made = Accepted()
    table, symbol, minute = rows.table, rows.symbol, rows.minute
    ts, seq = numbers(table, "ts"), numbers(table, "seq")
    order = None
    same = symbol[1:] == symbol[:-1]
    in_order = (ts[1:] >= ts[:-1]) & (seq[1:] > seq[:-1])
    runs = len(symbol) - int(np.count_nonzero(same))
    if runs > int(np.count_nonzero(np.bincount(symbol))) or not (in_order | ~same).all():
        session = rows.placed.session[minute]
        by_key = np.lexsort((seq, session, symbol))
        again = repeats(symbol[by_key], session[by_key], seq[by_key])
        first = np.ones(len(seq), np.bool_)
        first[by_key[again]] = False
        _lose(table, ~first, made)
        order = np.lexsort((seq, ts, symbol))
        order = order[first[order]]
        symbol, minute, seq = symbol[order], minute[order], seq[order]
    before = _seen_before(rows, symbol, minute, seq, ring, ring_placed, read_keys)
    if before is not None:
        order = np.arange(len(seq)) if order is None else order
        lost = np.zeros(len(table), np.bool_)
        lost[order[before]] = True
        _lose(table, lost, made)
        order, symbol, minute, seq = (part[~before] for part in (order, symbol, minute, seq))
        if not len(order):
            return made
    starts_of = rows.minutes[minute]
    folded = fold_trades(
        pa.array([], pa.string()),
        symbol.astype(np.int32),
        starts_of,
        rows.placed.regular[minute],
        seq,
        table,
        order,
    )
    starts = run_starts(symbol.astype(np.int32), starts_of)
    counts = np.diff(starts, append=len(seq))
    least, greatest = np.minimum.reduceat(seq, starts), np.maximum.reduceat(seq, starts)
    has = folded.open_ts != NO_OPEN
    prices = np.stack(
        (np.where(has, folded.open, np.nan), folded.high, folded.low, np.where(has, folded.close, np.nan))
    )
    order_rows = (folded.open_ts, folded.open_seq, folded.close_ts, folded.close_seq)
    everything = Entries(0, symbol[starts], prices, _sums(folded), np.stack((*order_rows, least, greatest)))
    for start, which in _by_minute(folded.ts):
        entries = everything if which is None else everything.pick(which)
        made.entries.append(_at(entries, start))
        groups: Any = slice(None) if which is None else which
        own_seq = seq if which is None else seq[np.repeat(which, counts)]
        made.keys.append((start, encode_keys(start, entries.index, counts[groups], least[groups], own_seq)))
    return made


def _lose(table: pa.Table, which: Bool, made: Accepted) -> None:
    if which.any():
        made.dead_letters.append(tickrows.dead_letters(table.filter(as_arrow(which)), tickrows.DUPLICATE))


def _seen_before(
    rows: Rows,
    symbol: Int64,
    minute: Int64,
    seq: Int64,
    ring: Ring,
    ring_placed: Placed,
    read_keys: Callable[[set[int]], list[bytes]],
) -> Bool | None:
    """Return which trades' keys the bucket has seen, shape (n,); None for none.

    Nearly all trades come with a ``seq`` beyond all of their symbol's, and those can not have been seen.
    """
    found = np.zeros(len(seq), np.bool_)
    for session in np.unique(rows.placed.session).tolist():
        of_session = np.flatnonzero(ring_placed.session == session)
        if not len(of_session):
            continue
        most = ring.extra[of_session, SEQ_TO].max(axis=0)
        maybe = np.flatnonzero((seq <= most[symbol]) & (rows.placed.session[minute] == session))
        if not len(maybe):
            continue
        of_symbol, number = symbol[maybe], seq[maybe]
        low = ring.extra[of_session, SEQ_FROM][:, of_symbol]
        high = ring.extra[of_session, SEQ_TO][:, of_symbol]
        within = (low <= number) & (number <= high)
        minutes = set(ring.minutes[of_session[within.any(axis=1)]].tolist())
        if minutes:
            found[maybe] = seen(read_keys(minutes), minutes, of_symbol, number)
    return found if found.any() else None


def _sums(partials: Partials) -> Int64:
    p = partials
    # Both kinds of input give all of them; the type says that daily rows may not.
    assert p.notional_hi is not None
    assert p.notional_lo is not None
    assert p.has_notional is not None
    assert p.trade_count is not None
    assert p.has_trade_count is not None
    upper = (p.notional_lo >> np.uint64(32)).astype(np.int64)
    lower = (p.notional_lo & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return np.stack(
        (p.volume, p.notional_hi, upper, lower, p.trade_count, ~p.has_notional, ~p.has_trade_count)
    )


def _by_minute(minute: Int64) -> list[tuple[int, Bool | None]]:
    """Return each minute with the mask of what lies in it; None for the mask where there is one minute."""
    distinct = np.unique(minute).tolist()
    if len(distinct) == 1:
        return [(distinct[0], None)]
    return [(start, minute == start) for start in distinct]


def _at(entries: Entries, minute: int) -> Entries:
    return Entries(minute, entries.index, entries.prices, entries.sums, entries.extra)


def accept_minutes(rows: Rows, ring: Ring, symbols: Sequence[str], shards: list[str]) -> Accepted:
    """Let the greatest version of each (symbol, minute) stand.

    Args:
        rows: of MINUTE_INPUT.
        ring: what the bucket holds.
        symbols: the bucket's words.
        shards: the bucket's shards; new ones are added.
    """
    made = Accepted()
    table = rows.table
    texts, at = tickrows.words(table, "sequence")
    words = tickrows.to_words(tickrows.sequence_numbers(texts.to_pylist()))[:, at]
    version, sub, place = (numbers(table, name) for name in ("version", "sub", "place"))
    order = np.lexsort((place, sub, *words[::-1], version, rows.minute, rows.symbol))
    lost = np.append(repeats(rows.symbol[order], rows.minute[order])[1:], False)
    won = order[~lost]
    names, shard = tickrows.words(table, "shard")
    for name in names.to_pylist():
        if name not in shards:
            shards.append(name)
    of_shard = np.array([shards.index(name) for name in names.to_pylist()], np.int64)[shard]
    values = table.take(as_arrow(won))
    symbol, minute = rows.symbol[won], rows.minutes[rows.minute[won]]
    partials = minute_partials(pa.array([], pa.string()), symbol.astype(np.int32), minute, values)
    raw = numbers(values, "volume")
    vwap = tickrows.optional(values, "vwap", float("nan"))
    count = tickrows.optional(values, "trade_count", -1)
    extra = np.stack(
        (
            version[won],
            *words[:, won],
            sub[won].astype(np.int64),
            place[won].astype(np.int64),
            of_shard[won],
            vwap.view(np.int64),
            raw.view(np.int64),
            count,
        )
    )
    prices = np.stack((partials.open, partials.high, partials.low, partials.close))
    everything = Entries(0, symbol, prices, _sums(partials), extra)
    beaten = np.zeros(len(table), np.bool_)
    beaten[order[lost]] = True
    superseded = []
    for start, which in _by_minute(minute):
        entries = _at(everything if which is None else everything.pick(which), start)
        at_row = np.flatnonzero(ring.minutes == start)
        if len(at_row):
            row = int(at_row[0])
            stands = precedes(ring.extra[row][:, entries.index], entries.extra)
            own = won if which is None else won[which]
            beaten[own[~stands]] = True
            entries = entries.pick(stands)
            held = ring.extra[row, VERSION, entries.index] != ring.feed.empty[VERSION]
            if held.any():
                superseded.append(ring.at(row, entries.index[held]))
        if len(entries.index):
            made.entries.append(entries)
    _lose(table, beaten, made)
    if superseded:
        old = pa.concat_tables([register_rows(each, symbols, shards) for each in superseded])
        made.dead_letters.append(tickrows.dead_letters(old, tickrows.DUPLICATE))
    return made


def register_rows(entries: Entries, symbols: Sequence[str], shards: Sequence[str]) -> pa.Table:
    """Return registers as the rows of MINUTE_INPUT that they were."""
    extra = entries.extra
    n = len(entries.index)
    sequences = [str(value) for value in tickrows.from_words(extra[WORD : WORD + tickrows.WORDS])]
    vwap, count = extra[VWAP].view(np.float64), extra[RAW_COUNT]
    columns: dict[str, Any] = {
        "symbol": pa.array([symbols[place] for place in entries.index.tolist()], pa.string()),
        "ts": as_arrow(np.full(n, entries.minute)),
        **dict(zip(("open", "high", "low", "close"), map(as_arrow, entries.prices), strict=True)),
        "volume": as_arrow(extra[RAW_VOLUME].view(np.float64)),
        "vwap": as_arrow(vwap, mask=np.isnan(vwap)),
        "trade_count": as_arrow(count, mask=count == -1),
        "version": as_arrow(extra[VERSION]),
        "shard": pa.array([shards[place] for place in extra[SHARD].tolist()], pa.string()),
        "sequence": pa.array(sequences, pa.string()),
        "sub": as_arrow(extra[SUB]),
        "place": as_arrow(extra[PLACE_ROW]),
    }
    arrays = [columns[each.name].cast(each.type) for each in MINUTE_INPUT]
    return pa.Table.from_arrays(arrays, schema=MINUTE_INPUT)

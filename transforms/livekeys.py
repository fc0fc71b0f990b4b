"""The keys of trades that a bucket has seen: exact, and little to write.

A part holds the keys of one element and minute: ``seq`` of each trade by symbol, as the distance from the
symbol's least one. The ring of minutes knows from where to where ``seq`` went in each minute, so parts are
read only where a trade lies within.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fibflow.transforms.livecells import FORMAT, check_format

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

# Format, bytes a distance, symbols, minute (where ``minute_of_part`` looks for it), keys.
_KEYS = struct.Struct("<BBxxIqq")


def encode_keys(minute: int, symbol: Int64, counts: Int64, least: Int64, seq: Int64) -> bytes:
    """Return a part of a bag.

    Args:
        minute: its start, UTC microseconds.
        symbol: place of each symbol, shape (k,).
        counts: how many trades of each, shape (k,).
        least: their least ``seq``, shape (k,).
        seq: of each trade, symbol by symbol, shape (n,).
    """
    distance = seq - np.repeat(least, counts)
    size = np.dtype(np.uint32 if int(distance.max(initial=0)) < 1 << 32 else np.int64)
    head = _KEYS.pack(FORMAT, size.itemsize, len(symbol), minute, len(seq))
    small = (symbol.astype(np.uint32), counts.astype(np.uint32), distance.astype(size))
    return b"".join((head, least.tobytes(), *(array.tobytes() for array in small)))


def decode_keys(part: bytes) -> tuple[int, Int64, Int64, Int64, Int64]:
    """Return what ``encode_keys`` was given."""
    check_format(part, "seen")
    _, size, symbols, minute, keys = _KEYS.unpack_from(part)
    at = _KEYS.size
    least = np.frombuffer(part, np.int64, symbols, at)
    at += least.nbytes
    symbol = np.frombuffer(part, np.uint32, symbols, at).astype(np.int64)
    at += 4 * symbols
    counts = np.frombuffer(part, np.uint32, symbols, at).astype(np.int64)
    distance = np.frombuffer(part, np.uint32 if size == 4 else np.int64, keys, at + 4 * symbols)
    return minute, symbol, counts, least, distance.astype(np.int64) + np.repeat(least, counts)


def join_keys(parts: Sequence[bytes]) -> list[bytes]:
    """Return the same keys in one part a minute."""
    by_minute: dict[int, list[tuple[Int64, Int64]]] = {}
    for part in parts:
        minute, symbol, counts, _, seq = decode_keys(part)
        by_minute.setdefault(minute, []).append((np.repeat(symbol, counts), seq))
    joined = []
    for minute, pieces in sorted(by_minute.items()):
        symbol, seq = (np.concatenate(column) for column in zip(*pieces, strict=True))
        order = np.lexsort((seq, symbol))
        symbol, seq = symbol[order], seq[order]
        starts = np.flatnonzero(np.diff(symbol, prepend=-1))
        counts = np.diff(starts, append=len(symbol))
        joined.append(encode_keys(minute, symbol[starts], counts, seq[starts], seq))
    return joined


def seen(parts: Sequence[bytes], minutes: set[int], symbol: Int64, seq: Int64) -> Bool:
    """Return which trades' keys are among those of minutes, shape (n,).

    Args:
        parts: of the bags that hold the minutes, and perhaps others.
        minutes: in which the keys may be.
        symbol: place of each trade's symbol, shape (n,).
        seq: of each trade, shape (n,); each pair once.
    """
    wanted = np.zeros(int(symbol.max()) + 2, np.bool_)
    wanted[symbol] = True
    low, high = int(seq.min()), int(seq.max())
    symbols, seqs = [symbol], [seq]
    for part in parts:
        minute, of_part, counts, _, keys = decode_keys(part)
        if minute in minutes:
            of_key = np.repeat(of_part, counts)
            near = wanted[np.minimum(of_key, len(wanted) - 1)] & (keys >= low) & (keys <= high)
            symbols.append(of_key[near])
            seqs.append(keys[near])
    every_symbol, every_seq = np.concatenate(symbols), np.concatenate(seqs)
    order = np.lexsort((every_seq, every_symbol))
    ordered_symbol, ordered_seq = every_symbol[order], every_seq[order]
    same = (ordered_symbol[1:] == ordered_symbol[:-1]) & (ordered_seq[1:] == ordered_seq[:-1])
    # The sort is stable and a key is kept once, so of two that are equal the first is the trade's.
    found = np.zeros(len(order), np.bool_)
    found[order[:-1][same]] = True
    return found[: len(symbol)]

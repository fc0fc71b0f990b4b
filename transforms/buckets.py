"""Symbols to buckets: the keys of state, of shuffles, and of a stream's records. Free of Beam."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

#: Fixed for the life of a job: a symbol's bucket must not move.
BUCKETS = 256


def bucket_of(symbol: str, buckets: int = BUCKETS) -> int:
    """Return the bucket of a symbol: the same in every process and release."""
    return zlib.crc32(symbol.encode()) % buckets


def buckets_of(symbols: pa.Array | pa.ChunkedArray, buckets: int = BUCKETS) -> npt.NDArray[np.int64]:
    """Return the bucket of each symbol, shape (n,).

    Args:
        symbols: strings, or a dictionary of them; without nulls.
        buckets: how many there are.

    Raises:
        ValueError: A symbol is null.
    """
    if symbols.null_count:
        raise ValueError("a symbol is null: it has no bucket")
    column: Any = symbols if isinstance(symbols, pa.ChunkedArray) else pa.chunked_array([symbols])
    parts = []
    for chunk in column.chunks:
        if not isinstance(chunk, pa.DictionaryArray):
            chunk = pc.dictionary_encode(chunk)
        names = chunk.dictionary.to_pylist()
        of_name = np.array([bucket_of(name or "", buckets) for name in names], np.int64)
        parts.append(of_name[chunk.indices.to_numpy(zero_copy_only=False)])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)

"""JSON of many rows, one object a row, made of whole columns. What a row becomes is made once and shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import BARS, TIMESTAMP

#: The members of a bar and of a last price in our own API: the columns' names.
BAR_MEMBERS = {name: name for name in BARS.names}
PRICE_MEMBERS = {name: name for name in ("symbol", "price", "size", "ts", "seq", "source")}

#: How large a frame of a WebSocket is at most: official clients refuse frames above 1 MiB.
FRAME_BYTES = 256 << 10
FRAME_ROWS = 2_000

_MILLI = 1_000
# What must be escaped in JSON's strings.
_SPECIAL = r'["\\\x00-\x1f\x7f]'


def objects(rows: pa.Table, members: Mapping[str, str], event: str | None = None) -> Any:
    """Return a ``pa.StringArray`` of JSON objects, one a row; instants are UTC milliseconds.

    Args:
        rows: columns of words, numbers, booleans and instants; nulls and what is not finite are left out.
        members: columns of ``rows`` to the names of the objects' members, in order; the first has no nulls.
        event: the member ``ev``, the first one; None for none.
    """
    if not len(rows):
        return pa.array([], pa.string())
    head = "{" if event is None else f'{{"ev":"{event}",'
    parts: list[Any] = []
    for place, (column, name) in enumerate(members.items()):
        label = f'{head}"{name}":' if place == 0 else f',"{name}":'
        texts = _texts(rows[column])
        if texts.null_count:
            texts = pc.fill_null(_joined(label, texts), "")
            parts.append(texts)
        else:
            parts += [label, texts]
    return _joined(*parts, "}")


def _joined(*parts: Any) -> Any:
    return pc.binary_join_element_wise(*parts, "")


def _texts(column: Any) -> Any:
    """Return a column as JSON's texts of its values; null where there is none."""
    array: Any = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    kind = array.type
    if kind == TIMESTAMP:
        return pc.divide(array.view(pa.int64()), pa.scalar(_MILLI)).cast(pa.string())
    if pa.types.is_dictionary(kind):
        return _quoted(array.dictionary.cast(pa.string())).take(array.indices)
    if pa.types.is_string(kind):
        return _quoted(array)
    if pa.types.is_floating(kind):
        array = pc.if_else(pc.is_finite(array), array, pa.scalar(None, kind))
    return array.cast(pa.string())


def _quoted(words: Any) -> Any:
    if not pc.any(pc.match_substring_regex(words, _SPECIAL)).as_py():
        return _joined('"', words, '"')
    # Rare: no symbol of an exchange has such characters.
    return pa.array(
        [None if word is None else orjson.dumps(word).decode() for word in words.to_pylist()], pa.string()
    )


def frames(made: Any) -> list[str]:
    """Return JSON arrays of ``objects``, in order, none larger than a frame may be."""
    count = len(made)
    if not count:
        return []
    sizes = pc.binary_length(made).to_numpy(zero_copy_only=False)
    words: list[str] = made.to_pylist()
    cuts = _cuts(sizes)
    return ["[" + ",".join(words[a:b]) + "]" for a, b in pairwise(cuts)]


def frames_of(words: Sequence[str]) -> list[str]:
    """Return ``frames`` of texts."""
    return frames(pa.array(words, pa.string()))


def _cuts(sizes: npt.NDArray[Any]) -> list[int]:
    """Return where frames begin, and the end of the last one."""
    ends = np.cumsum(sizes + 1)
    cuts = [0]
    while cuts[-1] < len(sizes):
        start = cuts[-1]
        before = int(ends[start - 1]) if start else 0
        fit = int(np.searchsorted(ends, before + FRAME_BYTES - 1, side="right"))
        cuts.append(max(start + 1, min(fit, start + FRAME_ROWS)))
    return cuts


def array_of(made: Any) -> bytes:
    """Return ``objects`` as one JSON array, whatever its size."""
    return ("[" + ",".join(made.to_pylist()) + "]").encode()


def by_timeframe(bars: pa.Table) -> list[tuple[str, pa.Table]]:
    """Return bars by timeframe, in their order."""
    names: Any = pc.unique(bars["timeframe"])
    found: list[str] = names.to_pylist()
    if len(found) < 2:
        return [(name, bars) for name in found]
    return [(name, having(bars, "timeframe", name)) for name in found]


def having(rows: pa.Table, column: str, value: str) -> pa.Table:
    """Return the rows with a value."""
    mask: Any = pc.equal(rows[column], pa.scalar(value))
    return rows.filter(mask)


def of_symbols(rows: pa.Table, symbols: Any) -> pa.Table:
    """Return the rows of some symbols, an array of words."""
    if not len(rows):
        return rows
    return rows.filter(pc.is_in(rows["symbol"], value_set=symbols))


def positions(words: Any, known: Any) -> npt.NDArray[np.int64]:
    """Return the place of each word among known ones, -1 for none."""
    at: Any = pc.index_in(words, value_set=known)
    return pc.fill_null(at, -1).to_numpy().astype(np.int64)


def pick(rows: pa.Table, mask: npt.NDArray[np.bool_]) -> pa.Table:
    """Return the rows where a mask is true."""
    return rows if mask.all() else rows.take(as_arrow(np.flatnonzero(mask)))

"""Order rows by symbol and time, and let one row of each key win.

Rows of one key differ in ``version`` (minutes: the producer's stamp, greater wins) and in ``rank``: the place
of their file in the order of precedence, greater wins; within one file the later row wins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.partials import as_arrow, encode_symbols

Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]

#: Times are counted in days or minutes since 1970 and stay within this many on either side.
_SPAN = 1 << 33
#: A row without version or rank loses to one with it.
_NONE: Any = -1


def resolve(rows: pa.Table, time: str) -> tuple[pa.Table, pa.Table]:
    """Return ``(winners, losers)``: winners sorted by symbol and ``time``, each key once.

    Args:
        rows: has ``symbol`` (its dictionary is put in order), ``time`` and, where files overlap, ``rank``
            (int32).
        time: ``session`` (a date) or ``ts`` (an instant on a whole minute).
    """
    rows = rows.combine_chunks()
    symbols, codes = encode_symbols(rows["symbol"])
    rows = rows.set_column(
        rows.schema.get_field_index("symbol"),
        rows.schema.field("symbol"),
        pa.DictionaryArray.from_arrays(as_arrow(codes), symbols),
    )
    key = (codes.astype(np.int64) << 34) + (_units(rows[time]) + _SPAN)
    if (key[1:] > key[:-1]).all():
        return rows, rows.slice(0, 0)
    order = _sort(key, codes, len(symbols))
    lost = _losers(rows, key, order)
    if lost is None:
        return rows.take(as_arrow(order)), rows.slice(0, 0)
    return rows.take(as_arrow(order[~lost])), rows.take(as_arrow(order[lost]))


def _units(column: pa.ChunkedArray) -> Int64:
    array = column.combine_chunks()
    if pa.types.is_date32(column.type):
        return array.view(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.floor_divide(array.view(pa.int64()).to_numpy(zero_copy_only=False), 60_000_000)


def _sort(key: Int64, codes: npt.NDArray[np.int32], symbols: int) -> Index:
    """Return a stable order by key.

    Files are runs sorted by symbol or by time. A radix sort brings symbols together; what is left are a few
    rising runs a symbol, which the stable sort merges in linear time.
    """
    if symbols <= np.iinfo(np.uint16).max:
        by_symbol = np.argsort(codes.astype(np.uint16), kind="stable")
    else:
        by_symbol = np.argsort(codes, kind="stable")
    sorted_key = key[by_symbol]
    if (sorted_key[1:] >= sorted_key[:-1]).all():
        return by_symbol
    return by_symbol[np.argsort(sorted_key, kind="stable")]


def _losers(rows: pa.Table, key: Int64, order: Index) -> npt.NDArray[np.bool_] | None:
    """Return which places of ``order`` lost to another row of their key; None where no key repeats.

    Places within one key are put into ascending precedence, in ``order`` itself.
    """
    ordered = key[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return None
    repeated = np.zeros(len(order), np.bool_)
    repeated[1:] |= same
    repeated[:-1] |= same
    places = np.flatnonzero(repeated)
    chosen = order[places]
    weights: list[npt.NDArray[Any]] = [chosen]
    for name in ("rank", "version"):
        if name in rows.column_names:
            weights.append(rows[name].take(as_arrow(chosen)).fill_null(_NONE).to_numpy())
    order[places] = chosen[np.lexsort((*weights, key[chosen]))]
    return np.append(same, False)

"""Order rows by symbol and time, and let one row of each key win.

Rows of one key differ in ``version`` (minutes: the producer's stamp, greater wins) and in ``rank``: the place
of their file in the order of precedence, greater wins; within one file the later row wins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.partials import as_arrow, encode_symbols

Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]

#: Times are counted in days or minutes since 1970 and stay within this many on either side.
_SPAN = 1 << 33
#: Corrections are few where there is one to so many rows.
_FEW = 10
#: A row without version or rank loses to one with it.
_NONE: Any = -1


def resolve(rows: pa.Table, time: str, ranked: bool = True) -> tuple[pa.Table, pa.Table]:
    """Return ``(winners, losers)``: winners sorted by symbol and ``time``, each key once.

    Args:
        rows: has ``symbol`` (its dictionary is put in order), ``time`` and, where files overlap, ``rank``
            (int32).
        time: ``session`` (a date) or ``ts`` (an instant on a whole minute).
        ranked: keep the winners' rank; it costs as much to move as a price.
    """
    symbols, codes = encode_symbols(rows["symbol"])
    rows = rows.set_column(
        rows.schema.get_field_index("symbol"),
        rows.schema.field("symbol"),
        pa.DictionaryArray.from_arrays(as_arrow(codes), symbols),
    )
    key = codes.astype(np.int64)
    key <<= 34
    key += _units(rows[time])
    falls = np.flatnonzero(key[1:] <= key[:-1])
    if not len(falls):
        return _unranked(rows, ranked), rows.slice(0, 0)
    patched = _patch(rows, key, int(falls[-1]) + 1, time, ranked)
    if patched is not None:
        return patched
    rows = rows.combine_chunks()
    order = _sort(key, codes, len(symbols))
    lost = _losers(rows, key, order)
    if lost is None:
        return _unranked(rows, ranked).take(as_arrow(order)), rows.slice(0, 0)
    return _unranked(rows, ranked).take(as_arrow(order[~lost])), rows.take(as_arrow(order[lost]))


def _unranked(rows: pa.Table, ranked: bool) -> pa.Table:
    return rows if ranked or "rank" not in rows.column_names else rows.drop_columns(["rank"])


def _units(column: pa.ChunkedArray) -> Int64:
    array = column.combine_chunks()
    if pa.types.is_date32(column.type):
        units = array.view(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        units = np.floor_divide(array.view(pa.int64()).to_numpy(zero_copy_only=False), 60_000_000)
    units += _SPAN
    return units


def _patch(rows: pa.Table, key: Int64, few: int, time: str, ranked: bool) -> tuple[pa.Table, pa.Table] | None:
    """Resolve where the first ``few`` rows are corrections of the others, which are in order.

    So it is with one file a symbol and a small one beside them: putting some values into place costs less
    than moving every row. None where the corrections are many, repeat a key, or bring a new one.
    """
    if few * _FEW > len(key):
        return None
    order = np.argsort(key[:few], kind="stable")
    corrected = key[:few][order]
    at = np.searchsorted(key[few:], corrected)
    if at[-1] == len(key) - few or (key[few:][at] != corrected).any() or (np.diff(corrected) == 0).any():
        return None
    wins = np.zeros(few, np.bool_)
    tied = ~wins
    winners = rows.slice(few)
    mine, others = rows.slice(0, few).take(as_arrow(order)), winners.take(as_arrow(at))
    for name in ("version", "rank"):
        if name in rows.column_names:
            ours, theirs = (part[name].fill_null(_NONE).to_numpy() for part in (mine, others))
            wins |= tied & (ours > theirs)
            tied &= ours == theirs
    losers = pa.concat_tables([others, mine]).take(as_arrow(np.arange(few) + np.where(wins, 0, few)))
    place, better = at[wins], mine.filter(as_arrow(wins))
    winners = _unranked(winners, ranked)
    for number, name in enumerate(winners.column_names):
        if name not in ("symbol", time):
            column = _replaced(winners[name], place, better[name])
            winners = winners.set_column(number, winners.schema.field(number), column)
    return winners, losers


def _replaced(column: Any, place: Index, by: Any) -> Any:
    """Return a column of numbers with the values ``by`` in some places, in order."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if array.null_count or by.null_count:
        mask = np.zeros(len(array), np.bool_)
        mask[place] = True
        return pc.replace_with_mask(array, as_arrow(mask), by.combine_chunks())
    values = array.to_numpy().copy()
    values[place] = by.to_numpy()
    return as_arrow(values)


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

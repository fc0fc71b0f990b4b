"""Messages of the feed as JSON, whole columns at a time, and messages that are broken on purpose."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.pipelines.tape.aggregates import Aggregates, vwap
from fibflow.pipelines.tape.cells import MINUTE_US, PRICE_UNITS, Int64
from fibflow.pipelines.tape.trades import SALES, Trades

_MS_US = 1_000
#: Ways to break a message.
CUT, WRONG_TYPE, MISSING_FIELD, GARBAGE = range(4)
# The end is cut off, so that what is left is no JSON whatever it is.
_LEAST_LEFT = 3
_TYPES = {"T": (b'"p":', b'"t":'), "AM": (b'"o":', b'"s":'), "A": (b'"o":', b'"s":')}
_FIELDS = {
    "T": (b'"p":', b'"t":', b'"sym":'),
    "AM": (b'"c":', b'"s":', b'"sym":'),
    "A": (b'"c":', b'"s":', b'"sym":'),
}


class Encoder:
    """Writes messages of a tape.

    The names are escaped once; numbers are printed by Arrow, with the fewest digits that read back the same.
    """

    def __init__(self, symbols: tuple[str, ...]) -> None:
        self._names = [json.dumps(symbol) for symbol in symbols]
        self._heads: dict[str, pa.Array] = {}
        self._sales = pa.array([_conditions(sale.codes) for sale in SALES])
        self._venues = pa.array([f',"x":{code},"i":"' for code in range(256)])
        self._tapes = pa.array(['","z":1,"p":', '","z":2,"p":', '","z":3,"p":'])

    def trades(self, trades: Trades, rows: Int64) -> pa.Array:
        """Return the messages ``T`` of some trades: binary, shape (rows,). A trade's id is its place."""
        symbol = trades.symbol[rows]
        return _join(
            _take(self._head("T"), symbol),
            _take(self._venues, trades.exchange[rows]),
            _whole(rows + 1),
            _take(self._tapes, symbol % 3),
            _decimal(trades.price[rows]),
            ',"s":',
            _whole(trades.size[rows]),
            _take(self._sales, trades.sale[rows]),
            ',"t":',
            _whole(trades.ts[rows] // _MS_US),
            ',"q":',
            _whole(trades.seq[rows]),
            "}",
        )

    def aggregates(self, made: Aggregates, rows: Int64, width: int, stamped: bool) -> pa.Array:
        """Return the messages ``AM`` (``A`` of seconds) of some aggregates: binary, shape (rows,).

        ``stamped`` ones have ``ver``: when the vendor made them, UTC microseconds.
        """
        a = made.take(rows)
        official = _join(',"op":', _decimal(a.official), cast=False)
        tail: list[Any] = [',"ver":', _whole(a.made)] if stamped else []
        return _join(
            _take(self._head("AM" if width == MINUTE_US else "A"), a.symbol),
            ',"v":',
            _whole(a.volume),
            ',"av":',
            _whole(a.day_volume),
            pc.if_else(pa.array(a.official > 0), official, ""),
            ',"vw":',
            _number(vwap(a.notional, a.volume, PRICE_UNITS)),
            ',"o":',
            _decimal(a.open),
            ',"c":',
            _decimal(a.close),
            ',"h":',
            _decimal(a.high),
            ',"l":',
            _decimal(a.low),
            ',"a":',
            _number(vwap(a.day_notional, a.day_volume, PRICE_UNITS)),
            ',"z":',
            _whole(a.volume // np.maximum(a.trades, 1)),
            ',"s":',
            _whole(a.start // _MS_US),
            ',"e":',
            _whole((a.start + width) // _MS_US),
            *tail,
            "}",
        )

    def _head(self, kind: str) -> pa.Array:
        if kind not in self._heads:
            self._heads[kind] = pa.array([f'{{"ev":"{kind}","sym":{name}' for name in self._names])
        return self._heads[kind]


def broken(kind: str, message: bytes, how: int, dice: int) -> bytes:
    """Return a message that nobody can read.

    Args:
        kind: ``T``, ``AM`` or ``A``.
        message: a good one.
        how: CUT off somewhere, a WRONG_TYPE of a field, a MISSING_FIELD, or GARBAGE.
        dice: chooses the place, the field and the bytes.
    """
    if how == CUT:
        return message[: _LEAST_LEFT + dice % (len(message) - _LEAST_LEFT - 1)]
    if how == GARBAGE:
        noise = np.random.default_rng(dice).integers(0, 256, 4 + dice % 60, np.uint8).tobytes()
        return b"\xff" + noise.replace(b"\n", b"\x00").replace(b"\r", b"\x00")
    names = (_TYPES if how == WRONG_TYPE else _FIELDS)[kind]
    name = names[dice % len(names)]
    begin = message.index(name)
    end = begin + len(name)
    while message[end : end + 1] not in (b",", b"}"):
        end += 1
    if how == WRONG_TYPE:
        return message[:begin] + name + b'{"is":"no number"}' + message[end:]
    return message[: begin - 1] + message[end:]


def _conditions(codes: tuple[int, ...]) -> str:
    return f',"c":[{",".join(map(str, codes))}]' if codes else ""


def _join(*parts: Any, cast: bool = True) -> pa.Array:
    text = pc.binary_join_element_wise(*parts, "")
    return text.cast(pa.binary()) if cast else text


def _take(words: pa.Array, index: npt.NDArray[Any]) -> pa.Array:
    at: Any = pa.array(index)
    return words.take(at)


def _whole(values: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(values).cast(pa.string())


def _decimal(units: Int64) -> pa.Array:
    return _number(units / PRICE_UNITS)


def _number(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values).cast(pa.string())

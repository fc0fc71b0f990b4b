"""What a session of the feed says: its minutes as ``AM``, trades as ``T``, in the order in which they go out.

They are those of a lake's ``bronze.minutes``, so that who missed some finds them by REST; trades are made of
them: so many a minute, of which the first has its open, two its high and its low, the last its close, and
which have its volume in sum. Or they are those of a tape that ``python -m pipelines.replay --save`` wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.serving.live.fragments import objects
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.schemas import TIMESTAMP

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

Int64 = npt.NDArray[np.int64]

MINUTE_US = 60_000_000
#: How long after its end a minute goes out.
DELAY_US = 2_000_000
#: About so many messages are made at once.
PART = 65_536
#: As many trades has a minute at least: its open, high, low and close.
LEAST_TRADES = 4

_WORD = pa.dictionary(pa.int32(), pa.string())
#: ``sent`` is when a message goes out, event time; rising.
MESSAGES = pa.schema(
    [("kind", pa.string()), ("symbol", _WORD), ("sent", TIMESTAMP), ("message", pa.string())]
)
_AM = {name: name for name in ("sym", "v", "av", "op", "vw", "o", "c", "h", "l", "a", "z", "s", "e")}
_T = {name: name for name in ("sym", "x", "i", "z", "p", "s", "t", "q")}
_EXCHANGE = 4
_HEARTBEAT = "HB"
#: What `--broken` does to messages of a tape.
_BROKEN = ("cut", "wrong_type", "missing_field", "garbage")


class ScriptError(ValueError):
    """There is nothing to play; the message says what to do."""


class Script(Protocol):
    """Messages in order."""

    @property
    def total(self) -> int:
        """How many there are."""
        ...

    @property
    def start(self) -> int:
        """When the first one goes out, UTC microseconds of event time."""
        ...

    def parts(self) -> Iterator[pa.Table]:
        """Yield them as tables of ``MESSAGES``."""
        ...


@dataclass(frozen=True, eq=False)
class Session:
    """A session's minutes, and trades made of them.

    Attributes:
        rows: of ``bronze.minutes``, of one session, sorted by time and symbol.
        trades: so many trades a minute; 0 for none.
        with_minutes: the minutes themselves go out, too.
    """

    rows: pa.Table
    trades: int = 0
    with_minutes: bool = True

    @classmethod
    def of(cls, lake: Lake, session: date | None, trades: int = 0, minutes: bool = True) -> Session:
        """Return what a lake has of a session; None for its newest with minutes.

        Raises:
            ScriptError: it has no minutes of it, or nothing is to be played.
        """
        if not minutes and not trades:
            raise ScriptError("neither minutes nor trades are to be played: name one of them")
        if trades and trades < LEAST_TRADES:
            raise ScriptError(f"{trades} trades a minute are too few to make it of: {LEAST_TRADES} at least")
        table = lake.table(tables.MINUTES)
        if not table.exists:
            raise ScriptError("the lake has no minutes to play")
        snapshot = table.snapshot()
        calendar = load_calendar(snapshot.properties.get(tables.CALENDAR, "XNYS"))
        begins, ends = _day_of(snapshot, calendar, session)
        rows, _ = snapshot.read(None, None, begins, ends)
        if not len(rows):
            raise ScriptError(f"the lake has no minutes of {session or 'any session'} to play")
        return cls(rows.sort_by([("ts", "ascending"), ("symbol", "ascending")]), trades, minutes)

    @cached_property
    def _ts(self) -> Int64:
        return _ints(self.rows["ts"])

    @cached_property
    def _names(self) -> Any:
        """The symbols, a dictionary."""
        column = self.rows["symbol"].combine_chunks()
        encoded = column.dictionary_encode()
        return encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded

    @cached_property
    def _codes(self) -> Int64:
        return np.asarray(self._names.indices.to_numpy()).astype(np.int64)

    @cached_property
    def _counts(self) -> Int64:
        """How many trades each minute has."""
        if not self.trades:
            return np.zeros(len(self.rows), np.int64)
        volume = self.rows["volume"].to_numpy()
        return np.clip(np.floor(volume), LEAST_TRADES, self.trades).astype(np.int64)

    @property
    def total(self) -> int:
        """How many messages there are."""
        return int(self._counts.sum()) + (len(self.rows) if self.with_minutes else 0)

    @property
    def start(self) -> int:
        """When the first minute begins."""
        return int(self._ts[0])

    def parts(self) -> Iterator[pa.Table]:
        """Yield the messages, some minutes at once."""
        starts = np.unique(self._ts)
        # Minutes go out after their end, among the trades of later ones.
        steps = np.append(starts, starts[-1] + MINUTE_US * np.arange(1, 3))
        per_step = max(1, int(PART // max(1, self.total / len(starts))))
        for at in range(0, len(steps), per_step):
            begin = int(steps[at])
            end = int(steps[at + per_step]) if at + per_step < len(steps) else int(steps[-1]) + MINUTE_US
            found = [self._trades(begin, end), self._minutes(begin, end)]
            made = pa.concat_tables([part for part in found if part is not None] or [MESSAGES.empty_table()])
            if len(made):
                yield made.sort_by("sent") if len(found) > 1 else made

    def _between(self, begin: int, end: int) -> slice:
        low, high = np.searchsorted(self._ts, [begin, end])
        return slice(int(low), int(high))

    def _minutes(self, begin: int, end: int) -> pa.Table | None:
        """The minutes that go out in ``[begin, end)``."""
        if not self.with_minutes:
            return None
        late = MINUTE_US + DELAY_US
        return self._of_rows(self._between(begin - late, end - late))

    @cached_property
    def _day(self) -> dict[str, Any]:
        """What a minute says of its day so far: volume, vwap, the first price."""
        order = np.lexsort((self._ts, self._codes))
        codes = self._codes[order]
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        lengths = np.diff(np.append(first, len(codes)))

        def running(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            sums = np.cumsum(values)
            return sums - np.repeat(sums[first] - values[first], lengths)

        volume = self.rows["volume"].to_numpy()[order]
        vwap = pc.coalesce(self.rows["vwap"], self.rows["close"]).to_numpy()[order]
        total, notional = running(volume), running(volume * vwap)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        opened = np.repeat(self.rows["open"].to_numpy()[order][first], lengths)
        with np.errstate(invalid="ignore"):
            average = np.round(notional / total, 4)
        return {"av": total[back], "a": average[back], "op": opened[back]}

    def _of_rows(self, part: slice) -> pa.Table:
        rows = self.rows.slice(part.start, part.stop - part.start)
        if not len(rows):
            return MESSAGES.empty_table()
        ts = self._ts[part]
        volume = rows["volume"]
        trades = pc.max_element_wise(pc.coalesce(rows["trade_count"], 1), 1)
        names = self._names.slice(part.start, len(rows))
        values = {
            "sym": names,
            "v": volume,
            "av": pa.array(self._day["av"][part]),
            "op": pa.array(self._day["op"][part]),
            "vw": rows["vwap"],
            "o": rows["open"],
            "c": rows["close"],
            "h": rows["high"],
            "l": rows["low"],
            "a": pa.array(self._day["a"][part]),
            "z": pc.floor(pc.divide(volume, trades.cast(pa.float64()))).cast(pa.int64()),
            "s": _stamps(ts),
            "e": _stamps(ts + MINUTE_US),
        }
        made = objects(pa.table(values), _AM, "AM")
        return _messages("AM", names, ts + MINUTE_US + DELAY_US, made)

    def _trades(self, begin: int, end: int) -> pa.Table | None:
        """The trades of the minutes that begin in ``[begin, end)``."""
        if not self.trades:
            return None
        part = self._between(begin, end)
        counts = self._counts[part]
        if not counts.sum():
            return MESSAGES.empty_table()
        row = np.repeat(np.arange(part.start, part.stop), counts)
        firsts = np.cumsum(counts) - counts
        place = np.arange(len(row)) - np.repeat(firsts, counts)
        many = np.repeat(counts, counts)
        ts = self._ts[row] + (MINUTE_US * (2 * place + 1) // (2 * many)) // 1_000 * 1_000
        number = (self._ts[row] - self.start) // MINUTE_US * self.trades + place + 1
        names = self._names.take(pa.array(row))
        values = {
            "sym": names,
            "x": pa.array(np.full(len(row), _EXCHANGE)),
            "i": pa.array(number).cast(pa.string()),
            "z": pa.array(self._codes[row] % 3 + 1),
            "p": pa.array(self._prices(row, place, many)),
            "s": pa.array(self._sizes(row, place, many)),
            "t": _stamps(ts),
            "q": pa.array(number),
        }
        return _messages("T", names, ts, objects(pa.table(values), _T, "T"))

    def _prices(self, row: Int64, place: Int64, many: Int64) -> npt.NDArray[np.float64]:
        """Open, high, low, between high and low, close."""
        opened, high, low, close = (
            self.rows[name].to_numpy()[row] for name in ("open", "high", "low", "close")
        )
        between = np.round(low + (high - low) * (place % 7) / 7, 2)
        between = np.clip(between, low, high)
        return np.select(
            [place == 0, place == 1, place == 2, place == many - 1], [opened, high, low, close], between
        )

    def _sizes(self, row: Int64, place: Int64, many: Int64) -> npt.NDArray[np.float64]:
        """Whole shares, and what is left with the last trade."""
        volume = self.rows["volume"].to_numpy()[row]
        each = np.where(volume >= many, np.floor(volume / many), volume / many)
        return np.where(place == many - 1, volume - each * (many - 1), each)


class Tape:
    """A tape in a file, which is mapped and not read.

    Args:
        path: as ``python -m pipelines.replay --save`` wrote it.

    Raises:
        ScriptError: it is not there, or none.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._reader.schema.field("sent"), self._reader.schema.field("message")
        except (OSError, pa.ArrowInvalid, KeyError):
            raise ScriptError(
                f"{path} is no tape: python -m pipelines.replay --save {path} makes one"
            ) from None

    @cached_property
    def total(self) -> int:
        """How many messages there are."""
        return sum(len(part) for part in self.parts())

    @property
    def start(self) -> int:
        """When the first message goes out."""
        return int(_ints(self._reader.get_batch(0).column("sent"))[0])

    def parts(self) -> Iterator[pa.Table]:
        """Yield the messages, without heartbeats and what is broken on purpose: a feed has neither."""
        for number in range(self._reader.num_record_batches):
            batch = pa.Table.from_batches([self._reader.get_batch(number)])
            kinds, cases = (batch[name].cast(pa.string()) for name in ("kind", "case"))
            broken = pc.is_in(cases, value_set=pa.array(_BROKEN))
            batch = batch.filter(pc.and_(pc.invert(broken), pc.not_equal(kinds, _HEARTBEAT)))
            for begin in range(0, len(batch), PART):
                part = batch.slice(begin, PART)
                columns = [
                    part["kind"].cast(pa.string()),
                    part["symbol"].cast(pa.string()).combine_chunks().dictionary_encode(),
                    part["sent"],
                    part["message"].cast(pa.string()),
                ]
                yield pa.table(columns, names=MESSAGES.names).cast(MESSAGES)


def _messages(kind: str, names: Any, sent: Int64, made: Any) -> pa.Table:
    columns = [pa.repeat(kind, len(made)), names, _stamps(sent), made]
    return pa.table(columns, names=MESSAGES.names).cast(MESSAGES)


def _stamps(values: Int64) -> Any:
    return pa.array(values).view(TIMESTAMP)


def _ints(column: Any) -> Int64:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(array.view(pa.int64()).to_numpy(zero_copy_only=False))


def _day_of(snapshot: Any, calendar: TradingCalendar, session: date | None) -> tuple[int, int]:
    """Return a session's day, UTC microseconds; None for the newest that the table has."""
    if session is None:
        newest: Any = pc.max(snapshot.files["max.ts"])
        at = int(calendar.positions_at(np.array([newest.cast(pa.timestamp("us", "UTC")).value], np.int64))[0])
    else:
        day = (session - date(1970, 1, 1)).days
        at = int(calendar.positions(np.array([day], np.int64))[0])
    if at < 0:
        raise ScriptError(f"{session or 'the newest minute'} is no session of {calendar.name}")
    return int(calendar.day_starts[at]), int(calendar.day_ends[at])

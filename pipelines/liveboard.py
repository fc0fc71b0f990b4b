"""What a live job does, shown while it does it, and counted and checked when it is through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fibflow.io import livefollow, tables
from fibflow.io.lake import Lake, TableMissing
from fibflow.io.live import LiveReader, TickReader
from fibflow.io.liverecords import PRICES
from fibflow.io.livestore import LiveStore
from fibflow.io.tickcolumns import TRADE
from fibflow.io.ticks import trades_of
from fibflow.pipelines.show import local_times
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.conditions import trade_input
from fibflow.transforms.schemas import BARS, TICKS
from fibflow.transforms.tickrows import DUPLICATE
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import Timeframe

#: The timeframes whose newest bars are on the board.
SHOWN = ("1m", "5m", "1h")

_KEY = ["symbol", "timeframe", "ts"]
_CLOSED = pa.schema([BARS.field(name) for name in (*_KEY, "revision")])
_FRAME_S = 0.25
_LINE_S = 3.0
_UPDATES = 1_000


@dataclass
class Board:
    """What is on display.

    Attributes:
        symbols: whose.
        calendar: its clock is the one that is shown.
        prices: last prices, ``liverecords.PRICES``.
        bars: the newest bar of each symbol and timeframe of ``SHOWN`` that has one, ``schemas.BARS``.
        closed: symbol, timeframe, ts and greatest revision of each bar that has closed so far.
    """

    symbols: tuple[str, ...]
    calendar: TradingCalendar
    prices: pa.Table = field(default_factory=PRICES.empty_table)
    bars: pa.Table = field(default_factory=BARS.empty_table)
    closed: pa.Table = field(default_factory=_CLOSED.empty_table)

    def close(self, bars: pa.Table) -> None:
        """Count bars that closed, of ``schemas.BARS``; another revision of a bar is no other bar."""
        self.closed = newest_revisions(pa.concat_tables([self.closed, bars.select(_CLOSED.names)]))

    @property
    def is_empty(self) -> bool:
        """Nothing has come through yet."""
        return not len(self.prices) and not len(self.bars)

    def time(self) -> str:
        """The newest time of a price, or of a bar's start, on the exchange's clock."""
        if self.is_empty:
            return "waiting for the first bar"
        times: Any = pa.concat_tables([self.prices.select(["ts"]), self.bars.select(["ts"])])["ts"]
        newest = local_times(times, self.calendar).max()
        return str(np.datetime_as_string(newest, "s")).replace("T", " ")

    def counts(self) -> tuple[int, int]:
        """How many bars have closed, and how many of them were revised."""
        return len(self.closed), revised(self.closed)


def newest_revisions(bars: pa.Table) -> pa.Table:
    """Return symbol, timeframe, ts and the greatest revision of each bar among its revisions."""
    found = bars.group_by(_KEY).aggregate([("revision", "max")])
    return found.rename_columns([*_KEY, "revision"]).select(_CLOSED.names).cast(_CLOSED)


def revised(closed: pa.Table) -> int:
    """How many of ``newest_revisions`` were revised."""
    return int(np.count_nonzero(closed["revision"].to_numpy()))


def board_grid(board: Board) -> RenderableType:
    """Return a board as a table: a row a symbol and timeframe, some 75 characters wide."""
    table = Table(box=None, pad_edge=False)
    for name in ("symbol", "last", "bar", "from", "open", "high", "low", "close", "volume", "closed"):
        table.add_column(name, justify="left" if name in ("symbol", "bar") else "right", no_wrap=True)
    last, bars, closed = _last_of(board), _bars_of(board), _closed_of(board)
    ended = {(row["symbol"], row["timeframe"]) for row in board.bars.to_pylist() if row["complete"]}
    for symbol in board.symbols:
        for place, timeframe in enumerate(SHOWN):
            head = (symbol, last.get(symbol, "")) if place == 0 else ("", "")
            number_of_closed = f"{closed.get((symbol, timeframe), 0):,}"
            cells = [*head, timeframe, *bars.get((symbol, timeframe), [""] * 6), number_of_closed]
            # Where no bar is open, the last one that was is still there, but pale.
            table.add_row(*map(Text, cells), style="dim" if (symbol, timeframe) in ended else "")
    number, again = board.counts()
    title = f"{board.time()}   bars closed {number:,}, revised {again:,}"
    return Group(Text(title, style="bold"), table)


def board_line(board: Board) -> str:
    """Return a board as one line; of the bars only the first symbol's newest of five minutes is in it."""
    last, number = _last_of(board), board.counts()
    parts = [board.time()]
    parts += [f"{symbol} {last[symbol]}" for symbol in board.symbols if symbol in last]
    bars, (first, timeframe) = _bars_of(board), (board.symbols[0], SHOWN[1])
    if (first, timeframe) in bars:
        start, *values = bars[first, timeframe]
        told = " ".join(f"{name} {value}" for name, value in zip("ohlcv", values, strict=True))
        parts.append(f"{first} {timeframe} {start} {told}")
    return "  ".join([*parts, f"closed {number[0]:,}", f"revised {number[1]:,}"])


def _last_of(board: Board) -> dict[str, str]:
    return {row["symbol"]: f"{row['price']:,.2f}" for row in board.prices.to_pylist()}


def _bars_of(board: Board) -> dict[tuple[str, str], list[str]]:
    """By symbol and timeframe: start, open, high, low, close and volume."""
    times = np.datetime_as_string(local_times(board.bars["ts"], board.calendar), "m")
    found = {}
    for row, start in zip(board.bars.to_pylist(), times.tolist(), strict=True):
        prices = [f"{row[name]:,.2f}" for name in ("open", "high", "low", "close")]
        found[row["symbol"], row["timeframe"]] = [start[-5:], *prices, f"{row['volume']:,.0f}"]
    return found


def _closed_of(board: Board) -> dict[tuple[str, str], int]:
    found = board.closed.group_by(["symbol", "timeframe"]).aggregate([("ts", "count")])
    return {(row["symbol"], row["timeframe"]): row["ts_count"] for row in found.to_pylist()}


class Show:
    """Reads the live store and shows it: on a terminal a table that moves, elsewhere a line now and then.

    Args:
        store: what to read; it is made where it is empty.
        board: what to show.
        timeframes: all that the job makes.
        console: where to.
        clock: seconds.
        sleep: waits.
    """

    def __init__(
        self,
        store: LiveStore,
        board: Board,
        timeframes: Sequence[str],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._board, self._timeframes = store, board, timeframes
        self._console, self._clock, self._sleep = console, clock, sleep
        self._live: Live | None = None
        self._drawn = self._printed = float("-inf")
        self._line = ""
        store.marker()
        self._position = livefollow.position(store)
        self._count_closed()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Take over the terminal for the time of the block; leave the last picture there."""
        if not self._console.is_terminal:
            yield
            return
        with Live(board_grid(self._board), console=self._console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def wait(self, seconds: float) -> None:
        """Wait so long, and show meanwhile what changes."""
        until = self._clock() + seconds
        while True:
            self.draw_in_time()
            left = until - self._clock()
            if left <= 0:
                return
            self._sleep(min(left, _FRAME_S))

    def draw_in_time(self) -> None:
        """Draw where the last picture has become old."""
        if self._clock() - self._drawn >= _FRAME_S:
            self.draw()

    def draw(self, at_once: bool = False) -> None:
        """Read the store and show it; a line comes only when it is time for one, or ``at_once``, and new."""
        self._read()
        self._drawn = self._clock()
        if self._live is not None:
            self._live.update(board_grid(self._board), refresh=True)
            return
        is_time = at_once or self._drawn - self._printed >= _LINE_S
        if not self._console.is_terminal and is_time and (line := board_line(self._board)) != self._line:
            self._printed, self._line = self._drawn, line
            print(line, flush=True)

    def _read(self) -> None:
        for update in livefollow.read(self._store, self._position, block_ms=1, count=_UPDATES):
            self._position = update.position
            if update.kind == livefollow.CLOSED:
                self._board.close(update.table)
            elif update.kind == livefollow.RESET:
                self._count_closed()
        symbols = self._board.symbols
        self._board.prices = self._store.last_prices(symbols)
        newest = [self._store.latest_bars(symbol, timeframe, 1) for symbol in symbols for timeframe in SHOWN]
        self._board.bars = pa.concat_tables(newest)

    def _count_closed(self) -> None:
        for symbol in self._board.symbols:
            for timeframe in self._timeframes:
                self._board.close(self._store.closed_bars(symbol, timeframe))


@dataclass(frozen=True)
class Tally:
    """What a live job of trades left in the lake.

    Attributes:
        ticks: messages in ``bronze.ticks``, each once.
        late: messages that came too late.
        duplicates: trades that came twice.
        unreadable: messages refused for another reason.
        bars: bars that closed, each once.
        revised: those of them that a late trade changed.
    """

    ticks: int
    late: int
    duplicates: int
    unreadable: int
    bars: int
    revised: int

    @classmethod
    def of(cls, ticks: pa.Table, late: pa.Table, letters: pa.Table, bars: pa.Table) -> Tally:
        """Count rows: of ticks and late messages each once, dead letters, and bars in all revisions."""
        closed = newest_revisions(bars)
        again = len(letters.filter(pc.equal(letters["reason"], pa.scalar(DUPLICATE))))
        return cls(len(ticks), len(late), again, len(letters) - again, len(closed), revised(closed))

    @classmethod
    def read(cls, lake: Lake) -> Tally:
        """Count what is in a lake. Raises LakeError where it cannot be read."""
        reader = TickReader(lake)
        try:
            letters, _ = lake.table(tables.DEAD_LETTERS).snapshot().read(["reason"])
        except TableMissing:
            letters = tables.DEAD_LETTERS.schema.empty_table()
        bars, _ = LiveReader(lake).snapshot().read(_CLOSED.names)
        return cls.of(reader.ticks(columns=["symbol"]), reader.late(), letters, bars)

    def rows(self) -> list[tuple[str, str]]:
        """What to print, by name."""
        named = (
            ("ticks archived", self.ticks),
            ("came too late for a bar", self.late),
            ("came twice", self.duplicates),
            ("could not be read", self.unreadable),
            ("bars closed", self.bars),
            ("of them revised", self.revised),
        )
        return [(name, f"{number:,}") for name, number in named]


@dataclass(frozen=True)
class Parity:
    """The stream's bars beside those that batch makes of the archived ticks.

    Attributes:
        timeframe: of the bars.
        stream: how many the stream closed.
        batch: how many batch makes.
        equal: they are the same in every column but ``revision``, to the bit.
    """

    timeframe: str
    stream: int
    batch: int
    equal: bool

    @classmethod
    def of(cls, lake: Lake, timeframe: Timeframe, calendar: TradingCalendar) -> Parity:
        """Make the bars of ``bronze.ticks`` without ``late`` anew, and compare. Trades only."""
        parts = TickReader(lake).ticks_without_late(where={"kind": TRADE})
        columns = [name for name in TICKS.names if name != "period"]
        empty = TICKS.empty_table().select(columns)
        rows = trade_input(trades_of(pa.concat_tables([empty, *parts])))
        made, _ = aggregate_ticks(rows, BarSpec((timeframe,), calendar))
        batch = pa.concat_tables([BARS.empty_table(), *(table.cast(BARS) for table in made)])
        return cls.between(LiveReader(lake).bars(None, timeframe.name), batch, timeframe.name)

    @classmethod
    def between(cls, stream: pa.Table, batch: pa.Table, timeframe: str) -> Parity:
        """Compare two tables of ``schemas.BARS``, in any order, each bar once."""
        left, right = (_compared(table) for table in (stream, batch))
        return cls(timeframe, len(left), len(right), left.equals(right))

    def line(self) -> str:
        """What to print."""
        word = "equal to the bit" if self.equal else "NOT EQUAL"
        return (
            f"{self.timeframe} bars of the stream: {self.stream:,}; made by batch of the archived ticks: "
            f"{self.batch:,}; {word}"
        )


def _compared(bars: pa.Table) -> Any:
    ordered = bars.sort_by([("symbol", "ascending"), ("ts", "ascending")])
    return ordered.select([name for name in BARS.names if name != "revision"]).combine_chunks()

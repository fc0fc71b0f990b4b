from __future__ import annotations

import io
import sys
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from fibflow.io.livestore import LiveStore
from fibflow.pipelines.liveboard import Board, Parity, Show, Tally, board_grid, board_line
from fibflow.pipelines.show import as_text
from fibflow.tests.io.livestores import MINUTE, bar, closed, price, prices, table
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.openbars import Flush
from fibflow.transforms.schemas import BARS, DEAD_LETTERS, LATE, TICKS

XNYS = load_calendar()
#: 10:30 in New York on 2013-03-01.
T0 = 1_362_151_800_000_000
NOW = 1_800_000_000_000_000


def bars(*rows: dict[str, Any]) -> pa.Table:
    return table(*rows).cast(BARS)


def texts(found: Any) -> list[list[str]]:
    return [line.split() for line in as_text(found).splitlines()]


@pytest.fixture
def board() -> Board:
    made = Board(("AAPL", "IBM"), XNYS)
    made.prices = prices(price("AAPL", 438.1, T0 + 31_000_000))
    made.bars = bars(
        bar("AAPL", "1m", T0, 438.1), closed("AAPL", "5m", T0 - 5 * MINUTE, 437.0), bar("AAPL", "1h", T0)
    )
    made.close(bars(closed("AAPL", "5m", T0 - 5 * MINUTE), closed("AAPL", "1m", T0 - MINUTE)))
    return made


def test_the_board_is_a_row_a_symbol_and_timeframe(board):
    assert texts(board_grid(board)) == [
        ["2013-03-01", "10:30:31", "bars", "closed", "2,", "revised", "0"],
        ["symbol", "last", "bar", "from", "open", "high", "low", "close", "volume", "closed"],
        ["AAPL", "438.10", "1m", "10:30", "1.50", "9.25", "0.50", "438.10", "100", "1"],
        ["5m", "10:25", "1.50", "9.25", "0.50", "437.00", "100", "1"],
        ["1h", "10:30", "1.50", "9.25", "0.50", "1.00", "100", "0"],
        ["IBM", "1m", "0"],
        ["5m", "0"],
        ["1h", "0"],
    ]


def test_the_board_fits_a_narrow_terminal(board):
    board.prices = prices(price("AAPL", 12_345.678, T0))
    board.bars = bars(bar("AAPL", "1m", T0, 12_345.678, volume=123_456_789.0))
    screen = io.StringIO()
    Console(width=80, file=screen).print(board_grid(board))
    told = screen.getvalue()
    assert "12,345.68" in told
    assert "123,456,789" in told
    assert "…" not in told


def test_the_line_has_prices_and_one_bar(board):
    assert board_line(board) == (
        "2013-03-01 10:30:31  AAPL 438.10  AAPL 5m 10:25 o 1.50 h 9.25 l 0.50 c 437.00 v 100  "
        "closed 2  revised 0"
    )


def test_an_empty_board_says_that_it_waits():
    empty = Board(("AAPL",), XNYS)
    assert empty.is_empty
    assert board_line(empty) == "waiting for the first bar  closed 0  revised 0"
    assert texts(board_grid(empty))[2:] == [["AAPL", "1m", "0"], ["5m", "0"], ["1h", "0"]]


def test_a_bar_counts_once_whatever_its_revisions(board):
    assert board.counts() == (2, 0)
    again = closed("AAPL", "5m", T0 - 5 * MINUTE, revision=1)
    board.close(bars(again, {**again, "final": True}, closed("IBM", "5m", T0 - 5 * MINUTE)))
    assert board.counts() == (3, 1)
    board.close(bars(closed("AAPL", "5m", T0 - 5 * MINUTE)))
    assert board.counts() == (3, 1)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def shown(store: LiveStore) -> tuple[Show, Board, Clock]:
    board, clock = Board(("AAPL", "IBM"), XNYS), Clock()
    console = Console(file=sys.stdout, force_terminal=False)
    return Show(store, board, ("1m", "5m"), console, clock, clock.sleep), board, clock


def test_what_comes_is_shown_and_counted(store, capsys):
    store.write_closed(bars(closed("AAPL", "1m", T0 - MINUTE)), NOW)
    show, board, _ = shown(store)
    assert board.counts() == (1, 0)
    store.write_prices(prices(price("AAPL", 438.1, T0 + 1_000_000), price("IBM", 200.0, T0)))
    store.write_open([Flush(3, NOW, False, False, table(bar("AAPL", "5m", T0, 438.1)))])
    store.write_closed(bars(closed("AAPL", "1m", T0), closed("IBM", "1m", T0, revision=1)), NOW)
    show.draw()
    assert board.counts() == (3, 1)
    told = capsys.readouterr().out
    assert told.startswith("2013-03-01 10:30:01  AAPL 438.10  IBM 200.00  ")
    assert told.endswith("closed 3  revised 1\n")


def test_an_open_bar_goes_before_the_last_closed_one(store):
    show, board, _ = shown(store)
    store.write_closed(bars(closed("AAPL", "5m", T0)), NOW)
    show.draw()
    assert board.bars["complete"].to_pylist() == [True]
    store.write_open([Flush(bucket_of("AAPL"), NOW, False, False, table(bar("AAPL", "5m", T0 + 5 * MINUTE)))])
    show.draw()
    assert board.bars["complete"].to_pylist() == [False]


def test_a_store_that_was_emptied_is_counted_on(server, store):
    show, board, _ = shown(store)
    store.write_closed(bars(closed("AAPL", "1m", T0)), NOW)
    show.draw()
    server.client.flushall()
    store.write_closed(bars(closed("AAPL", "1m", T0 + MINUTE)), NOW)
    show.draw()
    assert board.counts() == (2, 0)


def test_a_line_comes_every_few_seconds_where_there_is_news(store, capsys):
    show, _, clock = shown(store)

    def lines(seconds: float) -> int:
        show.wait(seconds)
        return len(capsys.readouterr().out.splitlines())

    assert lines(6.5) == 1
    assert clock.now == pytest.approx(6.5)
    assert max(clock.slept) <= 0.25
    store.write_prices(prices(price("AAPL", 438.1, T0)))
    assert lines(2.0) == 1
    store.write_prices(prices(price("AAPL", 438.2, T0 + 1)))
    assert lines(0.5) == 0
    show.draw(at_once=True)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_terminal_gets_a_table_that_moves(store):
    board = Board(("AAPL",), XNYS)
    screen = io.StringIO()
    show = Show(store, board, ("1m",), Console(file=screen, force_terminal=True, width=80))
    with show.on():
        store.write_prices(prices(price("AAPL", 438.1, T0)))
        show.draw()
    assert "waiting for the first bar" in screen.getvalue()
    assert "438.10" in screen.getvalue()


def rows_of(schema: pa.Schema, count: int, **columns: list[Any]) -> pa.Table:
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def test_the_tally_counts_rows_by_what_became_of_them():
    letters = rows_of(DEAD_LETTERS, 4, reason=["duplicate", "unreadable", "duplicate", "not_a_session"])
    found = bars(
        closed("A"), closed("A", revision=1), closed("A", "5m"), closed("B"), closed("B", final=True)
    )
    tally = Tally.of(rows_of(TICKS, 9), rows_of(LATE, 3), letters, found)
    assert tally == Tally(ticks=9, late=3, duplicates=2, unreadable=2, bars=3, revised=1)
    assert tally.rows()[:2] == [("ticks archived", "9"), ("came too late for a bar", "3")]


def test_parity_is_to_the_bit_and_passes_revisions_over():
    left = bars(closed("A", vwap=None), closed("B", close=0.1 + 0.2), closed("B", ts=T0))
    right = bars(closed("B", ts=T0, revision=4), closed("B", close=0.1 + 0.2), closed("A", vwap=None))
    assert Parity.between(left, right, "5m") == Parity("5m", 3, 3, True)
    assert Parity.between(left, right, "5m").line().endswith("equal to the bit")
    off = bars(closed("B", ts=T0), closed("B", close=0.3), closed("A", vwap=None))
    assert not Parity.between(left, off, "5m").equal
    assert Parity.between(left, right.slice(1), "5m") == Parity("5m", 3, 2, False)
    assert Parity.between(left, off, "5m").line().endswith("NOT EQUAL")

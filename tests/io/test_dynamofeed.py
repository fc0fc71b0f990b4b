"""Prices on their way to DynamoDB: coalesced, at a bounded rate, and never waited for."""

from __future__ import annotations

import itertools
import logging
import pickle
import socket
import threading
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.aws import AwsConfig
from fibflow.io.dynamodb import KEPT_S, DynamoError, PriceTable, TickTable
from fibflow.io.dynamofeed import PriceFeed, release, shared
from fibflow.tests.io.livestores import T0, price, prices, rows

NOWHERE = AwsConfig(region="us-east-1", access_key_id="k", secret_access_key="s")
_numbers = itertools.count(1)


@dataclass
class Written(PriceTable):
    """A table of prices in memory, which can be away."""

    away: bool = False

    def __post_init__(self) -> None:
        self.batches: list[list[tuple]] = []

    def write(self, found: pa.Table) -> int:
        if self.away:
            raise DynamoError("away")
        self.batches.append(rows(found, "symbol", "ts"))
        return len(found)

    @property
    def last(self) -> dict[str, int]:
        return {symbol: ts for batch in self.batches for symbol, ts in batch}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def feed(rate: float = 1_000.0) -> Any:
    made = PriceFeed(Written("prices", NOWHERE), rate=rate, clock=Clock())
    made.open()
    return made


def test_of_a_symbol_the_newest_price_is_written_once_a_turn():
    one = feed()
    for at in range(5):
        one.offer(prices(price("A", float(at + 1), T0 + at), price("B", ts=T0 - at)))
    assert one.turn() is False
    assert one.prices.batches == [[("A", T0 + 4), ("B", T0)]]
    assert one.turn() is False
    assert len(one.prices.batches) == 1
    assert one.told().prices == 2
    assert one.told().prices == 0


def test_the_rate_bounds_a_turn_and_who_waits_longest_goes_first():
    one = feed(rate=2.0)
    one.offer(prices(*(price(symbol) for symbol in "ABC")))
    assert one.turn() is True
    one.clock.now = 1.0
    # A moves again, but C has waited longer.
    one.offer(prices(price("A", ts=T0 + 9)))
    one.offer(prices(price("D")))
    assert one.told().waiting_s == 1.0
    assert one.turn() is True
    assert one.turn() is False
    assert [[symbol for symbol, _ in batch] for batch in one.prices.batches] == [
        ["A", "B"],
        ["C", "A"],
        ["D"],
    ]


def test_what_could_not_be_written_waits_and_gives_way_to_what_is_newer(caplog):
    one = feed()
    one.prices.away = True
    one.offer(prices(price("A"), price("B")))
    with caplog.at_level(logging.WARNING):
        assert [one.turn(), one.turn(), one.turn()] == [True, True, True]
        one.offer(prices(price("A", ts=T0 + 5)))
        one.clock.now = 7.0
        told = one.told()
        assert (told.prices, told.errors, told.waiting_s) == (0, 3, 7.0)
        one.prices.away = False
        while one.turn():
            pass
    assert one.prices.last == {"A": T0 + 5, "B": T0}
    # Once when it goes, once when it comes back: not at each try.
    assert len(caplog.records) == 2
    assert caplog.records[0].getMessage() == "last prices do not reach DynamoDB, and wait: away"


_moves = st.lists(st.tuples(st.sampled_from("ABCDE"), st.integers(0, 9)), max_size=8)


@given(st.lists(st.tuples(_moves, st.booleans()), max_size=12), st.integers(1, 4))
def test_whatever_goes_wrong_each_symbols_newest_price_arrives(turns, rate):
    one = feed(rate=float(rate))
    expected: dict[str, int] = {}
    for moves, away in turns:
        for symbol, at in moves:
            one.offer(prices(price(symbol, ts=T0 + at)))
            expected[symbol] = max(expected.get(symbol, 0), T0 + at)
        one.prices.away = away
        one.turn()
    one.prices.away = False
    for _ in range(20):
        one.turn()
    arrived: dict[str, int] = {}
    for batch in one.prices.batches:
        assert len(batch) <= rate
        for symbol, ts in batch:
            arrived[symbol] = max(arrived.get(symbol, 0), ts)
    assert arrived == expected


def test_what_is_offered_to_a_table_that_is_away_needs_no_more_room(monkeypatch):
    monkeypatch.setattr("fibflow.io.dynamofeed._MOST_OFFERED", 100)
    one = feed()
    block = prices(*(price(f"S{number}") for number in range(40)))
    for _ in range(50):
        one.offer(block)
        assert sum(map(len, one._offered)) <= 140
    assert one.turn() is False
    assert len(one.prices.last) == 40


class Turns:
    """Lets a feed's thread have so many turns, and keeps how long it would have paused before each."""

    def __init__(self, turns: int) -> None:
        self.left = turns
        self.pauses: list[float] = []

    def wait(self, pause: float) -> bool:
        self.pauses.append(pause)
        self.left -= 1
        return self.left < 0


def test_a_table_that_is_away_for_a_day_is_asked_with_a_bounded_pause():
    one = feed()
    one.prices.away = True
    one.offer(prices(price("A")))
    one._stopping, one._ends = Turns(1_100), 0.0
    one._run()
    assert one._stopping.pauses[-1] == max(one._stopping.pauses) == 30.0
    assert one.told().errors == 1_100


def test_what_was_not_foreseen_is_logged_counted_and_ends_nothing(caplog):
    one = feed()
    write, odd = one.prices.write, [RuntimeError("odd"), RuntimeError("odd")]

    def fails(found: pa.Table) -> int:
        if odd:
            raise odd.pop()
        return write(found)

    one.prices.write = fails
    one.offer(prices(price("A")))
    one._stopping, one._ends = Turns(3), 0.0
    with caplog.at_level(logging.WARNING):
        one._run()
    assert one.prices.last == {"A": T0}
    assert one.told().errors == 2
    assert "RuntimeError: odd" in caplog.records[0].getMessage()
    assert len(caplog.records) == 2


@pytest.fixture
def made(s3_server) -> PriceFeed:
    number = next(_numbers)
    found = PriceFeed(
        PriceTable(f"feed-{number}", s3_server, timeout_s=20.0),
        TickTable(f"feed-ticks-{number}", s3_server, timeout_s=20.0),
        rate=10_000.0,
        every_s=0.01,
    )
    assert found.prices.create_tables()
    assert found.ticks is not None
    assert found.ticks.create_tables()
    return found


def test_a_thread_writes_both_tables_and_ends_with_nothing_left(made):
    one = pickle.loads(pickle.dumps(made))  # noqa: S301 - as a runner does
    one.start()
    one.offer(prices(*(price(f"S{number:02}", ts=T0) for number in range(60))))
    arrived = threading.Event()
    while not arrived.wait(0.01):
        if len(made.ticks.read("S00", T0)):
            arrived.set()
    one.offer(prices(price("S00", 2.0, T0 + 1), price("S01", 3.0, T0 + 2)))
    one.stop(20.0)
    assert rows(made.prices.read(["S00", "S01", "S59"]), "symbol", "ts") == [
        ("S00", T0 + 1),
        ("S01", T0 + 2),
        ("S59", T0),
    ]
    assert rows(made.ticks.read("S00", T0), "price", "ts") == [(1.0, T0), (2.0, T0 + 1)]


def test_ticks_are_read_by_symbol_and_time_newest_first(made):
    ticks = made.ticks
    assert ticks.write(prices(*(price("A", ts=T0 + at) for at in range(60)), price("B", ts=T0))) == 61
    assert rows(ticks.read("A", T0 + 58), "symbol", "ts") == [("A", T0 + 58), ("A", T0 + 59)]
    assert rows(ticks.read("A", T0, limit=2), "ts") == [(T0 + 58,), (T0 + 59,)]
    assert rows(ticks.read("A", T0 + 3, T0 + 5), "ts") == [(T0 + 3,), (T0 + 4,)]
    assert len(ticks.read("A", T0, T0)) == len(ticks.read("C", T0)) == 0
    late = replace(ticks, clock=lambda: ticks.clock() + KEPT_S + 1)
    assert len(late.read("A", T0)) == 0


def test_a_table_with_another_key_is_named(made, s3_server):
    assert made.ticks.create_tables() is False
    for wrong in (TickTable(made.prices.name, s3_server), PriceTable(made.ticks.name, s3_server)):
        with pytest.raises(DynamoError, match=f"^DynamoDB table {wrong.name} has another key than symbol"):
            wrong.create_tables()


def test_a_process_has_one_feed_to_a_table(made):
    first, second = shared(made), shared(replace(made))
    assert first is second
    assert first is not made
    release(made)
    second.offer(prices(price("A")))
    release(made)
    assert rows(made.prices.read(["A"]), "ts") == [(T0,)]
    third = shared(made)
    assert third is not first
    release(made)


def test_a_dynamodb_that_does_not_answer_ends_nothing(s3_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = replace(s3_server, endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        one = PriceFeed(PriceTable("prices", away, timeout_s=0.2), every_s=0.01)
        one.start()
        one.offer(prices(price("A")))
        waiting = threading.Event()
        errors = 0
        while errors < 2 and not waiting.wait(0.01):
            errors += one.told().errors
        one.stop(0.1)
    assert one.told().waiting_s > 0


def test_what_dynamodb_refuses_is_left_out_and_holds_no_other_up(made, caplog):
    made.open()
    made.offer(prices(price(""), *(price(symbol) for symbol in "ABC")))
    with caplog.at_level(logging.WARNING):
        assert made.turn() is False
    assert [symbol for (symbol,) in rows(made.prices.read(["A", "B", "C"]), "symbol")] == ["A", "B", "C"]
    assert len(made.ticks.read("C", T0)) == 1
    told = made.told()
    assert (told.refused, told.errors, told.waiting_s) == (1, 0, 0.0)
    (record,) = caplog.records
    assert "refuses 1 of 4 last prices" in record.getMessage()

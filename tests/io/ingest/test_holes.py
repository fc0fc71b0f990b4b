"""What a hole is, and how it is filled."""

from __future__ import annotations

import errno
import json
import threading
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from fibflow.io.ingest import holes
from fibflow.io.ingest.holes import Filler, Hole, minute_messages, trade_messages
from fibflow.io.kinesis.decoded import MINUTES, TRADES
from fibflow.io.tickmessages import Parsed
from fibflow.io.vendor import rest
from fibflow.io.vendor.answers import BARS
from fibflow.io.vendor.answers import TRADES as TRADE_ROWS
from fibflow.io.vendor.errors import NoAccess, NotFound, VendorAway
from fibflow.tests.io.vendor.scripted import Answer, scripted
from fibflow.transforms.schemas import TIMESTAMP

MINUTE = 60_000_000
NOON = 1_710_158_400_000_000


def bars(symbol, *starts):
    rows = [(symbol, start, 1.0, 2.0, 0.5, 1.5, 100.0, 1.25, 7) for start in starts]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(BARS)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, BARS, strict=True)], schema=BARS)


class FakeVendor:
    def __init__(self, faults=None):
        self.asked, self.faults = [], faults or {}
        self.lock = threading.Lock()

    def minutes(self, symbol, start_us, end_us):
        with self.lock:
            self.asked.append((symbol, start_us, end_us))
            faults = self.faults.get(symbol, [])
            if faults:
                raise faults.pop(0) if len(faults) > 1 else faults[0]
        return bars(symbol, *range(start_us, end_us, MINUTE))

    trades = minutes


@pytest.mark.parametrize(
    ("begin", "end", "first", "last"),
    [
        # An aggregate's end is when it is known: 12:00 has come of 11:59, and may not have for all.
        (0, 0, -1, -1),
        (0, 60, -1, 0),
        (30, 30, -1, -1),
        (30, 61, -1, 0),
        (59, 120, -1, 1),
        (-1, 0, -2, -1),
    ],
)
def test_the_minutes_of_a_hole(begin, end, first, last):
    hole = Hole(NOON + begin * 1_000_000, NOON + end * 1_000_000)
    assert hole.minutes == (NOON + first * MINUTE, NOON + (last + 1) * MINUTE)
    assert Hole.of(hole.to_bytes()) == hole


def test_a_hole_says_when_it_was():
    assert str(Hole(NOON, NOON + MINUTE)) == "the hole from 2024-03-11T12:00:00Z to 2024-03-11T12:01:00Z"


def parsed(messages):
    found = Parsed()
    found.add_payload(0, json.dumps(messages).encode())
    assert not found.letters
    (table,) = found.tables().values()
    return table.to_pylist()


def test_minutes_are_the_messages_that_the_stream_reads():
    (row,) = parsed(minute_messages(bars("A", NOON)))
    expected = {"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 100.0, "vwap": 1.25}
    assert {name: row[name] for name in expected} == expected
    assert (row["symbol"], row["trade_count"], row["version"]) == ("A", 7, None)
    assert row["ts"].timestamp() == NOON / 1e6
    sparse = bars("A", NOON).set_column(6 + 1, "vwap", pa.nulls(1, pa.float64()))
    assert "vw" not in minute_messages(sparse)[0]
    assert (MINUTES, TRADES) == ("minutes", "trades")


def test_trades_are_the_messages_that_the_stream_reads():
    columns = {
        "symbol": ["A"],
        "ts": pa.array([NOON + 7_000], TIMESTAMP),
        "seq": [12],
        "price": [1.5],
        "size": [10.0],
        "conditions": pa.array([[0, 12]]),
        "trade_id": ["77"],
        "exchange": [4],
        "tape": [3],
        "correction": pa.nulls(1, pa.int64()),
    }
    (row,) = parsed(trade_messages(pa.table(columns)))
    expected = {"symbol": "A", "seq": 12, "price": 1.5, "size": 10.0, "conditions": "0,12", "trade_id": "77"}
    assert {name: row[name] for name in expected} == expected
    assert (row["exchange"], row["tape"], row["correction"]) == (4, 3, None)


def test_trades_are_asked_for_by_the_time_of_their_publication():
    """As the vendor's own documentation has them: nanoseconds, long names, pages."""
    trade = {
        "conditions": [12, 41],
        "exchange": 11,
        "id": "1",
        "participant_timestamp": 1517562000015577000,
        "price": 171.55,
        "sequence_number": 1063,
        "sip_timestamp": 1517562000016036581,
        "size": 100,
        "tape": 3,
    }
    bare = {"price": 1, "sequence_number": 1064, "sip_timestamp": 1517562000016036999, "size": 0.5}
    pages = [
        {"status": "OK", "results": [trade], "next_url": "https://elsewhere/v3/trades/A?cursor=2"},
        {"status": "OK", "results": [bare]},
    ]
    begin = 1517562000016035
    with scripted([Answer(body=page) for page in pages]) as server:
        vendor = rest.Vendor(server.url, "a-key", 1e6)
        rows = vendor.trades("A", begin, begin + 5)
    asked = parse_qs(urlsplit(server.paths[0]).query)
    assert server.paths[0].startswith("/v3/trades/A?")
    assert (asked["timestamp.gte"], asked["timestamp.lt"]) == ([f"{begin}000"], [f"{begin + 5}000"])
    first, second = parsed(trade_messages(rows))
    assert (first["symbol"], first["seq"], first["price"], first["conditions"]) == (
        "A",
        1063,
        171.55,
        "12,41",
    )
    assert first["ts"].timestamp() == 1517562000.016
    assert (second["seq"], second["size"], second["conditions"]) == (1064, 0.5, "")


@pytest.fixture
def filler_of(tmp_path):
    made = []

    def make(vendor, symbols=("A", "B", "C"), kinds=("AM",), patience=60.0):
        seconds = [0.0]

        def wait(pause):
            seconds[0] += pause
            return False

        filler = Filler(vendor, tmp_path, kinds, symbols, 3, wait, patience, lambda: seconds[0])
        made.append(filler)
        return filler

    yield make
    for filler in made:
        filler.close()


def rows_of(filler, filling):
    assert filling.done.wait(20)
    return sorted((row["sym"], row["s"]) for frame in filler.had(0.0) for row in json.loads(frame))


HOLE = Hole(NOON, NOON + 2 * MINUTE)
STARTS = [(NOON + step * MINUTE) // 1000 for step in (-1, 0, 1)]


def test_a_hole_is_filled_and_forgotten_when_that_is_in_the_stream(filler_of):
    filler = filler_of(FakeVendor())
    filling = filler.start(HOLE)
    assert rows_of(filler, filling) == [(name, start) for name in "ABC" for start in STARTS]
    assert (filling.asked, filling.messages, filling.unfilled) == (3, 9, [])
    assert filler.finished() == [filling]
    # Another process, before it was forgotten.
    assert filler_of(FakeVendor()).left_open() == [HOLE]
    filler.forget(filling)
    assert filler_of(FakeVendor()).left_open() == []
    assert (filler.open, filler.finished()) == (0, [])


def test_a_disk_that_refuses_to_note_a_hole_holds_nothing_up(filler_of, monkeypatch):
    def refuse(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    write = holes._write
    monkeypatch.setattr(holes, "_write", refuse)
    filler = filler_of(FakeVendor())
    filling = filler.start(HOLE)
    assert not filler.keeps_open()
    assert len(rows_of(filler, filling)) == 9
    monkeypatch.setattr(holes, "_write", write)
    assert filler.keeps_open()
    assert filler.left_open() == [HOLE]
    monkeypatch.setattr(holes, "_write", refuse)
    filler.forget(filling)
    assert filler.keeps_open()  # it is filled again, at the worst


def test_the_symbols_of_a_whole_market_are_those_that_it_had(filler_of):
    filler = filler_of(FakeVendor(), symbols=None)
    assert filler.start(HOLE).done.is_set()
    filler.saw(["B", "A"])
    filler.note_symbols()
    filling = filler.start(HOLE)
    assert {name for name, _ in rows_of(filler, filling)} == {"A", "B"}
    later = filler_of(FakeVendor(), symbols=None)
    assert {name for name, _ in rows_of(later, later.start(HOLE))} == {"A", "B"}


def test_a_vendor_that_is_away_is_asked_again_and_not_for_ever(filler_of):
    vendor = FakeVendor({"A": [VendorAway("away"), VendorAway("away"), NotFound("none of A")]})
    filler = filler_of(vendor)
    filling = filler.start(HOLE)
    assert {name for name, _ in rows_of(filler, filling)} == {"B", "C"}
    assert filling.unfilled == []
    assert sum(name == "A" for name, _, _ in vendor.asked) == 3

    vendor = FakeVendor({name: [VendorAway("it is away")] for name in "ABC"})
    filler = filler_of(vendor)
    filling = filler.start(HOLE)
    assert rows_of(filler, filling) == []
    assert (sorted(filling.unfilled), filling.why) == (["A", "B", "C"], "it is away")


def test_a_plan_that_has_none_is_not_asked_for_each_symbol(filler_of):
    names = [f"S{number}" for number in range(50)]
    vendor = FakeVendor({name: [NoAccess("the plan has none")] for name in names})
    filler = filler_of(vendor, names, ("T",))
    filling = filler.start(HOLE)
    assert rows_of(filler, filling) == []
    assert (len(filling.unfilled), filling.why) == (50, "the plan has none")
    assert len(vendor.asked) <= 3


def test_what_was_not_foreseen_is_told_and_holds_nothing_up(filler_of):
    filler = filler_of(FakeVendor({"B": [KeyError("x")]}))
    filling = filler.start(HOLE)
    assert {name for name, _ in rows_of(filler, filling)} == {"A", "C"}
    assert (filling.unfilled, filling.why) == (["B"], "B: KeyError: 'x'")


def test_no_more_is_fetched_than_somebody_takes(filler_of):
    vendor = FakeVendor()
    filler = filler_of(vendor, [f"S{number}" for number in range(300)])
    filling = filler.start(HOLE)
    while not filler._had.full():
        assert not filling.done.wait(0.01)
    filler.close()
    assert len(vendor.asked) <= filler._had.maxsize + 3
    assert not filling.done.is_set()
    # What was not taken is fetched again.
    assert filler.left_open() == [HOLE]


class BusyVendor(FakeVendor):
    """Has 5,000 trades in each stretch that is asked for."""

    def trades(self, symbol, start_us, end_us):
        self.asked.append((symbol, start_us, end_us))
        trade = {"symbol": symbol, "ts": start_us, "price": 1.0, "size": 1.0}
        return pa.Table.from_pylist([trade | {"seq": number} for number in range(5_000)], TRADE_ROWS)


def test_trades_are_fetched_an_hour_at_a_time_and_handed_on_in_parts(filler_of):
    vendor = BusyVendor()
    filler = filler_of(vendor, symbols=["A"], kinds=["T"])
    long = Hole(NOON, NOON + 90 * MINUTE)
    filling = filler.start(long)
    assert filling.done.wait(20)
    begin, end = long.trades
    assert vendor.asked == [("A", begin, begin + 60 * MINUTE), ("A", begin + 60 * MINUTE, end)]
    parts = [json.loads(frame) for frame in filler.had(0.0)]
    assert [len(part) for part in parts] == [2_000, 2_000, 1_000] * 2
    assert [row["q"] for part in parts for row in part] == [*range(5_000)] * 2
    assert (filling.messages, filling.unfilled) == (10_000, [])


def test_a_hole_whose_filling_was_broken_off_by_the_end_stays_open(tmp_path):
    vendor = FakeVendor({"A": [VendorAway("away")]})
    filler = Filler(vendor, tmp_path, ["AM"], ["A"], 1, lambda _: True, 60.0, lambda: 0.0)
    filling = filler.start(HOLE)
    filler.close()
    assert not filling.done.is_set()
    assert filler.finished() == []
    assert filler.left_open() == [HOLE]

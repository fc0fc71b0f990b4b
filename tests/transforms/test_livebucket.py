from __future__ import annotations

import pytest

from fibflow.tests.transforms.streams import END, MINUTE, Bucket, compared, kept, minute, trade
from fibflow.tests.transforms.tables import calendar, ny
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.livebars import LiveBars, Plan, StreamPolicy
from fibflow.transforms.livebucket import MOST_PARTS, Memo
from fibflow.transforms.livecells import BASE, HEAD, MINUTES, SEEN, Head
from fibflow.transforms.timeframe import parse_timeframes

OPEN = ny("2024-07-02T09:30")


def bucket(timeframes: str = "1m,1h") -> Bucket:
    return Bucket(Plan(BarSpec(parse_timeframes(timeframes), calendar("XNYS")), StreamPolicy()))


def test_bags_of_minutes_are_put_together():
    own = bucket()
    for version in range(2 * MOST_PARTS):
        own.add([minute("A", OPEN, 10.0 + version, version, version)])
    assert max(map(len, own.cells.bags.values())) <= MOST_PARTS + 2
    assert not set(SEEN) & set(own.cells.bags)
    own.memo = Memo()
    own.add([minute("A", OPEN + MINUTE, 1.0, 1, 0)])
    own.advance(END)
    best = kept(own.rows("bars"))
    assert best["A", "1m", OPEN]["close"] == 9.0 + 2 * MOST_PARTS


@pytest.mark.parametrize("keep_memo", [True, False])
def test_a_worker_that_missed_calls_of_another_reads_what_is_new(keep_memo):
    """Two workers take turns at a bucket: each finds the other's appends, rewrites and new symbols."""
    own, alone = bucket(), bucket()
    memos = [Memo(), Memo()]
    for number in range(150):
        rows = [trade(f"S{number % 70}", OPEN + number * 7_000_000, number, 1.0 + number)]
        own.memo = memos[number % 2 if number % 5 else 0] if keep_memo else Memo()
        for each in (own, alone):
            each.add(rows)
            each.advance(OPEN + number * 7_000_000)
    own.advance(END)
    alone.advance(END)
    assert compared(kept(own.rows("bars")).values()) == compared(kept(alone.rows("bars")).values())


def test_a_call_that_changes_no_head_writes_none():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0)])
    del own.cells.values[HEAD]
    own.cells.values[HEAD] = own.memo.head_cell or b""
    before = own.cells.values[HEAD]
    own.add([trade("A", OPEN + 1, 2, 10.0)])
    assert own.cells.values[HEAD] is before


def test_what_a_bucket_is_about_outlives_its_input_but_not_its_symbols():
    own = bucket("1m")
    own.add([trade("A", OPEN, 1, 10.0)])
    assert Head.decode(own.cells.values[HEAD]).symbols == ["A"]
    own.advance(END)
    head = Head.decode(own.cells.values[HEAD])
    assert (head.feed, head.symbols, head.clock) == ("trades", [], OPEN + 16 * MINUTE)
    own.add([trade("B", OPEN + 60 * MINUTE, 1, 10.0)])
    assert Head.decode(own.cells.values[HEAD]).symbols == ["B"]


def test_windows_longer_than_the_horizon_keep_what_left_it():
    own = bucket("1m,1h,1d")
    own.add([trade("A", OPEN, 1, 10.0, 1)])
    own.add([trade("A", OPEN + 25 * MINUTE, 2, 12.0, 2)])
    own.advance(OPEN + 26 * MINUTE)
    assert BASE in own.cells.values
    assert sum(map(len, (own.cells.bags.get(name, []) for name in MINUTES))) == 1
    own.memo = Memo()
    own.add([trade("A", OPEN + 27 * MINUTE, 3, 11.0, 4)])
    own.look()
    found = {bar["timeframe"]: (bar["open"], bar["high"], bar["volume"]) for bar in own.seen.values()}
    assert found == {"1m": (11.0, 11.0, 4.0), "1h": (10.0, 12.0, 7.0), "1d": (10.0, 12.0, 7.0)}
    LiveBars(own.plan, own.cells)

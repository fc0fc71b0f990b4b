"""State of alerts: what a call reads and writes, what leaves it, and what is refused."""

from __future__ import annotations

import random

import pytest

from fibflow.tests.transforms.alerts.tables import Bucket, change, close, price, split
from fibflow.tests.transforms.tables import calendar, ny
from fibflow.transforms.alerts import cells
from fibflow.transforms.alerts.cells import ALERTS, FACTS, HEAD, LAST, MOVES, NAMES
from fibflow.transforms.alerts.live import Memo, Plan
from fibflow.transforms.alerts.schema import Frequency, Operator
from fibflow.transforms.livecells import StateError

SECOND = 1_000_000
OPEN = ny("2024-07-02T10:00")
NEXT = ny("2024-07-03T10:00")


def bucket() -> Bucket:
    return Bucket(Plan(calendar("XNYS")))


def calls(made: Bucket, rows: list[dict]) -> tuple[list[str], list[str]]:
    """What a call reads, and what it writes."""
    made.cells.reads, made.cells.writes = [], []
    made.take(rows)
    return made.cells.reads, made.cells.writes


def test_a_call_in_which_nothing_fires_reads_the_head_and_writes_the_last_prices():
    made = bucket()
    made.take([change(1, Operator.ABOVE, 500)])
    made.take([price(OPEN, 400)])
    assert calls(made, [price(OPEN + 1, 401)]) == ([HEAD], [LAST, HEAD])
    assert calls(made, [price(OPEN + 2, 501)]) == ([HEAD], [MOVES, LAST, HEAD])


def test_a_call_in_which_no_price_counts_writes_nothing():
    made = bucket()
    made.take([price(OPEN, 400)])
    assert calls(made, [price(OPEN, 401), price(OPEN - 1, 2)]) == ([HEAD], [])


def test_another_process_reads_all():
    made = bucket()
    made.take([change(1, Operator.ABOVE, 500)])
    made.memo = Memo()
    reads, _ = calls(made, [price(OPEN, 501)])
    assert sorted(reads) == sorted([HEAD, NAMES, LAST, FACTS, ALERTS, MOVES])
    assert made.ids() == ["1-1-0"]


def test_memory_of_an_abandoned_history_is_told_by_the_head():
    made = bucket()
    made.take([change(1, Operator.ABOVE, 500)])
    made.take([price(OPEN, 400)])
    older = made.cells.copy(random.Random(0))
    made.take([price(OPEN + 1, 501)])
    made.cells = older
    made.take([price(OPEN + 1, 501)])
    assert made.ids() == ["1-1-0", "1-1-0"]


def test_equally_long_histories_have_different_heads():
    heads = []
    for value in (400, 401):
        made = bucket()
        made.take([price(OPEN, value)])
        heads.append(made.cells.values[HEAD])
    assert heads[0] != heads[1]


def test_memory_that_an_error_left_half_done_is_not_used():
    made = bucket()
    made.take([change(1, Operator.ABOVE, 500)])

    def refuse(name: str, part: bytes) -> None:
        raise OSError(name)

    # The rows have moved in memory, the state has not.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made.cells, "append", refuse)
        with pytest.raises(OSError, match=MOVES):
            made.take([price(OPEN, 501)])
    assert [event["id"] for event in made.take([price(OPEN, 501)])] == ["1-1-0"]


def test_what_is_over_leaves_memory_and_state(monkeypatch):
    made = bucket()
    made.take([change(n, Operator.ABOVE, 500) for n in range(1000)])
    made.take([change(1000, Operator.ABOVE, 900, until=OPEN), change(1001, Operator.BELOW, 1)])
    made.take([change(1001, Operator.BELOW, 2, version=2, since=OPEN)])
    made.take([change(1002, Operator.BELOW, 1), change(1003, Operator.BELOW, 1)])
    made.take([change(1002, Operator.ENDED, 1, version=2, since=OPEN)])
    made.take([price(OPEN, 400)])
    before = made.cells.size()
    monkeypatch.setattr(cells, "MOST_PARTS", 1)
    assert len(made.take([price(OPEN + SECOND, 600)])) == 1000
    # What fired is over, what expired too, and what was replaced or deleted before this price.
    book = made.memo.book
    assert book is not None
    assert sorted(book.rows["alert"].tolist()) == [1001, 1003]
    assert made.cells.size() < before / 4
    made.memo = Memo()
    assert made.take([price(OPEN + 2 * SECOND, 1.5)])[0]["id"] == "1001-2-0"


def test_what_has_expired_is_looked_for_once_a_day():
    made = bucket()
    made.take([change(n, Operator.ABOVE, 900, until=OPEN + 1) for n in range(100)])
    made.take([price(OPEN, 400)])
    size = made.cells.size()
    made.take([price(OPEN + SECOND, 400)])
    assert made.cells.size() == pytest.approx(size, rel=0.1)
    made.take([price(NEXT, 400)])
    assert made.memo.book is not None
    assert len(made.memo.book.rows) == 0
    assert made.cells.size() < size


def test_a_large_bucket_is_kept_in_parts(monkeypatch):
    monkeypatch.setattr(cells, "_ROWS_A_PART", 10)
    made = bucket()
    made.take([change(n, Operator.ABOVE, 500 + n) for n in range(25)])
    assert len(made.cells.bags[ALERTS]) == 3
    made.memo = Memo()
    assert len(made.take([price(OPEN, 1000)])) == 25


def test_facts_are_kept():
    made = bucket()
    made.take([close(19906, 100.0), split(19907, 0.5), close(19906, 90.0)])
    made.memo = Memo()
    made.take([change(1, Operator.PERCENT_UP, 10, reference=1, basis=0)])
    assert [event["level"] for event in made.take([price(ny("2024-07-03T10:00"), 50)])] == [49.5]


def test_moves_count_in_their_order(monkeypatch):
    made = bucket()
    made.take([change(1, Operator.ABOVE, 500, frequency=Frequency.EVERY_TIME)])
    for n, value in enumerate([600, 400, 600, 400, 600, 400]):
        made.take([price(OPEN + n, value)])
    assert len(made.cells.bags[MOVES]) == 6
    for seed in range(4):
        restored = bucket()
        restored.cells = made.cells.copy(random.Random(seed))
        assert [event["id"] for event in restored.take([price(OPEN + 9, 600)])] == [f"1-1-{OPEN + 5}.0"]


@pytest.mark.parametrize("name", [HEAD, NAMES])
def test_state_of_another_release_is_refused(name):
    made = bucket()
    made.take([price(OPEN, 400)])
    made.cells.values[name] = b"\x63" + made.cells.values[name][1:]
    made.memo = Memo()
    with pytest.raises(StateError, match=rf"state cell {name} of alerts has format 99, this release reads 1"):
        made.take([price(OPEN + 1, 400)])


def test_state_of_other_options_is_refused():
    made = bucket()
    made.take([price(OPEN, 400)])
    made.plan, made.memo = Plan(calendar("XNYS"), buckets=3), Memo()
    with pytest.raises(
        StateError, match="with 'XNYS midnight 16 buckets', the job has 'XNYS midnight 3 buck"
    ):
        made.take([price(OPEN + 1, 400)])


def test_no_buckets_are_refused():
    with pytest.raises(ValueError, match="0 buckets: give 1 or more"):
        Plan(calendar("XNYS"), buckets=0)

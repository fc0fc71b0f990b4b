"""Prices wait for the changes that are in force for them, in their order, and not for ever."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.tests.transforms.alerts.tables import change, close, price, table
from fibflow.transforms.alerts.hold import (
    HELD,
    KNOWN,
    Hold,
    HoldPolicy,
    split_told,
    through_of,
    with_through,
)
from fibflow.transforms.alerts.schema import ALWAYS, CHANGES, FACTS, Operator, kind_of
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.livecells import StateError

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND
AHEAD = HoldPolicy().ahead_us


class Cells:
    """Cells as bytes; a bag may come back in any order."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.bag: list[bytes] = []

    def read(self, name: str) -> bytes | None:
        assert name == KNOWN
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        self.values[name] = value

    def parts(self, name: str) -> list[bytes]:
        return random.Random(0).sample(self.bag, len(self.bag))

    def append(self, name: str, part: bytes) -> None:
        assert name == HELD
        self.bag.append(part)

    def clear(self, name: str) -> None:
        self.bag = []


class Bucket:
    """A bucket; ``now`` is the clock."""

    def __init__(self, policy: HoldPolicy | None = None) -> None:
        self.policy, self.cells, self.now = policy or HoldPolicy(), Cells(), T0 + 3600 * SECOND

    def take(self, given: pa.Table) -> list[tuple[str, list[int]]]:
        """What comes out: the kind of each table, and the times of its prices."""
        taken: list[tuple[str, list[Any]]] = []
        for each in Hold(self.policy, self.cells, self.now).take(given):
            kind = kind_of(each)
            taken.append((kind, each["ts"].to_pylist() if kind == "prices" else []))
        return taken

    def prices(self, *ts: int) -> list[int]:
        return [at for _, times in self.take(table([price(at, 1.0) for at in ts])) for at in times]

    def told(self, through: int) -> list[int]:
        kinds = self.take(with_through(CHANGES.empty_table(), through))
        assert kinds[0] == ("changes", [])
        return [at for _, times in kinds[1:] for at in times]

    def begin(self, through: int = T0) -> None:
        self.take(with_through(FACTS.empty_table(), ALWAYS))
        assert self.told(through) == []


def test_before_alerts_and_facts_are_told_prices_wait():
    bucket = Bucket()
    assert bucket.prices(T0, T0 + 1) == bucket.prices(T0 + 2) == []
    alerts = table([change(1, Operator.ABOVE, 5.0)])
    assert bucket.take(alerts) == [("changes", [])]
    assert bucket.told(T0 + SECOND) == []
    assert bucket.take(with_through(table([close(1, 5.0)]), ALWAYS)) == [
        ("facts", []),
        ("prices", [T0, T0 + 1]),
        ("prices", [T0 + 2]),
    ]
    assert bucket.cells.bag == []


def test_what_is_told_passes_and_the_rest_waits_in_its_order():
    bucket = Bucket()
    bucket.begin()
    assert bucket.prices(T0 - 5, T0 + AHEAD) == [T0 - 5, T0 + AHEAD]
    # The second one waits, and the third behind it, though it would not have to.
    assert bucket.prices(T0 + 1, T0 + AHEAD + 1, T0 + 2) == [T0 + 1]
    assert bucket.prices(T0) == []
    assert bucket.told(T0) == []
    assert bucket.told(T0 + 1) == [T0 + AHEAD + 1, T0 + 2, T0]
    assert bucket.prices(T0 + 3) == [T0 + 3]


def test_changes_do_not_wait():
    bucket = Bucket()
    bucket.begin()
    bucket.prices(T0 + 2 * AHEAD)
    assert bucket.take(table([change(1, Operator.ABOVE, 5.0)])) == [("changes", [])]
    assert bucket.take(with_through(table([change(1, Operator.ABOVE, 5.0)]), T0 + AHEAD)) == [
        ("changes", []),
        ("prices", [T0 + 2 * AHEAD]),
    ]


def test_a_price_ahead_of_the_clock_waits_for_nothing():
    bucket = Bucket()
    bucket.begin()
    assert bucket.prices(bucket.now + 1) == [bucket.now + 1]
    assert bucket.prices(bucket.now) == []


def test_nothing_waits_for_a_database_that_stays_away():
    bucket = Bucket()
    bucket.begin()
    late = T0 + 60 * SECOND
    assert bucket.prices(late) == []
    bucket.now += HoldPolicy().patience_us - 1
    assert bucket.prices(late + 1) == []
    bucket.now += 1
    assert bucket.prices(late + 2) == [late, late + 1, late + 2]
    assert bucket.prices(late + 3) == [late + 3]
    # It is back.
    assert bucket.told(late) == []
    assert bucket.prices(late + 2 * AHEAD) == []


def test_a_lake_that_stays_away_is_waited_for_once():
    bucket = Bucket()
    assert bucket.told(T0) == []
    assert bucket.prices(T0) == []
    bucket.now += HoldPolicy().patience_us - 1
    assert bucket.told(T0) == bucket.prices(T0 + 1) == []
    bucket.now += 1
    assert bucket.told(T0 + SECOND) == [T0, T0 + 1]
    assert bucket.told(T0 + 2 * SECOND) == []
    assert bucket.prices(T0 + 2) == [T0 + 2]


def test_a_new_job_waits_for_its_alerts_as_long_as_there_is_room():
    bucket = Bucket(HoldPolicy(most=3))
    assert bucket.prices(T0) == []
    bucket.now += 10 * HoldPolicy().patience_us
    assert bucket.prices(T0 + 1) == []
    assert bucket.prices(T0 + 2, T0 + 3) == [T0, T0 + 1, T0 + 2, T0 + 3]
    assert bucket.prices(T0 + 4) == [T0 + 4]


@given(
    st.lists(
        st.one_of(
            st.lists(st.integers(0, 20), min_size=1, max_size=5),
            st.integers(0, 20),
        ),
        max_size=20,
    ),
    st.integers(0, 3),
)
def test_all_prices_come_out_once_in_their_order_behind_what_they_wait_for(
    steps: list[Any], cut: int
) -> None:
    bucket = Bucket(HoldPolicy(ahead_us=cut))
    given_, found, through = [], [], -1
    bucket.take(with_through(FACTS.empty_table(), 0))
    for step in [*steps, 21]:
        if isinstance(step, list):
            given_ += [T0 + at for at in step]
            out = bucket.prices(*(T0 + at for at in step))
        else:
            through = step
            out = bucket.told(T0 + step)
        assert all(at <= T0 + through + cut for at in out)
        found += out
    assert found == given_
    assert bucket.cells.bag == []


def test_up_to_when_all_is_told_goes_to_every_bucket():
    rows = table([change(1, Operator.ABOVE, 5.0)])
    found = dict(split_told(with_through(rows, 7), 4))
    own = bucket_of("A", 4)
    assert {bucket: (len(part), through_of(part), kind_of(part)) for bucket, part in found.items()} == {
        bucket: (int(bucket == own), 7, "changes") for bucket in range(4)
    }
    ((bucket, part),) = split_told(rows, 4)
    assert (bucket, through_of(part)) == (own, None)


def test_state_of_another_release_is_refused():
    bucket = Bucket()
    bucket.begin()
    bucket.cells.values[KNOWN] = b"\x09" + bucket.cells.values[KNOWN][1:]
    with pytest.raises(StateError, match="known of alerts has format 9"):
        bucket.told(T0)

"""Tools on runs of rows, each beside a loop that says the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from numpy import array, int64

from fibflow.transforms.alerts.groups import by_place, dense_ranks, ranges, rising, run_starts

SMALL = st.integers(0, 4)


@given(st.lists(st.tuples(SMALL, SMALL)))
def test_ranges(runs: list[tuple[int, int]]):
    starts, counts = array([run[0] for run in runs], int64), array([run[1] for run in runs], int64)
    assert ranges(starts, counts).tolist() == [
        n for start, count in runs for n in range(start, start + count)
    ]


@given(st.lists(SMALL))
def test_run_starts(values: list[int]):
    told = [n for n in range(len(values)) if n == 0 or values[n] != values[n - 1]]
    assert run_starts(array(values, int64)).tolist() == told


@given(st.lists(st.tuples(SMALL, SMALL)))
def test_dense_ranks(rows: list[tuple[int, int]]):
    distinct = sorted(set(rows))
    columns = array(rows, int64).reshape(-1, 2).T
    assert dense_ranks(*columns).tolist() == [distinct.index(row) for row in rows]


@given(st.lists(st.tuples(SMALL, SMALL)))
def test_rising(rows: list[tuple[int, int]]):
    rows = sorted(rows, key=lambda row: row[0])
    told = [
        all(rank > before for own, before in rows[:n] if own == group) for n, (group, rank) in enumerate(rows)
    ]
    columns = array(rows, int64).reshape(-1, 2).T
    assert rising(*columns).tolist() == told


@given(st.lists(SMALL), st.sampled_from([4, 1 << 20]))
def test_by_place(values: list[int], most: int):
    told = sorted(range(len(values)), key=values.__getitem__)
    found = by_place(array(values, int64), most)
    assert (list(range(len(values))) if found is None else found.tolist()) == told

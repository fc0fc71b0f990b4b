from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.vendor import presence
from fibflow.io.vendor.presence import (
    ABSENT,
    AROUND,
    BUSY,
    BUSY_TRADES,
    THIN,
    Holes,
    Presence,
    holes,
    missing,
    partial,
    ranges,
    stretches,
)


def cells_of(*rows: str) -> np.ndarray:
    """A row of ``cells`` as text: ``.`` no row, ``t`` a thin one, ``B`` a busy one."""
    return np.array([[".tB".index(mark) for mark in row] for row in rows], np.uint8)


def found(cells, held=None, vouched=None, settled=None, every=False):
    width = cells.shape[1]
    held = np.ones(width, bool) if held is None else np.array([mark == "1" for mark in held])
    vouched = np.ones(width, bool) if vouched is None else np.array([mark == "1" for mark in vouched])
    settled = np.zeros(cells.shape, bool) if settled is None else settled
    got = holes(cells, held, vouched, settled, every)
    return list(zip(got.symbol.tolist(), got.position.tolist(), strict=True))


def test_a_hole_between_busy_days_is_suspect_and_between_thin_ones_not():
    assert found(cells_of("B.B", "t.t", "B.t", "t.B", "BBB", "...")) == [(0, 1)]


def test_every_hole_within_a_life_is_asked_about_where_nobody_vouches():
    cells = cells_of("....t.t", "t.t....")
    assert found(cells, vouched="1111011") == []
    assert found(cells, vouched="1011101") == [(0, 5), (1, 1)]
    assert found(cells, every=True) == [(0, 5), (1, 1)]


def test_a_busy_symbol_that_just_ended_is_suspect_and_one_that_left_is_not():
    assert found(cells_of("BB.")) == [(0, 2)]
    assert found(cells_of("tt.")) == []
    late = "B" * 10 + "." * AROUND
    assert found(cells_of(late)) == [(0, 10 + i) for i in range(AROUND)]
    assert found(cells_of(late + ".")) == []
    assert found(cells_of(".BB")) == []


def test_sessions_that_are_not_held_are_nobodys_hole():
    assert found(cells_of("B..B"), held="1011") == [(0, 2)]
    assert found(cells_of("B..B"), held="1001") == []


def test_what_is_settled_is_not_asked_again():
    settled = np.zeros((1, 4), bool)
    settled[0, 1] = True
    assert found(cells_of("B..B"), settled=settled) == [(0, 2)]


MATRIX = st.integers(1, 12).flatmap(
    lambda width: st.tuples(
        st.lists(st.lists(st.integers(0, 2), min_size=width, max_size=width), min_size=1, max_size=6),
        st.lists(st.booleans(), min_size=width, max_size=width),
        st.lists(st.booleans(), min_size=width, max_size=width),
        st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=6, max_size=6),
        st.booleans(),
    )
)


def by_hand(rows, held, vouched, settled, every):
    """The rule, cell by cell."""
    answer = []
    order = [p for p in range(len(held)) if held[p]]
    for number, row in enumerate(rows):
        life = [p for p in order if row[p] != ABSENT]
        for at, position in enumerate(order):
            if row[position] != ABSENT or settled[number][position] or not life:
                continue
            before = [p for p in life if p < position]
            after = [p for p in life if p > position]
            if before and after:
                busy = row[before[-1]] == BUSY and row[after[0]] == BUSY
                if busy or every or not vouched[position]:
                    answer.append((number, position))
            elif before:
                gone = len(order) - 1 - order.index(before[-1])
                if at >= len(order) - AROUND and gone <= AROUND and row[before[-1]] == BUSY:
                    answer.append((number, position))
    return answer


@given(MATRIX)
def test_holes_are_those_that_the_rule_names(given_):
    rows, held, vouched, settled, every = given_
    cells = np.array(rows, np.uint8)
    got = holes(
        cells, np.array(held), np.array(vouched), np.array(settled[: len(rows)]).reshape(cells.shape), every
    )
    assert list(zip(got.symbol.tolist(), got.position.tolist(), strict=True)) == by_hand(
        rows, held, vouched, settled, every
    )


def test_many_symbols_are_judged_in_blocks(monkeypatch):
    cells = np.tile(cells_of("B.B"), (10, 1))
    monkeypatch.setattr(presence, "_BLOCK", 3)
    assert found(cells) == [(i, 1) for i in range(10)]


def test_what_is_missing_of_chosen_symbols():
    got = missing(
        cells_of("B..", "..B"), np.array([True, True, False]), np.array([[0, 0, 0], [1, 0, 0]], bool)
    )
    assert list(zip(got.symbol.tolist(), got.position.tolist(), strict=True)) == [(0, 1), (1, 1)]


def test_rows_are_seen_however_they_come():
    seen = Presence(3)
    symbols = pa.chunked_array(
        [pa.array(["A", "B"]).dictionary_encode(), pa.array(["B", None, "C"]).dictionary_encode()]
    )
    seen.see(symbols, np.array([0, 1, 2, 0, -1]), pa.chunked_array([[None, 1, BUSY_TRADES, 5, 5]]))
    assert seen.names == ["A", "B", "C"]
    assert seen.cells.tolist() == [[BUSY, 0, 0], [0, THIN, BUSY], [0, 0, 0]]
    assert seen.counts().tolist() == [1, 1, 1]
    seen.see(pa.array([], pa.string()), np.zeros(0, np.int64), pa.array([], pa.int64()))
    seen.see(pa.chunked_array([], pa.string()), np.zeros(0, np.int64), pa.chunked_array([], pa.int64()))
    assert seen.counts().tolist() == [1, 1, 1]


def test_it_grows_and_forgets_nothing():
    seen = Presence(2)
    for number in range(300):
        seen.see(pa.array([f"S{number}"]), np.array([number % 2]), pa.array([99]))
    assert len(seen.names) == 300
    assert seen.counts().tolist() == [150, 150]


def test_only_chosen_symbols_count():
    seen = Presence(1, frozenset({"B", "A"}))
    seen.see(pa.array(["A", "Z"]), np.array([0, 0]), pa.array([1, 1]))
    assert seen.names == ["A", "B"]
    assert seen.cells.tolist() == [[THIN], [ABSENT]]


@pytest.mark.parametrize(
    ("counts", "parts"),
    [
        ([100, 100, 40, 100, 100], [2]),
        ([100, 100, 100, 30], [3]),
        ([30, 100, 100], [0]),
        # Where history begins to hold more, neither side is a part.
        ([5, 5, 5, 5, 500, 500, 500], []),
        # Neighbours that are parts themselves do not hide each other.
        ([100, 100, 100, 40, 40, 40, 100, 100, 100], [3, 4, 5]),
        # Nor do those that are not there at all.
        ([100, 0, 40, 0, 100], [2]),
        ([100, 95, 90, 99], []),
        ([7], []),
        ([0, 0], []),
    ],
)
def test_sessions_with_clearly_fewer_symbols_are_parts(counts, parts):
    judged = np.ones(len(counts), bool)
    assert np.flatnonzero(partial(np.array(counts), judged)).tolist() == parts
    assert not partial(np.array(counts), ~judged).any()


def test_one_range_a_symbol():
    got = ranges(Holes(np.array([1, 1, 4]), np.array([2, 7, 3])))
    assert [(r.symbol, r.first, r.last, r.wanted) for r in got] == [(1, 2, 7, (2, 7)), (4, 3, 3, (3,))]
    assert ranges(Holes(np.zeros(0, np.int64), np.zeros(0, np.int64))) == []


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_stretches_hold_what_was_asked_and_nothing_else_that_was(chosen, others):
    among = np.array(sorted(chosen | others), np.int64)
    got = stretches(np.array(sorted(chosen), np.int64), among)
    assert {p for p in among.tolist() if any(a <= p <= b for a, b in got)} == chosen
    assert all(b < c for (_, b), (c, _) in pairwise(got))
    # As few as can be: between two of them lies one that was asked and is not among them.
    assert all(any(b < p < c for p in others - chosen) for (_, b), (c, _) in pairwise(got))

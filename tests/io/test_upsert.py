from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.landing import cut
from fibflow.io.shuffle import Slice, gather, scatter_groups
from fibflow.io.storage import Storage
from fibflow.io.upsert import patched, pieces, sort_rows
from fibflow.transforms.schemas import SYMBOL

START = date(2024, 1, 1)


def rows_of(keys, value=1.0):
    """Rows of (symbol, day) with ascending values."""
    listed = list(keys)
    return pa.table(
        {
            "symbol": pa.array([symbol for symbol, _ in listed], pa.string()).cast(SYMBOL),
            "session": pa.array([START + timedelta(days=day) for _, day in listed], pa.date32()),
            "close": value + np.arange(len(listed), dtype=np.float64),
        }
    )


def plain(table):
    return [
        (row["symbol"], (row["session"] - START).days, row["close"])
        for row in table.select(["symbol", "session", "close"]).to_pylist()
    ]


KEYS = st.tuples(st.sampled_from(["A", "B", "BRK.B", "Z"]), st.integers(-20_000, 20_000))


@given(st.lists(KEYS, unique=True, min_size=1, max_size=30), st.data())
def test_patched_rows_stand_where_the_old_ones_stood(keys, data):
    stored = rows_of(sorted(keys))
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True))
    patch = rows_of(chosen, 1000.0)
    values = {row[:2]: row for row in plain(stored)} | {row[:2]: row for row in plain(patch)}
    assert plain(patched(stored, patch, "session")) == [values[key] for key in sorted(keys)]


@given(st.lists(KEYS, min_size=1, max_size=30))
def test_rows_are_sorted_by_symbol_and_time(keys):
    rows = rows_of(keys)
    assert plain(sort_rows(rows, "session")) == sorted(plain(rows), key=lambda row: row[:2])


def test_minutes_are_sorted_across_dictionaries():
    def part(symbols, minute):
        ts = pa.array([minute * 60_000_000] * len(symbols)).cast(pa.timestamp("us", "UTC"))
        return pa.table({"symbol": pa.array(symbols).cast(SYMBOL), "ts": ts})

    rows = sort_rows(pa.concat_tables([part(["Z", "A"], 2), part(["M", "Z"], 1)]), "ts")
    assert rows["symbol"].to_pylist() == ["A", "M", "Z", "Z"]
    assert rows["ts"].cast(pa.int64()).to_pylist() == [120_000_000, 60_000_000, 60_000_000, 120_000_000]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 50))
def test_pieces_are_whole_symbols_where_they_can_be(counts, target):
    rows = rows_of((f"{number:02d}", day) for number, count in enumerate(counts) for day in range(count))
    made = list(pieces(rows, target))
    assert plain(pa.concat_tables(made)) == plain(rows)
    assert all(len(piece) for piece in made)
    assert max(map(len, made)) <= 3 * target
    if max(counts) <= target // 2:
        symbols = [set(piece["symbol"].to_pylist()) for piece in made]
        assert sum(map(len, symbols)) == len(set().union(*symbols))


@pytest.mark.parametrize(
    ("rows_by_range", "target", "pieces_of_ranges"),
    [
        ({0: 10}, 100, [[0]]),
        ({0: 60, 1: 60, 2: 60}, 100, [[0], [1, 2]]),
        ({0: 50, 1: 50, 2: 50, 3: 50}, 100, [[0, 1], [2, 3]]),
        ({3: 400, 7: 1}, 100, [[3], [7]]),
    ],
)
def test_ranges_of_a_period_fill_files(rows_by_range, target, pieces_of_ranges):
    parts = [(number, Slice("p", number, 1, rows)) for number, rows in rows_by_range.items()]
    made = list(cut(("2024", reversed(parts)), target))
    assert [[part.offset for part in slices] for _, _, slices in made] == pieces_of_ranges
    assert {period for period, _, _ in made} == {"2024"}
    assert len({number for _, number, _ in made}) == len(made)


@given(st.lists(st.tuples(KEYS, st.integers(0, 4)), max_size=30))
def test_groups_come_back_with_their_rows_in_order(tmp_path_factory, listed):
    staging = Storage(str(tmp_path_factory.mktemp("staging")))
    rows = rows_of(key for key, _ in listed)
    slices = scatter_groups(rows, np.array([group for _, group in listed], np.uint16), staging, "a/b.arrow")
    assert [number for number, _ in slices] == sorted({group for _, group in listed})
    for number, part in slices:
        (found,) = gather([part], staging)
        wanted = [row for row, (_, group) in zip(plain(rows), listed, strict=True) if group == number]
        assert plain(found) == wanted
        assert part.rows == len(wanted)

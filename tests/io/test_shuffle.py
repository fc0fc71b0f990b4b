"""Rows by symbol range through spill files: nothing is lost, nothing changes, the order stays."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.shuffle import gather, range_of, scatter, scatter_groups, split_symbols
from fibflow.io.storage import Storage
from fibflow.transforms.schemas import SYMBOL

SYMBOLS = st.sampled_from(["A", "AA", "AAPL", "B", "BRK.B", "Z", "a", "é", "/"])


def table(symbols, chunks=(), dictionary=True):
    """Rows that are numbered, in chunks that each have a dictionary of their own."""
    numbers = np.arange(len(symbols))
    kind = SYMBOL if dictionary else pa.string()
    cuts = [0, *sorted(chunks), len(symbols)]
    parts = [pa.array(symbols[a:b], pa.string()) for a, b in pairwise(cuts)]
    columns = [part.dictionary_encode().cast(SYMBOL) if dictionary else part for part in parts]
    return pa.table({"number": numbers, "symbol": pa.chunked_array(columns, kind), "half": numbers / 2})


def plain(tables):
    """(symbol, number, half) of each row."""
    return [
        (row["symbol"], row["number"], row["half"])
        for part in tables
        for row in part.set_column(
            part.schema.get_field_index("symbol"), "symbol", part["symbol"].cast(pa.string())
        ).to_pylist()
    ]


@pytest.fixture
def staging(tmp_path):
    return Storage(str(tmp_path))


# Ranges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "target", "bounds"),
    [
        ({}, 10, []),
        ({"A": 5}, 10, []),
        ({"A": 5, "B": 5, "C": 5, "D": 5}, 10, ["C"]),
        ({"A": 100, "B": 1, "C": 1}, 10, ["B"]),
        ({"A": 1, "B": 100, "C": 1}, 10, ["B", "C"]),
        ({"A": 9, "B": 2}, 10, []),
        ({"A": 9, "B": 3}, 10, ["B"]),
    ],
)
def test_split_symbols(weights, target, bounds):
    assert split_symbols(weights.items(), target) == bounds


@given(weights=st.lists(st.tuples(SYMBOLS, st.integers(0, 50))), target=st.integers(1, 60))
def test_ranges_hold_about_the_target_and_each_symbol_once(weights, target):
    bounds = split_symbols(weights, target)
    assert bounds == sorted(set(bounds))
    total: dict[str, int] = {}
    for symbol, weight in weights:
        total[symbol] = total.get(symbol, 0) + weight
    held: dict[int, list[int]] = {}
    for symbol in sorted(total):
        held.setdefault(range_of(symbol, bounds), []).append(total[symbol])
    assert len(held) == len(bounds) + 1 or not weights
    for found in held.values():
        # The last symbol that still fits by half may go over.
        assert sum(found[:-1]) + found[-1] / 2 <= target or sum(1 for weight in found if weight) <= 1


@given(symbol=SYMBOLS, bounds=st.lists(SYMBOLS, unique=True).map(sorted))
def test_a_range_begins_with_its_bound(symbol, bounds):
    number = range_of(symbol, bounds)
    assert 0 <= number <= len(bounds)
    assert number == 0 or bounds[number - 1] <= symbol
    assert number == len(bounds) or symbol < bounds[number]


# Spill files -----------------------------------------------------------------------------------------------


@given(
    symbols=st.lists(SYMBOLS, max_size=30),
    chunks=st.lists(st.integers(0, 30), max_size=3),
    bounds=st.lists(SYMBOLS, unique=True).map(sorted),
    dictionary=st.booleans(),
)
def test_scatter_and_gather_give_each_range_its_rows_in_order(symbols, chunks, bounds, dictionary):
    rows = table(symbols, [min(cut, len(symbols)) for cut in chunks], dictionary)
    with tempfile.TemporaryDirectory() as folder:
        staging = Storage(folder)
        slices = scatter(rows, bounds, staging, "spill/000000.arrow")
        assert len({number for number, _ in slices}) == len(slices)
        found = {number: gather([part], staging) for number, part in slices}
        wanted: dict[int, list[tuple[str, int, float]]] = {}
        for row in plain([rows]):
            wanted.setdefault(range_of(row[0], bounds), []).append(row)
        assert {number: plain(parts) for number, parts in found.items()} == wanted
        for number, part in slices:
            (own,) = found[number]
            assert len(own) == part.rows
            # A range carries the symbols of its own part only.
            chunk: Any = own["symbol"].chunk(0)
            assert chunk.dictionary.to_pylist() == sorted({row[0] for row in wanted[number]})
            assert own.schema == rows.schema.set(1, pa.field("symbol", SYMBOL))


@given(groups=st.lists(st.integers(0, 5), max_size=30), kind=st.sampled_from([np.uint8, np.uint16, np.int64]))
def test_groups_of_rows(groups, kind):
    rows = table(["AB"[number % 2] for number in range(len(groups))])
    with tempfile.TemporaryDirectory() as folder:
        staging = Storage(folder)
        slices = scatter_groups(rows, np.array(groups, kind), staging, "spill/g.arrow")
        assert [number for number, _ in slices] == sorted(set(groups))
        for number, part in slices:
            own = [row[1] for row in plain(gather([part], staging))]
            assert own == [place for place, group in enumerate(groups) if group == number]


def test_no_rows_are_no_file(staging, tmp_path):
    assert scatter(table([]), ["B"], staging, "spill/0.arrow") == []
    assert scatter_groups(table([]), np.zeros(0, np.uint16), staging, "spill/0.arrow") == []
    assert list(tmp_path.iterdir()) == []


def test_slices_are_gathered_in_the_order_of_their_files(staging):
    slices = []
    for name, symbols in (("b", ["A", "B"]), ("a", ["B", "A", "B"])):
        slices += [part for _, part in scatter(table(symbols), ["B"], staging, f"spill/{name}.arrow")]
    found = gather(reversed(slices), staging)
    assert [row[:2] for row in plain(found)] == [("A", 1), ("B", 0), ("B", 2), ("A", 0), ("B", 1)]


def test_scatter_and_gather_in_a_bucket(s3):
    staging = Storage(s3.uri("staging"), s3.aws)
    rows = table(["B", "A", "C", "A"])
    slices = scatter(rows, ["B", "C"], staging, "spill/0.arrow")
    assert [(number, part.path, part.rows) for number, part in slices] == [
        (0, "spill/0.arrow", 2),
        (1, "spill/0.arrow", 1),
        (2, "spill/0.arrow", 1),
    ]
    assert plain(gather([part for _, part in slices], staging)) == [
        ("A", 1, 0.5),
        ("A", 3, 1.5),
        ("B", 0, 0.0),
        ("C", 2, 1.0),
    ]

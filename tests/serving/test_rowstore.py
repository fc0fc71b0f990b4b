"""Point reads from decoded rows are those of the files."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import datafiles, tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.readbars import LakeReader, View
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.serving.history import rowstore
from fibflow.serving.history.keptsnapshot import KeptSnapshot
from fibflow.serving.history.records import Layout
from fibflow.serving.history.rowstore import RowStore
from fibflow.tests.io.test_readbars import Tables, bar, until
from fibflow.transforms.schemas import BARS

SYMBOLS = ("A", "BRK.B", "Ω")
TIMEFRAMES = ("5d", "1h")


def stored(rng: np.random.Generator, symbols: tuple[str, ...], times: list[int], nulls: bool) -> pa.Table:
    """Rows of ``silver.bars`` of some symbols at the same times, as files hold them."""
    keys = [(symbol, ts) for symbol in symbols for ts in sorted(times)]
    n = len(keys)
    columns: dict[str, Any] = {
        "symbol": [symbol for symbol, _ in keys],
        "ts": pa.array([ts * 3_600_000_000 for _, ts in keys], pa.int64()),
        "end": pa.array([(ts + 1) * 3_600_000_000 for _, ts in keys], pa.int64()),
        "complete": [bool(flag) for flag in rng.integers(0, 2, n)],
        "final": [bool(flag) for flag in rng.integers(0, 2, n)],
        "trade_count": [int(v) if not nulls or v % 3 else None for v in rng.integers(0, 99, n)],
        "vwap": [float(v) if not nulls or v > 0.3 else None for v in rng.random(n)],
        "revision": [int(v) for v in rng.integers(0, 5, n)],
        "sessions": [1] * n,
    }
    columns |= {name: rng.random(n) for name in ("open", "high", "low", "close", "volume")}
    schema = tables.BARS.file_schema
    arrays = []
    for field in schema:
        values = columns[field.name]
        values = values if isinstance(values, pa.Array) else pa.array(values)
        arrays.append(values.cast(field.type))
    return pa.table(arrays, schema=schema)


FILES = st.lists(
    st.tuples(
        st.sampled_from(TIMEFRAMES),
        st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=3, unique=True),
        st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
BOUND = st.none() | st.integers(0, 62).map(lambda hour: hour * 3_600_000_000)


def make(lake: Lake, files: list, seed: int) -> Snapshot:
    table, rng = lake.table(tables.BARS), np.random.default_rng(seed)
    written = [
        table.writer().write(
            stored(rng, tuple(sorted(symbols)), times, nulls),
            {"timeframe": name, "period": "all"},
            f"f{number}",
        )
        for number, (name, symbols, times, nulls) in enumerate(files)
    ]
    table.commit(written, base_version=-1, scope=Scope(), run="run")
    return table.snapshot()


@settings(max_examples=15, deadline=None)
@given(
    FILES,
    BOUND,
    BOUND,
    st.integers(1, 15),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
    st.sampled_from([3, 99]),
)
def test_reads_are_those_of_the_files(
    tmp_path_factory, files, start, stop, n, first, complete, seed, group_rows
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datafiles, "ROW_GROUP_ROWS", group_rows)
        plain = make(Lake(str(tmp_path_factory.mktemp("lake"))), files, seed)
    kept = KeptSnapshot(plain, RowStore())
    for timeframe in {name for name, *_ in files}:
        where = {"timeframe": timeframe, **({"complete": True} if complete else {})}
        for symbol in (*SYMBOLS, "ZZ"):
            ends = [s.tail(n, symbol, None, where, start, stop, first)[0] for s in (kept, plain)]
            # Of rows with one time any may be the one: keys of a table are unique, those here are not.
            assert ends[0]["ts"].equals(ends[1]["ts"])
            whole = [s.read(None, symbol, start, stop, where)[0] for s in (kept, plain)]
            assert rows_of(whole[0]) == rows_of(whole[1])
            assert whole[0].schema.equals(whole[1].schema)
            assert kept.may_hold(symbol, timeframe) >= bool(len(whole[1]) and start is None and stop is None)
        some = [s.read(["close", "ts"], ["A", "BRK.B"], start, stop, where)[0] for s in (kept, plain)]
        assert rows_of(some[0]) == rows_of(some[1])
    everything = [s.read(None, None, start, stop)[0] for s in (kept, plain)]
    assert everything[0].equals(everything[1])


def rows_of(table: pa.Table) -> list[dict]:
    return sorted(table.to_pylist(), key=repr)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["batch", "live", "live"]), st.lists(st.integers(0, 30), min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(
    STEPS, st.integers(0, 20), st.integers(0, 32), st.integers(0, 32), st.integers(1, 12), st.integers(0, 99)
)
def test_bars_of_batch_and_stream_are_the_same_from_the_store(
    tmp_path_factory, steps, covered, start, stop, n, seed
):
    rng = np.random.default_rng(seed)
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    both = Tables(lake)
    official: dict[tuple[str, int], dict] = {}
    for kind, numbers in steps:
        rows = {
            (symbol, number): bar(symbol, 5 * number, float(rng.random()), revision=int(rng.integers(0, 9)))
            for symbol in "AB"
            for number in numbers
        }
        if kind == "live":
            both.live(*rows.values())
        else:
            official |= rows
    if official:
        both.batch(*official.values(), covers={"5m": ((None, until(5 * covered)),)})
    plain = LakeReader(lake).view()
    store = RowStore()
    kept = View(
        *(None if table is None else KeptSnapshot(table, store) for table in (plain.bars, plain.live))
    )
    for symbol in "ABC":
        for first in (True, False):
            asked = ("5m", n, BARS.names, False, until(5 * start), until(5 * stop), first)
            assert kept.last(symbol, *asked).equals(plain.last(symbol, *asked))
            assert kept.last(symbol, "5m", n, BARS.names, first=first).equals(
                plain.last(symbol, "5m", n, BARS.names, first=first)
            )
    for symbols in ("A", ["A", "B"], None):
        bounds = until(5 * start), until(5 * stop)
        found = [view.read(BARS.names, symbols, "5m", *bounds) for view in (kept, plain)]
        assert found[0].equals(found[1])


@pytest.fixture
def plain(tmp_path):
    return make(Lake(str(tmp_path)), [("5d", ["A", "B"], list(range(20)), True)], 1)


def test_a_file_is_decoded_once_and_not_needed_any_more(plain):
    store = RowStore()
    kept = KeptSnapshot(plain, store)
    before = kept.tail(5, "A", None, {"timeframe": "5d"})[0]
    store.settle()
    for file in plain.select():
        os.unlink(plain.storage.path(file.path))  # noqa: PTH108 - a path of the storage's
    assert kept.tail(5, "A", None, {"timeframe": "5d"})[0].equals(before)
    assert len(kept.tail(50, "B", None, {"timeframe": "5d"})[0]) == 20
    with pytest.raises(LakeError, match="cannot read"):
        KeptSnapshot(plain, RowStore()).tail(5, "A", None, {"timeframe": "5d"})


def test_rows_that_are_not_sorted_are_read_from_their_file(tmp_path):
    lake = Lake(str(tmp_path))
    table, rng = lake.table(tables.BARS), np.random.default_rng(2)
    rows = stored(rng, ("A", "B"), list(range(9)), False)
    upside = rows.take(pa.array(list(range(len(rows)))[::-1]))
    table.commit(
        [table.writer().write(upside, {"timeframe": "5d", "period": "all"}, "f")],
        base_version=-1,
        scope=Scope(),
        run="run",
    )
    snapshot = table.snapshot()
    store = RowStore()
    kept = KeptSnapshot(snapshot, store)
    assert store.rows(snapshot.storage, snapshot.spec, snapshot.select()[0], ["A"], None, None) is None
    assert kept.tail(3, "B", None, {"timeframe": "5d"})[0].equals(
        snapshot.tail(3, "B", None, {"timeframe": "5d"})[0]
    )


def test_a_full_store_begins_anew(plain):
    kept = KeptSnapshot(plain, RowStore(most_bytes=1_000))
    expected = {symbol: plain.tail(9, symbol, None, {"timeframe": "5d"})[0] for symbol in "AB"}
    for _ in range(3):
        for symbol in "AB":
            assert kept.tail(9, symbol, None, {"timeframe": "5d"})[0].equals(expected[symbol])


def test_without_room_on_the_disk_rows_are_decoded_anew(plain, monkeypatch):
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    store = RowStore()
    kept = KeptSnapshot(plain, store)
    expected = plain.tail(9, "A", None, {"timeframe": "5d"})[0]
    # What is forgotten is not counted any more.
    monkeypatch.setattr(rowstore, "_PLACES", 1_000)
    for _ in range(20):
        assert kept.tail(9, "A", None, {"timeframe": "5d"})[0].equals(expected)
        store.settle()
    assert store._places == 0


def test_many_threads_read_at_once(plain):
    kept = KeptSnapshot(plain, RowStore())
    expected = {symbol: plain.tail(9, symbol, None, {"timeframe": "5d"})[0] for symbol in "AB"}
    with ThreadPoolExecutor(8) as pool:
        asked = ["A", "B"] * 50
        found = list(pool.map(lambda symbol: kept.tail(9, symbol, None, {"timeframe": "5d"})[0], asked))
    assert all(table.equals(expected[symbol]) for symbol, table in zip(asked, found, strict=True))


def test_tables_with_texts_are_not_kept():
    assert Layout.of(tables.TICKS) is None
    assert Layout.of(tables.LEDGER) is None
    for spec in (tables.BARS, tables.LIVE, tables.DAILY, tables.MINUTES):
        assert Layout.of(spec) is not None

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fibflow.benchmarks import history
from fibflow.benchmarks.history import PRICES, Parameters

SMALL = Parameters(symbols=12, rows=9_000, first="2015-01-02")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    assert history.generate(folder, SMALL)
    return folder


def read(files) -> pa.Table:
    return pa.concat_tables([pq.read_table(file, partitioning=None) for file in sorted(files)])


def test_the_full_size_is_the_predecessors():
    assert Parameters.at_scale(1.0) == Parameters(5_350, 22_609_541)
    assert Parameters.at_scale(0.1) == Parameters(535, 2_260_954)
    sessions = history.exchange_sessions()
    assert (str(sessions[0]), str(sessions[-1])) == ("1962-01-02", "2025-10-03")


@pytest.mark.parametrize(
    ("symbols", "rows", "sessions"),
    [(5_350, 22_609_541, 16_047), (1, 5, 100), (1, 100, 100), (10, 50, 100), (10, 1_000, 100), (7, 333, 100)],
)
def test_row_counts_sum_up_exactly(symbols, rows, sessions):
    counts = history.row_counts(np.random.default_rng(1), symbols, rows, sessions)
    assert counts.sum() == rows
    assert counts.min() >= history.MIN_ROWS
    assert counts.max() <= sessions


@pytest.mark.parametrize("rows", [4, 49, 1_001])
def test_row_counts_that_cannot_be_are_refused(rows):
    with pytest.raises(ValueError, match=f"{rows} rows do not fit 10 symbols"):
        history.row_counts(np.random.default_rng(1), 10, rows, 100)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rows", [5, 60, 99, 100])
@pytest.mark.parametrize("alive", [True, False])
def test_traded_sessions_are_distinct_and_inside(seed, rows, alive):
    index = history.traded_sessions(np.random.default_rng(seed), rows, 100, alive)
    assert len(index) == rows
    assert (np.diff(index) > 0).all()
    assert index[0] >= 0
    assert index[-1] == 99 if alive else index[-1] <= 99


def same_in(both: pa.Table, name: str) -> int:
    mine, fixed = both[name].to_numpy(), both[f"{name}_fixed"].to_numpy()
    return int((mine == fixed).sum())


def test_both_layouts_hold_the_same_valid_rows(small):
    by_symbol = read(small.glob("by_symbol/symbol=*/data.parquet"))
    by_year = read(small.glob("by_year/year=*/data.parquet"))
    order: Any = [("symbol", "ascending"), ("timestamp", "ascending")]
    assert by_symbol.num_rows == SMALL.rows
    assert by_symbol.equals(by_symbol.sort_by(order))
    assert by_year.equals(by_year.sort_by(order[::-1]))
    assert by_symbol.equals(by_year.sort_by(order))
    assert by_symbol.group_by(["symbol", "timestamp"]).aggregate([]).num_rows == SMALL.rows
    days = by_symbol["timestamp"].cast(pa.date32()).to_numpy()
    assert set(days) == set(history.exchange_sessions(SMALL.first, SMALL.last))
    assert by_symbol["timestamp"].type == pa.timestamp("us", "UTC")
    assert by_symbol["volume"].type == pa.int64()
    assert pc.unique(by_symbol["interval"]).to_pylist() == ["1d"]
    assert len(pc.unique(by_symbol["symbol"])) == SMALL.symbols


@pytest.mark.parametrize("files", ["symbol=*/data.parquet", "corrections.parquet"])
def test_prices_are_cents_and_in_order(small, files):
    table = read((small / "by_symbol").glob(files))
    prices = {name: table[name].to_numpy() for name in PRICES}
    assert (prices["low"] > 0).all()
    assert (prices["low"] <= np.minimum(prices["open"], prices["close"])).all()
    assert (prices["high"] >= np.maximum(prices["open"], prices["close"])).all()
    for values in prices.values():
        assert (values == np.round(values * 100) / 100).all()
    assert pc.min(table["volume"]).as_py() > 0


def test_corrections_win_by_their_time_and_mostly_differ(small):
    main = read(small.glob("by_symbol/symbol=*/data.parquet"))
    for layout in history.LAYOUTS:
        path = small / layout / "corrections.parquet"
        others = list((small / layout).rglob("data.parquet"))
        assert {file.stat().st_mtime for file in others} == {history.MTIME}
        assert path.stat().st_mtime == history.MTIME + history.DAY_S
        fixes = pq.read_table(path)
        assert fixes.num_rows == SMALL.rows // 100
        both = main.join(fixes, ["symbol", "timestamp"], join_type="inner", right_suffix="_fixed")
        assert both.num_rows == fixes.num_rows
        same = same_in(both, "close")
        assert 0 < same < fixes.num_rows / 2
        assert same_in(both, "volume") == same


def test_the_same_parameters_give_the_same_bytes(small, tmp_path):
    history.generate(tmp_path, SMALL, threads=1)
    files = sorted(path.relative_to(small) for path in small.rglob("*.parquet"))
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.parquet"))
    assert all((small / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_a_history_is_made_once_and_replaced_by_another(tmp_path):
    first = Parameters(symbols=3, rows=100, first="2024-01-02")
    second = Parameters(symbols=2, rows=50, first="2024-01-02")
    assert history.generate(tmp_path, first)
    assert not history.generate(tmp_path, first)
    assert history.generate(tmp_path, second)
    assert json.loads((tmp_path / "history.json").read_text())["symbols"] == 2
    assert len(list(tmp_path.glob("by_symbol/symbol=*"))) == 2

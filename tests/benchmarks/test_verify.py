import subprocess
import sys
from collections import defaultdict
from datetime import date
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from fibflow.benchmarks import contestants, history, verify, windows
from fibflow.benchmarks.history import Parameters

SCRIPTS = Path(contestants.__file__).parent
NEWEST = date(2001, 3, 2)
FIELDS: list[tuple[str, pa.DataType]] = [
    ("symbol", pa.string()),
    ("ts", pa.timestamp("us", "UTC")),
    ("end", pa.timestamp("us", "UTC")),
    *((name, pa.float64()) for name in ("open", "high", "low", "close", "volume", "vwap")),
    ("trade_count", pa.int64()),
    ("sessions", pa.int32()),
    ("complete", pa.bool_()),
    ("final", pa.bool_()),
    ("revision", pa.int32()),
]
SCHEMA = pa.schema(FIELDS)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    history.generate(folder, Parameters(symbols=6, rows=2_000, first="1998-12-01", last=NEWEST.isoformat()))
    windows.write(folder / "windows.parquet", NEWEST)
    return folder


@cache
def brute_force(data: Path, anchor: str, n: int) -> pa.Table:
    """The bars of ``<n>d``, row by row."""
    days = windows.windows(NEWEST).select(["session", "index", "start", "end", "ended"])
    calendar = {row["session"]: row for row in days.slice(len(days) - 1_000).to_pylist()}
    by_index = {row["index"]: row for row in calendar.values()}
    latest = {}
    for path in [*data.glob("by_year/*/data.parquet"), data / "by_year" / "corrections.parquet"]:
        for row in pq.read_table(path, partitioning=None).to_pylist():
            latest[row["symbol"], row["timestamp"].date()] = row
    symbols = defaultdict(list)
    for (symbol, day), row in sorted(latest.items()):
        symbols[symbol].append((calendar[day]["index"], row))
    bars = []
    for symbol, rows in symbols.items():
        groups = defaultdict(list)
        for place, (index, row) in enumerate(rows):
            position = {"exchange": index, "listing": index - rows[0][0], "rows": place}[anchor]
            groups[position // n].append((index, row))
        for group, members in groups.items():
            first, last = members[0][0], members[-1][0]
            if anchor != "rows":
                first = group * n + (rows[0][0] if anchor == "listing" else 0)
                last = first + n - 1
            complete = len(members) == n if anchor == "rows" else by_index[last]["ended"]
            bars.append(
                {
                    "symbol": symbol,
                    "ts": by_index[first]["start"],
                    "end": by_index[last]["end"],
                    "open": members[0][1]["open"],
                    "high": max(row["high"] for _, row in members),
                    "low": min(row["low"] for _, row in members),
                    "close": members[-1][1]["close"],
                    "volume": float(sum(row["volume"] for _, row in members)),
                    "sessions": len(members),
                    "complete": complete,
                    "final": complete,
                    "revision": 0,
                }
            )
    return pa.Table.from_pylist(bars, SCHEMA)


def write(bars: pa.Table, out: Path, n: int) -> None:
    (out / f"{n}d").mkdir(parents=True)
    pq.write_table(bars, out / f"{n}d" / "data.parquet")


@pytest.mark.parametrize("layout", history.LAYOUTS)
@pytest.mark.parametrize("anchor", verify.ANCHORS)
def test_the_query_agrees_with_brute_force(data, tmp_path, layout, anchor):
    for n in (3, 34):
        write(brute_force(data, anchor, n), tmp_path, n)
    found = verify.verify(data / layout, anchor, data / "windows.parquet", tmp_path, (3, 34))
    assert all(comparison.equal for comparison in found)
    assert [comparison.timeframe for comparison in found] == ["3d", "34d"]
    assert all(comparison.expected == comparison.found > 0 for comparison in found)


@pytest.mark.parametrize("column", SCHEMA.names)
def test_one_differing_value_is_found(data, tmp_path, column):
    bars = brute_force(data, "exchange", 8).to_pylist()
    changes = {"symbol": "?", "vwap": 1.0, "trade_count": 1, "revision": 1}
    old = bars[7][column]
    if column in ("ts", "end"):
        new = old.replace(minute=1)
    elif column in ("complete", "final"):
        new = not old
    else:
        new = changes[column] if column in changes else old + 1
    bars[7][column] = new
    write(pa.Table.from_pylist(bars, SCHEMA), tmp_path, 8)
    (found,) = verify.verify(data / "by_year", "exchange", data / "windows.parquet", tmp_path, (8,))
    assert (found.missing, found.unexpected) == (1, 1)


def test_a_row_that_is_there_twice_is_found(data, tmp_path):
    bars = brute_force(data, "rows", 5)
    write(pa.concat_tables([bars, bars.slice(3, 1)]), tmp_path, 5)
    (found,) = verify.verify(data / "by_symbol", "rows", data / "windows.parquet", tmp_path, (5,))
    assert (found.missing, found.unexpected) == (0, 1)


def test_a_lakes_current_version_is_read(data, tmp_path):
    bars = brute_force(data, "exchange", 13)
    for rows in (bars.slice(0, 5), bars):
        keys = {"timeframe": pa.repeat("13d", len(rows)), "period": pa.repeat("all", len(rows))}
        for name, values in keys.items():
            rows = rows.append_column(name, values)
        table = tmp_path / "silver.bars"
        write_deltalake(str(table), rows, partition_by=list(keys), mode="overwrite")
    (found,) = verify.verify(data / "by_year", "exchange", data / "windows.parquet", tmp_path, (13,))
    assert found.equal


def test_nothing_to_compare_is_one_line(data, tmp_path, capsys):
    arguments = [str(data / "by_year"), "rows", str(tmp_path), "--windows", str(data / "windows.parquet")]
    assert verify.main(arguments) == 2
    assert capsys.readouterr().err.startswith("verify: no bars of 3d below")


@pytest.mark.parametrize("script", ["duckdb_bars.py", "polars_bars.py"])
@pytest.mark.parametrize(
    ("layout", "anchor"),
    [("by_symbol", "exchange"), ("by_year", "exchange"), ("by_symbol", "rows"), ("by_year", "listing")],
)
def test_contestants_make_the_same_bars(data, tmp_path, script, layout, anchor):
    arguments = [
        str(data / layout),
        anchor,
        str(tmp_path / "out"),
        "--windows",
        str(data / "windows.parquet"),
    ]
    subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], check=True)
    found = verify.verify(data / layout, anchor, data / "windows.parquet", tmp_path / "out")
    assert all(comparison.equal for comparison in found)
    assert len(found) == 6


def test_the_floor_reads_the_input_and_writes_the_prepared_bars(data, tmp_path):
    for n in windows.LENGTHS:
        write(brute_force(data, "rows", n), tmp_path / "bars", n)
    floor = [
        sys.executable,
        str(SCRIPTS / "floor.py"),
        str(data / "by_symbol"),
        "rows",
        str(tmp_path / "out"),
    ]
    floor += ["--prepared", str(tmp_path / "prepared")]
    subprocess.run([*floor, "--prepare", str(tmp_path / "bars")], check=True)
    subprocess.run(floor, check=True)
    found = verify.verify(data / "by_symbol", "rows", data / "windows.parquet", tmp_path / "out")
    assert all(comparison.equal for comparison in found)

import csv
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.bars import BarReader
from fibflow.io.files import InputError
from fibflow.io.lake import Lake, LakeError
from fibflow.io.silver import Silver
from fibflow.pipelines import compare, inspect
from fibflow.pipelines.cli import UsageError
from fibflow.tests.io.barlakes import XNYS, commit_bars, daily_rows, make_bars
from fibflow.tests.io.silverfiles import silver_bars, write_silver
from fibflow.transforms.timeframe import Anchor

ROWS = daily_rows(
    {
        "A": ("2022-12-01", "2023-12-29"),
        "B": ("2023-03-01", "2023-09-12"),
        # Two rows: never a whole window.
        "C": ("2023-06-01", "2023-06-02"),
    }
)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def silver(tmp_path):
    return tmp_path / "silver"


def fill(lake, rows=ROWS, timeframes="3d,8d", complete_only=False):
    commit_bars(
        lake, make_bars(rows, timeframes, Anchor.ROWS, complete_only=complete_only), anchor=Anchor.ROWS
    )


def found(silver, lake, timeframe="3d", tolerance=0.0):
    """The summary and the differences as dictionaries, in order."""
    reader = BarReader(lake)
    summary, tables = compare.compare(
        Silver(str(silver)), reader.snapshot(), timeframe, reader.calendar, tolerance
    )
    rows: list[dict[str, Any]] = [row for table in tables for row in table.to_pylist()]
    return summary, rows


def kinds(summary):
    return {kind: n for kind, n in summary.kinds.items() if n}


def replaced(bars, at, **values):
    """The bars with other values in row ``at``."""
    rows = bars.to_pylist()
    rows[at] |= values
    return pa.Table.from_pylist(rows, bars.schema)


def test_bars_by_row_number_are_equal(lake, silver):
    fill(lake)
    for n in (3, 8):
        write_silver(silver, silver_bars(ROWS, n), f"{n}d")
    for timeframe in Silver(str(silver)).timeframes:
        summary, rows = found(silver, lake, timeframe)
        assert rows == []
        assert summary.is_equal()
        assert summary.there == summary.here == summary.equal > 40
    assert inspect.run(["--lake", str(lake.uri), "compare", "--silver", str(silver)]) == 0


def test_differing_values_are_told_by_column(lake, silver):
    fill(lake)
    bars = silver_bars(ROWS, 3)
    old = bars.slice(5, 1).to_pylist()[0]
    write_silver(silver, replaced(bars, 5, close=old["close"] + 1, volume=None), "3d")
    summary, rows = found(silver, lake)
    common = {"timeframe": "3d", "symbol": "A", "session": old["ts"], "kind": "differs"}
    assert rows == [
        {**common, "column": "close", "there": old["close"] + 1, "here": old["close"]},
        {**common, "column": "volume", "there": None, "here": old["volume"]},
    ]
    assert kinds(summary) == {"differs": 1}
    assert (summary.columns["close"], summary.columns["volume"], summary.columns["open"]) == (1, 1, 0)
    assert summary.equal == summary.here - 1
    assert not summary.is_equal(ignore_trailing=True)


def test_a_tolerance_passes_over_rounding(lake, silver):
    fill(lake)
    bars = silver_bars(ROWS, 3)
    close = bars["close"][5].as_py()
    write_silver(silver, replaced(bars, 5, close=np.nextafter(close, 100)), "3d")
    assert kinds(found(silver, lake)[0]) == {"differs": 1}
    assert found(silver, lake, tolerance=1e-12)[0].is_equal()


def test_a_bar_on_one_side_only(lake, silver):
    fill(lake)
    bars = silver_bars(ROWS, 3)
    missing, extra = bars["ts"][7].as_py(), date(2019, 1, 2)
    write_silver(silver, replaced(bars, 7, ts=extra), "3d")
    summary, rows = found(silver, lake)
    assert [(row["kind"], row["symbol"], row["session"], row["column"]) for row in rows] == [
        ("only_there", "A", extra, None),
        ("only_here", "A", missing, None),
    ]
    assert kinds(summary) == {"only_there": 1, "only_here": 1}


def test_a_missing_symbol_is_no_trailing_window(lake, silver):
    fill(lake, ROWS.filter(pc.field("symbol") != "A"))
    write_silver(silver, silver_bars(ROWS, 3), "3d")
    summary, _ = found(silver, lake)
    assert kinds(summary) == {"only_there": summary.there - summary.here}


def test_further_rows_of_one_bar(lake, silver):
    fill(lake)
    bars = silver_bars(ROWS, 3)
    again = replaced(bars.slice(4, 1), 0, close=1.0)
    # The later row counts.
    write_silver(silver, pa.concat_tables([again, bars]), "3d")
    summary, rows = found(silver, lake)
    assert kinds(summary) == {"duplicate_there": 1}
    assert (summary.there, summary.equal) == (len(bars) + 1, len(bars))
    assert rows[0]["session"] == bars["ts"][4].as_py()


@pytest.mark.parametrize(
    ("complete_there", "complete_here", "kind"),
    [(True, False, "trailing_only_here"), (False, True, "trailing_only_there")],
)
def test_trailing_windows_that_a_side_leaves_out_are_named(lake, silver, complete_there, complete_here, kind):
    fill(lake, complete_only=complete_here)
    write_silver(silver, silver_bars(ROWS, 8, complete_there), "8d")
    summary, rows = found(silver, lake, "8d")
    partial = pc.sum(make_bars(ROWS, "8d", Anchor.ROWS)[0]["complete"].cast(pa.int8())).as_py()
    assert kinds(summary) == {kind: summary.equal + len(rows) - partial}
    assert {row["symbol"] for row in rows} == {"A", "B", "C"}
    assert not summary.is_equal()
    assert summary.is_equal(ignore_trailing=True)


def test_a_history_that_ends_earlier_differs_in_its_trailing_window(lake, silver):
    rows = ROWS.filter(pc.field("symbol") == "A")
    fill(lake, rows)
    write_silver(silver, silver_bars(rows.slice(0, len(rows) - 20), 8), "8d")
    summary, _ = found(silver, lake, "8d")
    assert kinds(summary) == {"trailing_differs": 1, "only_here": 1, "trailing_only_here": 1}


def test_a_lake_that_ends_earlier(lake, silver):
    rows = ROWS.filter(pc.field("symbol") == "A")
    fill(lake, rows.slice(0, len(rows) - 20))
    write_silver(silver, silver_bars(rows, 8), "8d")
    summary, _ = found(silver, lake, "8d")
    assert kinds(summary) == {"trailing_differs": 1, "only_there": 2}


KEYS = st.tuples(st.sampled_from("AB"), st.integers(0, 30))
SIDES = st.dictionaries(KEYS, st.integers(1, 3), max_size=30)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES.filter(bool))
def test_as_a_plain_comparison(tmp_path_factory, there, here):
    place = tmp_path_factory.mktemp("case")
    start = int(np.searchsorted(XNYS.days, np.datetime64("2023-01-03", "D").astype(np.int32)))
    first = date(1970, 1, 1)

    def session(number):
        return first + timedelta(days=int(XNYS.days[start + number]))

    def table(side):
        keys = sorted(side)
        prices = pa.array([float(side[key]) for key in keys], pa.float64())
        symbols = pa.array([key[0] for key in keys], pa.string())
        days = pa.array([session(key[1]) for key in keys], pa.date32())
        values = ("open", "high", "low", "close", "volume")
        return pa.table({"symbol": symbols, "ts": days, **dict.fromkeys(values, prices)})

    path = place / "silver" / "silver_3d" / "all.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table(there), path)
    lake = Lake(str(place / "lake"))
    bars = make_bars(daily_rows({"A": ("2022-12-01", "2022-12-02")}), "3d", Anchor.ROWS)[0]
    template = bars.slice(0, 1).to_pylist()[0]
    made = []
    for key in sorted(here):
        at = datetime.fromisoformat("1970-01-01T00:00+00:00") + timedelta(
            microseconds=int(XNYS.day_starts[start + key[1]])
        )
        value = float(here[key])
        made.append(
            template
            | {"symbol": key[0], "ts": at, "open": value, "high": value, "low": value, "close": value}
            | {"volume": value, "complete": False}
        )
    commit_bars(lake, [pa.Table.from_pylist(made, bars.schema)], anchor=Anchor.ROWS)
    summary, rows = found(place / "silver", lake)
    # Every window of the lake is open here, so that all that it has is trailing.
    expected = {
        "only_there": {key for key in there if key not in here},
        "trailing_only_here": {key for key in here if key not in there},
        "trailing_differs": {key for key in here if there.get(key, here[key]) != here[key]},
    }
    numbers = {session(number): number for number in range(31)}
    for kind, keys in expected.items():
        assert summary.kinds[kind] == len(keys)
        assert {(r["symbol"], numbers[r["session"]]) for r in rows if r["kind"] == kind} == keys
    assert summary.equal == sum(there.get(key) == value for key, value in here.items())
    assert summary.is_equal() == (there == here)


# --- the command line --------------------------------------------------------------------------------


def test_differences_go_to_a_file(lake, silver, tmp_path, capsys):
    fill(lake)
    for n in (3, 8):
        bars = silver_bars(ROWS, n)
        write_silver(silver, replaced(bars, 2, high=99.0, low=1.0), f"{n}d")
    arguments = ["--lake", str(lake.uri), "compare", "--silver", str(silver), "--timeframes", "3d,8d"]
    assert inspect.run([*arguments, "--output", str(tmp_path / "diff.csv")]) == 1
    printed = capsys.readouterr().out
    assert "in high" in printed
    assert "the first 4 differences" in printed
    with (tmp_path / "diff.csv").open() as source:
        rows = list(csv.DictReader(source))
    assert [(row["timeframe"], row["column"], row["there"]) for row in rows] == [
        ("3d", "high", "99"),
        ("3d", "low", "1"),
        ("8d", "high", "99"),
        ("8d", "low", "1"),
    ]
    assert inspect.run([*arguments, "--show", "0", "--output", str(tmp_path / "diff.parquet")]) == 1
    assert "the first" not in capsys.readouterr().out
    table = pq.read_table(tmp_path / "diff.parquet")
    assert table.schema.field("symbol").type == pa.string()
    assert table["session"].to_pylist() == [date.fromisoformat(row["session"]) for row in rows]


def test_trailing_windows_count_unless_ignored(lake, silver):
    fill(lake)
    write_silver(silver, silver_bars(ROWS, 8, complete_only=True), "8d")
    arguments = ["--lake", str(lake.uri), "compare", "--silver", str(silver)]
    assert inspect.run(arguments) == 1
    assert inspect.run([*arguments, "--ignore-trailing"]) == 0


def test_another_anchor_is_refused(lake, silver):
    commit_bars(lake, make_bars(ROWS, "3d"))
    write_silver(silver, silver_bars(ROWS, 3), "3d")
    arguments = ["--lake", str(lake.uri), "compare", "--silver", str(silver)]
    with pytest.raises(UsageError, match="have the anchor exchange, the predecessor's have rows"):
        inspect.run(arguments)
    assert inspect.run([*arguments, "--anchor", "exchange"]) == 1


def test_timeframes_that_a_side_lacks(lake, silver):
    fill(lake)
    write_silver(silver, silver_bars(ROWS, 3), "3d")
    arguments = ["--lake", str(lake.uri), "compare", "--silver", str(silver)]
    with pytest.raises(InputError, match="no folder silver_8d; there are 3d"):
        inspect.run([*arguments, "--timeframes", "8d"])
    write_silver(silver, silver_bars(ROWS, 5), "5d")
    with pytest.raises(LakeError, match=r"no 5d bars in this lake: make them with pipelines\.batch"):
        inspect.run(arguments)

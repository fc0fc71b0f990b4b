from __future__ import annotations

import json
import shutil
import tempfile
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibflow.io import tables
from fibflow.io.files import InputError
from fibflow.pipelines import load
from fibflow.tests.pipelines.raws import DAYS, Bronze, Raw, Row, expected, rows_of, table_of

A, B = rows_of("A", DAYS, 10.0), rows_of("B", DAYS[2:], 500.0)
VALUES = {row.key: row.value for row in A + B}


def by_symbol(raw):
    raw.put("symbol=A/data.parquet", A)
    raw.put("symbol=B/data.parquet", B)


def by_day(raw):
    for day in DAYS:
        raw.put(f"{day}.parquet", [row for row in A + B if row.day == day])


def by_symbol_and_day(raw):
    raw.put("symbol=A/data.parquet", A[:-1])
    raw.put(f"symbol=A/date={DAYS[-1]}.parquet", A[-1:])
    raw.put("symbol=B/data.parquet", B)


def by_month(raw):
    for month in {(day.year, day.month) for day in DAYS}:
        rows = [row for row in A + B if (row.day.year, row.day.month) == month]
        raw.put(f"year={month[0]}/month={month[1]:02d}/data.parquet", rows)


def as_csv(raw):
    lines = [
        f"{r.symbol},{r.day},{r.value},{r.value + 1},{r.value - 1},{r.value + 0.5},{int(r.value * 100)}\n"
        for r in A + B
    ]
    raw.text("rows.csv", "ticker,date,open,high,low,close,volume\n" + "".join(lines))


def mixed_schemas(raw):
    times = table_of(A, with_symbol=False).column("timestamp")
    old = table_of(A, with_symbol=False, timestamp=None, interval=None, timestamp_1=times.cast(pa.int64()))
    raw.put("symbol=A/data.parquet", old)
    raw.put("symbol=B/data.parquet", table_of(B, volume=[str(int(row.value * 100)) for row in B]))


@pytest.mark.parametrize("layout", [by_symbol, by_day, by_symbol_and_day, by_month, as_csv, mixed_schemas])
def test_lands_every_layout(layout, raw, bronze):
    layout(raw)
    assert bronze.first(raw) == 0
    assert bronze.values() == VALUES
    assert {row["landed"] for row in bronze.rows()} == {1}
    assert bronze.dead() == []


def test_optional_columns_and_files_order_do_not_matter(raw, bronze):
    raw.put("symbol=A/data.parquet", table_of(A, False, vwap=[9.0] * len(A), transactions=[3] * len(A)))
    raw.put("symbol=B/data.parquet", B)
    bronze.first(raw)
    assert bronze.values() == VALUES
    found = {row["symbol"]: (row["vwap"], row["trade_count"]) for row in bronze.rows()}
    assert found == {"A": (9.0, 3), "B": (None, None)}


def test_files_are_sorted_and_cut_by_year(raw, bronze):
    by_symbol(raw)
    bronze.first(raw)
    snapshot = bronze.table().snapshot()
    assert sorted(file.partition["period"] for file in snapshot.select()) == ["2023", "2024"]
    for period in ("2023", "2024"):
        rows, _ = snapshot.read(["symbol", "session"], where={"period": period})
        assert rows == rows.sort_by([("symbol", "ascending"), ("session", "ascending")])


def test_remembers_how_it_was_made(raw, bronze):
    by_symbol(raw)
    bronze.load(raw, "--price-basis", "split-adjusted")
    properties = bronze.table().properties
    assert properties[tables.PRICE_BASIS] == "split-adjusted"
    assert properties[tables.CALENDAR] == "XNYS"
    assert properties["fibflow.kind"] == "daily"
    assert max(json.loads(properties[tables.CALENDAR_HASHES])) == "2024"


def test_a_second_run_does_nothing_and_says_so(raw, bronze, capsys):
    by_symbol(raw)
    bronze.first(raw)
    before = bronze.versions()
    bronze.load(raw)
    assert "no new data" in capsys.readouterr().out
    assert bronze.versions() == before


def test_a_file_that_was_only_touched_changes_no_row(raw, bronze, capsys):
    by_symbol(raw)
    bronze.first(raw)
    version = bronze.table().version
    raw.stamp(raw.base / "symbol=A/data.parquet")
    bronze.load(raw)
    assert "no row differs" in capsys.readouterr().out
    assert bronze.table().version == version
    bronze.load(raw)
    assert "every file was landed before" in capsys.readouterr().out


def test_a_new_session_is_appended(raw, bronze):
    for day in DAYS[:-1]:
        raw.put(f"date={day}.parquet", [row for row in A + B if row.day == day])
    bronze.first(raw)
    before = bronze.paths()
    raw.put(f"date={DAYS[-1]}.parquet", [row for row in A + B if row.day == DAYS[-1]])
    bronze.load(raw)
    assert bronze.values() == VALUES
    added, removed = bronze.table().changes(0)
    assert (len(added), removed) == (1, [])
    assert before < bronze.paths()
    assert {key for key, landed in bronze.landed().items() if landed == 2} == {A[-1].key, B[-1].key}
    assert bronze.table().history(1)[0]["fibflow.landed"] in ([2], "[2]")


def test_a_correction_rewrites_the_one_file_that_holds_it(raw, bronze):
    by_symbol(raw)
    bronze.first(raw)
    sources = {row["symbol"]: row["source"] for row in bronze.rows()}
    raw.put("symbol=A/data.parquet", [A[0]._replace(value=77.0), *A[1:]])
    bronze.load(raw)
    assert bronze.values() == VALUES | {A[0].key: 77.0}
    added, removed = bronze.table().changes(0)
    assert [file.partition["period"] for file in added] == ["2023"]
    assert [file.partition["period"] for file in removed] == ["2023"]
    assert bronze.landed() == dict.fromkeys(VALUES, 1) | {A[0].key: 2}
    assert {row["symbol"]: row["source"] for row in bronze.rows()} == sources
    assert bronze.dead() == []


def test_rows_that_a_file_no_longer_has_stay_until_a_full_refresh(raw, bronze, capsys):
    by_symbol(raw)
    bronze.first(raw)
    raw.put("symbol=A/data.parquet", A[2:])
    bronze.load(raw)
    assert "rows kept (gone from their file) │ 2" in " ".join(capsys.readouterr().out.split())
    assert bronze.values() == VALUES
    bronze.load(raw, "--full-refresh")
    assert bronze.values() == {row.key: row.value for row in A[2:] + B}
    assert set(bronze.landed().values()) == {2}
    assert bronze.table().history(1)[0]["fibflow.full"] in (True, "true")
    bronze.load(raw)
    assert "every file was landed before" in capsys.readouterr().out


DATE = f"symbol=A/date={DAYS[0]}.parquet"
DATA = "symbol=A/data.parquet"
OTHER = "symbol=A/other.parquet"
#: Files by load as (name, modified, value), the value that wins, and the values that were displaced.
PRECEDENCE = {
    "date file in one load": ([[(DATE, 1, 5.0), (DATA, 2, 6.0)]], 5.0, [6.0]),
    "date file later": ([[(DATA, 2, 6.0)], [(DATE, 1, 5.0)]], 5.0, [6.0]),
    "consolidated later": ([[(DATE, 1, 5.0)], [(DATA, 2, 6.0)]], 5.0, [6.0]),
    "later modified wins": ([[(DATA, 1, 5.0)], [(OTHER, 2, 6.0)]], 6.0, [5.0]),
    "earlier modified loses": ([[(DATA, 2, 5.0)], [(OTHER, 1, 6.0)]], 5.0, [6.0]),
    "greater path wins": ([[(DATA, 1, 5.0)], [(OTHER, 1, 6.0)]], 6.0, [5.0]),
    "smaller path loses": ([[(OTHER, 1, 5.0)], [(DATA, 1, 6.0)]], 5.0, [6.0]),
    "own newer version": ([[(DATA, 1, 5.0)], [(DATA, 2, 6.0)]], 6.0, []),
    "date file corrected": ([[(DATA, 1, 5.0), (DATE, 2, 6.0)], [(DATE, 3, 7.0)]], 7.0, [5.0]),
    "equal values": ([[(DATA, 1, 5.0)], [(OTHER, 2, 5.0)]], 5.0, []),
    "equal, then the weaker one is corrected": (
        [[(DATA, 1, 5.0)], [(DATE, 2, 5.0)], [(DATA, 3, 6.0)]],
        5.0,
        [6.0],
    ),
    "three in one load": ([[(DATA, 1, 5.0), (OTHER, 2, 6.0), (DATE, 0, 7.0)]], 7.0, [5.0, 6.0]),
}


@pytest.mark.parametrize(("loads", "winner", "lost"), PRECEDENCE.values(), ids=PRECEDENCE)
def test_precedence_of_duplicates(loads, winner, lost, raw, bronze):
    for files in loads:
        for name, modified, value in files:
            raw.put(name, [Row("A", DAYS[0], value)], at=1_700_000_000 + modified)
        bronze.first(raw)
    assert bronze.values() == {("A", DAYS[0]): winner}
    dead = bronze.dead()
    assert [value for *_, value in dead] == lost
    assert {reason for reason, *_ in dead} <= {"duplicate"}


def test_equal_rows_of_a_stronger_file_are_moved_not_changed(raw, bronze, capsys):
    raw.put(DATA, A)
    bronze.first(raw)
    raw.put(DATE, A[:1])
    bronze.load(raw)
    assert "no row differs" in capsys.readouterr().out
    assert set(bronze.landed().values()) == {1}
    assert bronze.table().changes(0) == ([], [])


def test_moved_rows_do_not_hide_among_changed_ones(raw, bronze):
    by_symbol(raw)
    bronze.first(raw)
    raw.put("symbol=A/other.parquet", [*A[:-1], A[-1]._replace(value=77.0)])
    bronze.load(raw)
    assert bronze.values() == VALUES | {A[-1].key: 77.0}
    added, removed = bronze.table().changes(0)
    assert [file.partition["period"] for file in (*added, *removed)] == ["2024", "2024"]
    raw.put("symbol=A/data.parquet", A, at=1_600_000_000)
    bronze.load(raw)
    assert bronze.values() == VALUES | {A[-1].key: 77.0}


def test_the_later_row_of_one_file_wins(raw, bronze):
    raw.put("rows.parquet", [Row("A", DAYS[0], 5.0), Row("A", DAYS[0], 6.0)])
    bronze.first(raw)
    assert bronze.values() == {("A", DAYS[0]): 6.0}
    assert bronze.dead() == [("duplicate", "rows.parquet", "A", 5.0)]


def test_refused_rows_are_kept_once(raw, bronze):
    bad = table_of([*A[:3], Row("A", date(2024, 1, 1), 3.0)], False, volume=[100, -1, None, 300])
    raw.put("symbol=A/data.parquet", bad)
    bronze.first(raw)
    refused = [("negative_volume", 11.0), ("not_a_session", 3.0), ("null_volume", 12.0)]
    assert [(reason, value) for reason, _, _, value in bronze.dead()] == refused
    assert [row["open"] for row in bronze.rows()] == [10.0]
    raw.stamp(raw.base / "symbol=A/data.parquet")
    bronze.load(raw)
    assert len(bronze.dead()) == 3


def test_ledger_knows_each_file(raw, bronze):
    by_symbol_and_day(raw)
    bronze.first(raw)
    raw.put("symbol=A/data.parquet", A[:-1])
    bronze.load(raw)
    entries = sorted(bronze.rows(tables.LEDGER), key=lambda row: row["path"])
    assert [(Path(e["path"]).name, e["rows"], e["is_daily_file"], e["landed"]) for e in entries] == [
        ("data.parquet", len(A) - 1, False, 2),
        (f"date={DAYS[-1]}.parquet", 1, True, 1),
        ("data.parquet", len(B), False, 1),
    ]
    assert {e["table"] for e in entries} == {"bronze.daily"}
    assert entries[0]["source"] == next(r["source"] for r in bronze.rows() if r["symbol"] == "A")


def test_symbols_land_some_and_the_rest_can_follow(raw, bronze, capsys):
    by_month(raw)
    raw.put("symbol=C/data.parquet", rows_of("C", DAYS))
    bronze.first(raw, "--symbols", "A")
    assert bronze.values() == {row.key: row.value for row in A}
    bronze.load(raw)
    assert "files landed in part before" in capsys.readouterr().out
    assert set(bronze.values()) == {*VALUES, *(row.key for row in rows_of("C", DAYS))}
    with pytest.raises(InputError, match="no file holds a symbol of --symbols"):
        bronze.load(raw.base / "symbol=C", "--symbols", "A")


def test_a_dry_run_says_what_it_would_land_and_writes_nothing(raw, bronze, capsys):
    by_symbol(raw)
    bronze.first(raw, "--dry-run")
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing was written" in said
    assert "2023 │ 4" in said
    assert f"2024 │ {len(VALUES) - 4}" in said
    assert not Path(bronze.uri).exists()
    bronze.first(raw)
    raw.put("symbol=A/data.parquet", [A[0]._replace(value=77.0), *A[1:]])
    before = sorted(Path(bronze.uri).rglob("*"))
    bronze.load(raw, "--dry-run")
    assert "rows changed │ 1 │ │ 2023 │ 1" in " ".join(capsys.readouterr().out.split())
    assert sorted(Path(bronze.uri).rglob("*")) == before


def test_small_files_of_a_period_are_merged(raw, bronze):
    days = [day for day in DAYS if day.year == 2024]
    for day in days:
        raw.put(f"{day}.parquet", [Row("A", day, 5.0), Row("B", day, 6.0)])
        bronze.first(raw)
        assert len(bronze.paths()) <= 8
    assert bronze.landed() == {(name, day): n for n, day in enumerate(days, 1) for name in "AB"}
    on_disk = {
        path.relative_to(f"{bronze.uri}/bronze.daily") for path in Path(bronze.uri).rglob("period=*/*")
    }
    assert bronze.paths() <= set(map(str, on_disk))
    assert len(bronze.table(tables.LEDGER).snapshot()) <= 8


def test_two_workers_land_the_same(raw, bronze, tmp_path):
    by_month(raw)
    load.run(["--input", str(raw), "--lake", bronze.uri, "--price-basis", "raw", "--workers", "2"])
    assert bronze.values() == VALUES


NAMES = [DATA, OTHER, DATE, "symbol=B/data.parquet", f"date={DAYS[3]}.parquet", "2024.parquet", "a.parquet"]


@st.composite
def histories(draw):
    """Loads, each a list of (file, values of its days); a file that comes again has all its days again."""
    held: dict[str, frozenset[int]] = {}
    loads = []
    for _ in range(draw(st.integers(2, 4))):
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
        files = []
        for name in names:
            days = held.get(name, frozenset()) | draw(
                st.frozensets(st.integers(0, 5), min_size=1, max_size=4)
            )
            held[name] = days
            files.append((name, {day: draw(st.sampled_from([5.0, 6.0, 7.0])) for day in sorted(days)}))
        loads.append(files)
    return loads


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_loads_one_by_one_come_to_what_the_files_say(history):
    folder = Path(tempfile.mkdtemp())
    try:
        raw, bronze = Raw(folder / "raw"), Bronze(str(folder / "lake"))
        files: dict[str, tuple[int, list[Row]]] = {}
        for loaded in history:
            for name, values in loaded:
                symbol = "B" if "symbol=B" in name else "A"
                rows = [Row(symbol, DAYS[day], value) for day, value in values.items()]
                raw.put(name, rows)
                files[name] = (raw.clock, rows)
            before, landed = bronze.values(), bronze.landed()
            bronze.first(raw)
            now = bronze.values()
            assert now == expected({f"{raw.base}/{name}": file for name, file in files.items()})
            changed = {key for key in now if before.get(key) != now[key]}
            assert {key for key, number in bronze.landed().items() if number != landed.get(key)} == changed
    finally:
        shutil.rmtree(folder)

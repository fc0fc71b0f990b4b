"""How input is cut into units of work, and that every cut gives the same bars."""

from __future__ import annotations

import pytest

from fibflow.io import tables
from fibflow.io.failures import failure
from fibflow.io.files import InputError, list_raw
from fibflow.io.rows import BronzeRows, RawRows
from fibflow.io.storage import Storage
from fibflow.pipelines.graph import Destination, run_bars
from fibflow.pipelines.options import beam_options
from fibflow.pipelines.plan import plan_bronze, plan_raw
from fibflow.pipelines.publish import read_staged
from fibflow.tests.pipelines.lakes import DAYS_70, ROWS, XNYS, contents, daily_bars, with_counts
from fibflow.tests.pipelines.raws import Bronze, Raw, rows_of, table_of
from fibflow.tests.transforms.tables import by_key
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.timeframe import parse_timeframes

DAYS = DAYS_70[:10]


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path / "raw")


@pytest.fixture
def source(raw, tmp_path):
    """What reads the raw files, as a run stages it."""

    def source(kind="daily"):
        made = RawRows(str(raw), kind, XNYS, Storage(str(tmp_path / "staging")))
        made.stage(list_raw(str(raw)))
        return made

    return source


def names(plan, items):
    """The files of items, without their folder."""
    return sorted(plan.source.files[item].path.rpartition("/raw/")[2] for item in items)


def narrow(raw, *symbols):
    for symbol in symbols:
        raw.put(f"symbol={symbol}/data.parquet", rows_of(symbol, DAYS))


def test_a_few_rows_are_one_unit(raw, source):
    narrow(raw, "A", "B")
    plan = plan_raw(source())
    assert (plan.units, plan.bounds, plan.scattered) == (1, [], [])
    assert [(number, names(plan, items)) for number, items in plan.direct] == [
        (0, ["symbol=A/data.parquet", "symbol=B/data.parquet"])
    ]
    assert plan.rows == 20


def test_narrow_files_are_passed_by_reference_to_the_range_of_their_symbol(raw, source):
    narrow(raw, "A", "AA", "C", "D")
    raw.put("symbol=C/date=2023-10-12.parquet", rows_of("C", DAYS[:1]))
    raw.put("all-of-D.parquet", rows_of("D", DAYS[:3]))
    plan = plan_raw(source(), unit_rows=20)
    assert plan.bounds == ["C"]
    assert plan.scattered == []
    assert [(number, names(plan, items)) for number, items in plan.direct] == [
        (0, ["symbol=A/data.parquet", "symbol=AA/data.parquet"]),
        (
            1,
            [
                "all-of-D.parquet",
                "symbol=C/data.parquet",
                "symbol=C/date=2023-10-12.parquet",
                "symbol=D/data.parquet",
            ],
        ),
    ]


def test_wide_files_are_scattered_in_chunks(raw, source):
    symbols = [f"S{number}" for number in range(8)]
    for number, day in enumerate(DAYS):
        raw.put(f"{number}.parquet", [row for symbol in symbols for row in rows_of(symbol, [day])])
    plan = plan_raw(source(), unit_rows=20)
    assert plan.direct == []
    # Ranges of two symbols, whose rows come from five chunks of two files.
    assert plan.bounds == ["S2", "S4", "S6"]
    assert [len(items) for items in plan.scattered] == [2] * 5
    assert sorted(item for items in plan.scattered for item in items) == list(range(10))
    assert (plan.rows, plan.units) == (80, 4)


def test_a_wide_file_within_one_range_is_passed_by_reference(raw, source):
    narrow(raw, "A", "Z")
    raw.put("both.parquet", rows_of("A", DAYS) + rows_of("B", DAYS))
    raw.put("all.parquet", rows_of("B", DAYS[:5]) + rows_of("Z", DAYS[:5]))
    plan = plan_raw(source(), unit_rows=30)
    assert plan.bounds == ["Z"]
    assert [(number, names(plan, items)) for number, items in plan.direct] == [
        (0, ["both.parquet", "symbol=A/data.parquet"]),
        (1, ["symbol=Z/data.parquet"]),
    ]
    assert [names(plan, items) for items in plan.scattered] == [["all.parquet"]]


def test_minutes_are_all_scattered_where_any_are(raw, source):
    narrow(raw, "A", "Z")
    plain = plan_raw(source("daily"), unit_rows=10)
    assert [number for number, _ in plain.direct] == [0, 1]
    for symbol in ("A", "Z"):
        raw.put(f"symbol={symbol}/data.parquet", table_of(rows_of(symbol, DAYS), False, interval=None))
    assert plan_raw(source("minutes"), unit_rows=10).scattered == []
    raw.put("all.parquet", table_of(rows_of("A", DAYS) + rows_of("Z", DAYS), interval=None))
    plan = plan_raw(source("minutes"), unit_rows=10)
    assert plan.direct == []
    assert sorted(item for items in plan.scattered for item in items) == [0, 1, 2]
    assert len(plan_raw(source("daily"), unit_rows=10).direct) == 2


def test_sizes_of_files_stand_for_rows_that_no_footer_tells(raw, source):
    """CSV files have no footer; their symbols are not known either."""
    header = "symbol,date,open,high,low,close,volume\n"
    for number in range(3):
        lines = [f"S{number},{day},10,11,9,10,100\n" for day in DAYS]
        raw.text(f"{number}.csv", header + "".join(lines))
    plan = plan_raw(source(), unit_rows=1_000_000)
    assert len(plan.scattered) == 1
    assert plan.units == 1


# Bronze ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bronze(raw, tmp_path):
    bronze = Bronze(str(tmp_path / "lake"))
    for symbol in "ABZ":
        raw.put(f"symbol={symbol}/data.parquet", with_counts([r for r in ROWS if r.symbol == symbol], False))
    bronze.first(raw)
    return bronze


def of_bronze(bronze, **options):
    table = bronze.table()
    snapshot = table.snapshot()
    source = BronzeRows(table.storage, table.spec, "daily")
    return plan_bronze(source, snapshot, snapshot.select(), **options)


def test_a_small_bronze_table_is_one_unit(bronze):
    plan = of_bronze(bronze)
    assert (plan.units, plan.scattered, plan.rows) == (1, [], len(ROWS))
    assert [number for number, _ in plan.direct] == [0]


def test_a_bronze_table_without_files_is_no_unit(bronze):
    table = bronze.table()
    snapshot = table.snapshot()
    plan = plan_bronze(BronzeRows(table.storage, table.spec, "daily"), snapshot, [])
    assert (plan.direct, plan.scattered, plan.rows) == ([], [], 0)


def test_a_larger_one_is_cut_by_a_sample_of_its_symbols(bronze):
    plan = of_bronze(bronze, unit_rows=60)
    # 70, 61 and 50 rows, in files of two years: A and B are about a unit each.
    assert plan.bounds == ["B", "Z"]
    files = [item for items in plan.scattered for item in items] + [
        i for _, items in plan.direct for i in items
    ]
    assert {file.path for file in files} == bronze.table().snapshot().paths


# Any cut ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit_rows", [1, 40, 100, 10_000])
@pytest.mark.parametrize("kind", ["raw", "bronze"])
def test_any_cut_gives_the_same_bars(kind, unit_rows, raw, source, bronze, tmp_path):
    if kind == "bronze":
        plan = of_bronze(bronze, unit_rows=unit_rows)
    else:
        # Two wide files beside those of one symbol, whose rows win.
        late = [row._replace(value=row.value + 3) for row in ROWS if row.day in DAYS_70[5:8]]
        raw.put("late/a.parquet", with_counts(late, True))
        raw.put("late/b.parquet", with_counts([row for row in ROWS if row.day in DAYS_70[6:8]], True))
        plan = plan_raw(source(), unit_rows=unit_rows)
    wanted = {(row.symbol, row.day): row for row in ROWS}
    if kind == "raw":
        wanted |= {(row.symbol, row.day): row for row in late if row.day == DAYS_70[5]}
    spec = BarSpec(parse_timeframes("3d,34d"), XNYS, int(XNYS.day_ends[-1]))
    staging = Storage(str(tmp_path / "temporary"))
    place = staging.child("bars")
    manifest = run_bars(plan, spec, Destination(place, staging, "run"), beam_options("direct", []), 2)
    made = read_staged(place, manifest.of_table(tables.BARS.name))
    bars = contents(by_key(list(made.values())))
    ended = daily_bars(wanted.values(), "3d,34d", as_of=XNYS.days.astype("datetime64[D]")[-1].item())
    assert bars == ended
    assert manifest.tallies["rows_read"] == plan.rows
    assert manifest.tallies["rejected.duplicate"] == plan.rows - len(wanted)
    assert len(staging.names("progress")) == len(plan.scattered) + len({*range(plan.units)})


@pytest.mark.parametrize("unit_rows", [5, 10_000], ids=["scattered", "direct"])
def test_what_stops_a_worker_is_told_in_the_staging_place(unit_rows, raw, source, tmp_path):
    """A runner elsewhere hands on the text of an error at best."""
    raw.put("all.parquet", rows_of("A", DAYS) + rows_of("Z", DAYS))
    plan = plan_raw(source(), unit_rows=unit_rows)
    assert bool(plan.scattered) == (unit_rows == 5)
    raw.text("all.parquet", "broken since")
    staging = Storage(str(tmp_path / "temporary"))
    spec = BarSpec(parse_timeframes("3d"), XNYS)
    with pytest.raises(InputError):
        run_bars(plan, spec, Destination(staging, staging, "run"), beam_options("direct", []))
    found = failure(staging)
    assert isinstance(found, InputError)
    assert "all.parquet: cannot be read as Parquet" in str(found)

"""A lake's official days and reference data in PostgreSQL."""

from __future__ import annotations

import shutil
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from fibflow.io import reference
from fibflow.io.lake import Lake
from fibflow.io.postgresql import exporting, watermarks
from fibflow.io.postgresql.exporting import export_daily, export_reference
from fibflow.io.postgresql.ohlcv import upsert_ohlcv
from fibflow.io.postgresql.session import PostgresError, Unmigrated
from fibflow.io.postgresql.upserts import Upserted
from fibflow.io.storage import LakeError
from fibflow.tests.io.postgresql.databases import execute, rows, select
from fibflow.tests.pipelines.lakes import XNYS, instant
from fibflow.tests.pipelines.raws import DAYS, Bronze, Raw, Row, rows_of, table_of
from fibflow.transforms import schemas

D1 = date(2020, 8, 31)


class World:
    """A raw folder, a lake, and a database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.raw, self.bronze, self.url = Raw(folder / "raw"), Bronze(str(folder / "lake")), url
        self.lake = Lake(self.bronze.uri)

    def land(self, name: str, some: list[Row], basis: str = "raw") -> None:
        self.raw.put(name, some)
        self.bronze.load(self.raw, "--price-basis", basis)

    def export(self, **options) -> tuple[Upserted, int | None]:
        done = export_daily(self.lake, self.url, "r", **options)
        assert done.version == self.bronze.table().version
        return done.rows, done.since

    def stored(self) -> dict[tuple[str, int], tuple]:
        asked = (
            "SELECT symbol, (extract(epoch FROM timestamp) * 1000000)::bigint, interval, open, high, low, "
            "close, volume, vwap, trade_count FROM raw_ohlcv"
        )
        return {(symbol, ts): tuple(rest) for symbol, ts, *rest in select(self.url, asked)}

    def expected(self) -> dict[tuple[str, int], tuple]:
        names = ("open", "high", "low", "close", "volume", "vwap", "trade_count")
        return {
            (row["symbol"], instant(row["session"])): ("1d", *(row[name] for name in names))
            for row in self.bronze.rows()
        }


@pytest.fixture
def world(tmp_path, url) -> World:
    made = World(tmp_path, url)
    made.land("a.parquet", [*rows_of("A", DAYS), *rows_of("B", DAYS[4:])])
    return made


def test_all_days_arrive_with_the_start_of_their_sessions_day(world):
    assert world.export() == (Upserted(new=len(DAYS) * 2 - 4), None)
    assert world.stored() == world.expected()
    # The same instants as the bars of 1d have.
    assert {ts for _, ts in world.stored()} <= set(XNYS.day_starts.tolist())


def test_a_second_export_does_nothing_and_a_third_what_was_landed_since(world, monkeypatch):
    world.export()
    version = world.bronze.table().version
    assert world.export() == (Upserted(), version)
    corrected = [Row("A", DAYS[2], 99.0), *rows_of("C", DAYS[-2:])]
    world.land("b.parquet", corrected)
    asked: list[int] = []

    def counted(url: str, some: pa.Table, interval: str, *, known: datetime) -> Upserted:
        asked.append(len(some))
        return upsert_ohlcv(url, some, interval, known=known)

    monkeypatch.setattr(exporting, "upsert_ohlcv", counted)
    assert world.export() == (Upserted(new=2, changed=1), version)
    assert asked == [3]
    assert world.stored() == world.expected()
    assert world.export(full=True) == (Upserted(unchanged=len(world.expected())), None)


def test_what_was_lost_in_the_database_comes_back_with_a_full_export(world):
    world.export()
    execute(world.url, "DELETE FROM raw_ohlcv WHERE symbol = 'A'", "UPDATE raw_ohlcv SET close = 0")
    world.export()
    assert world.stored() != world.expected()
    world.export(full=True)
    assert world.stored() == world.expected()


def test_much_that_is_new_goes_year_by_year(world, monkeypatch):
    world.export()
    world.land("b.parquet", rows_of("C", DAYS))
    monkeypatch.setattr(exporting, "_MOST_AT_ONCE", 5)
    parts: list[tuple[str, int]] = []
    world.export(part=lambda name, count: parts.append((name, count)))
    assert [name for name, _ in parts] == ["2023", "2024"]
    assert world.stored() == world.expected()


def test_an_export_that_was_broken_off_goes_on(world, monkeypatch):
    def once(url: str, some: pa.Table, interval: str, *, known: datetime) -> Upserted:
        if world.stored():
            raise PostgresError("PostgreSQL does not answer")
        return upsert_ohlcv(url, some, interval, known=known)

    monkeypatch.setattr(exporting, "upsert_ohlcv", once)
    with pytest.raises(PostgresError, match="does not answer"):
        world.export()
    monkeypatch.undo()
    assert 0 < len(world.stored()) < len(world.expected())
    done, since = world.export()
    assert since is None
    assert (done.new, done.unchanged) == (17, 3)
    assert world.stored() == world.expected()


def test_an_older_lake_does_not_take_the_place_of_a_newer_ones_days(world, tmp_path):
    shutil.copytree(world.lake.uri, tmp_path / "older")
    world.land("b.parquet", [Row("A", DAYS[2], 99.0)])
    world.export()
    older = export_daily(Lake(str(tmp_path / "older")), world.url, "r", full=True)
    assert older.rows.outdated == 1
    assert world.stored() == world.expected()
    key = watermarks.read_all(world.url, "export")[0]
    assert key.position == str(world.bronze.table().version)


def test_a_lake_that_was_made_anew_is_compared_as_a_whole(world, tmp_path, url):
    world.export()
    shutil.rmtree(world.lake.uri)
    world.bronze.load(world.raw, "--price-basis", "raw")
    assert world.export() == (Upserted(unchanged=len(world.expected())), None)


def test_days_of_another_price_basis_are_refused(world, tmp_path):
    world.export()
    other = World(tmp_path / "other", world.url)
    other.land("a.parquet", rows_of("A", DAYS), "split-adjusted")
    with pytest.raises(PostgresError, match="holds raw prices, and these are split-adjusted"):
        other.export()


def test_no_lake_or_no_tables(tmp_path, url, empty, world):
    with pytest.raises(LakeError, match=r"no bronze\.daily in .*pipelines\.load"):
        export_daily(Lake(str(tmp_path / "nothing")), url, "r")
    with pytest.raises(Unmigrated, match=r"run pipelines\.database upgrade"):
        export_daily(world.lake, empty, "r")


def test_reference_data_is_what_the_lake_has(tmp_path, url):
    lake = Lake(str(tmp_path / "lake"))
    assert export_reference(lake, url, "r") == {}
    names = rows(schemas.SYMBOLS, {"symbol": "A", "name": "Alpha"}, {"symbol": "B", "name": "Beta"})
    split = {"symbol": "A", "execution_date": D1, "split_from": 1.0, "split_to": 4.0, "id": None}
    reference.upsert(lake.table(reference.SYMBOLS), names, "r")
    reference.upsert(lake.table(reference.SPLITS), rows(schemas.SPLITS, split, {**split, "symbol": "B"}), "r")
    assert export_reference(lake, url, "r") == {
        "symbol_metadata": Upserted(new=2),
        "symbol_splits": Upserted(new=2),
    }
    assert export_reference(lake, url, "r")["symbol_metadata"] == Upserted(unchanged=2)
    reference.upsert(
        lake.table(reference.SPLITS),
        rows(schemas.SPLITS, {**split, "split_to": 2.0}),
        "r2",
        lambda held: held["symbol"].is_valid().to_numpy(),
    )
    assert export_reference(lake, url, "r2")["symbol_splits"] == Upserted(changed=1, gone=1)
    assert select(url, "SELECT symbol, split_to FROM symbol_splits") == [("A", 2.0)]


def test_days_with_a_price_that_the_vendor_weighted(world):
    some = table_of(rows_of("D", DAYS), vwap=[10.25] * len(DAYS), transactions=[7] * len(DAYS))
    world.raw.put("d.parquet", some)
    world.bronze.load(world.raw)
    world.export()
    assert world.stored() == world.expected()
    assert world.stored()["D", instant(DAYS[0])][-2:] == (10.25, 7)

"""From a question to blocks of bars: the same as history's answers, in memory that is bounded."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.reference import SPLITS, upsert
from fibflow.serving.exports.export import Exporter
from fibflow.serving.exports.request import export_query
from fibflow.serving.history.bars import History
from fibflow.serving.problems import Problem
from fibflow.serving.reference import Reference
from fibflow.tests.io.barlakes import XNYS
from fibflow.tests.serving.exports import biglakes
from fibflow.tests.serving.historylakes import World
from fibflow.transforms.schemas import BARS

NOW = datetime(2024, 4, 1, tzinfo=UTC)


class Asking:
    """Exports of a lake, and history's answers to the same questions."""

    def __init__(self, lake: Lake, block_rows: int = 50) -> None:
        self.lake = lake
        self.reference = Reference(lake, 0.0)
        self.history = History(lake, 0.0, self.reference.splits, clock=lambda: NOW)
        self.exporter = Exporter(
            self.history, self.reference, lambda: NOW, 2, block_rows=block_rows, wait_s=0.0
        )

    def query(self, symbols: Any = "all", timeframe: str = "5d", **parameters: str):
        return export_query({"timeframe": timeframe, **parameters}, symbols, lambda: XNYS)

    def export(self, symbols: Any = "all", timeframe: str = "5d", **parameters: str) -> pa.Table:
        """The file that an export comes to."""
        query = self.query(symbols, timeframe, **parameters)

        async def whole() -> bytes:
            export = await self.exporter.begin(query, self.exporter.plan(query))
            try:
                pieces = []
                while (piece := await export.next()) is not None:
                    pieces.append(piece)
            finally:
                export.close()
                await self.free()
            return b"".join(pieces)

        return pq.read_table(io.BytesIO(asyncio.run(whole())))

    async def free(self) -> None:
        """Wait until no export runs."""
        while self.exporter.slots.taken:
            await asyncio.sleep(0)

    def same(self, symbols: Any = "all", timeframe: str = "5d", **parameters: str) -> pa.Table:
        """The export, which is what history answers."""
        found = self.export(symbols, timeframe, **parameters)
        query = self.query(symbols, timeframe, **parameters)
        answer = self.history.bars(replace(query.bars, limit=10_000_000))
        assert found.equals(answer.table.select(list(query.columns)).combine_chunks())
        return found

    def close(self) -> None:
        self.exporter.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World.make(tmp_path_factory.mktemp("world"))
    splits = made.splits.append_column("id", pa.nulls(len(made.splits), pa.string()))
    upsert(made.lake.table(SPLITS), splits.cast(SPLITS.schema), "splits")
    return made


@pytest.fixture(scope="module")
def asking(world):
    made = Asking(world.lake)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("symbols", "timeframe", "parameters"),
    [
        ("all", "5d", {}),
        ("all", "3d", {"start": "2023-12-01", "end": "2024-02-01"}),
        ("A", "5m", {"start": "2024-03-08"}),
        ("A,B", "1h", {"complete": "true"}),
        ("A,B,C", "5d", {"columns": "close,ts,symbol"}),
        # Computed, from days and from minutes, with the lake's anchors and with others.
        ("all", "8d", {}),
        ("A,D", "7d", {"start": "2024-01-10"}),
        ("all", "15m", {}),
        ("A", "2h", {"anchor": "open"}),
        ("A,B,C,D", "5d", {"anchor": "listing"}),
        ("A", "1d", {}),
        # Adjusted: with a split inside of a window, and with none.
        ("all", "5d", {"adjusted": "true"}),
        ("A", "3d", {"adjusted": "true", "start": "2023-12-01", "end": "2024-02-20"}),
        ("B", "5d", {"adjusted": "true"}),
        ("A,B", "5m", {"adjusted": "true"}),
        ("C", "1d", {"adjusted": "true"}),
    ],
)
def test_an_export_is_what_history_answers(asking, symbols, timeframe, parameters):
    assert len(asking.same(symbols, timeframe, **parameters)) > 0


def test_a_range_without_bars_is_no_error(asking):
    assert len(asking.same("A", "5d", start="2030-01-02")) == 0
    assert len(asking.same("all", "8d", end="2000-01-03")) == 0


def test_an_older_version_is_read_whole(world, tmp_path):
    lake = world.lake
    asking = Asking(lake)
    versions = ",".join(
        f"{name}:{lake.table(spec).version}"
        for name, spec in (
            ("bars", tables.BARS),
            ("live", tables.LIVE),
            ("daily", tables.DAILY),
            ("minutes", tables.MINUTES),
        )
    )
    before = asking.export("all", "3d")
    computed = asking.export("all", "8d")
    assert asking.exporter.plan(asking.query("all", "3d")).versions_text == versions
    assert asking.same("all", "3d", as_of=versions).equals(before)
    assert asking.same("all", "8d", as_of=versions).equals(computed)
    asking.close()


@pytest.mark.parametrize("timeframe", ["5d", "8d"])
def test_unknown_symbols_are_told_before_a_byte_is_made(asking, timeframe):
    for symbols in ("X", "A,X,Y"):
        with pytest.raises(Problem) as told:
            asking.export(symbols, timeframe)
        assert (told.value.status, told.value.code) == (404, "unknown_symbol")
        assert told.value.extra["symbols"] == [name for name in ("X", "Y") if name in symbols]
        with pytest.raises(Problem) as answered:
            asking.history.bars(asking.query(symbols, timeframe).bars)
        assert (answered.value.status, answered.value.code) == (404, "unknown_symbol")


def test_what_cannot_be_made_is_told(asking):
    with pytest.raises(Problem) as told:
        asking.export("A", "5d", anchor="rows")
    assert told.value.status == 400
    with pytest.raises(Problem) as told:
        asking.export("A", "5d", as_of="bars:99")
    assert told.value.status == 404


def test_adjustment_is_not_to_be_declined_where_prices_are_adjusted(tmp_path):
    lake = biglakes.make(str(tmp_path / "lake"), 1, 10)
    asking = Asking(lake)
    assert len(asking.export("all", "1m", adjusted="false")) == 10
    table = lake.table(tables.BARS)
    table.commit(
        base_version=table.version,
        scope=Scope(),
        run="terms",
        properties={tables.PRICE_BASIS: "split-adjusted"},
    )
    with pytest.raises(Problem) as told:
        asking.export("all", "1m", adjusted="false")
    assert (told.value.status, told.value.code) == (400, "bad_adjusted")
    assert asking.export("all", "1m").equals(asking.export("all", "1m", adjusted="true"))
    asking.close()


def test_a_place_is_free_again_when_an_export_ends_or_fails(asking):
    async def many() -> None:
        query = asking.query("all", "5d")
        plan = asking.exporter.plan(query)
        first, second = [await asking.exporter.begin(query, plan) for _ in range(2)]
        with pytest.raises(Problem) as told:
            await asking.exporter.begin(query, plan)
        assert (told.value.status, told.value.headers) == (429, {"Retry-After": "5"})
        assert await first.next()
        for export in (first, second):
            export.close()
            export.close()
        await asking.free()
        (await asking.exporter.begin(query, plan)).close()
        await asking.free()

    asyncio.run(many())


def test_memory_is_bounded_whatever_the_size(tmp_path):
    lake = biglakes.make(str(tmp_path / "lake"), 300, 10_000)
    command = [sys.executable, "-m", "fibflow.tests.serving.exports.biglakes", lake.uri, "arrow"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, grown = map(int, done.stdout.split())
    # 3,000,000 bars. A block and its bytes, and the database's share.
    assert size > 280_000_000
    assert grown < 200_000_000


def test_all_columns_of_a_large_lake_in_many_blocks(tmp_path):
    lake = biglakes.make(str(tmp_path / "lake"), 37, 1_000)
    asking = Asking(lake, 3_000)
    found = asking.same("all", "1m")
    assert len(found) == 37_000
    assert found.schema.equals(BARS)
    asking.close()

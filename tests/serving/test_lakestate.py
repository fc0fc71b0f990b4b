"""What a process knows of its lake: when it looks again, and what happens while files go away."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake, LakeTable, Scope
from fibflow.io.maintenance import vacuum
from fibflow.io.storage import LakeError
from fibflow.serving.history.bars import History
from fibflow.serving.history.lakestate import LakeState
from fibflow.serving.history.query import AsOf, BarQuery, cursor_of, resumed
from fibflow.serving.problems import Problem
from fibflow.tests.io.barlakes import commit_bars, daily_rows, make_bars
from fibflow.transforms.timeframe import DAY

START = datetime(2024, 5, 1, tzinfo=UTC)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def rows_of(month: str) -> pa.Table:
    return daily_rows({"A": (f"2024-{month}-01", f"2024-{month}-28")})


def commit(lake: Lake, month: str, run: str) -> None:
    commit_bars(lake, make_bars(rows_of(month), "1d"), run)


@pytest.fixture
def lake(tmp_path):
    hours = iter(range(1000))
    found = Lake(str(tmp_path / "lake"), clock=lambda: START + timedelta(hours=next(hours)))
    commit(found, "01", "one")
    return found


@pytest.fixture
def looks(monkeypatch):
    """How often the version of a table was asked for."""
    counted: list[str] = []
    version: Any = LakeTable.version

    def counting(table: LakeTable) -> int:
        counted.append(table.spec.name)
        return version.fget(table)

    monkeypatch.setattr(LakeTable, "version", property(counting))
    return counted


def settle(state: LakeState) -> None:
    """Wait until nobody looks at the lake."""
    assert state._refreshing.acquire(timeout=30)
    state._refreshing.release()


def test_it_is_looked_at_again_when_it_is_old(lake, looks, monkeypatch):
    clock, go = Clock(), threading.Event()
    state = LakeState(lake, 1.0, clock)
    assert state.now().versions == (0, -1, -1, -1)
    commit(lake, "02", "two")
    looks.clear()
    clock.s += 0.9
    assert state.now().versions[0] == 0
    assert not looks
    clock.s += 0.2
    refresh = state._refresh

    def held(strict: bool) -> None:
        assert go.wait(30)
        refresh(strict)

    monkeypatch.setattr(state, "_refresh", held)
    # Who finds it old goes on with what is known; one looks.
    assert state.now().versions[0] == 0
    go.set()
    settle(state)
    assert state.now().versions[0] == 1
    assert looks.count("silver.bars") == 1


def test_after_a_pause_readers_wait_for_what_is_new(lake):
    clock = Clock()
    state = LakeState(lake, 1.0, clock)
    state.now()
    commit(lake, "02", "two")
    clock.s += 60
    assert state.known() is None
    assert state.now().versions[0] == 1
    assert state.known() is state.now()


def test_with_no_age_allowed_each_question_looks(lake):
    state = LakeState(lake, 0)
    state.now()
    commit(lake, "02", "two")
    assert state.now().versions[0] == 1
    assert state.known() is None


def test_many_readers_are_not_held_up_by_the_one_that_looks(lake, monkeypatch):
    clock = Clock()
    state = LakeState(lake, 1.0, clock)
    state.now()
    clock.s += 2
    begun, go = threading.Event(), threading.Event()
    version: Any = LakeTable.version

    def slow(table: LakeTable) -> int:
        begun.set()
        assert go.wait(30)
        return version.fget(table)

    monkeypatch.setattr(LakeTable, "version", property(slow))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: state.now().versions[0], range(200)))
    assert begun.wait(30)
    assert found == [0] * 200
    go.set()
    settle(state)


def test_what_did_not_change_is_not_read_again(lake):
    clock = Clock()
    state = LakeState(lake, 1.0, clock)
    before = state.now().bars
    clock.s += 60
    assert state.now().bars is before


def test_a_lake_that_is_away_is_told_so_and_what_is_known_stays(lake, monkeypatch):
    clock = Clock()
    state = LakeState(lake, 1.0, clock)
    away = LakeState(lake, 1.0, clock)
    state.now()

    def fails(table: LakeTable) -> int:
        raise LakeError("cannot read s3://secret-place: no route")

    monkeypatch.setattr(LakeTable, "version", property(fails))
    clock.s += 60
    assert state.now().versions[0] == 0
    with pytest.raises(Problem) as told:
        away.now()
    assert (told.value.status, told.value.code, told.value.headers) == (
        503,
        "lake_unreachable",
        {"Retry-After": "1"},
    )
    assert "secret-place" not in told.value.detail
    with pytest.raises(Problem):
        state.reach()


def test_a_lake_that_was_never_reached_is_not_asked_by_each_reader(lake, monkeypatch):
    clock, asked = Clock(), []

    def fails(table: LakeTable) -> int:
        asked.append(table)
        raise LakeError("away")

    monkeypatch.setattr(LakeTable, "version", property(fails))
    state = LakeState(lake, 1.0, clock)

    def code(_: int) -> str | None:
        with pytest.raises(Problem) as told:
            state.now()
        return told.value.code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(code, range(100))) == {"lake_unreachable"}
    first = len(asked)
    clock.s += 5
    code(0)
    assert len(asked) == 2 * first


def test_a_lake_without_tables(tmp_path):
    state = LakeState(Lake(str(tmp_path / "none")), 1.0)
    with pytest.raises(Problem, match=r"run pipelines\.batch or pipelines.stream") as told:
        state.now()
    assert (told.value.status, told.value.code) == (404, "no_bars")


def test_the_lake_as_it_was(lake):
    state = LakeState(lake, 0)
    commit(lake, "02", "two")
    stamps = [
        datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
        for entry in lake.table(tables.BARS).history()[::-1]
    ]
    assert [state.at(AsOf(at)).versions[0] for at in stamps] == [0, 1]
    assert state.at(AsOf(None, 0, -1)).versions == (0, -1, -1, -1)
    # Versions that are asked for again are kept.
    assert state.at(AsOf(None, 0, -1)).bars is state.at(AsOf(None, 0, -1)).bars
    with pytest.raises(Problem) as told:
        state.at(AsOf(stamps[0] - timedelta(days=1)))
    assert told.value.code == "no_bars"


# Files that go away ----------------------------------------------------------------------------------------


def test_a_reader_whose_files_are_vacuumed_reads_the_newest(lake):
    history = History(lake, 1_000.0)
    query = BarQuery(("A",), DAY)
    # What it knows, but for what is in the files.
    assert history.state.now().versions[0] == 0
    for month in ("02", "03", "04"):
        commit(lake, month, f"run-{month}")
    merge_all(lake)
    answer = history.bars(query)
    assert len(answer.table) == sum(len(rows_of(month)) for month in ("01", "02", "03", "04"))
    assert answer.bars == lake.table(tables.BARS).version


def test_a_cursor_to_files_that_are_vacuumed_is_gone(lake):
    history = History(lake, 0)
    query = BarQuery(("A",), DAY, limit=3)
    first = history.bars(query)
    assert first.position is not None
    page = resumed(query, cursor_of(query, first.position))
    assert len(history.bars(page).table) == 3
    for month in ("02", "03", "04"):
        commit(lake, month, f"run-{month}")
    merge_all(lake)
    with pytest.raises(Problem, match="ask for the newest") as told:
        History(lake, 0).bars(page)
    assert (told.value.status, told.value.code) == (410, "version_gone")


def merge_all(lake: Lake, run: str = "") -> None:
    """Put the table's files together, and delete those of before."""
    table = lake.table(tables.BARS)
    old = table.snapshot()
    rows, _ = old.read()
    rows = rows.drop_columns(["timeframe", "period"]).sort_by([("symbol", "ascending"), ("ts", "ascending")])
    merged = table.writer().write(rows, {"timeframe": "1d", "period": "all"}, f"merged{run}")
    table.commit(
        [merged], old.select(), base_version=old.version, scope=Scope(), run="merge", data_change=False
    )
    removed = vacuum(table, datetime.now(UTC) + timedelta(days=400), 0, dry_run=False)
    assert removed.paths


def test_readers_of_a_lake_that_is_written_merged_and_vacuumed_see_whole_answers(lake):
    """Each answer is that of one commit: so many months, from the first on, without a gap."""
    months = ["01", "02", "03", "04", "05", "06"]
    ends = [len(pa.concat_tables([rows_of(month) for month in months[: n + 1]])) for n in range(len(months))]
    history = History(lake, 0.001)
    over = threading.Event()
    failures: list[BaseException] = []
    seen: set[int] = set()

    def read() -> None:
        while not over.is_set():
            try:
                seen.add(len(history.bars(BarQuery(("A",), DAY)).table))
            except BaseException as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    try:
        for month in months[1:]:
            commit(lake, month, f"run-{month}")
            merge_all(lake, month)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert not failures
    assert seen <= set(ends)
    history.state.look_again()
    assert len(history.bars(BarQuery(("A",), DAY)).table) == ends[-1]


def test_a_lake_in_a_bucket(s3):
    lake = Lake(s3.uri("lake"), s3.aws)
    commit(lake, "01", "one")
    history = History(lake, 0)
    query = BarQuery(("A",), DAY, limit=3, descending=True)
    first = history.bars(query)
    assert len(first.table) == 3
    assert first.position is not None
    page = resumed(query, cursor_of(query, first.position))
    commit(lake, "02", "two")
    assert len(history.bars(BarQuery(("A",), DAY)).table) == len(rows_of("01")) + len(rows_of("02"))
    (old,) = lake.table(tables.BARS).snapshot(0).select()
    s3.client.delete_object(Bucket=s3.bucket, Key=f"lake/silver.bars/{old.path}")
    with pytest.raises(Problem) as told:
        History(lake, 0).bars(page)
    assert (told.value.status, told.value.code) == (410, "version_gone")

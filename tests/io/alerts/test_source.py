"""Changes of alerts out of a real database, and facts out of a real lake."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from fibflow.io import reference
from fibflow.io.alerts.source import ChangeFeed, FactFeed, tail_alerts, tail_facts
from fibflow.io.alerts.store import AlertStore
from fibflow.io.lake import Lake
from fibflow.tests.io.alerts.tails import Runner
from fibflow.tests.io.postgresql.databases import execute
from fibflow.tests.pipelines.raws import Bronze, Raw, rows_of
from fibflow.transforms import schemas
from fibflow.transforms.alerts.definition import Definition
from fibflow.transforms.alerts.hold import through_of
from fibflow.transforms.alerts.schema import ALWAYS, CHANGES, FACTS, Fact, Operator, kind_of

NOW = datetime(2024, 1, 10, 15, tzinfo=UTC)
NOW_S = NOW.timestamp()
DAYS = [date(2023, 12, 18), *(date(2024, 1, day) for day in (2, 3, 4, 5, 8, 9))]
LATER = 2_000_000_000
_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def now() -> float:
    return NOW_S


def number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def woken(pipeline: beam.Pipeline) -> beam.PCollection:
    return pipeline | beam.Create([("a", b"")]).with_output_types(tuple[str, bytes])


# Changes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(url) -> Any:
    made = AlertStore(url)
    yield made
    made.close()


def above(price: float, symbol: str = "A") -> Definition:
    return Definition(symbol, "above", price)


def changes(tables: list[pa.Table]) -> list[tuple[int, int, int, float]]:
    found = []
    for table in tables:
        if kind_of(table) == "bar_changes":
            assert (len(table), through_of(table) is None) == (0, False)
            continue
        assert kind_of(table) == "changes"
        assert table.schema.equals(CHANGES)
        names = ("alert", "version", "operator", "value")
        found += list(zip(*(table[name].to_pylist() for name in names), strict=True))
    return found


def test_every_change_comes_once_and_says_up_to_when_all_is_told(url, store):
    first, second = store.create("ann", [above(5.0), above(6.0, "B")], NOW)
    runner = Runner(ChangeFeed(url, clock=now))
    found = runner.look()
    assert changes(found) == [(first.id, 1, Operator.ABOVE, 5.0), (second.id, 1, Operator.ABOVE, 6.0)]
    assert [through_of(table) for table in found] == [int(NOW_S * 1e6)] * 2
    nothing = [(kind_of(table), len(table), through_of(table)) for table in runner.look()]
    assert nothing == [(kind, 0, int(NOW_S * 1e6)) for kind in ("bar_changes", "changes")]
    store.update("ann", first.id, above(7.0), NOW)
    store.pause("ann", second.id, NOW)
    assert [row[:3] for row in changes(runner.look())] == [
        (first.id, 2, Operator.ABOVE),
        (second.id, 2, Operator.ENDED),
    ]
    # A job that is restored goes on; a new one loads what is in force.
    assert changes(Runner(ChangeFeed(url), runner.position).look()) == []
    assert changes(Runner(ChangeFeed(url)).look()) == [(first.id, 2, Operator.ABOVE, 7.0)]


def test_many_alerts_come_in_pages_and_all_is_told_with_the_last_one(url, store):
    store.create("ann", [above(float(at)) for at in range(1, 8)], NOW)
    runner = Runner(ChangeFeed(url, most=3))
    pages: list[pa.Table] = []
    while not pages or runner.delay_s == 0:
        pages += runner.look()
    assert [row[3] for row in changes(pages)] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert [through_of(page) is None for page in pages] == [True, True, False, False]


def test_a_change_between_two_pages_is_not_lost(url, store):
    alerts = store.create("ann", [above(float(at)) for at in range(1, 6)], NOW)
    runner = Runner(ChangeFeed(url, most=3))
    runner.look()
    store.update("ann", alerts[0].id, above(9.0), NOW)
    store.delete("ann", alerts[4].id, NOW)
    found = changes([*runner.look(), *runner.look()])
    assert (alerts[0].id, 2, Operator.ABOVE, 9.0) in found
    assert found[-1][:3] == (alerts[4].id, 2, Operator.ENDED)


def test_a_database_that_is_away_or_another_is_named_once_and_asked_again(url, empty, store, caplog):
    (alert,) = store.create("ann", [above(5.0)], NOW)
    runner = Runner(ChangeFeed(url), (100, 0))
    assert runner.look() == runner.look() == []
    assert caplog.text.count("it is another database, or an older copy") == 1
    unmigrated = Runner(ChangeFeed(empty))
    assert unmigrated.look() == []
    assert "run pipelines.database upgrade first" in caplog.text
    runner = Runner(ChangeFeed(url))
    runner.look()
    # The server ends the connection, as it does when it is stopped.
    execute(url, _END_OTHERS)
    store.close()
    store.update("ann", alert.id, above(6.0), NOW)
    found = changes([table for _ in range(3) for table in runner.look()])
    assert found == [(alert.id, 2, Operator.ABOVE, 6.0)]


def test_changes_on_a_runner(url, store):
    (alert,) = store.create("ann", [above(5.0)], NOW)

    def check(found: list[pa.Table]) -> None:
        assert changes(found) == [(alert.id, 1, Operator.ABOVE, 5.0)]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(woken(pipeline) | tail_alerts(url), check)


# Facts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bronze(tmp_path: Path) -> Bronze:
    raw = Raw(tmp_path / "raw")
    raw.put("all.parquet", [*rows_of("A", DAYS), *rows_of("B", DAYS, 100.0)])
    made = Bronze(str(tmp_path / "lake"))
    made.first(raw)
    return made


def split(lake: Lake, *rows: tuple[str, date, float, float], run: str = "r") -> None:
    names = ("symbol", "execution_date", "split_from", "split_to", "id")
    table = pa.Table.from_pylist([dict(zip(names, (*row, None), strict=True)) for row in rows])
    schema = pa.schema([schemas.SPLITS.field(name) for name in names])
    reference.upsert(lake.table(reference.SPLITS), table.cast(schema), run)


def facts(tables: list[pa.Table]) -> dict[Fact, dict[tuple[str, int], float]]:
    found: dict[Fact, dict[tuple[str, int], float]] = {}
    for table in tables:
        assert kind_of(table) == "facts"
        assert table.schema.equals(FACTS)
        for row in table.to_pylist():
            found.setdefault(Fact(row["kind"]), {})[row["symbol"], row["day"]] = row["value"]
    return found


def closes(start: float, days: list[date], symbol: str) -> dict[tuple[str, int], float]:
    return {(symbol, number(day)): start + DAYS.index(day) + 0.5 for day in days}


def test_closes_of_the_newest_sessions_and_splits_come_first_and_again_when_they_change(bronze, tmp_path):
    lake = Lake(bronze.uri)
    split(
        lake, ("A", DAYS[3], 1.0, 4.0), ("B", date(2020, 5, 4), 3.0, 1.0), ("A", date(2024, 1, 12), 1.0, 2.0)
    )
    clock = [NOW_S]
    runner = Runner(FactFeed(lake, clock=lambda: clock[0]))
    found = runner.look()
    assert facts(found) == {
        Fact.CLOSE: {**closes(10.0, DAYS[1:], "A"), **closes(100.0, DAYS[1:], "B")},
        # The one that is to come may be moved until then.
        Fact.SPLIT: {("A", number(DAYS[3])): 0.25, ("B", number(date(2020, 5, 4))): 3.0},
    }
    assert [through_of(table) for table in found] == [None, None, ALWAYS]
    assert runner.look() == []
    later = Raw(tmp_path / "later", LATER)
    later.put("more.parquet", rows_of("A", [date(2024, 1, 10)], 7.0))
    bronze.load(later)
    found = runner.look()
    assert facts(found)[Fact.CLOSE]["A", number(date(2024, 1, 10))] == 7.5
    assert set(facts(found)) == {Fact.CLOSE}
    # The day before it takes effect.
    clock[0] += timedelta(days=1).total_seconds()
    assert facts(runner.look())[Fact.SPLIT]["A", number(date(2024, 1, 12))] == 0.5
    split(lake, ("B", DAYS[4], 1.0, 10.0), run="r2")
    assert facts(runner.look())[Fact.SPLIT]["B", number(DAYS[4])] == 0.1
    assert runner.look() == []


def test_a_replay_gets_the_closes_before_it(bronze):
    runner = Runner(FactFeed(Lake(bronze.uri), through=number(DAYS[1]) - 1, clock=now))
    assert ("A", number(DAYS[0])) in facts(runner.look())[Fact.CLOSE]


def test_adjusted_closes_before_a_split_are_left_out(tmp_path):
    raw = Raw(tmp_path / "raw")
    raw.put("all.parquet", [*rows_of("A", DAYS), *rows_of("B", DAYS, 100.0)])
    made = Bronze(str(tmp_path / "lake"))
    made.load(raw, "--price-basis", "split-adjusted")
    lake = Lake(made.uri)
    split(lake, ("A", DAYS[3], 1.0, 4.0), ("C", DAYS[4], 1.0, 4.0))
    found = facts(Runner(FactFeed(lake, clock=now)).look())
    assert found[Fact.CLOSE] == {**closes(10.0, DAYS[3:], "A"), **closes(100.0, DAYS[1:], "B")}


def test_no_lake_has_no_facts_and_says_so(tmp_path):
    (said,) = Runner(FactFeed(Lake(str(tmp_path / "nothing")), clock=now)).look()
    assert (len(said), kind_of(said), through_of(said)) == (0, "facts", ALWAYS)


def test_a_lake_that_does_not_answer_is_asked_again(bronze, tmp_path, caplog):
    runner = Runner(FactFeed(Lake(bronze.uri), clock=now))
    data = Path(bronze.uri) / "bronze.daily" / "period=2024"
    shutil.move(data, tmp_path / "away")
    assert runner.look() == runner.look() == []
    assert caplog.text.count("alert facts were not read, and are asked for again and again") == 1
    shutil.move(tmp_path / "away", data)
    assert set(facts(runner.look())) == {Fact.CLOSE}


def test_facts_on_a_runner(bronze):
    def check(found: list[pa.Table]) -> None:
        assert len(facts(found)[Fact.CLOSE]) == 2 * len(DAYS[1:])

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(woken(pipeline) | tail_facts(Lake(bronze.uri)), check)

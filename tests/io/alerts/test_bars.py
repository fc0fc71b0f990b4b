"""Alerts on the close of bars beside those on prices: kept, changed, fed to the job, and fired."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
from psycopg2 import errors

from fibflow.io.alerts.feed import last_revision, read_changes
from fibflow.io.alerts.model import Imported
from fibflow.io.alerts.source import ChangeFeed
from fibflow.io.alerts.store import AlertStore
from fibflow.tests.io.alerts.alerts import NOW, SINCE, above, connected, randbytes, write
from fibflow.tests.io.alerts.bars import CONDITION, beyond, on_bars
from fibflow.tests.io.alerts.tails import Runner
from fibflow.tests.io.postgresql.databases import execute
from fibflow.transforms.alerts.definition import Definition, DefinitionError
from fibflow.transforms.alerts.hold import through_of
from fibflow.transforms.alerts.schema import ALWAYS, EVENTS, NEVER, Frequency, kind_of

LATER = NOW + timedelta(minutes=5)
DAY = (NOW.date().toordinal()) - 719_163


@pytest.fixture
def store(url) -> Iterator[AlertStore]:
    made = AlertStore(url, clock=lambda: NOW)
    yield made
    made.close()


def pages(url: str, most: int, top: int | None = None, after: int = 0) -> list[tuple[list[Any], list[Any]]]:
    """Revisions of both kinds, page by page."""
    found = []
    with connected(url) as connection:
        connection.autocommit = True
        top = last_revision(connection) if top is None else top
        more = True
        while more:
            prices, bars, after, more = read_changes(connection, after, most, top)
            found.append((prices["revision"].to_pylist(), bars["revision"].to_pylist()))
    return found


def flat(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def fired(alert: Any, at: int = 3) -> pa.Table:
    row = {
        "id": f"{alert.id}-{alert.version}-0",
        "alert": alert.id,
        "version": alert.version,
        "symbol": alert.definition.symbol,
        "ts": SINCE + at,
        "seq": 0,
        "price": 11.0,
        "previous": 9.0,
        "level": 10.0,
    }
    return pa.Table.from_pylist([row], EVENTS)


@pytest.mark.parametrize("frequency", ["once", "bar", "daily"])
def test_one_is_kept_as_it_was_asked_for(store, frequency):
    asked = on_bars("BRK.B", CONDITION, frequency=frequency, cooldown_s=90, note="a\tb\\", expires=LATER)
    asked.check(NOW)
    (made,) = store.create("Ada", [asked], NOW)
    assert store.get("Ada", made.id) == made
    assert made.definition == asked
    changed = store.update("Ada", made.id, on_bars("BRK.B", beyond(1e-300)), NOW)
    assert store.get("Ada", made.id) == changed
    assert store.versions("Ada", made.id) == [made, changed]
    assert store.import_many([Imported("Ada", "x", on_bars("C", beyond(1e300)))], NOW) == 1
    (found,) = store.find("Ada", symbol="C")
    assert found.definition == on_bars("C", beyond(1e300))


def test_prices_given_anew_are_of_the_new_days_shares(store):
    (made,) = store.create("Ada", [on_bars()], NOW)
    later = NOW + timedelta(days=3)
    assert store.update("Ada", made.id, on_bars(note="mine"), later).basis == made.basis
    assert store.update("Ada", made.id, on_bars(condition=beyond(11.0)), later).basis > made.basis


@pytest.mark.parametrize(("before", "after"), [(above(), on_bars()), (on_bars(), above())])
def test_an_alert_stays_of_its_kind(store, before, after):
    (made,) = store.create("Ada", [before], NOW)
    with pytest.raises(DefinitionError, match=r"^bars: "):
        store.update("Ada", made.id, after, NOW)
    assert store.get("Ada", made.id) == made


@pytest.mark.parametrize(
    "said",
    ["operator = 'above', value = 1, bars = '{}'", "operator = NULL", "value = NULL", "bars = '{}'"],
)
def test_the_table_takes_a_price_or_bars(store, url, said):
    store.create("Ada", [above()], NOW)
    with pytest.raises(errors.CheckViolation):
        execute(url, f"UPDATE alerts SET {said}")


def test_a_change_says_all_that_the_job_needs(store, url):
    asked = on_bars("BRK,B", CONDITION, frequency="daily", cooldown_s=90)
    (made, other, _) = store.create("Ada", [asked, on_bars(frequency="bar", expires=LATER), above()], NOW)
    store.pause("Ada", other.id, LATER)
    with connected(url) as connection:
        found = read_changes(connection, 0, top=0)
    rows = found.bars.to_pylist()
    assert json.loads(rows[0].pop("condition")) == CONDITION
    shared = {"version": 1, "since": SINCE, "basis": DAY, "fired": NEVER}
    assert rows[0] == shared | {
        "symbol": "BRK,B",
        "alert": made.id,
        "revision": 1,
        "frequency": Frequency.DAILY,
        "cooldown": 90_000_000,
        "until": ALWAYS,
    }
    assert [
        (row["alert"], row["version"], row["frequency"], row["condition"] is None) for row in rows[1:]
    ] == [
        (other.id, 1, Frequency.BAR, False),
        (other.id, 2, Frequency.BAR, True),
    ]
    assert rows[1]["until"] == int(LATER.timestamp()) * 1_000_000
    assert found.prices["revision"].to_pylist() == [3]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
def test_pages_lose_neither_kind(store, url, most):
    kinds = [above(), on_bars(), on_bars(), on_bars(), above(), above(), on_bars(), above(), on_bars()]
    made = store.create("Ada", kinds, NOW)
    found = pages(url, most)
    assert flat(prices for prices, _ in found) == [1, 5, 6, 8]
    assert flat(bars for _, bars in found) == [2, 3, 4, 7, 9]
    assert all(len(prices) + len(bars) <= most for prices, bars in found)
    for each in made[:4]:
        store.delete("Ada", each.id, LATER)
    loaded, followed = pages(url, most), pages(url, most, 0, 9)
    assert flat(prices for prices, _ in loaded) == [5, 6, 8]
    assert flat(bars for _, bars in loaded) == [7, 9]
    assert flat(prices for prices, _ in followed) == [10]
    assert flat(bars for _, bars in followed) == [11, 12, 13]


def test_one_position_of_the_source_serves_both(store, url):
    store.create("Ada", [above(), on_bars(), on_bars(), above(), on_bars()], NOW)
    runner = Runner(ChangeFeed(url, most=2))
    found: list[pa.Table] = []
    while not found or runner.delay_s == 0:
        found += runner.look()
    revisions: dict[str, list[Any]] = {"changes": [], "bar_changes": []}
    for table in found:
        revisions[kind_of(table)] += table["revision"].to_pylist()
    assert revisions == {"changes": [1, 4], "bar_changes": [2, 3, 5]}
    # All of a kind is told where its last one says so, and not before.
    assert [through_of(table) is None for table in found] == [True] * (len(found) - 2) + [False] * 2
    assert [(kind_of(table), len(table)) for table in runner.look()] == [("bar_changes", 0), ("changes", 0)]
    store.create("Ada", [on_bars()], NOW)
    assert [(kind_of(table), len(table)) for table in runner.look()] == [("bar_changes", 1), ("changes", 0)]


def test_an_event_is_of_bars_and_counts(store, url):
    destination = store.add_destination("Ada", "webhook", "https://a.example/", NOW, secret="s")
    (made, on_price) = store.create(
        "Ada", [on_bars(note="n", destinations=(destination.id,)), Definition("A", "below", 9.0)], NOW
    )
    assert write(url, fired(made)) == write(url, fired(on_price)) == 1
    assert write(url, fired(made)) == 0
    first, second = store.events("Ada", newest=False)
    assert (first.operator, first.note, first.price, first.level) == ("bars", "n", 11.0, 10.0)
    assert second.operator == "below"
    found = store.get("Ada", made.id)
    assert (found.state, found.firings) == ("fired", 1)
    assert len(store.deliveries("Ada", alert=made.id)) == 1
    with connected(url) as connection:
        assert len(read_changes(connection, 0).bars) == 0
    again = store.rearm("Ada", made.id, LATER)
    with connected(url) as connection:
        (row,) = read_changes(connection, 0).bars.to_pylist()
    assert (row["version"], row["fired"]) == (again.version, NEVER)


def test_a_test_of_one_says_what_it_is_of(store):
    (made,) = store.create("Ada", [on_bars()], NOW)
    event = store.test_fire("Ada", NOW, randbytes(), alert=made.id)
    assert (event.operator, event.level, event.test) == ("bars", None, True)

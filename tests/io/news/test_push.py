"""News in Redis: told once, in order, whatever was killed in between."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from fibflow.io.lake import Lake
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.maintenance import compact
from fibflow.io.news import push
from fibflow.io.news.table import NewsTable
from fibflow.io.tables import NEWS
from fibflow.tests.io.livestores import Server, fresh
from fibflow.tests.io.news.samples import article, rows

#: Some hours after the articles.
NOW = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path), clock=lambda: NOW)


@pytest.fixture
def store(server: Server):
    with fresh(server) as made:
        yield made


def told(store, after=push.START):
    return [
        (json.loads(one.article), one.tickers, one.revision) for one in push.read(store, after, 1, 10_000)
    ]


def test_what_is_new_and_what_is_changed_is_told_once(lake, store):
    news = NewsTable(lake)
    assert push.tell(store, news.table, NOW) == 0
    assert push.position(store) == push.START
    first = [article(1, tickers=["AAPL", "BRK.B"]), article(2, tickers=[])]
    news.write(rows(*first), "a")
    assert push.tell(store, news.table, NOW) == 2
    assert told(store) == [(first[0], ("AAPL", "BRK.B"), 0), (first[1], (), 0)]
    end = push.position(store)
    assert [push.tell(store, news.table, NOW) for _ in range(2)] == [0, 0]
    changed, other = article(2, tickers=["A"]), article(3)
    news.write(rows(first[0], changed, other), "b")
    compact(news.table, 1_000, "compact")
    assert push.tell(store, news.table, NOW) == 2
    assert told(store, end) == [(changed, ("A",), 1), (other, ("AAPL",), 0)]


def test_what_is_old_is_no_news(lake, store):
    news = NewsTable(lake)
    old = f"{NOW - push.RECENT - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
    news.write(rows(article(1, old)), "a")
    assert push.tell(store, news.table, NOW) == 0
    news.write(rows(article(1, old), article(2)), "b")
    assert push.tell(store, news.table, NOW) == 1
    assert [one["id"] for one, _, _ in told(store)] == [article(2)["id"]]


def test_who_was_killed_in_between_leaves_the_rest_to_the_next(lake, store, monkeypatch):
    news = NewsTable(lake)
    made = [article(number, f"2024-05-31T10:{number // 60:02}:{number % 60:02}Z") for number in range(450)]
    news.write(rows(*made), "a")
    calls = []
    call = store.connection.call

    def once(script, given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(script, given)

    monkeypatch.setattr(store.connection, "call", once)
    with pytest.raises(KeyboardInterrupt):
        push.tell(store, news.table, NOW)
    monkeypatch.undo()
    assert len(told(store)) == 200
    assert push.tell(store, news.table, NOW) == 250
    # An answer that was lost: the call comes again, and tells nothing twice.
    assert call(push._TELL, calls[0]) == [0]
    assert [one["id"] for one, _, _ in told(store)] == [one["id"] for one in made]


def test_a_redis_that_is_away_is_told(lake, tmp_path_factory):
    from fibflow.io.livestore import LiveStore
    from fibflow.tests.io.livestores import NO_PATIENCE

    NewsTable(lake).write(rows(article(1)), "a")
    with (
        LiveStore("redis://127.0.0.1:1", patience=NO_PATIENCE) as away,
        pytest.raises(LiveStoreError, match="does not answer"),
    ):
        push.tell(away, lake.table(NEWS), NOW)

"""News on the WebSocket: by symbol, to all who follow it, as it is written to the live store."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from fibflow.io.lake import Lake
from fibflow.io.news.push import Told, tell
from fibflow.io.news.table import NewsTable
from fibflow.serving.live.follower import Interest
from fibflow.serving.live.news import part_of
from fibflow.tests.io.livestores import Server
from fibflow.tests.io.news.samples import article, rows
from fibflow.tests.serving.live.wires import listening

WHEN = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def publish(tmp_path, store):
    """Writes articles to a lake and tells the live store, as the poller does."""
    lake = Lake(str(tmp_path / "news"), clock=lambda: WHEN)

    def published(*articles):
        NewsTable(lake).write(rows(*articles), lake.new_id())
        return tell(store, lake.table(NewsTable(lake).table.spec), WHEN)

    return published


def own(one, symbol=None, revision=0):
    return {"ev": "N", **({} if symbol is None else {"sym": symbol}), "rev": revision, **one}


def test_who_follows_a_symbol_gets_its_articles_and_who_follows_all_each_once(url, publish):
    first = article(1, tickers=["AAPL", "BRK.B"], title='Says "so"')
    second = article(2, tickers=["MSFT"])
    third = article(3, tickers=[])
    with listening(url, "N.AAPL", "N.BRK.B") as some, listening(url, "N.*") as every:
        assert publish(first, second, third) == 3
        assert some.take(2) == [own(first, "AAPL"), own(first, "BRK.B")]
        assert every.take(3) == [own(first), own(second), own(third)]
        changed = {**first, "title": "Corrected"}
        assert publish(changed, second) == 1
        assert some.take(2) == [own(changed, "AAPL", 1), own(changed, "BRK.B", 1)]
        assert every.take(1) == [own(changed, revision=1)]
        some.say("unsubscribe", "N.AAPL")
        assert some.status() == ("success", "unsubscribed to: N.AAPL")
        last = article(4, tickers=["AAPL", "BRK.B"])
        publish(last)
        assert some.take(1) == [own(last, "BRK.B")]


def test_what_was_told_before_is_no_news_for_who_comes(url, publish):
    publish(article(1))
    with listening(url, "N.AAPL") as client:
        publish(article(2))
        assert client.take(1) == [own(article(2), "AAPL")]


def test_after_a_redis_that_was_away_news_goes_on(url, publish, store, server: Server):
    with listening(url, "N.AAPL") as client:
        publish(article(1))
        assert client.take(1) == [own(article(1), "AAPL")]
        server.kill()
        server.start()
        store.close()
        publish(article(2))
        # A Redis that comes back empty is told anew what was changed last.
        told = client.until(lambda found: any(one.get("id") == article(2)["id"] for one in found))
        assert own(article(2), "AAPL") in told


def test_an_article_of_several_followed_tickers_is_one_object_a_ticker():
    told = [Told("1-0", json.dumps(article(1)).encode(), ("A", "B", "C"), 2)]
    part = part_of(told, Interest(False, pa.array(["C", "A", "Z"])))
    assert (part.symbols, part.frames) == (["A", "C"], [])
    assert [json.loads(text) for text in part.texts] == [own(article(1), name, 2) for name in ("A", "C")]
    [frame] = part_of(told, Interest(True, pa.array([], pa.string()))).frames
    assert json.loads(frame) == [own(article(1), revision=2)]

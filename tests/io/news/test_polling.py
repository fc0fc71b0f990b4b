"""Polls: from when on is asked, what is written of what comes, and what is told of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import count

import pytest

from fibflow.io.lake import Lake
from fibflow.io.news.polling import LONG_EVERY, LONG_OVERLAP, OVERLAP, Poller
from fibflow.io.tables import DEAD_LETTERS, NEWS
from fibflow.io.vendor.errors import VendorAway
from fibflow.tests.io.news.samples import NOW, Source, article


class Clock:
    def __init__(self):
        self.at = NOW

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    def poller(source):
        numbers = count()
        return Poller(
            source, Lake(str(tmp_path), clock=clock), clock, lambda: f"run{next(numbers)}-{id(source)}"
        )

    return poller


def stored(tmp_path):
    rows, _ = Lake(str(tmp_path)).table(NEWS).snapshot().read()
    return {row["id"]: row["title"] for row in rows.to_pylist()}


def test_a_poll_begins_before_the_newest_and_now_and_then_far_before(make, clock):
    source = Source(article(1, "2024-05-31T10:00:00Z"), article(2, "2024-06-01T11:00:00Z"))
    poller = make(source)
    newest = datetime(2024, 6, 1, 11, tzinfo=UTC)
    for passed in (timedelta(0), timedelta(minutes=1), LONG_EVERY, timedelta(minutes=1)):
        clock.at += passed
        poller.poll()
    back = [LONG_OVERLAP, OVERLAP, LONG_OVERLAP, OVERLAP]
    assert source.asked == [NOW - LONG_OVERLAP, *(newest - overlap for overlap in back[1:])]


def test_an_article_of_tomorrow_does_not_hide_what_is_published_today(make, clock):
    source = Source(article(1, "2024-06-02T11:00:00Z"))
    poller = make(source)
    for _ in range(2):
        poller.poll()
    assert source.asked[-1] == NOW - OVERLAP


def test_what_came_is_told_and_what_is_wrong_is_counted(make, tmp_path):
    source = Source(article(1), article(2), page=1)
    poller = make(source)
    assert dict(poller.poll().rows()) == {
        "asked for since": "2024-05-29 12:00 UTC",
        "articles given": "2",
        "new": "2",
        "changed": "0",
        "as they were": "0",
    }
    source.articles = [
        article(1, title="Another"),
        article(2),
        article(2),
        article(3, "2024-05-31T09:30:00Z"),
        article(4, title=5),
    ]
    done = poller.poll()
    assert dict(done.rows()) == {
        "asked for since": "2024-05-31 08:00 UTC",
        "articles given": "5",
        "new": "1",
        "  older than the newest before": "1",
        "changed": "1",
        "as they were": "1",
        "refused: article_with_bad_values": "1",
        "refused for the first time": "1",
    }
    assert done.anything
    again = poller.poll()
    assert (again.refused.total(), again.letters, again.anything) == (1, 0, False)
    assert len(Lake(str(tmp_path)).table(DEAD_LETTERS).snapshot().read()[0]) == 1
    assert set(stored(tmp_path).values()) == {"Another", "Title 2", "Title 3"}


def test_history_is_asked_for_once_from_a_date_on(make):
    source = Source(article(1, "2024-01-05T10:00:00Z"), article(2, "2024-06-01T11:00:00Z"))
    make(source).poll()
    for first in (date(2024, 2, 1), date(2024, 2, 1), date(2024, 3, 1), date(2024, 1, 1)):
        make(source).poll(first)
    newest = datetime(2024, 6, 1, 11, tzinfo=UTC)
    assert source.asked[1:] == [
        datetime(2024, 2, 1, tzinfo=UTC),
        newest - LONG_OVERLAP,
        newest - LONG_OVERLAP,
        datetime(2024, 1, 1, tzinfo=UTC),
    ]


def test_what_came_before_an_error_stays_and_the_history_is_asked_for_again(make, tmp_path):
    class Breaking(Source):
        def news(self, since):
            yield next(super().news(since))
            raise VendorAway("the vendor is away")

    with pytest.raises(VendorAway):
        make(Breaking(article(1), article(2), page=1)).poll(date(2024, 1, 1))
    assert list(stored(tmp_path).values()) == ["Title 1"]
    source = Source(article(1), article(2))
    assert make(source).poll(date(2024, 1, 1)).written.new == 1
    assert source.asked == [datetime(2024, 1, 1, tzinfo=UTC)]


def test_a_vendor_that_gives_nothing_of_what_it_gave_is_not_believed(make):
    assert make(Source()).poll().given == 0
    make(Source(article(1))).poll()
    with pytest.raises(VendorAway, match="gives none, and gave some before: run again later"):
        make(Source()).poll()

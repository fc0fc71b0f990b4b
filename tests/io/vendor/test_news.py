"""The vendor's news: pages, faults, and pages that lack some."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest

from fibflow.io.vendor.errors import VendorAway, VendorError
from fibflow.io.vendor.rest import ROWS_A_PAGE
from fibflow.tests.io.vendor.scripted import Answer, scripted
from fibflow.tests.io.vendor.test_rest import vendor_at

SINCE = datetime(2024, 5, 31, 10, 30, 0, 999, tzinfo=UTC)


def page(first, count, following=None):
    body = {"status": "OK", "count": count, "results": [{"id": str(first + place)} for place in range(count)]}
    return Answer(body={**body, **({"next_url": f"https://elsewhere{following}"} if following else {})})


def ids(pages):
    return [[one["id"] for one in part] for part in pages]


def test_pages_come_one_by_one_the_oldest_first():
    next_path = "/v2/reference/news?cursor=b"
    answers = [page(0, ROWS_A_PAGE, next_path), Answer(500), page(ROWS_A_PAGE, 3)]
    with scripted(answers) as server:
        pages = vendor_at(server.url).news(SINCE)
        assert len(next(pages)) == ROWS_A_PAGE
        assert len(server.paths) == 1
        assert ids(pages) == [[str(ROWS_A_PAGE + place) for place in range(3)]]
        assert server.paths[0].startswith("/v2/reference/news?")
        asked = parse_qs(server.paths[0].partition("?")[2])
        assert asked == {
            "published_utc.gte": ["2024-05-31T10:30:00Z"],
            "order": ["asc"],
            "sort": ["published_utc"],
            "limit": ["1000"],
        }
        assert server.paths[1:] == [next_path, next_path]


def test_a_page_before_the_last_that_lacks_some_is_asked_for_again():
    whole = page(0, ROWS_A_PAGE, "/v2/reference/news?cursor=b")
    short = page(0, 5, "/v2/reference/news?cursor=b")
    with scripted([short, whole, page(5_000, 1)]) as server:
        assert [len(part) for part in vendor_at(server.url).news(SINCE)] == [ROWS_A_PAGE, 1]
    # A vendor that means it is believed.
    with scripted([short, short, short, page(5_000, 1)]) as server:
        assert [len(part) for part in vendor_at(server.url).news(SINCE)] == [5, 1]


def test_none_is_an_answer_and_an_error_is_none():
    with scripted([Answer(body={"status": "OK", "count": 0})]) as server:
        assert ids(vendor_at(server.url).news(SINCE)) == [[]]
    with scripted([Answer(500)]) as server, pytest.raises(VendorAway, match=r"^news: .*run again later$"):
        list(vendor_at(server.url).news(SINCE))


def test_pages_that_lead_in_a_circle_end():
    round_and_round = page(0, ROWS_A_PAGE, "/v2/reference/news?cursor=a")
    with scripted([round_and_round]) as server:
        pages = vendor_at(server.url).news(SINCE)
        assert len(next(pages)) == ROWS_A_PAGE
        with pytest.raises(VendorError, match="circle"):
            list(pages)

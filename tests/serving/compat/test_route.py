"""Keys and scopes, and refusals in the vendor's envelope, as its own clients meet them."""

from __future__ import annotations

from pathlib import Path

import massive
import polygon
import pytest

from fibflow.serving.keys.scope import Scope
from fibflow.tests.serving.compat.answers import ask
from fibflow.tests.serving.compat.conftest import settings_of
from fibflow.tests.serving.conftest import make_keyed
from fibflow.tests.serving.servers import running

REFUSALS = (polygon.exceptions.BadResponse, massive.exceptions.BadResponse)
BARS = "/v2/aggs/ticker/AAPL/range/1/day/2024-03-07/2024-03-13"


@pytest.fixture(scope="module")
def keyed(raw, tmp_path_factory):
    """URL and keys of a server that asks for keys."""
    made = make_keyed(settings_of(raw), Path(tmp_path_factory.mktemp("keys")) / "keys.sqlite")
    with running(made.app) as url:
        yield url, made.keys
    made.store.close()


def test_a_key_opens_every_page(keyed, make_client):
    url, keys = keyed
    client = make_client(url, keys["all"])
    assert len(list(client.list_aggs("AAPL", 1, "day", "2024-01-01", "2024-04-05", limit=20))) == 66
    assert client.get_last_trade("AAPL").ticker == "AAPL"


@pytest.mark.parametrize(
    ("name", "status"), [("none", 401), ("revoked", 401), ("expired", 401), ("live", 403)]
)
def test_other_keys_open_nothing(keyed, make_client, name, status):
    url, keys = keyed
    key = keys.get(name, "a key of somebody else")
    with pytest.raises(REFUSALS) as refused:
        make_client(url, key).get_aggs("AAPL", 1, "day", "2024-03-07", "2024-03-13")
    told = {401: '"status":"ERROR"', 403: '"status":"NOT_AUTHORIZED"'}[status]
    assert told in str(refused.value)
    assert key not in str(refused.value)
    assert ask(url, BARS, key)[0] == status


def test_history_does_not_open_live_prices(keyed):
    url, keys = keyed
    assert ask(url, "/v2/last/trade/AAPL", keys[Scope.HISTORY])[0] == 403
    assert ask(url, "/v2/last/trade/AAPL", keys[Scope.LIVE])[0] == 200


def test_a_key_in_the_query_works_and_does_not_come_back(keyed):
    url, keys = keyed
    status, document, _ = ask(url, f"{BARS}?limit=2&apiKey={keys['all']}")
    assert (status, document["resultsCount"]) == (200, 2)
    assert keys["all"] not in str(document)


def test_who_asks_too_often_is_told_when_to_come_again(keyed):
    url, keys = keyed
    answers = [ask(url, BARS, keys["slow"]) for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    _, document, headers = answers[-1]
    assert (document["status"], "retry-after" in headers) == ("ERROR", True)


def test_a_refusal_is_kept_by_no_cache_and_names_the_request(keyed):
    _, document, headers = ask(keyed[0], BARS)
    assert headers["cache-control"] == "no-store"
    assert document["request_id"] == headers["x-request-id"]
    assert "www-authenticate" in headers


def test_what_is_not_found_is_a_bad_response(raw_url, make_client):
    for question in ("get_ticker_details", "get_last_trade", "get_last_quote"):
        with pytest.raises(REFUSALS, match="NOT_FOUND"):
            getattr(make_client(raw_url), question)("NOSUCH")
    with pytest.raises(REFUSALS, match="NOT_FOUND"):
        make_client(raw_url).get_snapshot_ticker("stocks", "NOSUCH")
    with pytest.raises(REFUSALS, match="NOT_FOUND"):
        make_client(raw_url).get_daily_open_close_agg("AAPL", "2024-03-09")

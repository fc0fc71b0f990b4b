"""Who is let in, over HTTP: keys, scopes, rates."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest
from fastapi import APIRouter, Depends, Request
from fastapi.testclient import TestClient

from fibflow.serving.access import OPEN, Gate, Principal, Scope, key_of, require, scope_of
from fibflow.serving.keys.book import KeyBook
from fibflow.serving.keys.sqlite import SqliteKeys
from fibflow.serving.keys.store import issue
from fibflow.serving.problems import Problem
from fibflow.tests.serving.conftest import NOW, Keyed, now


def with_routes(app) -> None:
    """Put a route for each scope in front of the app's own."""
    for scope in Scope:

        async def who(principal: Principal = Depends(require(scope))) -> dict[str, str]:  # noqa: B008 - FastAPI's way
            return {"id": principal.id}

        router = APIRouter()
        router.get(f"/test/{scope}")(who)
        app.router.routes[:0] = router.routes


@pytest.fixture
def asking(keyed: Keyed):
    with_routes(keyed.app)
    with TestClient(keyed.app) as client:
        yield client


def code_of(answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("scope", Scope)
def test_a_key_with_the_scope_is_let_in(asking, keyed, scope):
    answer = asking.get(f"/test/{scope}", headers=keyed.headers(scope))
    assert answer.status_code == 200
    assert answer.json()["id"] == keyed.keys[scope].split("_")[1]


@pytest.mark.parametrize("scope", Scope)
def test_a_key_without_the_scope_is_not(asking, keyed, scope):
    other = next(one for one in Scope if one is not scope)
    assert code_of(asking.get(f"/test/{scope}", headers=keyed.headers(other))) == (403, "missing_scope")


def test_the_query_carries_a_key_too_and_the_header_wins(asking, keyed):
    good, bad = keyed.keys["all"], keyed.keys["revoked"]
    assert asking.get("/test/history", params={"apiKey": good}).status_code == 200
    assert asking.get("/test/history", params={"apiKey": bad}, headers=keyed.headers()).status_code == 200
    refused = asking.get("/test/history", params={"apiKey": good}, headers=keyed.headers("revoked"))
    assert code_of(refused) == (401, "revoked_key")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "no_key"),
        ("Bearer", "no_key"),
        ("Bearer ", "no_key"),
        ("Basic YTpi", "no_key"),
        ("Bearer nonsense", "unknown_key"),
        ("Bearer fib_0001020304050607_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "unknown_key"),
        ("Bearer ' OR 1=1 --", "unknown_key"),
    ],
)
def test_nobody_gets_in_without_a_key_that_is_known(asking, header, code):
    answer = asking.get("/test/history", headers={} if header is None else {"Authorization": header})
    assert code_of(answer) == (401, code)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("name", ["revoked", "expired"])
def test_a_key_that_counts_no_more_says_so(asking, keyed, name):
    assert code_of(asking.get("/test/history", headers=keyed.headers(name))) == (401, f"{name}_key")


def test_a_wrong_secret_does_not_learn_the_state_of_the_key(asking, keyed):
    text = keyed.keys["revoked"][:-1] + ("A" if keyed.keys["revoked"][-1] != "A" else "B")
    assert code_of(asking.get("/test/history", headers={"Authorization": f"Bearer {text}"})) == (
        401,
        "unknown_key",
    )


def test_who_asks_too_often_is_told_when_to_come_again(asking, keyed):
    answers = [asking.get("/test/history", headers=keyed.headers("slow")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {"2"}
    assert code_of(answers[-1]) == (429, "too_many_requests")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 100
    assert int(answers[-1].headers["ratelimit-reset"]) >= int(answers[-1].headers["retry-after"])


def test_open_access_asks_for_nothing_and_counts_nothing(open_app):
    with_routes(open_app)
    with TestClient(open_app) as client:
        answers = [client.get("/test/live") for _ in range(500)]
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].json() == {"id": "local"}
    assert "ratelimit-limit" not in answers[0].headers


def test_a_dependency_knows_its_scope():
    assert [scope_of(require(scope)) for scope in Scope] == list(Scope)
    assert scope_of(key_of) is None
    assert scope_of(None) is None


def test_a_bare_request_carries_no_key():
    assert key_of(Request({"type": "http", "headers": [], "query_string": b"", "method": "GET"})) is None


def test_whoever_stays_is_asked_again_without_being_counted(tmp_path):
    store = SqliteKeys(tmp_path / "keys.sqlite")
    key = issue("Ada", [Scope.LIVE], NOW, random.Random(1).randbytes, burst=1, rate=0.01)
    store.add(key.record)

    async def staying():
        gate = Gate(False, KeyBook(store, "", now), clock=now)
        principal = await gate.admit(key.text, Scope.LIVE)
        assert [await gate.holds(principal) for _ in range(10)] == [True] * 10
        assert not await gate.holds(OPEN)
        with pytest.raises(Problem) as refused:
            await gate.admit(key.text, Scope.LIVE)
        assert refused.value.status == 429
        await gate.close()
        store.revoke(key.record.id, NOW - timedelta(seconds=1))
        later = Gate(False, KeyBook(store, "", now), clock=now)
        assert not await later.holds(principal)
        await later.close()

    asyncio.run(staying())


def test_a_store_of_keys_that_is_away_is_a_503_with_a_reason(open_settings, tmp_path):
    from fibflow.tests.serving.conftest import make_keyed

    path = tmp_path / "keys.sqlite"
    made = make_keyed(open_settings, path)
    path.write_text("this is no database any more, and long enough to be looked at as one" * 20)
    with_routes(made.app)
    with TestClient(made.app) as client:
        answer = client.get("/test/history", headers=made.headers())
        assert code_of(answer) == (503, "keys_unavailable")
        assert answer.headers["retry-after"]
        assert client.get("/readyz").json()["stores"]["keys"] == "down"
        # No key: no need to ask anybody.
        assert code_of(client.get("/test/history")) == (401, "no_key")

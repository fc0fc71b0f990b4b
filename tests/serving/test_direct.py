"""Routes that are answered past the framework answer as the others do."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, Query, Request
from starlette.testclient import TestClient

from fibflow.serving.access import Scope, require
from fibflow.serving.app import create_app
from fibflow.serving.direct import Direct
from fibflow.tests.serving.conftest import now

PATHS = [
    "/v1/bars?symbols=AAPL&timeframe=1d&limit=2",
    "/v1/bars?symbols=AAPL&timeframe=nonsense",
    "/v1/bars",
    "/v1/prices/NOBODY",
    "/v2/last/trade/NOBODY",
    "/v2/aggs/ticker/AAPL/range/1/day/2024-01-01/2024-03-01?limit=3",
    "/v2/aggs/ticker/AAPL/range/1/day/2024-03-01/2024-01-01",
    "/v2/aggs/ticker/A%20B/range/x/day/2024-01-01/2024-03-01",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_the_answer_is_that_of_the_framework(open_settings, path, method, monkeypatch):
    with TestClient(create_app(open_settings, now)) as client:
        found = client.request(method, path, headers={"X-Request-Id": "the-same-id"})
        monkeypatch.setattr(Direct, "__call__", lambda self, *message: self._app(*message))
        wanted = client.request(method, path, headers={"X-Request-Id": "the-same-id"})
    assert (found.status_code, found.content) == (wanted.status_code, wanted.content)
    assert dict(found.headers) == dict(wanted.headers)


def test_a_key_is_needed_as_elsewhere(keyed):
    with TestClient(keyed.app) as client:
        for path in (PATHS[0], PATHS[3], PATHS[4], PATHS[5]):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 401


def _router(**parameters):
    router = APIRouter()

    async def endpoint(request: Request, word: Annotated[str, Query()] = "x") -> None: ...

    router.add_api_route(
        "/here", endpoint, **{"dependencies": [Depends(require(Scope.HISTORY))], **parameters}
    )
    return router, endpoint


@pytest.mark.parametrize("parameters", [{}, {"dependencies": []}, {"methods": ["POST"]}])
def test_what_takes_more_cannot_be_direct(parameters):
    router, endpoint = _router(**parameters)
    with pytest.raises(ValueError, match="a direct route"):
        Direct(router, router.routes, [endpoint])

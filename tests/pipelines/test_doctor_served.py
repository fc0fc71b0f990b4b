"""``pipelines.doctor``, the API and the vendor."""

from __future__ import annotations

import http.server
import random
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fibflow.io.lake import Lake
from fibflow.serving.access import Scope
from fibflow.serving.app import create_app
from fibflow.serving.keys.sqlite import SqliteKeys
from fibflow.serving.keys.store import issue
from fibflow.serving.settings import Settings
from fibflow.tests.io.barlakes import commit_bars, daily_rows, make_bars
from fibflow.tests.pipelines.doctoring import NAMES, looked
from fibflow.tests.serving.servers import running
from fibflow.tests.vendors import standin


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    lake = Lake(str(folder / "lake"))
    commit_bars(lake, make_bars(daily_rows({"AAPL": ("2024-01-02", "2024-01-23")}), "1d,3d"))
    return Settings(lake.uri, open_access=True, log_requests=False)


@pytest.fixture
def keyed(settings, tmp_path):
    """A server that asks for keys, and a key with all scopes, and one without ``live``."""
    path = tmp_path / "keys.sqlite"
    store = SqliteKeys(path)
    made = [
        issue("tests", frozenset(scopes), datetime.now(UTC), random.Random(seed).randbytes)
        for seed, scopes in enumerate((Scope, (Scope.HISTORY,)))
    ]
    for key in made:
        store.add(key.record)
    with running(create_app(replace(settings, open_access=False, keys=str(path)))) as url:
        yield url, *(key.text for key in made)
    store.close()


class Clock:
    """Stands but where somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@contextmanager
def answering(status, body=b"<html>"):
    """A server of something else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_with_a_key(keyed, monkeypatch):
    url, key, _ = keyed
    monkeypatch.setenv("FIBFLOW_API_KEY", key)
    found = looked("--server", url)
    assert found.code == 0
    assert found.states() == {"ok"}
    for check in ("server", "server version", "server bars", "server socket"):
        assert found[check][0] == "ok"
    assert "AAPL was asked for, 1 came" in found["server bars"][1]
    assert key not in found.text


def test_a_server_with_a_wrong_key_or_one_of_too_few_scopes(keyed, monkeypatch):
    url, _, poor = keyed
    found = looked("--server", url)
    assert found["server version"][0] == "ok"
    failed = [each for each in found.found if each["state"] == "failed"]
    assert [each["check"] for each in failed] == ["server bars", "server socket"]
    assert all("FIBFLOW_API_KEY" in each["advice"] for each in failed)
    monkeypatch.setenv("FIBFLOW_API_KEY", poor)
    found = looked("--server", url)
    assert found["server bars"][0] == "ok"
    assert [each["check"] for each in found.found if each["state"] == "failed"] == ["server socket"]
    assert "auth_failed" in found["server socket"][1]
    assert poor not in found.text


def test_a_server_whose_store_or_lake_is_away(settings, tmp_path):
    with running(create_app(replace(settings, redis="redis://127.0.0.1:1/0"))) as url:
        found = looked("--server", url)
        assert found.code == 0
        assert found["server"][0] == "warning"
        assert "redis down" in found["server"][1]
    (tmp_path / "empty").mkdir()
    with running(create_app(replace(settings, lake=str(tmp_path / "empty")))) as url:
        state, reason, _ = looked("--server", url)["server"]
        assert state == "failed"
        assert "lake down" in reason


def test_a_server_that_is_away_or_another_one():
    assert "does not answer" in looked("--server", "http://127.0.0.1:1")["server"][1]
    with answering(200) as url:
        state, reason, advice = looked("--server", url)["server"]
        assert state == "failed"
        assert "not as Fibflow does" in reason
        assert advice == "correct --server"


def test_the_vendor_and_its_key(monkeypatch):
    with standin(symbols=3, key="right") as vendor:
        monkeypatch.setenv("FIBFLOW_VENDOR_URL", vendor.url)
        assert "there is no key" in looked("--vendor")["vendor"][1]
        monkeypatch.setenv("MASSIVE_API_KEY", "right")
        assert looked("--vendor")["vendor"][0] == "ok"
        assert vendor.calls.total() == 1
        monkeypatch.setenv("MASSIVE_API_KEY", "wrong-one")
        found = looked("--vendor")
        assert found["vendor"][0] == "failed"
        assert "refuses the key" in found["vendor"][1]
        assert "wrong-one" not in found.text


def test_a_vendor_that_fails_is_not_asked_for_long(monkeypatch):
    monkeypatch.setenv("MASSIVE_API_KEY", "any")
    clock = Clock()
    own = {"clock": clock, "sleep": clock.sleep, "dice": random.Random(1)}
    with answering(500) as url:
        found = looked("--vendor", "--vendor-url", url, **own)
        assert found["vendor"][0] == "failed"
        assert "answered 500" in found["vendor"][1]
    assert 0.0 < clock.now <= 3.0
    away = looked("--vendor", "--vendor-url", "http://127.0.0.1:1", **own)
    assert "cannot be reached" in away["vendor"][1]

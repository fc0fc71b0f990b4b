"""The command line of the server, and the server as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from fibflow.serving.__main__ import is_loopback, settings_of
from fibflow.serving.cli import ServeError, UsageError
from fibflow.serving.keys.__main__ import run as keys
from fibflow.serving.server import listen, url_of
from fibflow.tests.serving.servers import ROOT, started


def settings(lake, *argv: str, **env: str):
    return settings_of(["--lake", lake.uri, *argv], env)


# What it is told -------------------------------------------------------------------------------------------


def test_a_lake_is_enough(lake):
    found = settings(lake)
    assert (found.lake, found.redis, found.postgres, found.aws) == (lake.uri, None, None, None)
    assert (found.host, found.port, found.workers, found.open_access) == ("127.0.0.1", 8000, 1, False)


def test_the_environment_gives_urls_and_the_command_line_goes_first(lake):
    env = {"REDIS_URL": "redis://a/0", "DATABASE_URL": "postgresql://a/x", "FIBFLOW_KEY_PEPPER": "black"}
    found = settings(lake, **env)
    assert (found.redis, found.postgres, found.pepper) == ("redis://a/0", "postgresql://a/x", "black")
    found = settings(lake, "--redis", "redis://b/0", "--postgres", "", **env)
    assert (found.redis, found.postgres) == ("redis://b/0", None)


def test_no_secret_shows_in_what_is_printed(lake):
    env = {
        "REDIS_URL": "redis://:hunter2@a/0",
        "DATABASE_URL": "postgresql://u:hunter2@a/x",
        "FIBFLOW_KEY_PEPPER": "hunter2",
    }
    assert "hunter2" not in repr(settings(lake, **env))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_open_access_beyond_this_machine_is_refused(lake, host):
    with pytest.raises(UsageError, match="not a loopback address"):
        settings(lake, "--open", "--host", host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_open_access_on_this_machine_answers_to_its_own_names(lake, host):
    assert is_loopback(host)
    assert host in settings(lake, "--open", "--host", host).hosts


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--workers", "0"], "--workers is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--exports", "-1"], "--exports is -1"),
        (["--cache-mb", "-1"], "--cache-mb is -1"),
        (["--port", "70000"], "--port is 70000"),
        (["--refresh", "nan"], "--refresh"),
        (["--origin", "example.org"], "--origin 'example.org'"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(lake, argv, says):
    with pytest.raises(UsageError, match=says) as raised:
        settings(lake, *argv)
    assert "\n" not in str(raised.value)


def test_a_lake_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="there is no lake at"):
        settings_of(["--lake", str(tmp_path / "nothing")], {})


def test_a_lake_in_a_bucket_needs_to_be_told_where_keys_are(monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="--postgres URL or --keys FILE"):
        settings_of(["--lake", "s3://bucket/lake"], {})
    assert settings_of(["--lake", "s3://bucket/lake", "--open"], {}).aws is not None


def test_an_address_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(ServeError, match=f"cannot listen on 127.0.0.1:{port}"), listen("127.0.0.1", port):
            pass


def test_the_url_is_one_that_a_browser_here_takes():
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 80) == "http://[::1]:80"


# As a process ----------------------------------------------------------------------------------------------


def command(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "fibflow.serving", *argv],
        capture_output=True, text=True, env={**own, **env}, check=False, cwd=ROOT,
    )  # fmt: skip


def test_help_names_the_options():
    done = command("--help")
    assert done.returncode == 0
    for option in (
        "--lake",
        "--redis",
        "--dynamodb",
        "--postgres",
        "--keys",
        "--open",
        "--workers",
        "--endpoint-url",
    ):
        assert option in done.stdout


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--lake", "/nowhere/at/all"],
        ["--lake", "/tmp", "--open", "--host", "0.0.0.0"],
        ["--lake", "/tmp", "--port", "x"],
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(argv):
    done = command(*argv)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("python -m serving: ")


def test_a_port_that_is_taken_is_one_line_and_exit_code_1(lake):
    with socket.create_server(("127.0.0.1", 0)) as held:
        done = command("--lake", lake.uri, "--open", "--port", str(held.getsockname()[1]))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("workers", "told"), [("1", signal.SIGTERM), ("1", signal.SIGINT), ("2", signal.SIGTERM)], ids=str
)
def test_it_says_where_it_answers_and_ends_when_it_is_told(lake, tmp_path, workers, told):
    with started(tmp_path / "log", "--lake", lake.uri, "--open", "--workers", workers) as server:
        assert httpx2.get(f"{server.url}/healthz").json() == {"status": "ok"}
        assert httpx2.get(f"{server.url}/readyz").json()["stores"] == {"lake": "up"}
        server.process.send_signal(told)
        assert server.process.wait(20) == 0
    lines = [json.loads(line) for line in server.said().splitlines()]
    assert {line["route"] for line in lines if "route" in line} >= {"/healthz", "/readyz"}


def test_workers_count_requests_and_rates_together(lake, tmp_path, capsys):
    path = str(tmp_path / "keys.sqlite")
    assert keys(["create", "--owner", "Ada", "--keys", path, "--rate", "0.001", "--burst", "10"]) == 0
    key = capsys.readouterr().out.strip()
    with started(tmp_path / "log", "--lake", lake.uri, "--keys", path, "--workers", "2") as server:
        # A connection each, so that both workers get some.
        statuses = [
            httpx2.get(f"{server.url}/v1/prices/AAPL", headers={"Authorization": f"Bearer {key}"}).status_code
            for _ in range(30)
        ]
        assert statuses.count(429) == 20
        metrics = [httpx2.get(f"{server.url}/metrics").text for _ in range(6)]
        for text in metrics:
            counted = [
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("fibflow_requests_total") and "/v1/prices/{symbol}" in line
            ]
            assert sum(counted) == 30
    assert key.rpartition("_")[2] not in server.said()


def test_a_worker_that_is_killed_is_replaced(lake, tmp_path):
    with started(tmp_path / "log", "--lake", lake.uri, "--open", "--workers", "2") as server:
        children = workers_of(server.process.pid)
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        pause = threading.Event()
        for _ in range(300):
            now = workers_of(server.process.pid)
            if len(now) == 2 and children[0] not in now:
                break
            pause.wait(0.1)
        else:
            raise AssertionError(f"workers are {workers_of(server.process.pid)}")
        assert httpx2.get(f"{server.url}/healthz").status_code == 200


def test_workers_end_with_their_parent(lake, tmp_path):
    with started(tmp_path / "log", "--lake", lake.uri, "--open", "--workers", "2") as server:
        children = workers_of(server.process.pid)
        server.process.kill()
        server.process.wait()
        pause = threading.Event()
        for _ in range(300):
            if not any(is_alive(child) for child in children):
                break
            pause.wait(0.1)
        else:
            raise AssertionError("workers live on without their parent")


def workers_of(pid: int) -> list[int]:
    """The processes that serve: children of a server that have a socket of its to accept on."""
    found = []
    for folder in os.listdir("/proc"):  # noqa: PTH208 - as many entries as there are processes
        if folder.isdigit():
            try:
                with open(f"/proc/{folder}/stat") as stat, open(f"/proc/{folder}/cmdline") as line:  # noqa: PTH123
                    parent, command = int(stat.read().rpartition(")")[2].split()[1]), line.read()
            except OSError:
                continue
            if parent == pid and "spawn_main" in command:
                found.append(int(folder))
    return sorted(found)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_websockets_are_told_that_the_server_restarts(lake, tmp_path):
    with started(tmp_path / "log", "--lake", lake.uri, "--open") as server:
        with connect(server.url.replace("http", "ws") + "/stocks") as socket:
            socket.recv(timeout=10)
            server.process.send_signal(signal.SIGTERM)
            with suppress(ConnectionClosed):
                while True:
                    socket.recv(timeout=20)
            assert socket.close_code == 1012
        assert server.process.wait(20) == 0


def test_a_client_that_does_not_read_holds_no_server_up(lake, tmp_path):
    options = ("--lake", lake.uri, "--open", "--quiet", "--stop-within", "1")
    request = b"GET /v1/bars?symbols=AAPL,MSFT&timeframe=1m&limit=5000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with started(tmp_path / "log", *options) as server:
        at = urlsplit(server.url)
        with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
            # More than all buffers between the two hold.
            connection.sendall(request * 100)
            assert connection.recv(1)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0


def test_passwords_get_into_no_output(lake, tmp_path):
    env = {
        "REDIS_URL": "redis://:hunter2@127.0.0.1:1/0",
        "DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x",
    }
    with started(tmp_path / "log", "--lake", lake.uri, env=env) as server:
        assert httpx2.get(f"{server.url}/readyz").json()["stores"]["redis"] == "down"
        assert httpx2.get(f"{server.url}/v1/prices/AAPL?apiKey=hunter2").status_code in (401, 503)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
    assert "hunter2" not in server.said()

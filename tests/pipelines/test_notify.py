"""The command line of deliveries, as a process: kills, ends, and what is done by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fibflow.io.alerts import deliveries
from fibflow.pipelines import cli, notify
from fibflow.tests.io.alerts.outboxes import NOON, Box
from fibflow.tests.io.ingest.test_service import wait_until
from fibflow.tests.io.notify.hooks import Authority, hooks
from fibflow.tests.io.notify.test_sns import make_topic
from fibflow.tests.io.postgresql.conftest import empty, server, url
from fibflow.tests.io.postgresql.databases import execute, select
from fibflow.tests.pipelines.lakes import Failed

__all__ = ["empty", "server", "url"]


@pytest.fixture
def box(url, monkeypatch) -> Box:
    monkeypatch.setenv("DATABASE_URL", url)
    return Box(url)


@pytest.fixture
def started(tmp_path, box):
    """Starts notifiers, and ends them."""
    running: list[tuple[subprocess.Popen, Path]] = []

    def start(*arguments, **env):
        log = tmp_path / f"log{len(running)}"
        command = [
            sys.executable,
            "-P",
            "-m",
            "fibflow.pipelines.notify",
            "--allow-http-loopback",
            *arguments,
        ]
        with log.open("w") as file:
            process = subprocess.Popen(
                command, env=os.environ | env, stdout=file, stderr=subprocess.STDOUT, text=True
            )
        running.append((process, log))
        return process, log

    yield start
    for process, _ in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def fail(capsys, *argv: str) -> Failed:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run_main(notify.run, list(argv), notify.KNOWN_ERRORS)
    assert isinstance(ended.value.code, int)
    return Failed(ended.value.code, capsys.readouterr().err.splitlines())


def test_two_share_an_outbox_and_one_is_killed_in_the_middle(box, started):
    """Everything arrives; only what was under way as it was killed comes twice, with the same id."""
    with hooks() as server:
        box.events(1_500, box.destination(server.url("/a")), box.destination(server.url("/b")))
        killed, _ = started("--workers", "4", "--lease", "3600")
        other, log = started("--workers", "4")
        workers = "SELECT count(DISTINCT claimed_by) FROM alert_deliveries WHERE claimed_by IS NOT NULL"
        wait_until(lambda: box.count("delivered") > 300, "some are delivered")
        wait_until(lambda: select(box.url, workers)[0][0] == 2 or box.count("pending") == 0, "both are at it")
        assert box.count("pending") > 0
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        wait_until(
            lambda: (
                select(
                    box.url, "SELECT count(*) FROM alert_deliveries WHERE due <= now() AND state = 'pending'"
                )
                == [(0,)]
            ),
            "all but what the killed one had is delivered",
        )
        wait_until(lambda: not _claimed(box, other.pid), "the other one has written all down")
        held = select(box.url, "SELECT id FROM alert_deliveries WHERE state = 'pending'")
        assert len(held) <= 4
        # The lease ends, by the database's clock.
        execute(box.url, "UPDATE alert_deliveries SET due = now() WHERE state = 'pending'")
        wait_until(lambda: box.count("delivered") == 3_000, "all are delivered")
        other.send_signal(signal.SIGTERM)
        assert other.wait(60) == cli.OK
        came = Counter((each.path, each.id) for each in server.requests)
    assert set(came) == {(path, f"e{n}") for path in ("/a", "/b") for n in range(1, 1_501)}
    twice = {key for key, count in came.items() if count > 1}
    assert len(twice) <= 4
    assert max(came.values()) <= 2
    # One row each is delivered, and each was settled once.
    good = "SELECT delivery FROM alert_tries WHERE status = 200 GROUP BY delivery HAVING count(*) > 1"
    assert select(box.url, good) == []
    assert "delivered" in log.read_text()


def _claimed(box, pid):
    return select(
        box.url,
        "SELECT 1 FROM alert_deliveries WHERE state = 'pending' AND claimed_by LIKE %s",
        f"%-{pid}-%",
    )


def test_sigterm_finishes_what_is_under_way_and_gives_back_the_rest(box, started):
    with hooks() as server:
        server.answer = lambda _: None
        box.events(20, box.destination(server.url()))
        process, log = started("--workers", "2")
        wait_until(lambda: server.held.acquire(blocking=False), "one is under way")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == cli.OK
    claimed = "SELECT count(*) FROM alert_deliveries WHERE claimed_by IS NOT NULL"
    assert select(box.url, claimed) == [(0,)]
    assert box.count("pending") == 20
    assert "0 delivered" in log.read_text()


def test_once_delivers_what_is_due_to_webhooks_with_tls_and_topics(box, started, authority, s3):
    arn, read = make_topic(s3.aws, "once")
    with hooks(authority.context("127.0.0.1")) as secure:
        hook = box.destination(secure.url(), secret="hush")
        box.events(12, hook, box.destination(arn, "sns"))
        process, log = started("--once", **s3.env, SSL_CERT_FILE=str(authority.file))
        assert process.wait(60) == cli.OK
        assert sorted(secure.ids) == sorted(each["MessageAttributes"]["event_id"]["Value"] for each in read())
    assert box.count("delivered") == 24
    assert "24 delivered, 0 waiting" in log.read_text()
    assert "hush" not in log.read_text()


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_without_its_flag_this_machine_is_no_webhook(box, capsys):
    with hooks() as server:
        (one,) = box.event("e", box.destination(server.url()), due=NOON)
        assert notify.run(["--once"]) == cli.OK
        assert server.requests == []
    assert box.row(one, "state", "last_error") == ("dead", "the URL must begin with https://")
    assert "1 given up" in capsys.readouterr().out


def test_dead_letters_are_listed_enabled_and_replayed(box, capsys):
    hook = box.destination("https://hook.example.com/T0/secret-part")
    for name in ("a", "b"):
        box.event(name, hook, due=NOON)
    deliveries.disable(box.url, hook, "answered 410 Gone", NOON)
    assert notify.run(["dead", "--owner", "ann", "--limit", "1"]) == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"1 2024-01-02T17:00:00Z owner=ann event=a symbol=AAPL destination={hook} "
        "(https://hook.example.com, disabled) attempts=0: answered 410 Gone",
        "there may be more: --after 1",
    ]
    assert notify.run(["dead", "--after", "2"]) == cli.OK
    assert capsys.readouterr().out == "nothing was given up\n"
    failed = fail(capsys, "replay", "--destination", str(hook))
    assert failed.code == 1
    assert failed.lines[0].endswith(f": destination {hook} is disabled: enable it first")
    assert notify.run(["enable", str(hook)]) == cli.OK
    assert notify.run(["replay", "--delivery", "1"]) == cli.OK
    assert notify.run(["enable", str(hook), "--replay"]) == cli.OK
    assert capsys.readouterr().out.splitlines() == [
        f"destination {hook} is enabled",
        "1 deliveries wait again",
        f"destination {hook} was not disabled",
        "1 deliveries wait again",
    ]
    assert box.count("pending") == 2


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--workers", "0"], 2, "'0' is no number from 1 on"),
        (["--workers", "9999"], 2, "--workers is 9999: give at most 512"),
        (["--lease", "3"], 2, "--lease is 3: give 15 seconds to a day"),
        (["--metrics-port", "70000"], 2, "--metrics-port is 70000"),
        (["replay"], 2, "say what to replay"),
        (["replay", "--delivery", "x"], 2, "'x' is no number from 1 on"),
        (["replay", "--delivery", "999"], 1, "there is no dead letter 999"),
        (["replay", "--destination", "999"], 1, "there is no destination 999"),
        (["enable", "999"], 1, "there is no destination 999"),
        (["enable"], 2, "DESTINATION"),
        (["--bogus"], 2, "--bogus"),
        (["dead", "--postgres", "postgresql://fibflow:word@127.0.0.1:1/x"], 1, "PostgreSQL does not answer"),
        (["--postgres", "postgresql://fibflow:word@127.0.0.1:1/x"], 1, "PostgreSQL does not answer"),
    ],
)
def test_what_cannot_be_is_one_line(box, capsys, argv, code, said):
    found = fail(capsys, *argv)
    assert found.code == code
    assert len(found.lines) == 1
    assert said in found.lines[0]
    assert "word" not in found.lines[0]


def test_a_database_that_is_not_named_or_not_migrated_is_said(empty, capsys, monkeypatch):
    assert "pipelines.database upgrade" in fail(capsys, "--postgres", empty).lines[0]
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert "name the database with --postgres" in fail(capsys, "run").lines[0]

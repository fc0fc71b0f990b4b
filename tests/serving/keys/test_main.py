"""The command that makes keys."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from fibflow.serving.keys.__main__ import run
from fibflow.serving.keys.scope import Scope
from fibflow.serving.keys.sqlite import SqliteKeys
from fibflow.serving.keys.store import KeysError, digest, id_of

NOW = datetime(2024, 1, 24, 18, tzinfo=UTC)


class Command:
    def __init__(self, path, capsys) -> None:
        self.path, self.capsys = path, capsys
        self.random = random.Random(1).randbytes
        self.now = NOW

    def __call__(self, *argv: str) -> str:
        assert run([*argv, "--keys", str(self.path)], lambda: self.now, self.random) == 0
        self.said = self.capsys.readouterr()
        return self.said.out

    @property
    def store(self) -> SqliteKeys:
        return SqliteKeys(self.path)


@pytest.fixture
def command(tmp_path, capsys, monkeypatch) -> Command:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("FIBFLOW_KEY_PEPPER", raising=False)
    return Command(tmp_path / "keys.sqlite", capsys)


def test_a_key_is_shown_once_alone_on_standard_output(command):
    text = command("create", "--owner", "Ada").strip()
    record = command.store.all()[0]
    assert id_of(text) == record.id
    assert record.digest == digest(text, "")
    assert record.scopes == {Scope.HISTORY, Scope.LIVE, Scope.EXPORT}
    assert record.id in command.said.err
    assert text not in command.said.err
    assert text not in command("list") + command("list", "--json")


def test_what_is_asked_for_is_kept(command):
    command(
        "create",
        "--owner",
        "Ada",
        "--scopes",
        "live,history",
        "--rate",
        "0.5",
        "--burst",
        "7",
        "--expires",
        "90d",
    )
    record = command.store.all()[0]
    assert (record.owner, record.rate, record.burst) == ("Ada", 0.5, 7)
    assert record.scopes == {Scope.HISTORY, Scope.LIVE}
    assert record.expires == NOW + timedelta(days=90)


def test_the_pepper_of_the_environment_counts(command, monkeypatch):
    monkeypatch.setenv("FIBFLOW_KEY_PEPPER", "black")
    text = command("create", "--owner", "Ada").strip()
    assert command.store.all()[0].digest == digest(text, "black")


def test_a_list_says_the_state_of_each_key(command):
    ids = [id_of(command("create", "--owner", name, "--expires", "1d").strip()) for name in ("Ada", "Bob")]
    command("revoke", ids[0])
    command.now = NOW + timedelta(hours=1)
    states = {row["id"]: row["state"] for row in map(json.loads, command("list", "--json").splitlines())}
    assert states == {ids[0]: "revoked", ids[1]: "active"}
    command.now = NOW + timedelta(days=2)
    table = command("list").splitlines()
    assert table[0].split()[:3] == ["id", "state", "owner"]
    assert {line.split()[0]: line.split()[1] for line in table[1:]} == {ids[0]: "revoked", ids[1]: "expired"}


def test_rotate_makes_a_key_like_the_old_one_and_revokes_that(command):
    old = id_of(
        command("create", "--owner", "Ada", "--scopes", "live", "--rate", "3", "--burst", "4").strip()
    )
    new = id_of(command("rotate", old).strip())
    states = {record.id: record for record in command.store.all()}
    assert states[old].state(NOW) == "revoked"
    assert states[new].state(NOW) == "active"
    assert [getattr(states[new], name) for name in ("owner", "scopes", "rate", "burst")] == [
        "Ada",
        {Scope.LIVE},
        3.0,
        4,
    ]


def test_rotate_can_let_the_old_key_live_on_for_a_while(command):
    old = id_of(command("create", "--owner", "Ada").strip())
    command("rotate", old, "--overlap", "12h")
    record = next(record for record in command.store.all() if record.id == old)
    assert record.state(NOW + timedelta(hours=11)) == "active"
    assert record.state(NOW + timedelta(hours=12)) == "revoked"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["create", "--owner", "Ada", "--scopes", "fly"], "no scope 'fly'"),
        (["create", "--owner", "Ada", "--scopes", ","], "needs a scope"),
        (["create", "--owner", "Ada", "--expires", "soon"], "'soon' is no time"),
        (["create", "--owner", "Ada", "--expires", "2020-01-01"], "is past"),
        (["create", "--owner", "Ada", "--rate", "-1"], "rate of -1"),
        (["revoke", "0001020304050607"], "no key 0001020304050607"),
        (["rotate", "0001020304050607"], "no active key"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(command, argv, says):
    with pytest.raises(KeysError, match=says) as raised:
        command(*argv)
    assert "\n" not in str(raised.value)


def test_keys_lie_beside_a_lake_where_nothing_else_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    run(
        ["create", "--owner", "Ada", "--lake", str(tmp_path / "lake")],
        lambda: NOW,
        random.Random(1).randbytes,
    )
    assert SqliteKeys(tmp_path / "lake.keys.sqlite").all()[0].owner == "Ada"


def module(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "fibflow.serving.keys", *argv]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **env}, check=False
    )


def test_bad_usage_is_one_line_and_exit_code_2():
    done = module("list")
    assert done.returncode == 2
    assert (
        done.stderr
        == "python -m serving.keys: nothing says where API keys are: give --postgres URL or --keys FILE\n"
    )


def test_a_store_that_is_away_is_one_line_without_its_password_and_exit_code_1():
    done = module("list", DATABASE_URL="postgresql://ada:hunter2@127.0.0.1:1/keys")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "PostgreSQL does not answer" in done.stderr
    assert "hunter2" not in done.stderr

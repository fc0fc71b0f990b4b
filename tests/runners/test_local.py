"""The command line of the local stack, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fibflow.runners import local
from fibflow.runners.services import pids

ROOT = Path(local.__file__).parents[1]
NAMES = ["redis", "postgres", "moto", "job-manager", "task-manager-1", "worker-pool", "job-server"]


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "runners.local", *words, "--folder", str(folder)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "stack"
    command(tmp_path / "stack", "down")


def known(folder: Path) -> dict:
    return json.loads((folder / "stack.json").read_text())["services"]


def table(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the state of each server that the table shows."""
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[0]: row[1] for row in rows if row[0] in NAMES}


def test_the_whole_stack_goes_up_and_down(folder):
    assert command(folder, "status").returncode == 1

    up = command(folder, "up")
    assert up.returncode == 0, up.stderr
    assert table(up) == dict.fromkeys(NAMES, "up")
    first = known(folder)
    assert command(folder, "status").returncode == 0

    again = command(folder, "up")
    assert again.returncode == 0, again.stderr
    assert "all were up already" in again.stdout
    assert known(folder) == first

    for name in ("redis", "task-manager-1"):
        os.kill(first[name]["pid"], signal.SIGKILL)
    status = command(folder, "status")
    assert status.returncode == 1
    assert [name for name, state in table(status).items() if state != "up"] == ["redis", "task-manager-1"]

    mended = command(folder, "up")
    assert mended.returncode == 0, mended.stderr
    assert "started redis, task-manager-1\n" in mended.stdout
    second = known(folder)
    assert {name: second[name]["address"] for name in NAMES} == {
        name: first[name]["address"] for name in NAMES
    }
    changed = {name for name in NAMES if second[name]["pid"] != first[name]["pid"]}
    assert changed == {"redis", "task-manager-1"}

    born = {name: pids.birth(second[name]["pid"]) for name in NAMES}
    assert all(born.values())
    down = command(folder, "down")
    assert down.returncode == 0, down.stderr
    assert not any(pids.session(second[name]["pid"], str(born[name])) for name in NAMES)
    assert not (folder / "stack.json").exists()
    assert (folder / "logs" / "job-manager.log").stat().st_size > 0


def test_down_knows_its_servers_by_their_pid_files_alone(folder):
    assert command(folder, "up", "--only", "redis").returncode == 0
    pid = known(folder)["redis"]["pid"]
    born = pids.birth(pid)
    (folder / "stack.json").unlink()
    assert command(folder, "down").stdout == "stopped redis\n"
    assert not pids.is_alive(pid, str(born))
    again = command(folder, "down")
    assert (again.returncode, again.stdout) == (0, f"nothing ran in {folder}\n")


def test_a_spoilt_stack_file_says_how_to_go_on(folder):
    assert command(folder, "up", "--only", "redis").returncode == 0
    (folder / "stack.json").write_text("{}")
    for words in (["status"], ["up", "--only", "redis"]):
        refused = command(folder, *words)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "stack.json cannot be read: `down` the stack, and start it again" in refused.stderr
    assert command(folder, "down").stdout == "stopped redis\n"


def test_parts_come_and_go_beside_each_other(folder):
    assert table(command(folder, "up", "--only", "redis")) == {"redis": "up"}
    assert table(command(folder, "up", "--only", "moto")) == {"redis": "up", "moto": "up"}
    down = command(folder, "down", "--only", "redis")
    assert down.stdout == "stopped redis\n"
    assert command(folder, "status").returncode == 1
    assert command(folder, "status", "--only", "moto").returncode == 0
    assert "started redis" in command(folder, "up", "--only", "redis,moto").stdout
    assert command(folder, "status").returncode == 0


def test_the_env_file_gives_a_shell_the_addresses(folder):
    assert command(folder, "up", "--only", "redis,moto").returncode == 0
    ask = f"source {folder / 'stack.env'} && echo $REDIS_URL $AWS_ENDPOINT_URL"
    said = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    services = known(folder)
    assert said == [f"redis://{services['redis']['address']}/0", f"http://{services['moto']['address']}"]


def test_a_running_stack_keeps_its_ports_and_sizes(folder):
    assert command(folder, "up", "--only", "redis").returncode == 0
    for words in (["--slots", "4"], ["--task-managers", "2"], ["--ports", "redis=1"]):
        refused = command(folder, "up", "--only", "redis", *words)
        assert refused.returncode == 1
        assert refused.stderr == f"the stack in {folder} runs with other sizes or ports: `down` it first\n"
    assert command(folder, "status").returncode == 0


def test_what_does_not_start_is_told_and_the_rest_runs(folder):
    assert command(folder, "up", "--only", "moto").returncode == 0
    taken = known(folder)["moto"]["address"].rpartition(":")[2]
    other = folder.parent / "other"
    up = command(other, "up", "--only", "redis,moto", "--ports", f"redis={taken}")
    assert up.returncode == 1
    assert up.stderr == f"redis: another program has port {taken}: stop that, or choose another\n"
    assert table(up) == {"redis": "down", "moto": "up"}
    assert command(other, "down").stdout == "stopped moto\n"


def test_two_commands_at_once_do_not_meet(folder):
    with local._alone(folder):
        refused = command(folder, "up", "--only", "redis")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"another command is at work in {folder}: wait for it to end\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: up|status|down"),
        (["up", "--only", "mysql"], "no service is called 'mysql'"),
        (["up", "--ports", "redis"], "'redis' is not NAME=PORT,..."),
        (["up", "--slots", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_usage_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as left:
        local.run(words)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_stack_is_one_line(tmp_path, capsys):
    assert local.run(["status", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"no stack in {tmp_path}: `python -m runners.local up` starts one\n"

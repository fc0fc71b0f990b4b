"""``python -m pipelines.doctor``: the command line, this machine, and a lake in a folder."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from deltalake import DeltaTable

from fibflow.io import tables
from fibflow.io.checkup import machine, places
from fibflow.io.checkup.findings import State
from fibflow.io.checkup.site import CANARY, is_canary
from fibflow.io.lake import Lake, Scope
from fibflow.pipelines import doctor
from fibflow.tests.pipelines.doctoring import NAMES, due, land, looked, now
from fibflow.tests.pipelines.lakes import XNYS, command, fail, files_in


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def landed(tmp_path, raw):
    uri = str(tmp_path / "lake")
    land(uri, raw, due(now()))
    return uri


# The command line ------------------------------------------------------------------------------------------


def test_what_is_not_named_is_not_looked_at_and_said_so(capsys):
    assert doctor.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line[11:].split("  ")[0]: line[:9].strip() for line in lines[:-1]}
    named = "lake folder", "kinesis", "flink", "worker pool", "redis", "postgresql", "alerts", "dynamodb"
    assert {states[name] for name in (*named, "sns", "server", "vendor", "canary", "clock")} == {"not asked"}
    assert states["python"] == states["calendar"] == "ok"
    assert lines[-1].endswith("14 not asked")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--timeout", "0"), "--timeout is 0"),
        (("--source", "ticks"), "--source: 'ticks' is no stream"),
        (("--worker-pool", "nowhere"), "write HOST:PORT"),
        (("--server", "example.org"), "--server has to read https://host"),
        (("--flink-master", "ftp://x"), "no address of a Flink job manager"),
        (("--sns", "topic"), "write arn:aws:sns"),
        (("--lake", "gs://x"), "no folder and no s3:// address"),
        (("--vendor", "--vendor-url", "x"), "the vendor's address"),
        (("--canary",), "--canary needs --source"),
        (("--source", "kinesis://t", "--canary"), "--redis or --server"),
        (
            ("--source", "kinesis://t", "--redis", "redis://h", "--canary", "--canary-symbol", "AAPL"),
            "CANARY",
        ),
        (("--nonsense",), "unrecognized arguments"),
    ],
)
def test_bad_usage_is_one_line(argv, said):
    if argv == ("--nonsense",):
        done = subprocess.run(command("doctor", *argv), capture_output=True, text=True)
        code, lines = done.returncode, done.stderr.splitlines()
    else:
        failed = fail(doctor.run, *argv)
        code, lines = failed.code, failed.lines
    assert code == 2
    assert len(lines) == 1
    assert said in lines[0]


def test_no_real_symbol_passes_for_a_canary():
    assert is_canary(CANARY)
    assert is_canary("OURSCANARY")
    assert not any(map(is_canary, ("AAPL", "BRK.B", "CANARYX", "canary", "CANARY ", "A" * 60 + "CANARY")))


def test_the_environment_names_parts_and_an_empty_option_takes_them_back(monkeypatch, landed):
    monkeypatch.setenv("FIBFLOW_LAKE", landed)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    found = looked("--redis", "")
    assert found["redis"][0] == "not asked"
    assert found["lake folder"][0] == "ok"


def test_what_hangs_fails_alone_and_does_not_keep_the_process(landed):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        line = command("doctor", "--json", "--timeout", "8", "--lake", landed, "--flink-master")
        done = subprocess.run([*line, f"127.0.0.1:{port}"], capture_output=True, text=True)
    found = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert found["flink"]["state"] == "failed"
    assert "no answer within 8 s" in found["flink"]["reason"] or "timed out" in found["flink"]["reason"]
    assert found["lake tables"]["state"] == "ok"


def test_a_secret_in_what_a_service_says_is_not_shown(monkeypatch):
    monkeypatch.setenv("FIBFLOW_API_KEY", "fib_deadbeef_secret")
    found = looked(
        *("--redis", "redis://:hush-hush@127.0.0.1:1/0", "--server", "http://127.0.0.1:1"),
        *("--postgres", "postgresql://u:s3cr%40t@127.0.0.1:1/x"),
    )
    assert found.code == 1
    assert found["server"][0] == found["redis"][0] == found["postgresql"][0] == "failed"
    assert not any(secret in found.text for secret in ("hush-hush", "s3cr", "fib_deadbeef"))


# This machine ----------------------------------------------------------------------------------------------


def test_packages_are_held_against_the_lock():
    assert machine.packages(None).state is State.OK
    assert machine.packages("numpy==0.1 \\\n    --hash=x\nno-such-package==1\n").state is State.WARNING
    assert "for 0.1" in machine.packages("numpy==0.1 \\\n").reason


def test_java_is_wanted_where_flink_is(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    state, reason, advice = looked("--flink-master", "127.0.0.1:1")["java"]
    assert (state, "none in JAVA_HOME" in reason, "Java 17" in advice) == ("warning", True, True)


def test_a_calendar_that_ends_soon_is_seen():
    ends = XNYS.days[-1].item() * 86_400.0
    assert machine.reaches(XNYS, ends - 400 * 86_400).state is State.OK
    assert machine.reaches(XNYS, ends - 300 * 86_400).state is State.WARNING
    assert machine.reaches(XNYS, ends - 30 * 86_400).state is State.FAILED


def test_a_worker_pool_is_reached_or_not():
    with socket.create_server(("127.0.0.1", 0)) as pool:
        port = pool.getsockname()[1]
        assert looked("--worker-pool", f"127.0.0.1:{port}")["worker pool"][0] == "ok"
    state, reason, advice = looked("--worker-pool", f"127.0.0.1:{port}")["worker pool"]
    assert state == "failed"
    assert "takes no connection" in reason
    assert "--worker-pool" in advice


# A lake in a folder ----------------------------------------------------------------------------------------


def test_a_lake_that_is_well_is_left_as_it_was(landed):
    before = files_in(landed)
    found = looked("--lake", landed, disk=lambda _: SimpleNamespace(total=int(1e12), free=int(5e11)))
    assert found.code == 0
    assert found.states() == {"ok"}
    assert "bronze.daily at version" in found["lake tables"][1]
    assert found["lake days"][1].endswith(str(due(now())[-1]))
    assert files_in(landed) == before


@pytest.mark.parametrize(("free", "state"), [(5e9, "warning"), (5e8, "failed")])
def test_a_disk_that_fills_up_is_seen(landed, free, state):
    found = looked("--lake", landed, disk=lambda _: SimpleNamespace(total=int(1e11), free=int(free)))
    assert found["lake disk"][0] == state
    assert "make room" in found["lake disk"][2]


def test_a_lake_that_is_not_there_or_cannot_be_written(tmp_path, monkeypatch):
    missing = looked("--lake", str(tmp_path / "none"))
    assert missing["lake folder"][0] == missing["lake tables"][0] == "failed"
    assert not (tmp_path / "none").exists()
    # A file in the way is refused to root too.
    (tmp_path / places.FOLDER).write_text("in the way")
    found = looked("--lake", str(tmp_path))
    assert found["lake folder"][0] == "failed"
    assert str(tmp_path) in found["lake folder"][1]


@pytest.mark.parametrize(("sessions_late", "state"), [(1, "warning"), (5, "failed")])
def test_a_lake_that_is_behind_is_seen(tmp_path, raw, sessions_late, state):
    uri = str(tmp_path / "lake")
    land(uri, raw, due(now())[:-sessions_late])
    got, reason, advice = looked("--lake", uri)["lake days"]
    assert got == state
    assert f"{sessions_late} session" in reason
    assert "pipelines.daily" in advice


def test_days_are_due_when_their_day_has_ended(tmp_path, raw):
    uri = str(tmp_path / "lake")
    days = due(now())
    land(uri, raw, days)
    # Of the session before there is a day too many; at its midnight there is none too few.
    ends = datetime.fromisoformat(f"{days[-1]}T23:00:00+00:00")
    assert looked("--lake", uri, now=ends.timestamp)["lake days"][0] == "ok"
    assert looked("--lake", uri, now=(ends + timedelta(days=30)).timestamp)["lake days"][0] == "failed"


def test_tables_of_other_terms_calendars_and_columns_are_seen(landed, tmp_path):
    lake = Lake(landed)
    bars = lake.table(tables.BARS)
    other = {tables.PRICE_BASIS: "split-adjusted", tables.CALENDAR: "XNYS"}
    moved = {tables.CALENDAR_HASHES: json.dumps({"2024": "0123456789ab"})}
    bars.commit(base_version=bars.version, scope=Scope(), run="run", properties={**other, **moved})
    found = looked("--lake", landed)
    assert found["lake terms"][0] == "failed"
    assert "raw (bronze.daily" in found["lake terms"][1]
    assert found["lake calendar"][0] == "failed"
    assert "2024" in found["lake calendar"][1]
    assert "--rewrite-calendar" in found["lake calendar"][2]
    days = DeltaTable(f"{landed}/{tables.DAILY.name}").to_pyarrow_table()
    from deltalake import write_deltalake

    write_deltalake(f"{landed}/{tables.SPLITS.name}", days.select(["symbol"]))
    found = looked("--lake", landed)
    assert found["lake tables"][0] == "failed"
    assert tables.SPLITS.name in found["lake tables"][1]


def test_the_module_runs_as_a_program(landed):
    done = subprocess.run(command("doctor", "--lake", landed), capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == (1 if "\nfailed" in done.stdout else 0)
    assert "lake tables" in done.stdout
    code = "import sys, fibflow.pipelines.doctor; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fibflow.io.flinkrest import FlinkError
from fibflow.io.lake import Lake
from fibflow.io.live import LiveReader
from fibflow.pipelines import demo, livedemo, load
from fibflow.pipelines.cli import UsageError
from fibflow.pipelines.liveboard import Tally
from fibflow.tests.pipelines.raws import FAST

MINUTE = 60_000_000
ROOT = Path(__file__).resolve().parents[2]
#: 10:30 in New York on 2013-03-01.
T0 = 1_362_151_800_000_000
#: Real days, as they were reported.
DAYS: dict[str, list[list[Any]]] = {
    "AAPL": [
        ["2013-02-28", 444.05, 447.87, 441.40, 441.40, 11518400],
        ["2013-03-01", 438.00, 438.1799, 429.98, 430.47, 19730300],
    ],
    "IBM": [
        ["2013-02-28", 202.18, 203.123, 200.79, 200.83, 4689200],
        ["2013-03-01", 200.65, 202.94, 199.36, 202.91, 3308300],
    ],
}
_WITHIN_S = 300.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_minutes_take_half_of_the_time():
    opens = T0
    sent = np.concatenate(
        (np.arange(T0 - 60 * MINUTE, T0, 7_000_000), np.arange(T0, T0 + 300 * MINUTE, 3_000_000))
    )
    due = livedemo.pace(sent, opens, 20.0)
    assert due[0] == 0
    assert due[-1] == pytest.approx(20.0)
    assert (np.diff(due) >= 0).all()
    slow = due[(sent >= opens) & (sent < opens + 20 * MINUTE)]
    assert slow[-1] - slow[0] == pytest.approx(10.0, rel=0.01)


def test_a_tape_without_first_minutes_is_played_too():
    due = livedemo.pace(np.array([T0, T0 + MINUTE]), T0 + 60 * MINUTE, 20.0)
    assert due.tolist() == [0.0, 10.0]


def test_the_clock_stands_still_until_something_comes():
    real, begun = Clock(), [False]
    held = livedemo.HeldClock(real, lambda: begun[0], 0.5, 60.0)
    assert held() == 0
    real.now = 0.25
    assert held() == 0.25
    real.now = 40.0
    assert held() == 0.5
    begun[0] = True
    assert held() == 0.5
    real.now = 42.0
    assert held() == 2.5


def test_the_clock_gives_up():
    real = Clock()
    held = livedemo.HeldClock(real, lambda: False, 0.5, 60.0)
    real.now = 61.0
    with pytest.raises(FlinkError, match="made no bar within 60 s"):
        held()


def test_only_the_stacks_aws_is_seen(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    before = dict(os.environ)
    with livedemo.environment({"AWS_REGION": "us-east-1", "REDIS_URL": "redis://x"}):
        assert "AWS_PROFILE" not in os.environ
        assert (os.environ["AWS_REGION"], os.environ["REDIS_URL"]) == ("us-east-1", "redis://x")
        assert os.environ["PATH"] == before["PATH"]
    assert dict(os.environ) == before


def test_temporary_files_go_where_they_are_removed(tmp_path):
    before = tempfile.gettempdir()
    with livedemo.temporary_files(tmp_path):
        assert tempfile.gettempdir() == str(tmp_path)
    assert tempfile.gettempdir() == before


@pytest.mark.parametrize("old", [False, True])
def test_without_java_one_line_says_what_is_left_out(tmp_path, monkeypatch, capsys, old):
    if old:
        java = tmp_path / "java"
        java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
        java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if old else str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert livedemo.run(["--lake", str(tmp_path / "lake")]) == 0
    told = capsys.readouterr()
    found = f"{tmp_path / 'java'} is 11" if old else "found none on the path"
    assert told.out == (
        "Live bars are left out: Flink needs Java 17 (Debian: apt-get install openjdk-17-jdk-headless): "
        f"{found}\n"
    )
    assert told.err == ""
    assert not (tmp_path / "lake").exists()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    history, found = tmp_path / "history", tmp_path / "lake"
    names = ("date", "open", "high", "low", "close", "volume")
    demo.write_history(
        {symbol: dict(zip(names, zip(*rows, strict=True), strict=True)) for symbol, rows in DAYS.items()},
        history,
    )
    assert load.run(["--input", str(history), "--lake", str(found), "--price-basis", "raw", *FAST]) == 0
    return found


class Started:
    """The command line in a process of its own; what that starts has the folder in its variables."""

    def __init__(self, lake: Path, folder: Path, **variables: str) -> None:
        self.folder = folder
        folder.mkdir()
        line = ["-m", "fibflow.pipelines.livedemo", "--lake", str(lake), "--seconds", "4", "--trades", "300"]
        # A shell that starts the tests in the background has them ignore interrupts, and all that they start.
        self.process = subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-P", *line],
            cwd=ROOT,
            env={**os.environ, **variables, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=_WITHIN_S)
        return self.process.returncode, out, err

    def left(self) -> list[str]:
        """The command lines of processes that are still there, and the files in the temporary folder."""
        found = [str(path) for path in self.folder.iterdir()]
        for variables in Path("/proc").glob("[0-9]*/environ"):
            try:
                if os.fsencode(self.folder) in variables.read_bytes():
                    found.append(variables.with_name("cmdline").read_text())
            except OSError:
                continue  # it has ended meanwhile, or is somebody else's
        return found


def test_a_session_goes_live_and_nothing_stays(lake, tmp_path):
    started = Started(lake, tmp_path / "temporary")
    code, out, err = started.end()
    assert (code, err) == (0, ""), out
    assert started.left() == []
    assert "Live: the session of 2013-03-01" in out
    # The last price is one of after hours; the day's close is below.
    assert re.search(r"AAPL 4[23]\d\.\d", out)
    assert "equal to the bit" in out
    days = LiveReader(Lake(str(lake))).bars(None, "1d").to_pylist()
    named = ("symbol", "open", "high", "low", "close", "volume", "final")
    truth = [(symbol, *rows[1][1:], True) for symbol, rows in DAYS.items()]
    assert [tuple(day[name] for name in named[:5]) for day in days] == [row[:5] for row in truth]
    assert all(day["final"] for day in days)
    tally = Tally.read(Lake(str(lake)))
    assert min(tally.ticks, tally.duplicates, tally.bars) > 0
    with pytest.raises(UsageError, match="has live bars already: name a lake that has none"):
        livedemo.run(["--lake", str(lake)])


def test_an_interrupt_leaves_nothing_running(lake, tmp_path):
    started = Started(lake, tmp_path / "temporary")
    assert started.process.stdout is not None
    while not (line := started.process.stdout.readline()).startswith("Up after"):
        assert line, started.end()
    started.process.send_signal(signal.SIGINT)
    code, out, err = started.end()
    assert (code, err) == (1, "livedemo: interrupted: run again\n"), out
    assert started.left() == []


def test_a_server_that_does_not_start_is_one_line_and_ends_the_others(lake, tmp_path):
    started = Started(lake, tmp_path / "temporary", FLINK_HOME=str(tmp_path))
    code, out, err = started.end()
    assert code == 1, out
    assert err.startswith(f"livedemo: no Flink 1.19.3 in FLINK_HOME={tmp_path}: run `make setup`")
    assert err.count("\n") == 1
    assert started.left() == []


def test_the_newest_session_is_played(lake):
    rows, calendar = livedemo.last_session(Lake(str(lake)))
    assert rows["session"].unique().to_pylist() == [date(2013, 3, 1)]
    assert rows["symbol"].to_pylist() == ["AAPL", "IBM"]
    assert calendar.name == "XNYS"

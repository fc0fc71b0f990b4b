"""The whole benchmark, on a lake of eleven symbols."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from fibflow.benchmarks.history import SEED
from fibflow.benchmarks.serving import lakes
from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.serving.report import PARTS
from fibflow.benchmarks.serving.run import parse
from fibflow.benchmarks.serving.servers import memory_of

SCALE = 0.002
SMALL = shlex.split(
    "--users 10 --seconds 2 --warm-s 0.5 --export 0.1 --checked 1 --connections 2 --closed-s 0.5 "
    "--clients 6 --wild 2 --topics 3 --minutes 3 --minute-s 0.2 --cold 1 --warm 2 --timeframes 5d 10d "
    "--patience-s 60"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lake in it."""
    folder = tmp_path_factory.mktemp("bench")
    lakes.lake_of(folder, SCALE, SEED)
    return folder


def test_the_lake_is_made_once_and_the_catalogue_holds_what_it_holds(data):
    made = lakes.lake_of(data, SCALE, SEED)
    marker = made.catalogue.parent / "made.json"
    before = marker.stat().st_mtime_ns
    assert lakes.lake_of(data, SCALE, SEED) == made
    assert marker.stat().st_mtime_ns == before
    query = "SELECT timeframe, sum(rows), max(last_rows), bool_and(last_rows <= rows) FROM '{}' GROUP BY ALL"
    with duckdb.connect() as connection:
        rows = connection.execute(query.format(made.catalogue)).fetchall()
    found = {frame: counts for frame, *counts in rows}
    assert set(found) == {*lakes.STORED, lakes.DAILY}
    assert found[lakes.DAILY] == [made.rows, lakes.BARS, True]


def test_everything_runs_every_answer_is_right_and_nothing_is_left_running(data):
    page = data / "page.md"
    command = [sys.executable, "-P", "-m", "fibflow.benchmarks.serving.run", "--data", str(data)]
    command += ["--scale", str(SCALE), "--report", str(page), "--date", "2026-11-29", *SMALL]
    done = subprocess.run(command, cwd=lakes.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = data / f"scale-{SCALE:g}" / "serving"
    results = json.loads((folder / "results.json").read_text())
    assert set(results["parts"]) == set(PARTS)
    asked = results["parts"]["open"]["runs"][0]
    assert asked["checked"] == 10 * 2
    assert "export" in asked["kinds"]
    assert results["parts"]["sockets"]["runs"][0]["expected"] == (2 * 11 + 4 * 3) * 3
    assert page.read_text().startswith("# Benchmarks of the server")
    for record in (folder / "pids").glob("*.json"):
        assert memory_of(json.loads(record.read_text())["pid"]).processes == 0


def test_a_lake_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match=r"benchmarks\.history failed: NotADirectoryError"):
        lakes.lake_of(tmp_path / "file", SCALE, SEED)


def test_the_memory_of_processes_is_that_of_their_session():
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        found = memory_of(process.pid)
        assert found.processes == 1
        assert 0 < found.pss <= found.rss
        process.stdin.close()
    assert memory_of(process.pid).processes == 0


def test_every_size_can_be_given_on_the_command_line():
    from fibflow.benchmarks.serving.run import Sizes

    args = parse(["--quick"])
    assert {name for name in vars(Sizes()) if not hasattr(args, name)} <= {"warm_minutes"}

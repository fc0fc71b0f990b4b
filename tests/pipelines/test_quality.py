"""``python -m pipelines.quality``, and the step of the daily run."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.pipelines import quality
from fibflow.pipelines.nightly import steps
from fibflow.tests.io.qualitylakes import SPAN, bars, every_minute, put, put_days
from fibflow.tests.pipelines.lakes import fail
from fibflow.tests.transforms.quality.worlds import MINUTE, date_of, minute_rows

NOW = datetime(2025, 1, 4, 2, 30, tzinfo=UTC)


def run(lake: Lake, *options: str) -> int:
    return quality.run(["--lake", lake.uri, *options], now=lambda: NOW)


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def with_everything(lake: Lake) -> None:
    """Something of each kind that can be wrong."""
    put_days(lake, {("A", 22), *(("B", place) for place in (22, 23, 24))})
    minutes = every_minute("A", range(10, 25)) - {("A", 23, minute) for minute in range(10, 15)}
    put(lake, tables.MINUTES, minute_rows(SPAN, minutes, {"volume": 100 / 390}), "minutes")
    rows = bars(minute_rows(SPAN, {("A", 24, 0)}, {"high": 1.0}), "5m")
    put(lake, tables.LIVE, rows, "live", timeframe="5m", period="2025-01")
    differences = {
        "run": ["r", "r"],
        "session": [date_of(SPAN, 24)] * 2,
        "symbol": ["A", "C"],
        "timeframe": ["5m", "5m"],
        "ts": [SPAN.start(24)] * 2,
        "why": ["late", "unexplained"],
    }
    put(lake, tables.RECONCILIATION, pa.table(differences), "differences")
    ts = int(np.datetime64(date_of(SPAN, 21), "us").astype(int))
    dead = {"ts": [ts, ts, None], "reason": ["duplicate", "null_volume", "null_time"], "run": ["r"] * 3}
    put(lake, tables.DEAD_LETTERS, pa.table(dead), "dead")


def test_a_lake_with_nothing_wrong_is_0(lake, capsys):
    put_days(lake)
    assert run(lake) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "2024-12-27 to 2025-01-03, 3 symbols: nothing found"
    assert "XNYS; no minutes in these sessions" in said


def test_everything_is_told_in_json(lake, capsys):
    with_everything(lake)
    assert run(lake, "--output", "json") == 3
    found = json.loads(capsys.readouterr().out)
    assert found["made_at"] == "2025-01-04T02:30:00+00:00"
    assert found["sessions"] == ["2024-12-27", "2024-12-30", "2024-12-31", "2025-01-02", "2025-01-03"]
    assert found["found"]
    assert found["gaps"] == {"1d": 1, "1m": 5}
    assert found["day_gaps"] == [{"symbol": "A", "session": "2024-12-31"}]
    first = int(SPAN.opens[23]) + 10 * MINUTE
    start = np.datetime_as_string(np.datetime64(first, "us"), "s") + "Z"
    assert found["minute_gaps"] == [{"symbol": "A", "from": start, "minutes": 5}]
    assert found["quiet_symbols"] == ["B"]
    assert found["quiet"] == [{"symbol": "B", "last": "2024-12-30", "sessions": 3}]
    assert found["broken"] == [
        {"table": "silver.live", "timeframe": "5m", "rule": "high_below_low", "bars": 1}
    ]
    assert (found["differences"], found["unexplained"]) == (2, 1)
    assert found["rejected"] == {"duplicate": 1, "null_volume": 1}
    assert found["rejected_without_time"] == {"null_time": 1}
    row = found["by_session"][-2]
    assert (row["session"], row["half"], row["minutes_missing"]) == ("2025-01-02", False, 5)
    assert [row["day_gaps"] for row in found["by_session"]] == [0, 0, 1, 0, 0]
    assert [row["differences"] for row in found["by_session"]] == [0, 0, 0, 0, 2]
    assert [row["refused"] for row in found["by_session"]] == [0, 2, 0, 0, 0]


def test_everything_is_told_in_words(lake, capsys):
    with_everything(lake)
    assert run(lake) == 3
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == (
        "2024-12-27 to 2025-01-03, 3 symbols: missing days 1, missing minutes 5, quiet symbols 1, "
        "broken bars 1, unexplained differences 1, refused rows 1"
    )
    for words in (
        r"A +│ 2024-12-31",
        r"A +│ 2025-01-02T14:40:00Z +│ +5 ",
        r"B +│ 2024-12-30 +│ 3",
        r"silver.live +│ 5m +│ high_below_low",
        r"5m +│ unexplained +│ +1 ",
        r"null_volume +│ +1 ",
    ):
        assert re.search(words, said), words


def test_the_report_is_left_in_the_lake(lake, capsys):
    put_days(lake, {("A", 24)})
    assert run(lake, "--write", "--output", "json") == 3
    told = capsys.readouterr()
    for name in ("latest.json", "2025-01-03.json"):
        written = json.loads((Path(lake.uri) / "_quality" / name).read_text())
        assert written == json.loads(told.out)
        assert f"wrote {lake.uri}/_quality/{name}" in told.err
    assert {"made_at", "gaps", "quiet_symbols", "differences"} <= written.keys()


def test_fewer_and_more_sessions(lake, capsys):
    put_days(lake, {("A", 20), ("A", 23)})
    for sessions, gaps in ((1, 0), (2, 1), (5, 2)):
        assert run(lake, "--sessions", str(sessions), "--output", "json") == (3 if gaps else 0)
        assert json.loads(capsys.readouterr().out)["gaps"]["1d"] == gaps
    assert run(lake, "--quiet", "1") == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sessions", "0"), "--sessions is 0: give 1 to 260"),
        (("--quiet", "0"), "--quiet is 0: give 1 or more"),
        (("--exchange", "NOWHERE"), "unknown calendar 'NOWHERE'"),
        (("--output", "xml"), "invalid choice: 'xml'"),
        (("--session", "5"), "unrecognized arguments: --session"),
    ],
)
def test_what_cannot_be_asked_for_is_2(lake, options, said):
    failed = fail(quality.run, "--lake", lake.uri, *options)
    assert failed.code == 2
    assert said in failed.lines[-1]


def test_no_lake_is_1(lake):
    failed = fail(quality.run, "--lake", lake.uri)
    assert failed.code == 1
    assert "there is nothing to look at" in failed.lines[-1]


def nightly(lake: Lake) -> steps.Nightly:
    nothing: Any = None
    return steps.Nightly(lake, argparse.Namespace(), nothing, nothing, 1, lambda: NOW)


def test_the_daily_run_ends_with_the_report_and_never_fails_by_it(lake):
    assert list(steps.NEEDS)[-1] == "quality"
    assert steps.NEEDS["quality"] == ()
    did = nightly(lake).quality()
    assert (did.anything, did.problem) == (False, None)
    ((name, why),) = did.rows
    assert (name, "there is nothing to look at" in why) == ("no report", True)
    put_days(lake, {("A", 24)})
    did = nightly(lake).quality()
    assert (did.anything, did.problem) == (False, None)
    assert did.rows == [("found", "2024-12-27 to 2025-01-03, 3 symbols: missing days 1")]
    written = json.loads((Path(lake.uri) / "_quality" / "latest.json").read_text())
    assert written["gaps"] == {"1d": 1, "1m": 0}
    assert date.fromisoformat(written["sessions"][-1]) == date_of(SPAN, 24)


def test_a_report_that_nobody_expected_to_fail_fails_nothing(lake, monkeypatch):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("nobody expected it")

    monkeypatch.setattr(quality, "report_of", broken)
    did = nightly(lake).quality()
    assert did.problem is None
    assert did.rows == [("no report", "ZeroDivisionError: nobody expected it")]

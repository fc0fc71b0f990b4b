"""``python -m pipelines.daily``: one command mends what there is to mend, and says what that was."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import pyarrow.compute
import pytest

from fibflow.io import tables
from fibflow.io.dailyend import DailyEnd
from fibflow.io.lease import locked
from fibflow.io.reference import SYMBOLS, read_reference
from fibflow.io.referencechanges import read_changes
from fibflow.io.storage import LakeError, Storage
from fibflow.pipelines import daily
from fibflow.pipelines.nightly import steps as steps_
from fibflow.pipelines.nightly.order import Did, State, Step, carry_out, line_of
from fibflow.pipelines.nightly.steps import NEEDS
from fibflow.serving.history.bars import History
from fibflow.serving.history.query import BarQuery
from fibflow.tests.io.postgresql.databases import databases, select
from fibflow.tests.pipelines.evenings import (
    KEY,
    NOW,
    Behind,
    Evening,
    expected_bars,
    make_behind,
    scaled,
)
from fibflow.tests.pipelines.lakes import Failed, command, fail
from fibflow.tests.pipelines.raws import FAST
from fibflow.tests.pipelines.streamed import INTRADAY, Streamed, contents, day_of_trades, of_names
from fibflow.tests.vendors import Vendor, standin
from fibflow.transforms.timeframe import Timeframe

# The stubs know too few types of columns.
pc: Any = pyarrow.compute


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    market = {"symbols": 8, "last": date(2024, 3, 15), "minutes": 0, "seed": 3}
    with standin(**market, key=KEY, clock=lambda: NOW) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MASSIVE_API_KEY", KEY)


@pytest.fixture(scope="module")
def mended(vendor, tmp_path_factory) -> tuple[Evening, Behind]:
    """A lake that was behind, after one run over it, and what was wrong with it."""
    made = Evening(tmp_path_factory.mktemp("evening"), vendor)
    wrong = make_behind(made)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("MASSIVE_API_KEY", KEY)
        assert made.run() == 0
    made.said = said.getvalue()
    return made, wrong


@pytest.fixture
def evening(mended) -> Evening:
    return mended[0]


@pytest.fixture
def wrong(mended) -> Behind:
    return mended[1]


def failing(*line: str) -> Failed:
    return fail(daily.run, *line, known=(*daily.KNOWN_ERRORS, daily.DailyError))


def told(text: str) -> dict[str, str]:
    """The rows of the table, names with their values."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return {
        name.rstrip(): value.strip() for name, value in (line.strip("│")[1:].split("│") for line in lines)
    }


def test_one_run_mends_all_that_was_wrong(evening):
    assert evening.days().equals(evening.vendor.days().cast(evening.days().schema))


def test_the_bars_that_follow_are_those_of_the_oracle(evening, wrong):
    expected = expected_bars(evening.vendor.days())
    assert evening.bars() == expected
    for symbol in (wrong.old, wrong.new, wrong.split):
        assert any(key[0] == symbol for key in expected)


def test_the_split_scales_what_readers_see_of_the_days_before(evening, wrong):
    splits = evening.splits()
    assert splits.select(["symbol", "execution_date", "split_from", "split_to"]).equals(
        evening.market.splits.select(["symbol", "execution_date", "split_from", "split_to"])
    )
    days = evening.vendor.days()
    expected = expected_bars(scaled(days.filter(pc.equal(days["symbol"], wrong.split)), splits))
    history = History(evening.lake, 0, lambda symbol: splits, clock=lambda: NOW)
    assert any(row["execution_date"] == wrong.cut for row in splits.to_pylist())
    query = BarQuery((wrong.split,), Timeframe.parse("5d"), limit=1_000, adjusted=True)
    found = history.bars(query).table
    wanted = [bar for key, bar in sorted(expected.items()) if key[1] == "5d"]
    assert len(found) == len(wanted) > 5
    for name in ("open", "high", "low", "close", "volume", "vwap"):
        assert found[name].to_pylist() == pytest.approx([bar[name] for bar in wanted], rel=1e-5), name


def test_the_rename_keeps_the_chain_and_ends_the_old_ticker(evening, wrong):
    assert [(r["old_symbol"], r["symbol"], r["date"]) for r in evening.renames().to_pylist()] == [
        (wrong.old, wrong.new, wrong.renamed)
    ]
    known = {row["symbol"]: row for row in read_reference(evening.lake, SYMBOLS)[0].to_pylist()}
    assert (known[wrong.old]["active"], known[wrong.old]["delisted"]) == (False, wrong.renamed)
    assert (known[wrong.new]["active"], known[wrong.new]["delisted"]) == (True, None)
    assert known[wrong.old]["composite_figi"] == known[wrong.new]["composite_figi"] is not None
    fields = {
        (row["field"], row["old"], row["new"])
        for row in read_changes(evening.lake, wrong.old).to_pylist()
        if row["table"] == SYMBOLS.name
    }
    assert ("active", "true", "false") in fields


def test_the_report_names_each_change(evening, wrong):
    rows = told(evening.said)
    market = evening.market
    for day in wrong.hole:
        assert rows[f"new session {day}"].endswith(" rows")
    assert rows[f"filled {wrong.symbol}"] == f"2 sessions, {wrong.alone[0]} to {wrong.alone[1]}"
    assert re.fullmatch(r"close [\d.]+ -> [\d.]+", rows[f"corrected {wrong.corrected} {wrong.on}"])
    assert rows[f"renamed {wrong.old}"] == f"to {wrong.new}, from {wrong.renamed} on"
    cut = market.splits.to_pylist()[0]
    assert rows[f"split of {wrong.split}"] == f"on {wrong.cut}: {cut['split_to']:g} for {cut['split_from']:g}"
    assert sum(name.startswith("corrected") for name in rows) == 1
    for step in NEEDS:
        if step != "postgres":
            assert re.match(r"(done|nothing to do), [\d.]+ s$", rows[step]), step
    later = len(market.sessions) - 1 - market.sessions.index(wrong.last)
    assert rows["    missing"] == str(later + 3)
    assert int(rows["  bars new"].replace(",", "")) > 0
    assert int(rows["  bars revised"].replace(",", "")) > 0


def test_again_and_over_a_holiday_there_is_nothing_to_do(evening, capsys):
    versions = evening.versions()
    evening.vendor.forget()
    for now in (NOW, datetime(2024, 3, 18, 3, tzinfo=UTC)):
        assert evening.run(now=now) == 0
        rows = told(capsys.readouterr().out)
        assert rows["nothing to do"] == "no session is new, and nothing changed"
        assert all(rows[step].startswith("nothing to do") for step in NEEDS if step != "postgres")
        assert evening.versions() == versions
        assert DailyEnd.read(Storage(evening.lake.uri)) == DailyEnd(now, 0)
    calls = evening.vendor.names
    # The last five sessions for corrections, and no list of what is gone.
    assert calls["grouped"] == 10
    assert calls["tickers"] == calls["splits"] == calls["dividends"] == 2
    assert set(calls) == {"grouped", "tickers", "splits", "dividends"}


def test_a_correction_is_found_named_and_not_named_again(evening, wrong, capsys):
    day = evening.market.sessions[-2]
    symbol = wrong.corrected
    row = next(
        row for row in evening.vendor.days().to_pylist() if (row["symbol"], row["session"]) == (symbol, day)
    )
    assert evening.vendor.correct(symbol, day, close=row["high"]) == 1
    try:
        assert evening.run() == 0
        rows = told(capsys.readouterr().out)
        assert rows[f"corrected {symbol} {day}"] == f"close {row['close']} -> {row['high']}"
        assert not any(name.startswith(("new session", "filled")) for name in rows)
        assert evening.bars() == expected_bars(evening.vendor.days())
        assert evening.run() == 0
        assert not any(name.startswith("corrected") for name in told(capsys.readouterr().out))
    finally:
        evening.vendor.heal()


# Killed ----------------------------------------------------------------------------------------------------


def test_killed_anywhere_the_next_runs_go_on_and_tell_all(vendor, tmp_path, capsys):
    world = Evening(tmp_path, vendor)
    wrong = make_behind(world)
    line = command("daily", *world.line("--to", "2024-03-17"))
    for where in (
        "after-step/backfill",
        "before-told",
    ):
        killed = subprocess.run(
            line, env={**os.environ, "FIBFLOW_FAILPOINT": where}, capture_output=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL, where
    vendor.forget()
    assert world.run("--to", "2024-03-17") == 0
    assert vendor.names["grouped"] == 5
    rows = told(capsys.readouterr().out)
    assert f"new session {wrong.hole[0]}" in rows
    assert f"filled {wrong.symbol}" in rows
    assert f"corrected {wrong.corrected} {wrong.on}" in rows
    assert rows[f"renamed {wrong.old}"] == f"to {wrong.new}, from {wrong.renamed} on"
    assert f"split of {wrong.split}" in rows
    assert world.days().equals(vendor.days().cast(world.days().schema))
    assert world.bars() == expected_bars(vendor.days())
    changes = read_changes(world.lake).select(["table", "symbol", "key", "change", "field", "version"])
    assert len(changes.group_by(changes.column_names).aggregate([])) == len(changes)
    versions = world.versions()
    assert world.run("--to", "2024-03-17") == 0
    assert world.versions() == versions


# What else writes ------------------------------------------------------------------------------------------


def test_a_stream_may_write_meanwhile_and_its_bars_are_batchs_afterwards(tmp_path, capsys):
    made = Streamed(tmp_path / "lake")
    rows = day_of_trades("2024-03-08")
    made.stream(rows[::2], "2024-03-08", late=rows[1::2])
    line = ["--lake", str(made.uri), "--raw", str(tmp_path / "raw"), "--skip", "reference,backfill", *FAST]
    ended = threading.Event()

    def go_on() -> None:
        later = day_of_trades("2024-03-11")
        for begin in range(0, len(later), 10):
            made.archive(later[begin : begin + 10])
            if ended.is_set():
                made.archive(later[begin + 10 :])
                break
        made.close("2024-03-11")

    stream = threading.Thread(target=go_on)
    stream.start()
    assert daily.run(line) == 0
    ended.set()
    stream.join()
    found = told(capsys.readouterr().out)
    assert int(found["    late"].replace(",", "")) > 0
    assert daily.run(line) == 0
    assert contents(of_names(made.seen(), INTRADAY)) == made.truth()
    capsys.readouterr()
    assert daily.run(line) == 0
    assert "nothing to do" in told(capsys.readouterr().out)


def test_postgresql_is_brought_up_to_date_too(evening, tmp_path, monkeypatch, capsys):
    with databases(tmp_path) as server:
        monkeypatch.setenv("DATABASE_URL", server.make("migrated"))
        url = os.environ["DATABASE_URL"]
        line = ("--skip", "reference,backfill", "--postgres", url)
        assert evening.run(*line) == 0
        rows = told(capsys.readouterr().out)
        assert rows["  raw_ohlcv"] == f"{len(evening.days()):,} new"
        assert select(url, "SELECT count(*) FROM raw_ohlcv") == [(len(evening.days()),)]
        known, _ = read_reference(evening.lake, SYMBOLS)
        assert select(url, "SELECT count(*) FROM symbol_metadata") == [(len(known),)]
        assert evening.run(*line) == 0
        assert told(capsys.readouterr().out)["postgres"].startswith("nothing to do")


# Failures --------------------------------------------------------------------------------------------------


def test_a_vendor_that_is_away_fails_its_steps_only_and_people_are_told(
    evening, tmp_path, monkeypatch, capsys, s3_server
):
    sns, sqs = s3_server.boto3_client("sns"), s3_server.boto3_client("sqs")
    arn = sns.create_topic(Name="daily")["TopicArn"]
    queue = sqs.create_queue(QueueName="daily")["QueueUrl"]
    told_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=told_arn)
    for name in ("access_key_id", "secret_access_key"):
        monkeypatch.setenv(f"AWS_{name.upper()}", "test")
    # --endpoint-url is of the lake's store alone.
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3_server.endpoint_url))
    for name in ("POLYGON_API_KEY", "DATABASE_URL"):
        monkeypatch.setenv(name, KEY)
    hook = tmp_path / "hook.py"
    hook.write_text(
        "import os, pathlib, sys\n"
        "said = os.environ['FIBFLOW_DAILY_WHY'] + sys.stdin.read() + str(dict(os.environ))\n"
        f"pathlib.Path({str(tmp_path / 'hooked')!r}).write_text(said)\n"
    )
    evening.vendor.order("401", path="*")
    before = DailyEnd.read(Storage(evening.lake.uri))
    assert before.succeeded is not None
    try:
        failed = failing(
            *evening.line(
                *("--notify", arn, "--endpoint-url", "http://127.0.0.1:1"),
                *("--on-failure", f"{sys.executable} {hook}"),
            ),
        )
    finally:
        evening.vendor.clear()
    assert failed.code == 1
    assert DailyEnd.read(Storage(evening.lake.uri)) == before
    why = failed.lines[-1]
    assert "reference failed: " in why
    assert "; backfill failed: " in why
    assert "refuses the key" in why
    rows = told(capsys.readouterr().out)
    assert rows["load"].startswith(("nothing to do", "done"))
    assert rows["batch"].startswith(("nothing to do", "done"))
    (message,) = sqs.receive_message(QueueUrl=queue)["Messages"]
    body = json.loads(message["Body"])
    assert body["Subject"].startswith("fibflow daily: reference failed")
    assert "backfill" in body["Message"]
    hooked = (tmp_path / "hooked").read_text()
    assert hooked.startswith("reference failed")
    for text in (why, body["Message"], body["Subject"], hooked):
        assert KEY not in text


def test_who_is_told_of_a_failure_is_given_no_secret(evening, tmp_path, monkeypatch):
    for name in ("POLYGON_API_KEY", "DATABASE_URL"):
        monkeypatch.setenv(name, KEY)
    hooked = tmp_path / "hooked"
    hook = f"{sys.executable} -c \"import os; open('{hooked}', 'w').write(str(dict(os.environ)))\""
    with locked(evening.lake, "daily", "begun at noon"):
        failing(*evening.line("--on-failure", hook))
    told_ = hooked.read_text()
    assert "daily is at work already" in told_
    assert "'PATH'" in told_
    assert KEY not in told_


def test_what_nobody_expected_is_told_too(evening, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("nobody expected it")

    monkeypatch.setattr(daily, "name_changes", broken)
    hooked = tmp_path / "hooked"
    hook = f"{sys.executable} -c \"import os; open('{hooked}', 'w').write(os.environ['FIBFLOW_DAILY_WHY'])\""
    with pytest.raises(ZeroDivisionError):
        evening.run("--skip", ",".join(NEEDS), "--on-failure", hook)
    assert hooked.read_text() == "ZeroDivisionError: nobody expected it"


def test_reference_data_is_of_the_day_at_the_exchange(evening, monkeypatch):
    def today(vendor: Any, lake: Any, day: date, *_: Any) -> None:
        raise LakeError(day.isoformat())

    monkeypatch.setattr(steps_, "Question", today)
    some: Any = None
    late = datetime(2024, 3, 18, 3, tzinfo=UTC)
    for last, day in ((None, "2024-03-17"), (date(2024, 3, 15), "2024-03-15")):
        args = argparse.Namespace(last=last, symbols=None, full_reference=False)
        nightly = steps_.Nightly(evening.lake, args, lambda: some, some, 1, lambda: late)
        with pytest.raises(LakeError, match=day):
            nightly.reference()


def test_two_at_once_are_refused_with_one_line(evening):
    with locked(evening.lake, "daily", "begun at noon"):
        failed = failing(*evening.line())
    assert failed.code == 1
    assert "daily is at work already (begun at noon, process" in failed.lines[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--skip", "nothing"), "--skip names no step nothing"),
        (("--recheck", "-1"), "--recheck is -1"),
        (("--minutes",), "--minutes takes the symbols"),
        (("--notify", "ops"), "'ops' is no topic"),
        (("--symbols", ","), "--symbols names no symbol"),
        (("--on-failure", " "), "--on-failure names no command"),
        (("--on-failure", "page 'me"), "--on-failure is no command: no closing quotation"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything(tmp_path, vendor, options, said):
    failed = failing(*Evening(tmp_path, vendor).line(*options))
    assert failed.code == 2
    assert said in failed.lines[-1]
    assert not (tmp_path / "lake").exists()


def test_without_a_key_nothing_begins(tmp_path, vendor, monkeypatch):
    monkeypatch.delenv("MASSIVE_API_KEY")
    monkeypatch.delenv("POLYGON_API_KEY", raising=False)
    failed = failing(*Evening(tmp_path, vendor).line())
    assert failed.code == 1
    assert "there is no key of the vendor" in failed.lines[-1]
    assert not (tmp_path / "lake").exists()


def test_the_first_run_has_to_know_where_history_begins(tmp_path, vendor):
    failed = failing(*Evening(tmp_path, vendor).line("--skip", "reference"))
    assert failed.code == 2
    assert "name its first date with --from" in failed.lines[-1]


# Order -----------------------------------------------------------------------------------------------------


class OutOfOrder(Exception):
    """What a step of a test raises."""


def steps(*failing: str) -> list[Step]:
    def work(name: str) -> Did:
        if name in failing:
            raise OutOfOrder(f"{name}\nis broken")
        return Did(anything=name == "load")

    return [Step(name, partial(work, name), needs) for name, needs in NEEDS.items()]


@pytest.mark.parametrize(
    ("failing", "skipped"),
    [
        ("reference", set()),
        ("backfill", set()),
        ("load", {"batch", "reconcile", "maintain", "postgres"}),
        ("batch", {"reconcile", "maintain"}),
        ("reconcile", {"maintain"}),
        ("maintain", set()),
    ],
)
def test_what_needs_a_step_that_failed_is_left_out(failing, skipped):
    outcomes = carry_out(steps(failing), (OutOfOrder,), lambda: 0.0)
    states = {outcome.name: outcome.state for outcome in outcomes}
    assert {name for name, state in states.items() if state is State.SKIPPED} == skipped
    assert states[failing] is State.FAILED
    line = line_of(outcomes) or ""
    assert line.startswith(f"{failing} failed: {failing} is broken")
    assert all(name in line for name in skipped)


def test_what_nobody_expected_is_a_failure_too():
    outcomes = carry_out(steps("backfill"), (), lambda: 0.0)
    assert line_of(outcomes) == "backfill failed: OutOfOrder: backfill is broken"
    assert line_of(carry_out(steps(), (), lambda: 0.0)) is None


def test_the_lake_holds_no_key(evening):
    for file in (*evening.folder.rglob("*"),):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()
    assert evening.lake.table(tables.BARS).exists

"""A backfill against the vendor's stand-in: what it asks for, what it leaves in the lake, what it says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from fibflow.io import tables
from fibflow.io.lake import Scope
from fibflow.io.vendor.errors import NoAccess
from fibflow.io.vendor.files import RawFolder
from fibflow.pipelines import backfill, cli, vendors
from fibflow.serving.standin.lakes import write_rows
from fibflow.tests.pipelines.backfills import KEY, LATER, Job
from fibflow.tests.pipelines.lakes import XNYS, fail, sessions
from fibflow.tests.pipelines.raws import FAST
from fibflow.tests.vendors import Vendor, standin

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

FIRST, LAST = date(2024, 1, 2), date(2024, 2, 14)
DAYS = sessions(str(FIRST), str(LAST))


@pytest.fixture(scope="module")
def market() -> Iterator[Vendor]:
    with standin(symbols=8, first=FIRST, last=LAST, minutes=3) as vendor:
        yield vendor


@pytest.fixture
def job(market: Vendor, tmp_path: Path) -> Iterator[Job]:
    market.forget()
    yield Job(str(tmp_path), market)
    market.clear()
    market.heal()


def steady(vendor: Vendor) -> list[str]:
    """Symbols that have every session, and trade often."""
    days = vendor.days()
    counts: Any = days["symbol"].value_counts()
    busy = pc.min(days["trade_count"]).as_py()
    assert busy >= 10
    return sorted(entry["values"] for entry in counts.to_pylist() if entry["counts"] == len(DAYS))


def at(day: date, close_and: timedelta = timedelta(0), end_and: timedelta | None = None) -> datetime:
    """So long after a session's close, or after its day."""
    position = XNYS.positions(np.array([np.datetime64(day).astype(int)]))[0]
    of, more = (XNYS.closes, close_and) if end_and is None else (XNYS.day_ends, end_and)
    return datetime.fromtimestamp(int(of[position]) / 1e6, UTC) + more


def test_from_nothing_one_call_a_session_and_then_none(job):
    report = job.fetch(FIRST)
    assert job.calls() == {"grouped": len(DAYS)}
    assert (report.calls, report.sessions, report.held, report.problem) == (len(DAYS), len(DAYS), 0, None)
    assert list(report.fetched) == DAYS
    assert job.mirrors()
    files = job.files()
    again = job.fetch()
    assert (again.held, again.fetched, again.files) == (len(DAYS), {}, 0)
    job.land()
    assert job.rows().equals(job.vendor.days().cast(job.rows().schema))
    assert job.lake.table(tables.DAILY).properties[tables.PRICE_BASIS] == "raw"
    assert job.fetch().held == len(DAYS)
    assert job.calls() == {}
    assert job.files() == files


def test_a_top_up_asks_for_what_came_since(job):
    job.fetch(FIRST, last=DAYS[-4])
    job.calls()
    assert list(job.fetch().fetched) == DAYS[-3:]
    assert job.calls() == {"grouped": 3}
    assert job.mirrors()


def test_history_before_what_is_held_is_asked_for_too(job):
    job.fetch(DAYS[10])
    assert list(job.fetch(FIRST).fetched) == DAYS[:10]
    assert job.mirrors()


def test_a_hole_of_three_sessions_is_filled_and_named(job):
    job.fetch(FIRST)
    hole = [DAYS[5], DAYS[6], DAYS[12]]
    for day in hole:
        Path(job.raw, "daily", f"date={day}.parquet").unlink()
    job.calls()
    report = job.fetch()
    assert job.calls() == {"grouped": 3}
    assert list(report.fetched) == hole
    assert dict(report.rows())["fetched: missing"] == ", ".join(map(str, hole))
    assert job.mirrors()


def test_the_lake_alone_says_what_is_held(job):
    job.bought(job.vendor.days())
    report = job.fetch()
    assert (report.held, report.fetched, report.files) == (len(DAYS), {}, 0)
    # Nobody vouches for what was bought: who is missing is asked about, once.
    assert job.calls().get("days", 0) == len(report.ranges)
    assert job.fetch().calls == 0


def test_a_session_that_is_held_in_part_is_fetched_whole(job):
    days = job.vendor.days()
    other = pc.not_equal(days["session"], pa.scalar(DAYS[8], pa.date32()))
    some = pc.is_in(days["symbol"], pa.array(steady(job.vendor)[:3]))
    job.bought(days.filter(pc.or_(other, some)))
    report = job.fetch(holes="none")
    assert job.calls() == {"grouped": 1}
    rows = job.copied()
    assert report.fetched == {DAYS[8]: ("in part", len(rows))}
    assert rows.equals(days.filter(pc.invert(other)).cast(rows.schema))


def test_one_symbols_hole_is_asked_about_with_one_call_and_named(job):
    days, symbol = job.vendor.days(), steady(job.vendor)[0]
    hole = [DAYS[4], DAYS[5], DAYS[9]]
    mine = pc.equal(days["symbol"], symbol)
    gone = pc.and_(mine, pc.is_in(days["session"], pa.array(hole, pa.date32())))
    job.bought(days.filter(pc.invert(gone)))
    report = job.fetch()
    assert job.calls() == {"days": len(report.ranges)}
    assert [(row["symbol"], row["session"], row["change"]) for row in report.changes.to_pylist()] == [
        (symbol, day, "filled") for day in hole
    ]
    assert job.copied().equals(days.filter(gone).cast(job.copied().schema))
    assert job.fetch().calls == 0
    job.land()
    assert job.rows().equals(days.cast(job.rows().schema))


def test_a_symbol_that_a_recent_answer_left_out_is_asked_about_and_older_answers_are_believed(job):
    symbol = steady(job.vendor)[1]
    for day in (DAYS[3], DAYS[-2]):
        job.vendor.hide([symbol], day, day)
    job.fetch(FIRST, holes="none")
    job.vendor.heal()
    job.calls()
    report = job.fetch()
    assert report.ranges == [symbol]
    assert report.changes["session"].to_pylist() == [DAYS[-2]]
    assert job.calls() == {"days": 1}
    assert not job.mirrors()
    assert symbol in job.fetch(holes="likely").ranges
    assert job.mirrors()


def test_no_trade_is_remembered_until_one_asks_again(job):
    symbol = steady(job.vendor)[0]
    job.vendor.hide([symbol], DAYS[6], DAYS[7])
    asked = job.fetch(FIRST, holes="likely")
    assert symbol in asked.ranges
    assert asked.no_trade >= 2
    assert job.fetch(holes="likely").calls == 0
    job.vendor.heal()
    assert job.fetch(holes="all").calls == 0
    report = job.fetch(holes="likely", ask_again=True)
    filled = report.changes.filter(pc.equal(report.changes["symbol"], symbol))
    assert filled["session"].to_pylist() == DAYS[6:8]
    assert job.mirrors()


def test_a_correction_is_written_alone_and_named_with_both_values(job):
    job.fetch(FIRST)
    symbol = steady(job.vendor)[0]
    before, files = job.copied(), job.files()
    job.vendor.correct(symbol, DAYS[-3], close=3.25)
    job.vendor.correct(symbol, DAYS[-6], close=4.25)
    assert job.fetch().files == 0
    job.calls()
    report = job.fetch(recheck=5)
    assert job.calls() == {"grouped": 5}
    assert (report.rechecked, report.files, report.fetched) == (5, 1, {})
    (change,) = report.changes.to_pylist()
    assert (change["symbol"], change["session"], change["change"]) == (symbol, DAYS[-3], "corrected")
    at_ = pc.and_(pc.equal(before["symbol"], symbol), pc.equal(before["session"], DAYS[-3]))
    (old,) = before.filter(at_)["close"].to_pylist()
    assert (change["old_close"], change["new_close"]) == (old, 3.25)
    assert list(report.change_rows()) == [(f"{DAYS[-3]} {symbol} corrected", f"close {old} -> 3.25")]
    now = job.files()
    assert {name for name in files if files[name] != now[name]} == {f"daily/date={DAYS[-3]}.parquet"}
    assert job.copied().filter(pc.invert(at_)).equals(before.filter(pc.invert(at_)))
    assert job.fetch(recheck=len(DAYS) + 5).files == 1
    assert job.mirrors()


def test_a_lake_that_was_bought_is_checked_too(job):
    job.bought(job.vendor.days())
    symbol = steady(job.vendor)[0]
    job.vendor.correct(symbol, DAYS[-2], high=99_999.5)
    report = job.fetch(recheck=3, holes="none")
    assert [(row["symbol"], row["new_high"]) for row in report.changes.to_pylist()] == [(symbol, 99_999.5)]
    assert list(job.files()) == [f"daily/date={DAYS[-2]}.parquet"]


def test_a_row_that_the_vendor_gives_no_more_is_kept_and_named(job):
    job.fetch(FIRST)
    symbol, before = steady(job.vendor)[0], job.copied()
    job.vendor.hide([symbol], DAYS[-2], DAYS[-2])
    report = job.fetch(recheck=3)
    (change,) = report.changes.to_pylist()
    assert (change["symbol"], change["change"], change["new_close"]) == (symbol, "withdrawn", None)
    assert job.copied().equals(before)


def test_a_session_is_asked_for_when_it_has_closed_and_is_whole_when_its_day_is_over(job):
    early = at(LAST, timedelta(minutes=10))
    assert list(job.fetch(FIRST, now=early).fetched) == DAYS[:-1]
    evening = at(LAST, timedelta(hours=2))
    report = job.fetch(now=evening)
    assert (list(report.fetched), report.open) == ([LAST], [LAST])
    # Not over: asked for again, and left alone where nothing differs.
    job.calls()
    files = job.files()
    assert job.fetch(now=evening).files == 0
    assert job.calls() == {"grouped": 1}
    assert job.files() == files
    job.vendor.correct(steady(job.vendor)[0], LAST, volume=123.5)
    over = at(LAST, end_and=timedelta(minutes=1))
    report = job.fetch(now=over)
    assert report.fetched[LAST][0] == "not over before"
    assert report.open == []
    assert job.mirrors()
    assert job.fetch(now=over).calls == 0


def test_a_session_that_the_vendor_does_not_have_yet_is_not_taken_for_empty(job):
    job.vendor.hide(None, LAST, LAST)
    report = job.fetch(FIRST, now=at(LAST, timedelta(hours=1)))
    assert report.pending == [LAST]
    assert job.calls() == {"grouped": len(DAYS)}
    assert dict(report.rows())["the vendor has nothing yet"] == str(LAST)
    # Long after, it is asked for more than once, and in the next run too.
    assert job.fetch(now=LATER, last=LAST).pending == [LAST]
    assert job.calls()["grouped"] > 1
    job.vendor.heal()
    assert list(job.fetch(now=LATER, last=LAST).fetched) == [LAST]
    assert job.mirrors()


def test_chosen_symbols_cost_whichever_is_less(job):
    chosen = steady(job.vendor)[:2]
    report = job.fetch(FIRST, symbols=frozenset(chosen))
    assert job.calls() == {"days": 2}
    assert sorted(report.ranges) == chosen
    assert set(job.copied()["symbol"].to_pylist()) == set(chosen)
    assert job.fetch(symbols=frozenset(chosen)).calls == 0
    # One session of two symbols: a call for the session.
    for path in Path(job.raw, "daily").rglob("*.parquet"):
        rows = pq.ParquetFile(path).read()
        pq.write_table(rows.filter(pc.not_equal(rows["date"], pa.scalar(DAYS[7], pa.date32()))), path)
    assert list(job.fetch(symbols=frozenset(chosen)).fetched) == [DAYS[7]]
    assert job.calls() == {"grouped": 1}
    assert set(job.copied()["symbol"].to_pylist()) == set(chosen)
    # A symbol more: only that one's history.
    more = frozenset(steady(job.vendor)[:3])
    assert job.fetch(symbols=more).ranges == sorted(more - set(chosen))
    assert job.calls() == {"days": 1}
    days = job.vendor.days()
    assert job.mirrors(days.filter(pc.is_in(days["symbol"], pa.array(sorted(more)))))
    assert job.fetch(symbols=more).calls == 0
    # All of them after all: every session.
    assert len(job.fetch(whole=True).fetched) == len(DAYS)
    assert job.mirrors()
    assert job.fetch(whole=True).calls == 0


def test_a_symbol_without_history_is_asked_for_once(job):
    wanted = frozenset({"NOSUCH"})
    assert job.fetch(FIRST, symbols=wanted).no_trade == len(DAYS)
    assert job.fetch(FIRST, symbols=wanted).calls == 0


def test_minutes_of_some_symbols(job):
    chosen = frozenset(steady(job.vendor)[:2])
    first = DAYS[-3]
    # Of a month that goes on only what came since.
    report = job.fetch(first, symbols=chosen, minutes=True, now=at(DAYS[-2], timedelta(hours=1)))
    assert job.calls()["minutes"] == len(report.months) == 2
    assert job.fetch(symbols=chosen, minutes=True).minutes > 0
    assert job.calls()["minutes"] == 2
    again = job.fetch(symbols=chosen, minutes=True)
    assert (again.calls, again.files, again.minutes_input) == (0, 0, f"{job.raw}/minutes")
    job.land("minutes")
    minutes = job.vendor.minutes()
    mine = minutes.filter(pc.is_in(minutes["symbol"], pa.array(sorted(chosen)))).drop_columns(["version"])
    got = job.rows(tables.MINUTES).drop_columns(["version"])
    assert len(got) > 0
    assert got.equals(mine.cast(got.schema))
    # What the lake has is not asked for, wherever it came from.
    other = Job(f"{job.base}/other", job.vendor)
    write_rows(other.lake, tables.MINUTES, job.vendor.minutes())
    other.fetch(DAYS[-3], symbols=chosen, minutes=True)
    assert "minutes" not in job.calls()


def test_whatever_goes_wrong_the_folder_has_what_the_vendor_has(job):
    faults = ["429:0.05:seconds=0", "500:0.05", "cut:0.05", "nonsense:0.05", "partial:0.05", "empty:0.05"]
    job.vendor.faults(",".join(faults))
    job.fetch(FIRST)
    job.fetch()
    assert len(job.vendor.answers) >= 4
    job.vendor.clear()
    # Empty may have come again and again.
    job.fetch()
    assert job.mirrors()


def test_answers_with_a_part_are_found_out(job):
    job.vendor.order("partial", path="grouped", times=2, percent=60)
    report = job.fetch(FIRST)
    assert job.mirrors()
    assert job.calls()["grouped"] >= len(DAYS) + 2
    assert len(report.changes) == 0


def test_a_session_that_never_comes_costs_no_other(job):
    job.vendor.order("500", path=f"*/{DAYS[3]}")
    report = job.fetch(FIRST)
    assert [failed.what for failed in report.failed] == [str(DAYS[3])]
    assert str(DAYS[3]) in report.problem
    assert "run asks for the rest" in report.problem
    assert list(report.fetched) == [day for day in DAYS if day != DAYS[3]]
    job.vendor.clear()
    assert list(job.fetch().fetched) == [DAYS[3]]
    assert job.mirrors()


def test_a_vendor_that_goes_away_is_not_asked_for_ever(job):
    job.vendor.order("500", path="grouped")
    report = job.fetch(FIRST, at_once=2)
    # Three or four in a row, and the newest one.
    assert 4 <= len(report.failed) <= 5
    assert report.failed[-1].what == str(LAST)
    assert report.calls <= 5 * 8


def test_a_plan_that_ends_in_history_is_one_line(tmp_path):
    later = datetime(2029, 6, 1, tzinfo=UTC)
    with standin(symbols=2, first=FIRST, last=LAST, minutes=0, plan="starter", clock=lambda: later) as vendor:
        job = Job(str(tmp_path), vendor)
        with pytest.raises(NoAccess, match="plan does not include") as error:
            job.fetch(FIRST, now=later, last=LAST)
    assert "\n" not in str(error.value)


def test_a_plan_without_todays_session_waits_for_it(job):
    job.vendor.order("403", path=f"*/{LAST}")
    assert job.fetch(FIRST, now=at(LAST, timedelta(hours=1))).pending == [LAST]
    with pytest.raises(NoAccess):
        job.fetch(now=LATER, last=LAST)


def test_holes_in_history_that_the_plan_does_not_include_stay_as_they_are(job, tmp_path):
    days, symbol = job.vendor.days(), steady(job.vendor)[0]
    mine = pc.equal(days["symbol"], symbol)
    gone = pc.and_(mine, pc.is_in(days["session"], pa.array(DAYS[3:9], pa.date32())))
    part = pc.and_(pc.invert(mine), pc.equal(days["session"], pa.scalar(DAYS[8], pa.date32())))
    job.vendor.order("403")
    for lacking, refused in ((gone, symbol), (part, str(DAYS[8]))):
        one = Job(f"{tmp_path}/{refused}", job.vendor)
        one.bought(days.filter(pc.invert(lacking)))
        report = one.fetch()
        assert refused in report.refused
        assert (report.fetched, report.files, report.problem) == ({}, 0, None)
        assert one.fetch().calls == 0


def test_a_dry_run_asks_nothing_and_writes_nothing(job):
    report = job.fetch(FIRST, dry_run=True)
    assert (list(report.fetched), report.calls) == (DAYS, 0)
    assert not Path(job.raw).exists()
    chosen = frozenset(steady(job.vendor)[:2])
    report = job.fetch(FIRST, dry_run=True, symbols=chosen, minutes=True)
    assert report.ranges == sorted(chosen)
    assert report.months[0] == (min(chosen), "2024-01")
    assert job.calls() == {}


def test_on_s3(market, s3):
    market.forget()
    job = Job(s3.uri("job"), market, s3.aws)
    job.fetch(DAYS[-6], last=DAYS[-2])
    assert job.calls() == {"grouped": 5}
    report = job.fetch(recheck=2)
    assert job.calls() == {"grouped": 3}
    assert report.daily_input == s3.uri("job/raw/daily")
    assert len(RawFolder.at(job.raw, s3.aws).raw_files("daily")) == 6


# The command line ------------------------------------------------------------------------------------------


def options(job, *more):
    return [
        "--lake",
        job.lake.uri,
        "--raw",
        job.raw,
        "--vendor-url",
        job.vendor.url,
        "--rate",
        "1000",
        "--to",
        str(LAST),
        *FAST,
        *more,
    ]


def test_the_command_line_fetches_lands_and_tells(job, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    assert backfill.run(options(job, "--from", str(FIRST))) == cli.OK
    assert job.rows().equals(job.vendor.days().cast(job.rows().schema))
    symbol = steady(job.vendor)[0]
    job.vendor.correct(symbol, LAST, volume=9.5)
    assert backfill.run(options(job, "--recheck", "2", "--changes", str(tmp_path / "changes.csv"))) == cli.OK
    said = capsys.readouterr()
    assert f"{LAST} {symbol} corrected" in said.out
    assert csv.read_csv(tmp_path / "changes.csv")["new_volume"].to_pylist() == [9.5]
    landed = job.rows()
    assert landed.equals(job.vendor.days().cast(landed.schema))
    job.vendor.correct(symbol, LAST, volume=9.75)
    assert backfill.run(options(job, "--recheck", "1", "--no-load")) == cli.OK
    assert job.rows().equals(landed)
    assert job.mirrors()
    # Nobody wrote the key anywhere.
    for path in Path(job.base).rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    assert KEY not in said.out + said.err


def test_wrong_requests_are_one_line(job, monkeypatch, tmp_path):
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    wrong = {
        (): "--from",
        ("--from", "today"): "no date",
        ("--from", str(FIRST), "--minutes"): "--symbols",
        ("--symbols", " , "): "--symbols",
        ("--recheck", "-1"): "--recheck",
        ("--rate", "0"): "--rate",
        ("--at-once", "0"): "--at-once",
        ("--vendor-url", "ftp://x"): "--vendor-url",
        ("--calendar", "NONE", "--from", str(FIRST)): "NONE",
    }
    for more, said in wrong.items():
        failed = fail(backfill.run, *options(job, *more))
        assert failed.code == cli.USAGE
        assert said in failed.lines[-1]
        assert len(failed.lines) == 1
    assert job.calls() == {}


def test_a_lake_of_adjusted_prices_is_refused_before_a_call(job, monkeypatch):
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    job.bought(job.vendor.days())
    table = job.lake.table(tables.DAILY)
    adjusted = {tables.PRICE_BASIS: "split-adjusted"}
    table.commit(base_version=table.version, scope=Scope(), run="test", properties=adjusted)
    failed = fail(backfill.run, *options(job))
    assert (failed.code, len(failed.lines)) == (cli.USAGE, 1)
    assert "split-adjusted prices" in failed.lines[0]
    assert job.calls() == {}


def test_no_key_a_wrong_key_and_no_network_are_one_line_without_the_key(job, monkeypatch, capsys):
    def failing(*more):
        with pytest.raises(SystemExit) as ended:
            cli.run_main(backfill.run, options(job, "--from", str(FIRST), *more), vendors.KNOWN_ERRORS)
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if not line.startswith("sessions: ")]
        assert (ended.value.code, len(lines)) == (cli.FAILED, 1)
        assert KEY not in said.out + said.err
        return lines[0]

    for variable in ("POLYGON_API_KEY", "MASSIVE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert "--key-file" in failing()
    monkeypatch.setenv("MASSIVE_API_KEY", KEY)
    job.vendor.order("401", path="grouped")
    assert "refuses the key" in failing()
    assert "cannot be reached" in failing("--vendor-url", "http://127.0.0.1:1")
    assert job.files() == {}

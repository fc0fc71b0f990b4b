"""A backfill that is told too little: what it does not believe, keeps, tells once, and lets cost no other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pytest

from fibflow.io import tables
from fibflow.io.vendor.errors import NoAccess
from fibflow.io.vendor.files import NO_TRADE, RawFolder
from fibflow.pipelines import backfill, cli, vendors
from fibflow.tests.pipelines.backfills import KEY, LATER, NOW, Job
from fibflow.tests.pipelines.lakes import fail, sessions
from fibflow.tests.pipelines.raws import FAST
from fibflow.tests.vendors import Vendor, standin

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

FIRST, LAST = date(2024, 1, 29), date(2024, 2, 14)
DAYS = sessions(str(FIRST), str(LAST))
#: Sessions with minutes.
LATEST = DAYS[-3:]


@pytest.fixture(scope="module")
def market() -> Iterator[Vendor]:
    with standin(symbols=6, first=FIRST, last=LAST, minutes=3) as vendor:
        yield vendor


@pytest.fixture
def job(market: Vendor, tmp_path: Path) -> Iterator[Job]:
    market.forget()
    yield Job(str(tmp_path), market)
    market.clear()
    market.heal()


def steady(vendor: Vendor) -> list[str]:
    """Symbols that trade in every session."""
    counts: Any = vendor.days()["symbol"].value_counts()
    return sorted(entry["values"] for entry in counts.to_pylist() if entry["counts"] == len(DAYS))


def line(job: Job, *more: str) -> list[str]:
    asked = "--vendor-url", job.vendor.url, "--rate", "1000", "--to", str(LAST), *FAST
    return ["--lake", job.lake.uri, "--raw", job.raw, *asked, *more]


# Minutes ---------------------------------------------------------------------------------------------------


def minutes_of(job: Job, symbol: str) -> pa.Table:
    return RawFolder.at(job.raw).read_month(symbol, "2024-02")


def minute_files(job: Job) -> dict[str, bytes]:
    return {name: content for name, content in job.files().items() if name.startswith("minutes/")}


def whole(job: Job, symbol: str) -> list[date]:
    return sorted(RawFolder.at(job.raw).months(symbol)["2024-02"])


def test_an_empty_answer_for_minutes_is_asked_for_again(job):
    symbol = steady(job.vendor)[0]
    job.vendor.order("empty", path="minutes", times=2)
    report = job.fetch(LATEST[0], symbols=frozenset({symbol}), minutes=True)
    assert job.calls()["minutes"] == 3
    assert report.minutes == len(minutes_of(job, symbol)) > 0
    assert whole(job, symbol) == LATEST


def test_minutes_that_never_come_erase_nothing_and_do_not_count_as_fetched(job):
    symbol = steady(job.vendor)[0]
    chosen: dict[str, Any] = {"symbols": frozenset({symbol}), "minutes": True}
    job.fetch(LATEST[0], last=LATEST[1], **chosen)
    held, files = minutes_of(job, symbol), minute_files(job)
    job.vendor.order("empty", path="minutes")
    report = job.fetch(last=LATEST[1], recheck=2, **chosen)
    assert minute_files(job) == files
    assert (report.minutes, report.lost_minutes) == (0, len(held))
    assert dict(report.rows())["minutes withdrawn, and kept"] == f"{len(held):,}"
    # The day's row says that there are some.
    for _ in range(2):
        job.fetch(**chosen)
        assert whole(job, symbol) == LATEST[:2]
        assert minutes_of(job, symbol).equals(held)
    job.vendor.clear()
    job.calls()
    job.fetch(**chosen)
    assert job.calls()["minutes"] == 1
    assert whole(job, symbol) == LATEST
    assert job.fetch(**chosen).calls == 0


def test_a_short_answer_for_minutes_keeps_what_it_lacks(job):
    symbol = steady(job.vendor)[0]
    chosen: dict[str, Any] = {"symbols": frozenset({symbol}), "minutes": True, "recheck": 3}
    job.fetch(LATEST[0], **chosen)
    held, files = minutes_of(job, symbol), minute_files(job)
    job.vendor.order("partial", path="minutes", percent=60, times=1)
    whole_again = job.fetch(**chosen)
    assert minute_files(job) == files
    job.vendor.hide([symbol], LATEST[2], LATEST[2])
    short = job.fetch(**chosen)
    assert minutes_of(job, symbol).equals(held)
    assert minute_files(job) == files
    assert whole_again.lost_minutes == 0 < short.lost_minutes


def test_a_session_without_minutes_is_not_whole_shortly_after_its_day(job):
    # It did not trade: no row of its day speaks for minutes.
    symbol = steady(job.vendor)[0]
    job.vendor.hide([symbol], LAST, LAST)
    chosen: dict[str, Any] = {"symbols": frozenset({symbol}), "minutes": True}
    night = datetime(2024, 2, 15, 6, tzinfo=UTC)
    job.fetch(LATEST[0], now=night, **chosen)
    assert whole(job, symbol) == LATEST[:2]
    job.fetch(now=LATER, last=LAST, **chosen)
    assert whole(job, symbol) == LATEST
    assert job.fetch(now=LATER, last=LAST, **chosen).calls == 0


# Sessions --------------------------------------------------------------------------------------------------


def test_a_session_before_the_window_confirms_none_inside_it(job):
    days = job.vendor.days()
    others = pc.not_equal(days["symbol"], steady(job.vendor)[0])
    job.bought(days.filter(pc.invert(pc.and_(pc.equal(days["session"], DAYS[4]), others))))
    RawFolder.at(job.raw).add_no_trade(pa.table([[""], [DAYS[0]], [DAYS[0]]], schema=NO_TRADE))
    assert job.fetch(DAYS[4], holes="none").fetched[DAYS[4]][0] == "in part"
    RawFolder.at(job.raw).add_no_trade(pa.table([[""], [DAYS[4]], [DAYS[4]]], schema=NO_TRADE))
    assert Job(job.base, job.vendor).fetch(DAYS[4], holes="none", whole=False).fetched == {}


def test_a_row_that_is_withdrawn_is_told_once_and_costs_no_file(job):
    job.fetch(FIRST)
    symbol, files = steady(job.vendor)[0], job.files()
    job.vendor.hide([symbol], DAYS[-2], DAYS[-2])
    report = job.fetch(recheck=3)
    assert report.changes["change"].to_pylist() == ["withdrawn"]
    assert report.files == 0
    job.calls()
    again = job.fetch(recheck=3)
    assert (len(again.changes), again.files) == (0, 0)
    # Who is known to be missing is waited for no more.
    assert job.calls() == {"grouped": 3}
    assert {name: content for name, content in job.files().items() if name in files} == files
    # A correction beside it is still found, and the row kept.
    job.vendor.correct(steady(job.vendor)[1], DAYS[-2], volume=7.5)
    before = job.copied()
    found = job.fetch(recheck=3)
    assert (found.changes["change"].to_pylist(), found.files) == (["corrected"], 1)
    assert len(job.copied()) == len(before)


def test_symbols_that_were_not_asked_for_are_not_withdrawn(job):
    job.bought(job.vendor.days())
    chosen = frozenset(steady(job.vendor)[:1])
    job.vendor.correct(min(chosen), DAYS[-1], volume=7.5)
    report = job.fetch(recheck=2, symbols=chosen, holes="none")
    assert report.changes.select(["symbol", "change"]).to_pylist() == [
        {"symbol": min(chosen), "change": "corrected"}
    ]


def test_dead_old_sessions_keep_neither_todays_nor_holes_nor_minutes_away(job):
    symbol = steady(job.vendor)[0]
    dead, hole = DAYS[1:5], DAYS[-4]
    job.fetch(FIRST, last=DAYS[-2])
    folder = Path(job.raw, "daily")
    for day in dead:
        (folder / f"date={day}.parquet").unlink()
        job.vendor.order("500", path=f"*/{day}")
    (folder / f"date={hole}.parquet").unlink()
    report = job.fetch(at_once=1)
    assert list(report.fetched) == [hole, LAST]
    assert {failed.what for failed in report.failed} <= set(map(str, dead))
    assert str(dead[0]) in report.problem
    # Nobody lacks what is still to come.
    assert not set(report.ranges) & set(steady(job.vendor))
    lacking = job.vendor.days()
    mine = pc.and_(pc.equal(lacking["symbol"], symbol), pc.equal(lacking["session"], DAYS[6]))
    other = Job(f"{job.base}/other", job.vendor)
    kept = pc.invert(pc.or_(mine, pc.is_in(lacking["session"], pa.array(dead, pa.date32()))))
    other.bought(lacking.filter(kept))
    found = other.fetch(symbols=frozenset(steady(job.vendor)), minutes=True)
    filled = found.changes.select(["symbol", "session"]).to_pylist()
    assert {"symbol": symbol, "session": DAYS[6]} in filled
    assert found.minutes > 0


def test_of_a_history_whose_beginning_is_dead_the_rest_comes(job):
    for day in DAYS[:3]:
        job.vendor.order("500", path=f"*/{day}")
    report = job.fetch(FIRST, at_once=1)
    assert list(report.fetched) == DAYS[3:]
    assert [failed.what for failed in report.failed] == list(map(str, DAYS[:3]))


def test_what_another_run_is_writing_is_left_alone(job):
    folder = Path(job.raw, "daily")
    folder.mkdir(parents=True)
    running, abandoned = folder / ".vendor-1", folder / ".vendor-2"
    for path, age in ((running, timedelta(minutes=50)), (abandoned, timedelta(minutes=70))):
        path.write_bytes(b"half")
        os.utime(path, ((NOW - age).timestamp(),) * 2)
    job.fetch(FIRST)
    assert (running.exists(), abandoned.exists()) == (True, False)


# The command line ------------------------------------------------------------------------------------------


def test_what_came_before_the_end_is_shown_and_landed(job, monkeypatch, capsys):
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    job.vendor.order("403", path=f"*/{DAYS[4]}")
    with pytest.raises(SystemExit) as ended:
        cli.run_main(
            backfill.run, line(job, "--from", str(FIRST), "--at-once", "1"), known=vendors.KNOWN_ERRORS
        )
    said = capsys.readouterr()
    assert ended.value.code == cli.FAILED
    assert "plan does not include" in said.err.splitlines()[-1]
    assert "files written" in said.out
    assert sorted(set(job.rows(tables.DAILY)["session"].to_pylist())) == DAYS[:4]
    with pytest.raises(NoAccess):
        job.fetch()


def test_changes_into_no_folder_are_refused_before_a_call(job, monkeypatch, tmp_path):
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    for file in (tmp_path / "none" / "changes.csv", tmp_path):
        failed = fail(backfill.run, *line(job, "--from", str(FIRST), "--changes", str(file)))
        assert (failed.code, len(failed.lines)) == (cli.USAGE, 1)
        assert failed.lines[0].endswith("name a file in a folder that is there")
    assert job.calls() == {}

"""What a later reconciliation does: new messages, official history, kills, other writers."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial

import pytest

from fibflow.io import tables
from fibflow.io.failpoints import VARIABLE
from fibflow.io.lake import Lake
from fibflow.io.maintenance import compact
from fibflow.pipelines import batch, reconcile, tickjob
from fibflow.pipelines.job import make_staged
from fibflow.pipelines.plan import plan_bronze
from fibflow.tests.pipelines.lakes import command, daily_bars, fail, files_in, sessions, with_counts
from fibflow.tests.pipelines.raws import FAST, Bronze, Raw, rows_of
from fibflow.tests.pipelines.streamed import (
    Streamed,
    changes,
    contents,
    day_of_minutes,
    day_of_trades,
    of_names,
    session,
    trade,
    windows,
)
from fibflow.tests.pipelines.test_batch_minutes import table_of
from fibflow.tests.transforms.oracle import instant as moment
from fibflow.transforms.timeframe import MINUTE_US

THURSDAY, FRIDAY, MONDAY = "2024-03-07", "2024-03-08", "2024-03-11"
SMALL = "5m,1h"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Two sessions of trades, some late; nothing reconciled yet."""
    made = Streamed(tmp_path_factory.mktemp("base") / "lake", names=f"{SMALL},1d")
    for day in (THURSDAY, FRIDAY):
        rows = day_of_trades(day, trades=30)
        made.stream(rows[3:], day, late=rows[:3])
    return made


@pytest.fixture(scope="module")
def done(base, tmp_path_factory):
    made = base.copy(tmp_path_factory.mktemp("done") / "lake")
    made.reconcile()
    return made


@pytest.fixture
def made(done, tmp_path):
    return done.copy(tmp_path / "lake")


def key_of(row):
    return row["symbol"], row["timeframe"], round(row["ts"].timestamp() * 1e6)


def check(made, *days):
    assert contents(of_names(made.seen(SMALL), SMALL)) == made.truth(SMALL, days)


# New messages ----------------------------------------------------------------------------------------------


def test_only_sessions_with_new_messages_are_made_anew(made):
    before, files = made.seen(SMALL), made.lake.table(tables.BARS).snapshot().paths
    known = len(made.report())
    at = session(FRIDAY).opens + 7 * MINUTE_US
    late = [trade("A", at, 900, 99.0), {**made.messages[3], "seq": 901, "correction": 10}]
    made.archive(late[:1], late=True)
    made.reconcile()
    after = made.seen(SMALL)
    check(made)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == windows(late[:1], SMALL)
    assert {after[key]["revision"] - before[key]["revision"] for key in changed & before.keys()} <= {1}
    fresh = made.report()[known:] if len(made.report()) > known else []
    found = {key_of(row): row for row in made.report()}
    assert len(fresh) == len(changed)
    for key in changed:
        assert found[key]["why"] == "late"
        assert found[key]["old_high"] == (before[key]["high"] if key in before else None)
        assert found[key]["new_high"] == 99.0
    kept = made.lake.table(tables.BARS).snapshot().paths & files
    assert kept


def test_a_run_that_goes_less_far_forgets_no_session(made):
    made.archive([trade("A", session(FRIDAY).opens, 900, 99.0)], late=True)
    made.archive([trade("A", session(THURSDAY).opens, 900, 98.0)], late=True)
    made.reconcile("--as-of", THURSDAY)
    made.reconcile()
    check(made)
    fresh = {(row["timeframe"], row["new_high"]) for row in made.report() if row["new_high"] > 90}
    assert fresh == {(name, high) for name in ("5m", "1h") for high in (98.0, 99.0)}


def test_a_run_for_some_timeframes_leaves_the_report_of_the_others_to_the_next(base, tmp_path):
    made, whole = base.copy(tmp_path / "lake"), base.copy(tmp_path / "whole")
    made.reconcile("--timeframes", "1h")
    assert {row["timeframe"] for row in made.report()} == {"1h"}
    # Of five minutes, batch has been nowhere.
    live = of_names(base.seen(), "5m")
    assert of_names(made.seen(), "5m") == live
    made.reconcile()
    whole.reconcile()
    assert plain(made.report()) == plain(whole.report())
    assert made.seen() == whole.seen()


def test_a_report_goes_on_where_the_log_has_expired(made):
    before = plain(made.report())
    made.archive([trade("A", session(FRIDAY).opens, 900, 99.0)], late=True)
    for log in (made.uri / "silver.bars" / "_delta_log").glob("*.json"):
        made.lake.table(tables.BARS).open().create_checkpoint()
        log.unlink()
    made.reconcile()
    check(made)
    assert len(made.report()) == len(before) + 2


def test_a_cancel_that_comes_a_day_later(made):
    target = next(row for row in made.messages if row["kind"] == "T" and row["conditions"] == "0")
    made.archive([{**target, "seq": 901, "correction": 10}], late=True)
    made.reconcile()
    check(made)
    letters = made.lake.table(tables.DEAD_LETTERS).snapshot().read()[0].to_pylist()
    assert [row["reason"] for row in letters] == ["cancelled", "cancelled"]
    # The session is made again, and nothing is told twice.
    made.archive([trade("B", session(THURSDAY).opens, 950, 11.0)], late=True)
    made.reconcile()
    check(made)
    assert len(made.lake.table(tables.DEAD_LETTERS).snapshot().read()[0]) == 2


def test_messages_that_were_archived_again_change_nothing(made):
    before = made.seen()
    known = made.report()
    again = [dict(row) for row in made.messages[:50]]
    made.commit(tables.TICKS, made._table(tables.TICKS, again))
    made.reconcile()
    assert made.seen() == before
    assert made.report() == known
    files = files_in(made.uri)
    made.reconcile()
    assert files_in(made.uri) == files


def test_compaction_is_no_change(made):
    compact(made.lake.table(tables.TICKS), 1_000_000, "c")
    compact(made.lake.table(tables.BARS), 1_000_000, "c")
    files = files_in(made.uri)
    made.reconcile()
    assert files_in(made.uri) == files


@pytest.mark.parametrize("at_once", [1, 4_000_000])
@pytest.mark.parametrize("unit_rows", [25, 950_000])
def test_a_market_in_parts(base, tmp_path, monkeypatch, at_once, unit_rows):
    made = base.copy(tmp_path / "lake")
    monkeypatch.setattr(tickjob, "AT_ONCE", at_once)
    monkeypatch.setattr(tickjob, "plan_bronze", partial(plan_bronze, unit_rows=unit_rows))
    made.reconcile()
    check(made)
    assert made.lake.table(tables.BARS).version == (1 if at_once == 1 else 0)


def test_a_new_timeframe_is_made_of_all_sessions(made):
    wide = Streamed(
        made.uri, made.feed, f"{SMALL},15m,1d", made.properties, made.messages, made.tardy, made.numbers
    )
    wide.stream(day_of_trades(MONDAY, trades=12), MONDAY)
    made.reconcile()
    check(made)
    assert contents(of_names(made.seen("15m"), "15m")) == made.truth("15m")


# Official history ------------------------------------------------------------------------------------------


def land_days(made, folder, days, value=10.0):
    raw = Raw(folder)
    rows = [row for symbol in "AB" for row in rows_of(symbol, days, value)]
    raw.put("all.parquet", with_counts(rows, True))
    Bronze(str(made.uri)).first(raw)
    return rows


def test_official_days_win_and_are_named(made, tmp_path):
    days = sessions("2024-02-01", FRIDAY)
    live = of_names(made.seen("1d"), "1d")
    rows = land_days(made, tmp_path / "raw", days)
    batch.run(["--lake", str(made.uri), *FAST, "--timeframes", "3d"])
    made.reconcile()
    seen = of_names(made.seen("1d,3d"), "1d,3d")
    assert contents(seen) == daily_bars(rows, "1d,3d")
    report = [row for row in made.report() if row["timeframe"] == "1d"]
    # The stream's first message of Thursday came before the open: it saw both days.
    assert {key_of(row) for row in report} == set(live)
    assert {(row["change"], row["why"]) for row in report} == {("different", "official")}
    assert {row["new_open"] for row in report} == {row.value for row in rows if row.day in days[-2:]}
    assert not [row for row in made.report() if row["timeframe"] == "3d"]
    files = files_in(made.uri)
    made.reconcile()
    assert files_in(made.uri) == files


def test_days_after_official_history_are_the_streams(made, tmp_path):
    rows = land_days(made, tmp_path / "raw", sessions("2024-02-01", THURSDAY))
    live = made.seen("1d")
    made.reconcile()
    friday = session(FRIDAY).start
    expected = daily_bars(rows, "1d") | contents({key: bar for key, bar in live.items() if key[2] == friday})
    assert contents(made.seen("1d")) == expected


def test_a_days_bar_of_a_stream_that_began_after_the_open_is_not_covered(tmp_path):
    made = Streamed(tmp_path / "lake", names="1h,1d")
    rows = [row for row in day_of_trades(FRIDAY) if row["ts"] > session(FRIDAY).opens + 30 * MINUTE_US]
    made.stream(rows, FRIDAY)
    made.stream(day_of_trades(MONDAY, symbols="A"), MONDAY)
    land_days(made, tmp_path / "raw", sessions(FRIDAY, MONDAY))
    made.reconcile()
    found = {(row["symbol"], str(row["session"])): (row["change"], row["why"]) for row in made.report()}
    assert found == {
        ("A", FRIDAY): ("different", "not_covered"),
        ("B", FRIDAY): ("different", "not_covered"),
        ("A", MONDAY): ("different", "official"),
        ("B", MONDAY): ("missing", "official"),
    }


def land_minutes(made, folder, values):
    Bronze(str(made.uri), spec=tables.MINUTES).first(put_minutes(folder, values), "--kind", "minutes")


def put_minutes(folder, values):
    raw = Raw(folder)
    raw.put(
        "minutes.parquet", table_of({(symbol, moment(ts)): price for (symbol, ts), price in values.items()})
    )
    return raw


def official(day, symbols="A"):
    return {
        (symbol, session(day).opens + number * MINUTE_US): 20.0 + number
        for symbol in symbols
        for number in range(9)
    }


def of_minutes(values, names=SMALL):
    from fibflow.tests.pipelines.lakes import minute_bars

    return minute_bars({(symbol, moment(ts)): price for (symbol, ts), price in values.items()}, names)


def in_session(bars, day):
    return {key: bar for key, bar in bars.items() if session(day).start <= key[2] < session(day).end}


@pytest.mark.parametrize("by", ["reconcile", "batch"])
def test_minutes_that_land_later_take_a_session_over_and_leave_the_others(made, tmp_path, by):
    before = made.seen(SMALL)
    values = official(FRIDAY)
    land_minutes(made, tmp_path / "raw", values)
    if by == "batch":
        # The first run over a bronze table makes all bars of it, and what ticks made is made again after.
        batch.run(["--lake", str(made.uri), *FAST, "--timeframes", SMALL])
    made.reconcile()
    seen = contents(made.seen(SMALL))
    assert in_session(seen, FRIDAY) == of_minutes(values)
    assert in_session(seen, THURSDAY) == contents(in_session(before, THURSDAY))
    report = {key_of(r): r["change"] for r in made.report() if r["why"] in ("official", "not_covered")}
    assert report == changes(in_session(before, FRIDAY), in_session(seen, FRIDAY))
    # Minutes of the other session, of one symbol: it is theirs as a whole, and Friday's stay.
    more = official(THURSDAY)
    put = put_minutes(tmp_path / "more", more)
    Bronze(str(made.uri), spec=tables.MINUTES).load(put, "--kind", "minutes")
    if by == "batch":
        batch.run(["--lake", str(made.uri), *FAST, "--timeframes", SMALL])
        assert in_session(contents(made.seen(SMALL)), FRIDAY) == of_minutes(values)
    made.reconcile()
    seen = contents(made.seen(SMALL))
    assert in_session(seen, THURSDAY) == of_minutes(more)
    assert in_session(seen, FRIDAY) == of_minutes(values)
    files = files_in(made.uri)
    made.reconcile()
    assert files_in(made.uri) == files


def test_ticks_between_official_minutes(made, tmp_path):
    """Batch over minutes of a later session leaves the sessions before it to ticks."""
    land_minutes(made, tmp_path / "raw", official(FRIDAY))
    made.reconcile()
    made.stream(day_of_trades(MONDAY, trades=30), MONDAY)
    made.reconcile()
    monday = in_session(contents(made.seen(SMALL)), MONDAY)
    assert monday == made.truth(SMALL, [MONDAY])
    later = "2024-03-12"
    put = put_minutes(tmp_path / "more", official(later, "AB"))
    Bronze(str(made.uri), spec=tables.MINUTES).load(put, "--kind", "minutes")
    batch.run(["--lake", str(made.uri), *FAST, "--timeframes", SMALL])
    seen = contents(made.seen(SMALL))
    assert in_session(seen, MONDAY) == monday
    assert in_session(seen, later) == of_minutes(official(later, "AB"))
    assert in_session(seen, FRIDAY) == of_minutes(official(FRIDAY))


def test_a_session_of_official_minutes_is_not_made_of_ticks(base, tmp_path):
    made = base.copy(tmp_path / "lake")
    values = official(FRIDAY, "AC")
    land_minutes(made, tmp_path / "raw", values)
    made.reconcile()
    seen = contents(made.seen(SMALL))
    assert in_session(seen, FRIDAY) == of_minutes(values)
    assert in_session(seen, THURSDAY) == made.truth(SMALL, [THURSDAY])
    reasons = {(str(row["session"]), row["why"]) for row in made.report()}
    assert {why for day, why in reasons if day == FRIDAY} <= {"official", "not_covered"}
    assert {why for day, why in reasons if day == THURSDAY} == {"late"}


# Kills, and others that write ------------------------------------------------------------------------------


def killed(made, folder, point):
    folder.mkdir()
    done = subprocess.run(
        command("reconcile", "--lake", str(made.uri), *FAST),
        capture_output=True,
        check=False,
        env=os.environ | {"TMPDIR": str(folder), VARIABLE: point},
    )
    return done.returncode


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A lake in which everything changes at once, and the same one after a run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    made = base.copy(folder / "before")
    cancelled = next(row for row in made.messages if row["ts"] > session(FRIDAY).opens)
    made.archive([{**cancelled, "seq": 901, "correction": 10}], late=True)
    land_days(made, folder / "raw", sessions("2024-03-01", FRIDAY))
    land_minutes(made, folder / "minutes", official(THURSDAY, "AC"))
    after = made.copy(folder / "after")
    after.reconcile()
    return made, after


def plain(report):
    return sorted((tuple(value for name, value in row.items() if name != "run") for row in report), key=repr)


@pytest.mark.parametrize(
    "point",
    [
        *(f"before-commit:{number}" for number in (1, 2, 3, 4, 5)),
        *(f"after-commit:{number}" for number in (1, 2, 3, 4, 5)),
        *("after-files", "after-files:3", "before-report"),
    ],
)
def test_a_run_that_is_killed_is_made_whole_by_the_next(whole, tmp_path, point):
    made, after = whole[0].copy(tmp_path / "lake"), whole[1]
    assert killed(made, tmp_path / "temporary", point) == -signal.SIGKILL
    made.reconcile()
    assert made.seen() == after.seen()
    assert plain(made.report()) == plain(after.report())
    assert len({row["run"] for row in made.report()}) == 1
    letters = made.lake.table(tables.DEAD_LETTERS).snapshot().read()[0]
    assert letters["reason"].to_pylist() == ["cancelled", "cancelled"]
    files = files_in(made.uri)
    made.reconcile()
    assert files_in(made.uri) == files


def test_a_stream_may_write_meanwhile(base, tmp_path, monkeypatch):
    made = base.copy(tmp_path / "lake")
    run = make_staged

    def and_stream(*arguments):
        found = run(*arguments)
        made.stream(day_of_trades(MONDAY, trades=12), MONDAY)
        return found

    monkeypatch.setattr(tickjob, run.__name__, and_stream)
    made.reconcile()
    monkeypatch.undo()
    seen = made.seen(SMALL)
    assert contents(in_session(seen, FRIDAY)) == made.truth(SMALL, [FRIDAY])
    assert in_session(seen, MONDAY)
    made.reconcile()
    check(made)


def test_two_at_once(base, tmp_path, monkeypatch):
    made = base.copy(tmp_path / "lake")
    run = make_staged

    def and_other(*arguments):
        found = run(*arguments)
        monkeypatch.undo()
        made.reconcile()
        return found

    monkeypatch.setattr(tickjob, run.__name__, and_other)
    failed = fail(reconcile.run, "--lake", str(made.uri), *FAST)
    assert failed.code == 1
    assert "another run wrote silver.bars at the same time" in failed.lines[-1]
    check(made)
    assert len({row["run"] for row in made.report()}) == 1


# The command line ------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_it_would_do(base, tmp_path, capsys):
    made = base.copy(tmp_path / "lake")
    files = files_in(made.uri)
    made.reconcile("--dry-run")
    assert files_in(made.uri) == files
    said = " ".join(capsys.readouterr().out.split())
    assert f"would make 5m, 1h of {THURSDAY} to {FRIDAY}" in said


def test_the_counts_are_printed(base, tmp_path, capsys):
    made = base.copy(tmp_path / "lake")
    made.reconcile()
    said = capsys.readouterr().out
    late = [row for row in made.report() if (row["timeframe"], row["why"]) == ("5m", "late")]
    assert [line.split()[-2] for line in said.splitlines() if "5m late" in line] == [str(len(late))]


def test_a_difference_without_a_reason_is_an_alarm(base, tmp_path, capsys):
    made = base.copy(tmp_path / "lake")
    # What the stream did not take, and did not call late.
    made.archive([trade("A", session(FRIDAY).opens, 900, 99.0)])
    made.reconcile()
    found = [row for row in made.report() if row["why"] == "unexplained"]
    assert found
    said = f"{len(found)} bars of the stream differ from batch's for no reason that is known"
    assert said in capsys.readouterr().err


def test_a_lake_without_a_stream_is_refused(tmp_path):
    failed = fail(reconcile.run, "--lake", str(tmp_path / "lake"), *FAST)
    assert failed.code == 1
    assert "there is no silver.live in" in failed.lines[-1]


def test_which_messages_make_the_bars_has_to_be_known(tmp_path):
    made = Streamed(tmp_path / "lake", names="5m")
    made.archive(day_of_minutes(FRIDAY, minutes=5))
    made.stream(day_of_trades(FRIDAY, trades=12), FRIDAY)
    as_of = ("--as-of", FRIDAY)
    failed = fail(reconcile.run, "--lake", str(made.uri), *FAST, *as_of)
    assert failed.code == 2
    assert "say with --bars-from which of them" in failed.lines[-1]
    made.reconcile("--bars-from", "trades", *as_of)
    assert contents(made.seen("5m")) == made.truth("5m")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--workers", "0"), "--workers is 0: give 1 or more"),
        (("--timeframes", "7x"), "unknown timeframe '7x'"),
        (("--as-of", "soon"), "'soon' is no date"),
    ],
)
def test_what_cannot_be_is_refused(base, options, line):
    failed = fail(reconcile.run, "--lake", str(base.uri), *options)
    assert failed.code == 2
    assert line in failed.lines[-1]


def test_bars_of_another_basis_are_refused(base, tmp_path):
    made = base.copy(tmp_path / "lake")
    raw = Raw(tmp_path / "raw")
    raw.put("all.parquet", rows_of("A", sessions("2024-02-01", FRIDAY)))
    Bronze(str(made.uri)).load(raw, "--price-basis", "split-adjusted")
    version = Lake(str(made.uri)).table(tables.BARS).version
    failed = fail(reconcile.run, "--lake", str(made.uri), *FAST)
    assert failed.code == 2
    assert "--price-basis says raw" in failed.lines[-1]
    assert Lake(str(made.uri)).table(tables.BARS).version == version

"""Runs after runs: a lake that grew in steps holds what one full run over the same files makes."""

from __future__ import annotations

import pytest

from fibflow.io import merge
from fibflow.tests.pipelines.histories import History
from fibflow.tests.pipelines.lakes import (
    DAYS_70,
    NEXT,
    ROWS,
    Silver,
    World,
    contents,
    daily_bars,
    files_in,
    holds,
    revised,
)
from fibflow.tests.pipelines.raws import Bronze, rows_of

NAMES = "3d,5d,13d,34d"
ANCHORS = ("exchange", "listing", "rows")


def grown(seed, folder):
    """A history, where it is landed, and a lake for each anchor."""
    bronze = Bronze(str(folder / "bronze"))
    source = ("--input", f"{bronze.uri}/bronze.daily", "--timeframes", NAMES)
    lakes = {anchor: Silver(str(folder / anchor), (*source, "--anchor", anchor)) for anchor in ANCHORS}
    return History.draw(folder / "raw", seed), bronze, lakes


def test_a_lake_that_grew_in_steps_holds_what_a_full_run_makes(tmp_path):
    history, bronze, lakes = grown(1, tmp_path)
    for number, (step, happen) in enumerate([("start", history.start), *history.steps()]):
        happen()
        bronze.first(history.raw)
        for anchor, lake in lakes.items():
            lake.batch()
            assert lake.content() == daily_bars(history.winners, NAMES, anchor), step
        # In turns, a run of its own over the raw files.
        anchor = ANCHORS[number % 3]
        options = ("--price-basis", "raw", "--timeframes", NAMES, "--anchor", anchor)
        fresh = Silver(str(tmp_path / f"fresh-{number}"), ("--input", str(history.raw)))
        fresh.batch(*options)
        assert fresh.content() == lakes[anchor].content(), step


@pytest.mark.parametrize("seed", [2, 3])
def test_a_run_makes_up_for_several_loads(seed, tmp_path):
    """Each lake misses two steps of three."""
    history, bronze, lakes = grown(seed, tmp_path)
    steps = [("start", history.start), *history.steps()]
    for number, (_, happen) in enumerate(steps):
        happen()
        bronze.first(history.raw)
        for place, (anchor, lake) in enumerate(lakes.items()):
            if number == 0 or number % 3 == place:
                lake.batch()
                assert lake.content() == daily_bars(history.winners, NAMES, anchor)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("base"), "--timeframes", NAMES)


@pytest.fixture
def world(base, tmp_path):
    return base.copy(tmp_path)


def after(world, *options):
    """The bars before a run and after it."""
    before = world.lake.bars()
    world.lake.batch("--timeframes", NAMES, *options)
    return before, world.lake.bars()


def test_without_new_data_nothing_is_done(world, capsys):
    before = files_in(world.lake.uri)
    world.lake.batch("--timeframes", NAMES)
    assert "no new data: nothing to do" in capsys.readouterr().out
    assert files_in(world.lake.uri) == before


def test_a_file_with_rows_that_are_known_is_no_new_data(world, capsys):
    world.put([row for row in ROWS if row.symbol == "A"][:5], "date=2023-10-12")
    world.land()
    version = world.lake.version
    world.lake.batch("--timeframes", NAMES)
    assert "no new data" in capsys.readouterr().out
    assert world.lake.version == version


def test_a_new_session_changes_only_the_windows_that_hold_it(world):
    new = [*rows_of("A", NEXT[:1], 80.0), *rows_of("B", NEXT[:1], 250.0)]
    world.put_all("day", new)
    world.land()
    ended = {name: world.lake.paths(name, complete=True) for name in NAMES.split(",")}
    still_open = {name: world.lake.paths(name, complete=False) for name in NAMES.split(",")}
    before, now = after(world)
    touched = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    assert touched == {key for key, bar in now.items() if holds(bar, NEXT[0]) and key[0] in "AB"}
    assert revised(before, now) == touched & before.keys()
    assert not before.keys() - now.keys()
    assert contents(now) == daily_bars([*ROWS, *new], NAMES)
    # No window ended: only the one file of open bars is another.
    assert not any(now[key]["complete"] for key in touched)
    for name in NAMES.split(","):
        assert world.lake.paths(name, complete=True) == ended[name]
        assert len(world.lake.paths(name, complete=False)) == 1
        assert not world.lake.paths(name, complete=False) & still_open[name]


def test_windows_that_end_go_to_a_small_file_beside_the_others(world, monkeypatch):
    monkeypatch.setattr(merge, "TAIL_ROWS", 10)
    ended = world.lake.paths("3d", complete=True)
    for number, day in enumerate(NEXT[:4]):
        world.put_all(f"day-{number}", rows_of("A", [day], 80.0 + number))
        world.land()
        world.lake.batch("--timeframes", NAMES)
    assert ended < world.lake.paths("3d", complete=True)
    # What ended later shares one file.
    assert len(world.lake.paths("3d", complete=True)) == len(ended) + 1
    assert len(world.lake.paths("5d", complete=False)) == 1


def test_small_files_of_ended_windows_are_merged(world):
    for number, day in enumerate(NEXT[2:6]):
        world.put_all(f"day-{number}", rows_of("A", [day], 80.0 + number))
        world.land()
        world.lake.batch("--timeframes", NAMES)
    assert len(world.lake.paths("3d", complete=True)) == 1


@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_corrected_row_changes_exactly_its_windows(anchor, world):
    options = ("--anchor", anchor, "--timeframes", NAMES)
    lake = Silver(str(world.folder / anchor), ("--input", f"{world.lake.uri}/bronze.daily"))
    lake.batch(*options)
    old = [row for row in ROWS if row.symbol == "B"]
    world.put([*old[:17], old[17]._replace(value=777.0), *old[18:]])
    world.land()
    before = lake.bars()
    lake.batch(*options)
    now = lake.bars()
    assert revised(before, now) == {
        key for key, bar in now.items() if key[0] == "B" and holds(bar, old[17].day)
    }
    assert len(revised(before, now)) == 4
    assert now.keys() == before.keys()


def test_corrections_of_two_symbols_that_are_far_from_each_other(world):
    """Under ``rows`` each symbol is read from a stored bar before its own change on."""
    for anchor in ANCHORS:
        lake = Silver(
            str(world.folder / anchor),
            ("--input", f"{world.lake.uri}/bronze.daily", "--anchor", anchor, "--timeframes", "2d,3d"),
        )
        lake.batch()
    changed = {("A", DAYS_70[12]), ("B", DAYS_70[55])}
    rows = [row._replace(value=row.value + 5) if row.key in changed else row for row in ROWS]
    for symbol in "AB":
        world.put([row for row in rows if row.symbol == symbol])
    world.land()
    for anchor in ANCHORS:
        lake = Silver(
            str(world.folder / anchor),
            ("--input", f"{world.lake.uri}/bronze.daily", "--anchor", anchor, "--timeframes", "2d,3d"),
        )
        before = lake.bars()
        lake.batch()
        now = lake.bars()
        assert contents(now) == daily_bars(rows, "2d,3d", anchor)
        touched = {
            key for key, bar in now.items() for name, day in changed if key[0] == name and holds(bar, day)
        }
        assert revised(before, now) == touched
        assert len(touched) == 4


def test_a_correction_that_leaves_a_bar_as_it_was_does_not_raise_its_revision(world):
    old = [row for row in ROWS if row.symbol == "B"]
    place = 30
    world.put([*old[:place], old[place]._replace(value=700.0), *old[place + 1 :]])
    world.land()
    before, now = after(world)
    raised = revised(before, now)
    assert raised
    # And back again: the revision counts on, the content is the first one.
    world.put(old)
    world.land()
    again, then = after(world)
    assert again == now
    assert revised(now, then) == raised
    assert contents(then) == contents(before)
    assert {then[key]["revision"] for key in raised} == {2}


def test_a_backfill_under_the_anchor_listing_moves_the_symbols_windows(world):
    options = ("--anchor", "listing", "--timeframes", "5d")
    lake = Silver(str(world.folder / "listing"), ("--input", f"{world.lake.uri}/bronze.daily"))
    lake.batch(*options)
    earlier = rows_of("B", DAYS_70[7:9], 190.0)
    world.put(earlier, "backfill")
    # And a session in the same run, whose window no other row of the symbol tells where it begins.
    session = [*rows_of("A", NEXT[:1], 80.0), *rows_of("B", NEXT[:1], 250.0)]
    world.put_all("day", session)
    world.land()
    before = lake.bars()
    lake.batch(*options)
    now = lake.bars()
    assert contents(now) == daily_bars([*ROWS, *earlier, *session], "5d", "listing")
    assert {key[0] for key in before.keys() - now.keys()} == {"B"}
    assert revised(before, now) == {
        key for key, bar in before.items() if key[0] == "A" and holds(bar, NEXT[0])
    }


def test_corrections_of_more_symbols_than_are_looked_at_one_by_one(world, monkeypatch):
    monkeypatch.setattr("fibflow.pipelines.changes.MOST_SINGLE", 1)
    for anchor in ANCHORS:
        lake = Silver(
            str(world.folder / anchor), ("--input", f"{world.lake.uri}/bronze.daily", "--anchor", anchor)
        )
        lake.batch("--timeframes", NAMES)
    rows = [row._replace(value=row.value + 5) if row.day == DAYS_70[40] else row for row in ROWS]
    new = rows_of("N", DAYS_70[45:], 5.0)
    for symbol in "ABZ":
        world.put([row for row in rows if row.symbol == symbol])
    world.put(new)
    world.land()
    for anchor in ANCHORS:
        lake = Silver(
            str(world.folder / anchor), ("--input", f"{world.lake.uri}/bronze.daily", "--anchor", anchor)
        )
        before = lake.bars()
        lake.batch("--timeframes", NAMES)
        now = lake.bars()
        assert contents(now) == daily_bars([*rows, *new], NAMES, anchor)
        assert revised(before, now) == {
            key for key, bar in before.items() if bar != now[key] and holds(bar, DAYS_70[40])
        }


def test_rows_that_were_landed_before_enter_when_the_as_of_time_moves(world):
    """Nothing lands between the runs: only the as-of time moves."""
    for anchor in ANCHORS:
        lake = Silver(
            str(world.folder / anchor),
            ("--input", f"{world.lake.uri}/bronze.daily", "--anchor", anchor, "--timeframes", NAMES),
        )
        for place in (20, 33, 60):
            lake.batch("--as-of", str(DAYS_70[place]))
            assert lake.content() == daily_bars(ROWS, NAMES, anchor, as_of=DAYS_70[place])
        lake.batch()
        assert lake.content() == daily_bars(ROWS, NAMES, anchor)


def test_rows_after_the_as_of_time_are_no_new_data(world, capsys):
    lake = Silver(str(world.folder / "early"), ("--input", f"{world.lake.uri}/bronze.daily"))
    early = ("--timeframes", NAMES, "--as-of", str(DAYS_70[-1]))
    lake.batch(*early)
    world.put_all("day", rows_of("A", NEXT[:1], 80.0))
    world.land()
    version = lake.version
    lake.batch(*early)
    assert "no new data" in capsys.readouterr().out
    assert lake.version == version


def test_complete_windows_only_in_steps(world):
    options = ("--timeframes", NAMES, "--complete-only")
    for anchor in ANCHORS:
        lake = Silver(
            str(world.folder / anchor), ("--input", f"{world.lake.uri}/bronze.daily", "--anchor", anchor)
        )
        lake.batch(*options)
    new = [*rows_of("A", NEXT, 80.0), *rows_of("B", NEXT[5:], 250.0)]
    world.put_all("more", new)
    world.land()
    for anchor in ANCHORS:
        lake = Silver(
            str(world.folder / anchor), ("--input", f"{world.lake.uri}/bronze.daily", "--anchor", anchor)
        )
        lake.batch(*options)
        bars = lake.content()
        assert all(bar["complete"] and bar["final"] for bar in bars.values())
        assert bars == daily_bars([*ROWS, *new], NAMES, anchor, complete_only=True)

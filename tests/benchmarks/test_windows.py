from datetime import UTC, date, datetime

import pytest

from fibflow.benchmarks.windows import LENGTHS, windows


@pytest.fixture(scope="module")
def rows():
    return {row["session"]: row for row in windows(date(2025, 10, 3)).to_pylist()}


def test_sessions_are_counted_from_the_first_of_2000(rows):
    assert rows[date(1999, 12, 31)]["index"] == -1
    assert rows[date(2000, 1, 3)]["index"] == 0
    assert rows[date(2000, 1, 4)]["index"] == 1


def test_a_session_runs_from_midnight_to_midnight_in_new_york(rows):
    winter, change = rows[date(2000, 1, 3)], rows[date(2024, 3, 8)]
    assert winter["start"] == datetime(2000, 1, 3, 5, tzinfo=UTC)
    assert winter["end"] == datetime(2000, 1, 4, 5, tzinfo=UTC)
    assert change["end"] == datetime(2024, 3, 9, 5, tzinfo=UTC)
    assert rows[date(2024, 3, 11)]["start"] == datetime(2024, 3, 11, 4, tzinfo=UTC)


def test_windows_start_at_multiples_and_end_with_their_last_session(rows):
    # 2000-01-03 was a Monday: Monday to Wednesday; the window before ends on New Year's Eve.
    assert rows[date(2000, 1, 5)]["start3"] == datetime(2000, 1, 3, 5, tzinfo=UTC)
    assert rows[date(2000, 1, 3)]["end3"] == datetime(2000, 1, 6, 5, tzinfo=UTC)
    assert rows[date(1999, 12, 29)]["start3"] == datetime(1999, 12, 29, 5, tzinfo=UTC)
    assert rows[date(1999, 12, 31)]["end3"] == datetime(2000, 1, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize("length", LENGTHS)
def test_windows_are_complete_when_their_end_is_not_after_the_newest_session(rows, length):
    newest = rows[date(2025, 10, 3)]["end"]
    for row in rows.values():
        assert row[f"complete{length}"] == (row[f"end{length}"] <= newest)
        assert row[f"start{length}"] <= row["start"] < row["end"] <= row[f"end{length}"]


def test_the_first_window_starts_with_the_calendar(rows):
    first = next(iter(rows.values()))
    assert first["index"] % 34 != 0
    assert first["start34"] == first["start"]


def test_the_table_reaches_past_every_window_that_the_data_touches(rows):
    newest = rows[date(2025, 10, 3)]["index"]
    assert list(rows.values())[-1]["index"] >= newest + max(LENGTHS)

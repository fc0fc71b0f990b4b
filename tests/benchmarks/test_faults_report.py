"""The page of the matrix: what passes, what fails and why, and nothing else that differs from run to run."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from fibflow.benchmarks.faults.report import RECOVERS_WITHIN, Row, counts, page, table
from fibflow.benchmarks.faults.scenarios import MATRIX

EQUAL = {"missing": 0, "surplus": 0, "different": 0}
SUMS = {"ticks": 100, "late": 3, "duplicates": 2, "unreadable": 4, "used": 95}


def verdict(**changed: int) -> SimpleNamespace:
    return SimpleNamespace(**{**SUMS, **changed})


def passed(seconds: float = 5.0) -> list[Row]:
    return [Row(each.name, (1.0, seconds), EQUAL) for each in MATRIX]


def test_names_are_unique_and_say_what_an_operator_does():
    assert len({each.name for each in MATRIX}) == len({each.title for each in MATRIX}) == len(MATRIX)
    assert all(each.happens and each.operator for each in MATRIX)


def test_a_row_passes_where_nothing_is_wrong():
    assert Row("redis", (1.0,), EQUAL).passed
    assert Row("redis", (RECOVERS_WITHIN,), EQUAL).passed


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Row("redis", (1.0,), EQUAL | {"different": 2}), "bars that are not batch's: 2 different"),
        (Row("redis", (1.0, RECOVERS_WITHIN + 0.1), EQUAL), "new rows after 30.1 s, not within 30 s"),
        (Row("redis", (), EQUAL), "nothing was recovered from"),
        (Row("redis", (1.0,), {}), "the run did not come to its end"),
        (Row("redis", (1.0,), EQUAL, ("a key came twice",)), "a key came twice"),
    ],
)
def test_a_row_that_fails_says_why(row, why):
    assert not row.passed
    assert row.why() == [why]
    told = table([row], MATRIX)
    assert "| **failed** |" in told
    assert told.endswith(f"Why rows failed:\n\n- Redis killed, and back empty: {why}")


def test_counts_add_up_or_say_which_do_not():
    assert counts(verdict(), 100, 4) == []
    assert counts(verdict(ticks=99, used=94), 100, 4) == ["messages in bronze.ticks: 99, not 100"]
    assert counts(verdict(unreadable=5), 100, 4) == ["unreadable messages in dead_letters: 5, not 4"]
    assert counts(verdict(used=96), 100, 4) == ["messages used, late or duplicates: 101, not 100"]
    assert counts(verdict(late=0, used=98), 100, 4) == ["late: none"]


def test_the_table_has_the_rows_that_ran_in_the_matrix_order():
    rows = passed()[::-1]
    lines = table(rows, MATRIX).splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [each.title for each in MATRIX]
    assert lines[0] == f"| {MATRIX[0].title} | 0 | 5.0 | passed |"
    assert len(table(rows[:1], MATRIX).splitlines()) == 3


def test_of_a_run_that_never_came_back_there_is_no_time():
    assert "| - | never | **failed** |" in table([Row("s3", (), {}, ("it broke",))], MATRIX)


def test_pages_of_two_runs_differ_in_seconds_only():
    first, second = (page(passed(seconds), MATRIX, 60, "2024-03-11", 0.5) for seconds in (5.0, 9.1))
    assert first != second
    assert re.sub(r"\d\.\d", "", first) == re.sub(r"\d\.\d", "", second)
    assert "on 2024-03-11" in first
    assert all(each.happens.split(".")[0] in " ".join(first.split()) for each in MATRIX)
    assert max(len(line) for line in first.splitlines() if not line.startswith("|")) <= 120

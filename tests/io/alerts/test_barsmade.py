"""Which bars are made, by how jobs were submitted."""

from __future__ import annotations

import pytest

from fibflow.io import submissions
from fibflow.io.alerts.barsmade import bars_made
from fibflow.io.storage import LakeError, Storage
from fibflow.pipelines import stream
from fibflow.transforms.timeframe import parse_timeframes

_ALERTS = ("--alerts", "postgresql://me@db/market")


@pytest.fixture
def place(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def submit(place: Storage, name: str, at: int, *argv: str) -> None:
    submissions.submitted(place, name, ["--lake", place.uri, *argv], "file:///c", f"{at:032x}", at)


def names(place: Storage) -> list[str] | None:
    made = bars_made(place)
    return None if made is None else [each.name for each in made]


def test_the_job_that_was_submitted_last_with_alerts_counts(place):
    assert names(place) is None
    submit(place, "bars", 1, "--timeframes", "1m")
    assert names(place) is None
    submit(place, "live", 2, *_ALERTS, "--timeframes", "5m,13d,1d")
    submit(place, "bars", 9, "--timeframes", "1h")
    assert names(place) == ["5m", "1d", "13d"]
    submit(place, "other", 3, "--alerts=postgresql://db/x", "--timeframes=fibonacci")
    assert names(place) == ["3d", "5d", "8d", "13d", "21d", "34d"]
    # It goes on with others, and will again.
    submit(place, "live", 4, *_ALERTS, "--time", "3d")
    submissions.stopped(place, "live", "file:///c/savepoint-1")
    assert names(place) == ["3d"]


def test_what_no_job_was_told_is_what_the_command_line_has(place):
    submit(place, "live", 1, *_ALERTS)
    assert bars_made(place) == parse_timeframes(stream.parser().get_default("timeframes"))


@pytest.mark.parametrize("argv", [("--timeframes", "9x"), ("--timeframes",), ("--timeframes", "")])
def test_what_is_no_command_line_tells_nothing(place, argv):
    submit(place, "live", 1, *_ALERTS, *argv)
    assert names(place) is None


def test_a_submission_that_cannot_be_read_is_told(place, tmp_path):
    submit(place, "live", 1, *_ALERTS)
    (tmp_path / "_jobs" / "live.json").write_text("{")
    with pytest.raises(LakeError, match=r"live\.json cannot be read"):
        bars_made(place)

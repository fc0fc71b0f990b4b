"""Sources side by side: what hangs or fails costs its own metrics alone, and no more than the deadline."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import pytest

from fibflow.io.exporter import metrics
from fibflow.io.exporter.collector import Exporter, Source
from fibflow.io.exporter.metrics import SPECS, Kind, Sample
from fibflow.io.storage import LakeError
from fibflow.tests.io.exporter.told import told


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """A source that answers, fails or hangs as it is told."""

    def __init__(self, *samples: Sample) -> None:
        self.samples: Iterable[Sample] = samples
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()
        self.asked = 0

    def look(self) -> Iterator[Sample]:
        self.asked += 1
        self.go.wait()
        if self.error is not None:
            raise self.error
        yield from self.samples


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


def exporter(sources: list[Source], clock: Clock, said: list[str], timeout_s: float = 60.0) -> Exporter:
    return Exporter(sources, timeout_s, clock, clock, said.append, lambda text: text.replace("secret", "***"))


def test_one_that_hangs_costs_the_deadline_and_the_others_are_told(clock, said):
    hangs, fine = Scripted(Sample(metrics.KINESIS_SHARDS, 2)), Scripted(Sample(metrics.OUTBOX_WAITING, 7))
    hangs.go.clear()
    sources = [Source("kinesis", hangs.look), Source("postgres", fine.look)]
    # The deadline of a scrape has passed already when it is looked at.
    under_test = exporter(sources, clock, said, timeout_s=0.05)
    for _ in range(2):
        found = told(under_test.metrics())
        assert found["fibflow_exporter_up"] == {("kinesis",): 0.0, ("postgres",): 1.0}
        assert found["fibflow_outbox_waiting"] == {(): 7.0}
        assert "fibflow_kinesis_open_shards" not in found
    # It is not asked again before it let go.
    assert (hangs.asked, fine.asked) == (1, 2)
    assert said == ["kinesis does not answer: no answer within 0.05 s"]
    assert under_test.document() == {"status": "ok", "away": {"kinesis": "no answer within 0.05 s"}}
    hangs.go.set()
    back = exporter(sources, clock, said)
    assert told(back.metrics())["fibflow_kinesis_open_shards"] == {(): 2.0}


def test_one_that_fails_is_down_says_why_once_and_comes_back(clock, said):
    lake = Scripted(Sample(metrics.LAKE_AGE, 990.0, ("late",)))
    under_test = exporter([Source("lake", lake.look, every_s=60.0)], clock, said)
    lake.error = LakeError("s3://secret@bucket cannot be read")
    for _ in range(2):
        assert told(under_test.metrics())["fibflow_exporter_up"] == {("lake",): 0.0}
    assert said == ["lake does not answer: s3://***@bucket cannot be read"]
    lake.error = None
    # What failed is asked again at once, however seldom it is asked.
    assert told(under_test.metrics())["fibflow_exporter_up"] == {("lake",): 1.0}
    assert said[1:] == ["lake answers again"]
    assert under_test.document() == {"status": "ok", "away": {}}
    assert lake.asked == 3


def test_what_costs_is_asked_seldom_and_ages_go_on(clock, said):
    lake = Scripted(Sample(metrics.LAKE_AGE, 990.0, ("late",)))
    under_test = exporter([Source("lake", lake.look, every_s=60.0)], clock, said)
    ages = []
    for passed in (0.0, 30.0, 29.0, 2.0):
        clock.now += passed
        ages.append(told(under_test.metrics())["fibflow_lake_age_seconds"]["late",])
    assert ages == [10.0, 40.0, 69.0, 71.0]
    assert lake.asked == 2


def test_an_age_is_never_below_nothing(clock, said):
    lake = Scripted(Sample(metrics.LAKE_AGE, clock.now + 5, ("late",)))
    found = told(exporter([Source("lake", lake.look)], clock, said).metrics())
    assert found["fibflow_lake_age_seconds"] == {("late",): 0.0}


def test_names_say_what_they_are():
    names = [spec.name for spec in SPECS]
    assert len(set(names)) == len(names) > 25
    for spec in SPECS:
        assert spec.name.startswith("fibflow_")
        assert spec.name.endswith("_total") == (spec.kind is Kind.COUNTER)
        assert not spec.is_age or spec.name.endswith("_seconds")

"""Events reach the outbox once, through a PostgreSQL that goes away and a job that goes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from fibflow.io.alerts import sink
from fibflow.io.alerts.sink import ToOutbox, WriteEvents, by_writer
from fibflow.io.postgresql import migrate
from fibflow.runners.services.process import free_ports
from fibflow.runners.services.stack import Stack
from fibflow.tests.io.postgresql.databases import select
from fibflow.tests.io.streams import Cell, Timer
from fibflow.transforms.alerts.schema import EVENTS

T0 = 1_800_000_000_000_000
NOW_S = T0 / 1e6 + 0.25


def fired(*ids: str, symbol: str = "A") -> pa.Table:
    """Events of alerts that nobody knows, a second apart."""
    columns: dict[str, Any] = {
        "id": list(ids),
        "alert": list(range(len(ids))),
        "version": [1] * len(ids),
        "symbol": [symbol] * len(ids),
        "ts": [T0 - 1_000_000 * back for back in range(len(ids))],
        "seq": [7] * len(ids),
        "price": [10.5] * len(ids),
        "previous": [float("nan")] * len(ids),
        "level": [10.0] * len(ids),
    }
    return pa.table(columns, schema=EVENTS)


def outbox(url: str) -> list[str]:
    """The ids in the outbox, in their order."""
    return [found for (found,) in select(url, "SELECT id FROM alert_events ORDER BY position")]


class Number(Cell):
    """A cell of one key that holds a number."""

    def read(self) -> Any:
        return self.values[0] if self.values else None

    def write(self, value: int) -> None:
        self.values = [value]  # type: ignore[list-item]


class Key:
    """One key of a writer, and its state."""

    def __init__(self, writer: WriteEvents) -> None:
        self.writer, self.kept, self.due_at, self.due = writer, Cell(), Number(), Timer()

    def process(self, events: pa.Table) -> None:
        self.writer.process((0, events), self.kept, self.due_at, self.due)

    def fire(self) -> None:
        self.writer.on_due(self.kept, self.due_at, self.due)

    @property
    def is_empty(self) -> bool:
        return not self.kept.values and self.due_at.read() is None


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A PostgreSQL that may be stopped."""
    with Stack(["postgres"], folder=tmp_path_factory.mktemp("own")) as running:
        migrate.upgrade(running.env["DATABASE_URL"])
        yield running


def run(url: str, *tables: pa.Table) -> dict[str, Any]:
    """Run the transform; return its counters, and of its distributions the greatest value."""
    pipeline = beam.Pipeline(FnApiRunner(), options=PipelineOptions([]))
    pipeline | beam.Create(list(tables), reshuffle=False).with_output_types(pa.Table) | ToOutbox(url)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace("alerts"))
    return {
        **{metric.key.metric.name: metric.committed for metric in found["counters"]},
        **{metric.key.metric.name: metric.committed.max for metric in found["distributions"]},
    }


def test_events_are_written_once_however_often_they_come(url):
    assert (
        run(url, fired("a", "b"), fired("c", symbol="B"), fired()).items()
        >= {
            "alerts_written": 3,
            "alerts_again": 0,
        }.items()
    )
    assert sorted(outbox(url)) == ["a", "b", "c"]
    counted = run(url, fired("b", "d"))
    assert (counted["alerts_written"], counted["alerts_again"]) == (1, 1)
    assert sorted(outbox(url)) == ["a", "b", "c", "d"]
    assert select(url, "SELECT symbol, ts::text, price, level, owner FROM alert_events WHERE id = 'c'") == [
        ("B", "2027-01-15 08:00:00+00", 10.5, 10.0, "")
    ]


def test_latency_is_that_of_the_newest_price(url, monkeypatch):
    monkeypatch.setattr(sink, "WriteEvents", lambda url: WriteEvents(url, clock=lambda: NOW_S))
    assert run(url, fired("a", "b"))["alerts_latency_ms"] == 250


def test_while_postgresql_is_away_events_wait_and_others_do_not_ask(own, caplog):
    url = own.env["DATABASE_URL"]
    seconds = [NOW_S]
    writer = WriteEvents(url, clock=lambda: seconds[0])
    writer.setup()
    circuit = writer._link.circuit
    circuit.clock = lambda: seconds[0]
    one, other = Key(writer), Key(writer)
    one.process(fired("a"))
    assert one.is_empty
    own.stop("postgres")
    one.process(fired("b"))
    assert one.due.at == pytest.approx(NOW_S + 1.0)
    until = circuit._until
    other.process(fired("x"))
    one.process(fired("c", "d"))
    # Nobody has asked again, for the circuit is as it was.
    assert circuit._until == until
    seconds[0] += 1.0
    one.fire()
    other.fire()
    assert circuit._until == seconds[0] + 1.0
    assert (len(one.kept.values), len(other.kept.values)) == (2, 1)
    assert caplog.text.count("fired alerts wait for PostgreSQL") == 1
    # The worker dies; another one takes over what a checkpoint holds.
    writer.teardown()
    own.start("postgres")
    again = WriteEvents(url, clock=lambda: seconds[0])
    again.setup()
    one.writer = other.writer = again
    one.process(fired("e"))
    assert outbox(url) == ["a"]
    for key in (one, other):
        key.fire()
        assert key.is_empty
    assert outbox(url) == ["a", "b", "c", "d", "e", "x"]
    one.process(fired("f"))
    one.fire()
    assert outbox(url)[-1] == "f"
    again.teardown()


def test_many_that_waited_go_in_parts(url, monkeypatch):
    monkeypatch.setattr(sink, "_AT_ONCE", 3)
    writer = WriteEvents(url)
    writer.setup()
    key = Key(writer)
    key.process(fired(*map(str, range(8))))
    assert sorted(outbox(url)) == sorted(map(str, range(8)))
    assert len(select(url, "SELECT DISTINCT xmin::text FROM alert_events")) == 3
    writer.teardown()


def test_a_runner_whose_input_has_ended_says_that_events_are_lost():
    port = free_ports(["postgres"])["postgres"]
    with pytest.raises(Exception, match=r"PostgreSQL does not answer|PostgreSQL failed"):
        run(f"postgresql://fibflow@127.0.0.1:{port}/fibflow", fired("a"))


def test_a_bucket_has_one_writer():
    ((writer, events),) = by_writer(fired("a", symbol="AAPL"), 4)
    assert [key for key, _ in by_writer(fired("b", "c", symbol="AAPL"), 4)] == [writer]
    assert events["id"].to_pylist() == ["a"]
    assert list(by_writer(fired())) == []

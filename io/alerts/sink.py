"""``WriteEvents``: what fired goes to the outbox at once, and waits in the state while PostgreSQL is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute
from apache_beam.coders import BytesCoder, VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp

from fibflow.io.alerts import outbox
from fibflow.io.alerts.link import Away, Circuit, Link
from fibflow.io.postgresql.session import Connection, PostgresError
from fibflow.transforms import coders
from fibflow.transforms.buckets import bucket_of

coders.register()

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

#: From one try to the next while PostgreSQL is away.
AGAIN_S = 1.0
#: Into how many keys events are hashed by symbol: so many connections write at most.
WRITERS = 4
#: Of one transaction: far fewer than one may take the time for.
_AT_ONCE = 5_000
_MICROS, _MILLIS = 1_000_000, 1_000
_LOG = logging.getLogger(__name__)


def by_writer(events: pa.Table, writers: int = WRITERS) -> Iterator[tuple[int, pa.Table]]:
    """Yield (writer, events) by the symbol of the first: a bucket's events keep their order."""
    if len(events):
        yield bucket_of(str(events["symbol"][0]), writers), events


@beam.typehints.with_input_types(tuple[int, pa.Table])
class WriteEvents(beam.DoFn):
    """Writes events to the outbox of PostgreSQL, each once, however often it is computed.

    Input: (writer, events), tables of ``EVENTS``. What cannot be written is kept in the state and written
    later, in its order; nothing waits for it. One failure keeps all writers of the process from trying for a
    moment, so that a PostgreSQL that is away costs a time-out a second, not one a table.

    Counters, namespace ``alerts``: ``alerts_written``; ``alerts_again``, which the outbox had already;
    ``postgres_errors``. Distribution: ``alerts_latency_ms``, how old the newest price that fired was when its
    event had been written, by the worker's clock.

    Args:
        url: as of ``Link``.
        again_s: from one try to the next.
        clock: seconds since 1970.
    """

    #: Tables that could not be written; a write clears them.
    KEPT = beam.DoFn.StateParam(BagStateSpec("kept", BytesCoder()))
    #: When the timer is set for, UTC microseconds; cleared with what is kept.
    DUE_AT = beam.DoFn.StateParam(ReadModifyWriteStateSpec("due_at", VarIntCoder()))
    DUE = TimerSpec("again", TimeDomain.REAL_TIME)
    _DUE = beam.DoFn.TimerParam(DUE)

    def __init__(self, url: str, again_s: float = AGAIN_S, clock: Callable[[], float] = time.time) -> None:
        self._url, self._every, self._clock = url, again_s, clock
        self._shared = Shared()

    def setup(self) -> None:
        """Make a connection of this instance's own; it opens with the first write."""
        self._link = Link(self._url, self._shared.acquire(lambda: Circuit(self._every)))

    def teardown(self) -> None:
        """Close the connection."""
        self._link.close()

    def process(
        self, element: tuple[int, pa.Table], kept: Any = KEPT, due_at: Any = DUE_AT, due: Any = _DUE
    ) -> None:
        """Write the events; where others wait already, they wait behind these."""
        _, events = element
        waits = due_at.read() is not None
        if waits or self._write([events]) is not None:
            kept.add(coders.encode_table(events))
            if not waits:
                self._set(due_at, due)

    @on_timer(DUE)
    def on_due(self, kept: Any = KEPT, due_at: Any = DUE_AT, due: Any = _DUE) -> None:
        """Try again to write what waits.

        Raises:
            PostgresError: it fails, and the runner's input has ended: it will not come back.
        """
        at = due_at.read()
        if at is None:
            return
        error = self._write([coders.decode_table(cell) for cell in kept.read()])
        if error is None:
            kept.clear()
            due_at.clear()
        elif self._clock() < at / _MICROS - self._every / 2:
            raise error
        else:
            self._set(due_at, due)

    def _write(self, parts: list[pa.Table]) -> PostgresError | None:
        """Write tables, and return why they could not all be written."""
        events = pa.concat_tables(parts)
        failed = self._link.circuit.has_failed
        try:
            new = sum(self._link.ask(write) for write in _transactions(events))
        except Away as error:
            return error
        except PostgresError as error:
            Metrics.counter("alerts", "postgres_errors").inc()
            if not failed:
                _LOG.warning("fired alerts wait for PostgreSQL, which is asked again and again: %s", error)
            return error
        if failed:
            _LOG.warning("fired alerts are written again")
        Metrics.counter("alerts", "alerts_written").inc(new)
        Metrics.counter("alerts", "alerts_again").inc(len(events) - new)
        newest = int(pc.max(events["ts"]).as_py())
        age = int(self._clock() * _MILLIS) - newest // _MILLIS
        Metrics.distribution("alerts", "alerts_latency_ms").update(max(0, age))
        return None

    def _set(self, due_at: Any, due: Any) -> None:
        at = int((self._clock() + self._every) * _MICROS)
        due_at.write(at)
        due.set(Timestamp(micros=at))


def _transactions(events: pa.Table) -> Iterator[Callable[[Connection], int]]:
    for begin in range(0, len(events), _AT_ONCE):
        yield partial(outbox.write_events, events=events.slice(begin, _AT_ONCE))


class ToOutbox(beam.PTransform):
    """Write tables of ``EVENTS`` to the outbox; see ``WriteEvents``.

    Args:
        url: as of ``Link``.
        writers: into how many keys they are hashed; fixed for a job's life.
    """

    def __init__(self, url: str, writers: int = WRITERS) -> None:
        super().__init__()
        self._url, self._writers = url, writers

    def expand(self, events: beam.PCollection) -> beam.PCollection:
        """Key the events, and write them."""
        keyed = beam.FlatMap(by_writer, self._writers).with_output_types(tuple[int, pa.Table])
        return events | "ByWriter" >> keyed | "Write" >> beam.ParDo(WriteEvents(self._url))

"""``ReadTail``: reading on and on what is new, for alerts, beside everything else that a job does.

What was read last is in the state, so that a job that is restored goes on from there. Nothing is held up:
it is asked for in a thread of its own, so that a bundle waits for a moment at most, whoever is away.

A stateful DoFn that sets itself a timer, and no source: Flink tells the sources of a job apart by their place
alone, and one more would take another's state out of a savepoint of a job that did not have it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import TupleSequenceCoder, VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp

from fibflow.io.postgresql.session import PostgresError
from fibflow.io.storage import LakeError
from fibflow.transforms import coders

coders.register()

#: Up to where everything was sent.
Position = tuple[int, ...]
#: How long a bundle waits for an answer, and from one such wait to the next, seconds.
_MOMENT_S, _AGAIN_S = 0.1, 0.1
_MICROS = 1_000_000
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What a look found.

    Attributes:
        position: up to which all is told now.
        tables: what is new.
        more: there is more already.
    """

    position: Position
    tables: Sequence[pa.Table] = ()
    more: bool = False


class Feed(Protocol):
    """What is tailed. Pickled before it is looked at."""

    #: For the log and the counters.
    name: str
    #: What everything begins with.
    start: Position
    #: From one look to the next, seconds.
    every_s: float

    def look(self, position: Position) -> Look:
        """Return what is new after a position; it may take a while.

        Raises:
            PostgresError, LakeError: it cannot be read now.
        """


class Asked:
    """A feed that a process asks, one question at a time, in a thread beside the bundles.

    An answer belongs to the position that it was asked for, and is dropped with it.

    Args:
        feed: what is asked.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._pool = ThreadPoolExecutor(1, f"alerts-{feed.name}")
        self._asked: tuple[Position, Future[Look]] | None = None
        self._fails = False

    def answer(self, position: Position, moment_s: float) -> tuple[Look | None, float]:
        """Return what a look finds, None for nothing yet, and when to ask again, seconds."""
        if self._asked is None or self._asked[0] != position:
            self._asked = position, self._pool.submit(self._feed.look, position)
        _, future = self._asked
        wait((future,), moment_s)
        if not future.done():
            return None, _AGAIN_S
        self._asked = None
        name = self._feed.name
        try:
            found = future.result()
        except (PostgresError, LakeError) as error:
            Metrics.counter("alerts", f"{name}_errors").inc()
            if not self._fails:
                _LOG.warning("alert %s were not read, and are asked for again and again: %s", name, error)
            self._fails = True
            return None, self._feed.every_s
        if self._fails:
            _LOG.warning("alert %s are read again", name)
        self._fails = False
        return found, 0.0 if found.more else self._feed.every_s


@beam.typehints.with_input_types(tuple[str, bytes])
@beam.typehints.with_output_types(pa.Table)
class ReadTail(beam.DoFn):
    """Looks now and then, once it was woken. What cannot be read is logged once, and asked for again.

    Input: (name, anything), of one name: the first wakes it, the others do nothing. Output: tables.

    Counters, namespace ``alerts``: ``<name>_rows`` and ``<name>_errors``.

    Args:
        feed: what is tailed.
        moment_s: how long a bundle waits for an answer.
        clock: seconds since 1970.
    """

    #: Up to where everything was sent; as old as the job.
    POSITION = beam.DoFn.StateParam(ReadModifyWriteStateSpec("position", TupleSequenceCoder(VarIntCoder())))
    #: When the timer is set for, UTC microseconds; as old as the job.
    DUE_AT = beam.DoFn.StateParam(ReadModifyWriteStateSpec("due_at", VarIntCoder()))
    DUE = TimerSpec("look", TimeDomain.REAL_TIME)
    _DUE = beam.DoFn.TimerParam(DUE)

    def __init__(
        self, feed: Feed, moment_s: float = _MOMENT_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._feed, self._moment, self._clock = feed, moment_s, clock
        self._shared = Shared()

    def setup(self) -> None:
        """Share the feed with the process's other instances."""
        self._asked = self._shared.acquire(lambda: Asked(self._feed))

    def process(
        self, element: tuple[str, bytes], position: Any = POSITION, due_at: Any = DUE_AT, due: Any = _DUE
    ) -> Iterator[pa.Table]:
        """Look, where it was not woken before."""
        if due_at.read() is None:
            yield from self._look(position, due_at, due)

    @on_timer(DUE)
    def on_due(self, position: Any = POSITION, due_at: Any = DUE_AT, due: Any = _DUE) -> Iterator[pa.Table]:
        """Look, and set the timer again."""
        at = due_at.read() / _MICROS
        # A runner whose input has ended does not wait for its timers: one set again would never end.
        is_early = self._clock() < at - min(self._feed.every_s, _AGAIN_S) / 2
        yield from self._look(position, due_at, None if is_early else due)

    def _look(self, position: Any, due_at: Any, due: Any) -> Iterator[pa.Table]:
        reached = tuple(position.read() or self._feed.start)
        found, delay = self._asked.answer(reached, self._moment)
        if found is not None:
            if found.position != reached:
                position.write(found.position)
            for rows in found.tables:
                Metrics.counter("alerts", f"{self._feed.name}_rows").inc(len(rows))
                yield rows
        at = int((self._clock() + delay) * _MICROS)
        due_at.write(at)
        if due is not None:
            due.set(Timestamp(micros=at))


@dataclass
class Tail(beam.PTransform):
    """Read a feed, and go on reading it.

    Input: (name, anything), of one name: the first begins it. Output: an unbounded PCollection of tables in
    the global window.

    Attributes:
        feed: what is tailed.
    """

    feed: Feed

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, wakes: beam.PCollection) -> beam.PCollection:
        """Read it."""
        return wakes | "Read" >> beam.ParDo(ReadTail(self.feed))

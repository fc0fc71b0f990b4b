"""Work on several elements of a bundle at once, within one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue


class InThreads(beam.DoFn):
    """Runs a chain of DoFns, each on what the one before made, in threads of its own.

    The direct runner hands a bundle's elements on one after another; its own ``multi_threading`` mode shares
    buffers between bundles without a lock. The DoFns' ``process`` must be safe to call from several threads.
    A tagged output leaves the chain where it is made, or goes to the DoFn that ``tagged`` has for its tag.
    Bounded input in the global window only.
    """

    def __init__(
        self, steps: Sequence[beam.DoFn], threads: int, tagged: Mapping[str, beam.DoFn] | None = None
    ) -> None:
        self._steps = list(steps)
        self._threads = threads
        self._tagged = dict(tagged or {})

    def setup(self) -> None:
        """Set each step up."""
        for step in self._all():
            step.setup()

    def _all(self) -> list[beam.DoFn]:
        return [*self._steps, *self._tagged.values()]

    def start_bundle(self) -> None:
        """Start the threads."""
        self._pool = ThreadPoolExecutor(self._threads)
        self._pending: deque[Future[list[Any]]] = deque()
        for step in self._all():
            step.start_bundle()

    def process(self, element: Any) -> Iterator[Any]:
        """Begin with an element; hand on what earlier ones made, in their order."""
        self._pending.append(self._pool.submit(self._run, element))
        while len(self._pending) > self._threads:
            yield from self._next()

    def finish_bundle(self) -> Iterator[Any]:
        """Wait for all elements, then let each step end its bundle."""
        while self._pending:
            for made in self._next():
                if isinstance(made, pvalue.TaggedOutput):
                    yield pvalue.TaggedOutput(made.tag, in_global_window(made.value))
                else:
                    yield in_global_window(made)
        for step in self._all():
            yield from step.finish_bundle() or ()
        self._pool.shutdown()

    def _next(self) -> list[Any]:
        try:
            return self._pending.popleft().result()
        except BaseException:
            self._pool.shutdown(wait=True, cancel_futures=True)
            raise

    def _run(self, element: Any) -> list[Any]:
        made: list[Any] = []
        self._push(0, element, made)
        return made

    def _push(self, place: int, element: Any, made: list[Any]) -> None:
        for output in self._steps[place].process(element) or ():
            if isinstance(output, pvalue.TaggedOutput) and output.tag in self._tagged:
                made.extend(self._tagged[output.tag].process(output.value) or ())
            elif isinstance(output, pvalue.TaggedOutput) or place + 1 == len(self._steps):
                made.append(output)
            else:
                self._push(place + 1, output, made)


def in_global_window(value: Any) -> WindowedValue:
    """Return what ``finish_bundle`` yields for a value of bounded input."""
    return WindowedValue(value, MIN_TIMESTAMP, (GlobalWindow(),))

"""Looks at sources side by side, each with the same deadline: what hangs costs its own metrics alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from fibflow.io.exporter.metrics import SECONDS, UP, Sample, families

#: Begins the name of each look's thread.
THREADS = "look at "


@dataclass(frozen=True)
class Source:
    """What can be asked.

    Attributes:
        name: the value of ``source``.
        look: gives samples, or raises; called by one thread at a time.
        every_s: what was found holds for so long; 0: it is asked at each scrape.
    """

    name: str
    look: Callable[[], Iterable[Sample]]
    every_s: float = 0.0


@dataclass(frozen=True)
class _Found:
    """What a look found: samples, or why there are none."""

    at: float
    took: float
    samples: tuple[Sample, ...] = ()
    why: str | None = None


class _Look:
    """The looks at one source: one after another, each in a thread of its own, which may hang."""

    def __init__(self, source: Source, clock: Callable[[], float], text: Callable[[str], str]) -> None:
        self.source = source
        self._clock, self._text = clock, text
        self._thread: threading.Thread | None = None
        self._found: _Found | None = None

    def begin(self) -> None:
        """Look, unless one is under way, or what was found still holds."""
        found = self._found
        if self._thread is not None and self._thread.is_alive():
            return
        if found is not None and found.why is None and self._clock() - found.at < self.source.every_s:
            return
        self._found = None
        # It may hang for good, and must not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"{THREADS}{self.source.name}", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> _Found | None:
        """Return what was found; None where there is no answer within some seconds."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))
        return self._found

    def _run(self) -> None:
        began = self._clock()
        try:
            samples = tuple(self.source.look())
        except Exception as error:  # one source's surprise is not the others'
            why = self._text(str(error) or type(error).__name__)
            self._found = _Found(self._clock(), self._clock() - began, why=why)
        else:
            self._found = _Found(self._clock(), self._clock() - began, samples)


class Exporter:
    """Asks sources when it is scraped, and tells Prometheus.

    Args:
        sources: to ask.
        timeout_s: how long a scrape waits for all of them together.
        now: seconds since 1970.
        clock: seconds that only grow.
        say: is told when a source goes away and when it is back.
        text: makes one line of an error's, without secrets.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        timeout_s: float,
        now: Callable[[], float],
        clock: Callable[[], float],
        say: Callable[[str], object],
        text: Callable[[str], str] = str,
    ) -> None:
        self._looks = [_Look(source, clock, text) for source in sources]
        self._timeout_s, self._now, self._clock, self._say = timeout_s, now, clock, say
        self._one = threading.Lock()
        self._away: dict[str, str] = {}
        self.stopping = False

    def metrics(self) -> bytes:
        """Ask all sources, and return their metrics in Prometheus' text format."""
        registry = CollectorRegistry()
        with self._one:
            registry.register(_Told(families(self._samples(), self._now())))
        return generate_latest(registry)

    def document(self) -> dict[str, Any]:
        """Return what ``/healthz`` tells, of the last scrape; that a source is away is no fault of ours."""
        return {
            "status": "stopping" if self.stopping else "ok",
            "away": dict(self._away),
        }

    def _samples(self) -> Iterator[Sample]:
        for look in self._looks:
            look.begin()
        ends = self._clock() + self._timeout_s
        for look in self._looks:
            name = look.source.name
            found = look.wait(ends - self._clock())
            why = f"no answer within {self._timeout_s:g} s" if found is None else found.why
            self._note(name, why)
            yield Sample(UP, float(why is None), (name,))
            if found is not None:
                yield Sample(SECONDS, found.took, (name,))
                yield from found.samples

    def _note(self, name: str, why: str | None) -> None:
        if why is None:
            if self._away.pop(name, None) is not None:
                self._say(f"{name} answers again")
        elif name not in self._away:
            self._say(f"{name} does not answer: {why}")
            self._away[name] = why


class _Told:
    """Metrics as Prometheus' client collects them."""

    def __init__(self, told: Sequence[Metric]) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._told

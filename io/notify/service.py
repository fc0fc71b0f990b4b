"""A notifier as a whole: it claims deliveries, tries them in threads, and writes down what became of them."""

from __future__ import annotations

import queue
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from fibflow.io.alerts import deliveries
from fibflow.io.alerts.claims import Claim, End, Outcome, Retries
from fibflow.io.alerts.deliveries import SNS_ROOM
from fibflow.io.alerts.model import SNS
from fibflow.io.ingest.web import WebServer
from fibflow.io.notify.breakers import Breakers
from fibflow.io.notify.outbox import Outbox, Wake
from fibflow.io.notify.sns import BATCH, Topics
from fibflow.io.notify.status import Status
from fibflow.io.notify.webhook import Webhooks

_LINE_S = 60.0
_LOOK_S = 15.0
# What looks at the whole outbox may take this part of the time.
_LOOK_PART = 0.02


class NotListening(Exception):
    """Nobody can listen there. One line: where, and why."""


class Unsettled(Exception):
    """It ended before it could write down what it delivered. One line: how much, and what follows."""


@dataclass(frozen=True)
class Settings:
    """What a notifier does.

    Attributes:
        workers: calls at a time.
        room: of these to one webhook; so many calls of ten for a topic.
        lease_s: after which another notifier takes over what this one does not settle.
        poll_s: seconds between two looks at what has become due.
        retries: when to try again.
        once: end when nothing is due any more.
        host, port: of ``/healthz`` and ``/metrics``; None for none.
        drain_s: seconds that are left to write down what was done, once it is to end.
    """

    workers: int = 32
    room: int = 4
    lease_s: float = 60.0
    poll_s: float = 1.0
    retries: Retries = field(default_factory=Retries)
    once: bool = False
    host: str = "127.0.0.1"
    port: int | None = None
    drain_s: float = 15.0


class Notifier:
    """One notifier. Many may share an outbox.

    Args:
        url: of the database.
        worker: a name that no other notifier has, nor had.
        webhooks, topics: send.
        settings: what to do.
        say: is told what a person should read, a line each.
        clock: seconds that only grow.
        dice: for what is tried again.
    """

    def __init__(
        self,
        url: str,
        worker: str,
        webhooks: Webhooks,
        topics: Topics,
        settings: Settings,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        dice: random.Random | None = None,
    ) -> None:
        self.status = Status(clock)
        self._worker, self._webhooks, self._topics = worker, webhooks, topics
        self._settings, self._say, self._clock = settings, say, clock
        self._dice = dice or random.Random()
        self._outbox = Outbox(url, self.status, say, clock, self._dice, patient=not settings.once)
        self._breakers = Breakers(self._dice, clock)
        self._wake = Wake()
        self._ending = False
        # By delivery: when it was claimed; by destination: how many are under way.
        self._flying: dict[int, float] = {}
        self._busy: Counter[int] = Counter()
        self._topics_seen: set[int] = set()
        self._calls = 0
        self._ended: queue.SimpleQueue[tuple[int, list[tuple[Claim, Outcome]]]] = queue.SimpleQueue()
        self._unsettled: list[tuple[Claim, Outcome]] = []
        self._looked_at = self._said_at = -1e9

    def stop(self) -> None:
        """End: nothing more is begun. From any thread."""
        self._ending = True
        self._wake.set()

    def run(self) -> None:
        """Deliver until a signal says to end, or ``stop``; or, with ``once``, until nothing is due.

        Raises:
            PostgresError: PostgreSQL does not answer at the beginning (with ``once``: ever), or refuses.
            NotListening: the port cannot be listened on.
            Unsettled: it has ended, and PostgreSQL did not take what was done.
        """
        settings = self._settings
        with ExitStack() as stack:
            stack.callback(self._wake.close)
            stack.callback(self._webhooks.close)
            stack.callback(self._outbox.close)
            self._outbox.open()
            if settings.port is not None:
                server = stack.enter_context(self._listening(settings.host, settings.port))
                self._say(f"http://{settings.host}:{server.server_port} has /healthz and /metrics")
            stack.enter_context(self._signals())
            threads = stack.enter_context(ThreadPoolExecutor(settings.workers, "notify"))
            self._said_at, before = self._clock(), Counter(self.status.totals)
            self._say(f"delivers, {settings.workers} calls at a time")
            while not self._ending:
                begun = self._step(threads)
                if settings.once and not begun and not self._flying and not self._unsettled:
                    break
                if self._clock() - self._said_at >= _LINE_S:
                    self._say(self.status.line(before))
                    self._said_at, before = self._clock(), Counter(self.status.totals)
            self.status.stopping = True
            self._finish()
            self._looked_at = self._clock()
            self._look()
            self._say(self.status.line(Counter()))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        held: dict[int, Any] = {}
        # Only the main thread may.
        with suppress(ValueError):
            for number in (int(signal.SIGTERM), int(signal.SIGINT)):
                held[number] = signal.signal(number, lambda *_: self.stop())
        try:
            yield
        finally:
            for number, handler in held.items():
                signal.signal(number, handler)

    def _listening(self, host: str, port: int) -> WebServer:
        told: Any = self.status
        try:
            return WebServer(told, host, port)
        except OSError as error:
            raise NotListening(f"{host}:{port} cannot be had: {error.strerror or error}") from error

    # The loop ---------------------------------------------------------------------------------------------

    def _step(self, threads: ThreadPoolExecutor) -> bool:
        """Settle what has ended and begin what is due; wait where there is nothing to do.

        Returns:
            Whether something was begun.
        """
        self._settle()
        begun = self._begin(threads)
        self._look()
        self.status.under_way(len(self._flying), self._breakers.resting)
        idle = not begun and self._ended.empty()
        if idle and not self._ending and not (self._settings.once and not self._flying):
            self._outbox.wait(self._wake, self._settings.poll_s)
        return begun

    def _begin(self, threads: ThreadPoolExecutor) -> bool:
        """Claim for the threads that are free; returns whether anything was claimed."""
        settings = self._settings
        suspects = self._breakers.suspects()
        begun = self._claimed(threads, settings.workers - self._calls, None, suspects)
        # Those that fail may have half of the threads, so that the others are never without.
        flying = sum(self._busy[each] for each in suspects)
        share = max(1, settings.workers // 2) - flying
        free = min(settings.workers - self._calls, share)
        willing = [each for each in suspects if self._room(each) > 0]
        return self._claimed(threads, free, willing, ()) or begun

    def _claimed(
        self, threads: ThreadPoolExecutor, free: int, only: Sequence[int] | None, without: Sequence[int]
    ) -> bool:
        if free <= 0 or self._unsettled or (only is not None and not only):
            return False
        settings = self._settings
        known = self._busy if only is None else only
        rooms = {each: self._room(each) for each in known}
        claims = self._outbox.ask(
            lambda connection: deliveries.claim(
                connection,
                self._worker,
                free,
                room=settings.room,
                lease_s=settings.lease_s,
                rooms=rooms,
                only=only,
                without=without,
            )
        )
        now = self._clock()
        for each in claims or ():
            self._flying[each.id] = now
            self._busy[each.destination] += 1
            if each.kind == SNS:
                self._topics_seen.add(each.destination)
        for call in _calls(claims or ()):
            self._calls += 1
            threads.submit(self._try, call)
        return bool(claims)

    def _room(self, destination: int) -> int:
        """Return how many more deliveries to a destination may begin."""
        most = self._settings.room * (SNS_ROOM if destination in self._topics_seen else 1)
        return self._breakers.room(destination, most) - self._busy[destination]

    def _try(self, call: list[Claim]) -> None:
        """Make a call; in a thread."""
        try:
            outcomes = self._send(call)
        except Exception as error:  # whatever it is, these must come down again
            self._say(f"delivery {call[0].id} cannot be tried: {type(error).__name__}: {error}")
            outcomes = [Outcome(End.FAILED, "it could not be sent")] * len(call)
        self._ended.put((1, list(zip(call, outcomes, strict=True))))
        self._wake.set()

    def _send(self, call: list[Claim]) -> list[Outcome]:
        first = call[0]
        if first.disabled is not None:
            return [Outcome(End.REFUSED, first.disabled)] * len(call)
        if not first.kind:
            return [Outcome(End.REFUSED, "the destination was removed")] * len(call)
        if first.kind == SNS:
            return self._topics.publish(first.target, [each.event for each in call])
        return [self._webhooks.send(each.target, each.secret, each.event) for each in call]

    def _settle(self) -> None:
        """Write down what has ended; nothing is begun while PostgreSQL does not take that."""
        with suppress(queue.Empty):
            while True:
                calls, results = self._ended.get_nowait()
                self._calls -= calls
                self._unsettled += results
                for each, outcome in results:
                    self._note(each, outcome)
        if not self._unsettled:
            return
        results = self._unsettled
        settled = self._outbox.ask(
            lambda connection: deliveries.settle(
                connection, self._worker, results, self._settings.retries, self._dice
            )
        )
        if settled is None:
            return
        self._unsettled = []
        kinds = {each.destination: each.kind or "removed" for each, _ in results}
        now = self._clock()
        for each, _ in results:
            claimed_at = self._flying.pop(each.id, now)
            self._busy -= Counter({each.destination: 1})
            if each.id in settled.delivered:
                self.status.delivered(each.kind, each.age_s + now - claimed_at)
        for destination in settled.dead.values():
            self.status.dead(kinds[destination])
        for destination in settled.disabled:
            self._breakers.ended(destination)
        self.status.disabled(len(settled.disabled))

    def _note(self, each: Claim, outcome: Outcome) -> None:
        if outcome.end is End.DELIVERED:
            self._breakers.succeeded(each.destination)
        elif outcome.end is End.FAILED:
            self._breakers.failed(each.destination, self._settings.retries.asked(outcome.wait))
            self.status.failed(each.kind)
        else:
            # There is nothing more to be learnt of it.
            self._breakers.ended(each.destination)
            self.status.failed(each.kind or "removed")

    def _look(self) -> None:
        """Look now and then at what waits."""
        began = self._clock()
        if began < self._looked_at:
            return
        found = self._outbox.ask(deliveries.waiting)
        if found is not None:
            self.status.outbox(found.count, found.oldest_s)
        took = self._clock() - began
        self._looked_at = self._clock() + max(_LOOK_S, took / _LOOK_PART)

    def _finish(self) -> None:
        """Wait for what is under way, write it down, and let go of the rest.

        Raises:
            Unsettled: PostgreSQL does not take it.
        """
        until = self._clock() + self._settings.drain_s
        while self._flying and self._clock() < until:
            self._settle()
            if self._flying and self._ended.empty():
                self._outbox.wait(self._wake, min(self._settings.poll_s, max(0.0, until - self._clock())))
        if left := list(self._flying):
            given = self._outbox.ask(lambda one: deliveries.give_back(one, self._worker, left))
            if given is None or self._unsettled:
                raise Unsettled(
                    f"PostgreSQL did not take what became of {len(left):,} deliveries: they are tried again, "
                    "with the same ids, once their lease has ended"
                )


def _calls(claims: Sequence[Claim]) -> Iterator[list[Claim]]:
    """Yield what goes in one call: deliveries to a topic together, each other one alone."""
    yield from ([each] for each in claims if each.kind != SNS)
    topics = sorted((each for each in claims if each.kind == SNS), key=lambda each: each.destination)
    for _, group in groupby(topics, key=lambda each: each.destination):
        together = list(group)
        for start in range(0, len(together), BATCH):
            yield together[start : start + BATCH]

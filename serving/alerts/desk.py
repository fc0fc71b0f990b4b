"""What requests for alerts share: the store, threads of their own, and what it refuses as problems."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from fibflow.io.alerts.model import Conflict, LimitError, NotFound
from fibflow.io.postgres import PostgresError
from fibflow.io.storage import Storage
from fibflow.serving.alerts.following import Following
from fibflow.serving.alerts.made import MadeBars
from fibflow.serving.problems import Problem
from fibflow.transforms.alerts.definition import DefinitionError

if TYPE_CHECKING:
    from fibflow.io.alerts.store import AlertStore

_LOG = logging.getLogger("fibflow.serving")
#: Of PostgreSQL: how long it may take, how many ask it at once, and how many wait for that.
_TIMEOUT_S, _THREADS, _WAITING = 10.0, 4, 400
#: Servers of names: how many are waited for at once, and how many wait for that.
_NAMES, _NAMES_WAITING = 4, 40
#: Calls of many alerts: so many are taken at once, of an owner, and so many are read and checked at once.
_BULKS, _BULKS_OF_ONE, _BULKS_READ = 16, 8, 2
#: Tests that an owner may fire within a time: each may be a call of a server that is not his.
_TESTS, _TESTS_IN = 30, timedelta(minutes=1)
NO_STORE = "there are no alerts here: start the server with --postgres URL, where they are kept"

T = TypeVar("T")


class AlertDesk:
    """Asks the store of alerts, in threads that wait for nothing else: one that is down holds up no other.

    Attributes:
        store: of alerts; None where the server has no PostgreSQL.
        following: what fires, for WebSockets; None likewise.
        made: which bars the job makes.

    Args:
        url: of PostgreSQL; None for none.
        clock: now, UTC.
        place: the lake's.
    """

    def __init__(self, url: str | None, clock: Callable[[], datetime], place: Storage) -> None:
        self.store: AlertStore | None = None
        self.following: Following | None = None
        self.made = MadeBars(place)
        self._clock = clock
        self._pool = ThreadPoolExecutor(_THREADS, "alerts")
        self._names = ThreadPoolExecutor(_NAMES, "names")
        self._asked = self._looked = 0
        self._bulks: Counter[str] = Counter()
        self._tests: dict[str, list[datetime]] = {}
        self._read = asyncio.Semaphore(_BULKS_READ)
        if url is not None:
            from fibflow.io.alerts.store import AlertStore

            # One more than ask: who follows, and who looks whether it is there.
            self.store = AlertStore(url, timeout_s=_TIMEOUT_S, connections=_THREADS + 2, clock=clock)
            self.following = Following(url, self.store)

    async def ask(self, question: Callable[[AlertStore], T]) -> T:
        """Return the answer to a question that blocks.

        Raises:
            Problem: 503 where there is no store, it does not answer, or too many wait for it; 404, 409, 403
                or 422 where it refuses.
        """
        store = self.store
        if store is None:
            raise Problem(503, NO_STORE, "no_alert_store")
        if self._asked >= _WAITING:
            raise _unavailable("too many wait for the store of alerts: try again")

        def answer() -> T:
            with told():
                return question(store)

        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, answer)
        finally:
            self._asked -= 1

    async def look(self, check: Callable[[], None]) -> None:
        """Check what may wait for servers of names, in threads of its own: no other request waits for them.

        Raises:
            Problem: as ``check``; 503 where there is no store, or too many wait.
        """
        if self.store is None:
            raise Problem(503, NO_STORE, "no_alert_store")
        if self._looked >= _NAMES_WAITING:
            raise _unavailable("too many addresses are looked up: try again")
        self._looked += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._names, check)
        finally:
            self._looked -= 1

    @contextmanager
    def bulk(self, owner: str) -> Iterator[asyncio.Semaphore]:
        """Let a call of many alerts in, before its body is read: some megabytes of memory.

        Yields:
            What is to be held while these are read and checked, which takes many times as many.

        Raises:
            Problem: 429, there are too many, or too many of this owner.
        """
        if self._bulks[owner] >= _BULKS_OF_ONE or self._bulks.total() >= _BULKS:
            raise Problem(
                429,
                f"{_BULKS_OF_ONE} calls of many alerts of yours, or {_BULKS} of all, are at work here: wait",
                "too_busy",
                {"Retry-After": "2"},
            )
        self._bulks[owner] += 1
        try:
            yield self._read
        finally:
            self._bulks[owner] -= 1
            if not self._bulks[owner]:
                del self._bulks[owner]

    def test(self, owner: str) -> None:
        """Let an owner fire a test.

        Raises:
            Problem: 429, he has fired too many just now.
        """
        now = self._clock()
        # Who has been quiet is forgotten.
        recent = {name: [at for at in fired if at > now - _TESTS_IN] for name, fired in self._tests.items()}
        self._tests = {name: fired for name, fired in recent.items() if fired}
        fired = self._tests.setdefault(owner, [])
        if len(fired) >= _TESTS:
            wait = str(math.ceil((fired[0] + _TESTS_IN - now).total_seconds()))
            said = f"{_TESTS} tests within a minute: wait {wait} s"
            raise Problem(429, said, "too_many_tests", {"Retry-After": wait})
        fired.append(now)

    async def close(self) -> None:
        """Close the store; what still asks is not waited for."""
        if self.following is not None:
            await self.following.close()
        if self.store is not None:
            self.store.close()
        for pool in (self._pool, self._names):
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def told() -> Iterator[None]:
    """Raise what a store raises as a ``Problem``."""
    try:
        yield
    except DefinitionError as error:
        raise refused(error.field, error.reason) from None
    except NotFound as error:
        raise Problem(404, str(error), "not_found") from None
    except Conflict as error:
        raise Problem(409, str(error), "conflict") from None
    except LimitError as error:
        raise Problem(403, str(error), "too_many") from None
    except PostgresError as error:
        # What PostgreSQL says may name places that are not the client's.
        _LOG.error("the store of alerts cannot be used: %s", error)
        raise _unavailable("the store of alerts does not answer at the moment: try again") from None


def _unavailable(detail: str) -> Problem:
    return Problem(503, detail, "alerts_unavailable", {"Retry-After": "2"})


def refused(field: str, reason: str) -> Problem:
    """Return what an alert, or a destination, that cannot be is told."""
    return Problem(422, f"{field}: {reason}", "bad_alert", field=field)

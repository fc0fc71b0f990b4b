"""What requests for alerts share: the store, threads of their own, and what it refuses as problems."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from fibflow.io.alerts.model import Conflict, LimitError, NotFound
from fibflow.io.postgres import PostgresError
from fibflow.serving.alerts.following import Following
from fibflow.serving.problems import Problem
from fibflow.transforms.alerts.definition import DefinitionError

if TYPE_CHECKING:
    from fibflow.io.alerts.store import AlertStore

_LOG = logging.getLogger("fibflow.serving")
#: Of PostgreSQL: how long it may take, how many ask it at once, and how many wait for that.
_TIMEOUT_S, _THREADS, _WAITING = 10.0, 4, 400
#: Calls of many alerts: so many are taken at once, and so many are read and checked at once.
_BULKS, _BULKS_READ = 16, 2
NO_STORE = "there are no alerts here: start the server with --postgres URL, where they are kept"

T = TypeVar("T")


class AlertDesk:
    """Asks the store of alerts, in threads that wait for nothing else: one that is down holds up no other.

    Attributes:
        store: of alerts; None where the server has no PostgreSQL.
        following: what fires, for WebSockets; None likewise.

    Args:
        url: of PostgreSQL; None for none.
        clock: now, UTC.
    """

    def __init__(self, url: str | None, clock: Callable[[], datetime]) -> None:
        self.store: AlertStore | None = None
        self.following: Following | None = None
        self._pool = ThreadPoolExecutor(_THREADS, "alerts")
        self._asked = self._bulks = 0
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

    @contextmanager
    def bulk(self) -> Iterator[asyncio.Semaphore]:
        """Let a call of many alerts in, before its body is read: some megabytes of memory.

        Yields:
            What is to be held while these are read and checked, which takes many times as many.

        Raises:
            Problem: 429, there are too many.
        """
        if self._bulks >= _BULKS:
            raise Problem(
                429, f"{_BULKS} calls of many alerts are at work here: wait", "too_busy", {"Retry-After": "2"}
            )
        self._bulks += 1
        try:
            yield self._read
        finally:
            self._bulks -= 1

    async def close(self) -> None:
        """Close the store; what still asks is not waited for."""
        if self.following is not None:
            await self.following.close()
        if self.store is not None:
            self.store.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


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

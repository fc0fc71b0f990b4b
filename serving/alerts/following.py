"""What fires, as it is written to the outbox, for the WebSockets of a process.

One thread follows the outbox, only while somebody listens. PostgreSQL tells it when there is something new;
it looks by itself too, as what is told may be lost. Places in the outbox are in the order of commits, so that
it goes on from the last one that it saw, also after PostgreSQL was away.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import orjson

from fibflow.io.postgres import PostgresError
from fibflow.serving.alerts.documents import event_document
from fibflow.serving.live.hub import status
from fibflow.serving.live.outbox import Outbox
from fibflow.serving.live.topics import ALERTS, EVERY, Topic

if TYPE_CHECKING:
    from fibflow.io.alerts.model import Event
    from fibflow.io.alerts.store import AlertStore

#: How often it looks where nothing is told, and asks again where PostgreSQL is away, seconds.
LOOK_S, AGAIN_S = 1.0, 1.0
#: A client waits no longer than this for the thread to begin.
_WAIT_S = 2.0
_PAGE = 1_000
# The thread ends by itself within this time, unless it waits for a server that does not answer.
_STOP_S = 3.0
# How many pages may wait for the loop; then the thread waits, and PostgreSQL keeps the rest.
_AHEAD = 4
STALE, LIVE = "alerts_stale", "alerts_live"

_LOG = logging.getLogger(__name__)


class Following:
    """Follows the outbox, and hands each owner's events to who listens for them. For one event loop.

    Args:
        url: of PostgreSQL.
        store: reads the outbox.
    """

    def __init__(self, url: str, store: AlertStore) -> None:
        self._url = url
        self._store = store
        self._clients: dict[Outbox, tuple[str, set[str]]] = {}
        self._owners: dict[str, set[Outbox]] = {}
        self._follower: _Follower | None = None
        self._wrong: str | None = None

    @property
    def wrong(self) -> str | None:
        """One line of what is wrong with the store; None: it is followed, or nobody listens."""
        return self._wrong

    @property
    def is_following(self) -> bool:
        """Whether somebody listens."""
        return self._follower is not None

    async def subscribe(self, client: Outbox, owner: str, topics: Iterable[Topic]) -> None:
        """Let a client listen for the events of its owner; of what fires after this call nothing is missed.

        Where PostgreSQL is away, ``wrong`` says so then, and the client is told when it is back.
        """
        _, symbols = self._clients.setdefault(client, (owner, set()))
        symbols.update(topic.symbol for topic in topics)
        # Its thread reads the keys: it is replaced, never changed.
        self._owners = {**self._owners, owner: self._owners.get(owner, set()) | {client}}
        if self._follower is None:
            self._follower = _Follower(self._url, self._store, self)
            self._follower.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_S):
                await self._follower.begun.wait()

    def unsubscribe(self, client: Outbox, topics: Iterable[Topic]) -> None:
        """Let a client listen no longer."""
        if client not in self._clients:
            return
        _, symbols = self._clients[client]
        symbols.difference_update(topic.symbol for topic in topics)
        if not symbols:
            self.leave(client)

    def leave(self, client: Outbox) -> None:
        """Forget a client; with the last one the thread ends."""
        owner, _ = self._clients.pop(client, (None, None))
        if owner is None:
            return
        left = {name: clients - {client} for name, clients in self._owners.items()}
        self._owners = {name: clients for name, clients in left.items() if clients}
        if not self._clients and self._follower is not None:
            self._follower.stop()
            self._follower, self._wrong = None, None

    def count(self, client: Outbox) -> int:
        """Return how many topics a client listens to."""
        return len(self._clients[client][1]) if client in self._clients else 0

    async def close(self) -> None:
        """End the thread."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.stop()
            await asyncio.to_thread(follower.join, _STOP_S)

    # What the thread calls.

    def owners(self) -> frozenset[str]:
        """Return whose events somebody listens for."""
        return frozenset(self._owners)

    # What it leaves to the loop.

    def deal(self, follower: _Follower, told: Sequence[tuple[str, str, str]]) -> None:
        """Hand out events: owner, symbol and the text of each."""
        follower.slots.release()
        if follower is not self._follower:
            return
        for owner, symbol, text in told:
            for client in self._owners.get(owner, ()):
                symbols = self._clients[client][1]
                if EVERY in symbols or symbol in symbols:
                    client.add(text)

    def take_state(self, follower: _Follower, wrong: str | None) -> None:
        """Take what is wrong with the store; None for nothing."""
        if follower is not self._follower:
            return
        before, self._wrong = self._wrong, wrong
        if wrong is not None and before is None:
            _LOG.warning("the outbox of alerts is not followed: %s", wrong)
            self._tell_all(stale())
        elif wrong is None and before is not None:
            _LOG.info("the outbox of alerts is followed again")
            self._tell_all(
                status(LIVE, "the store of alerts answers again: what fired since is in /v1/alert-events")
            )
        follower.begun.set()

    def _tell_all(self, text: str) -> None:
        for client in self._clients:
            client.put(f"[{text}]")


def stale() -> str:
    """Return the status that says that the store of alerts is away."""
    return status(STALE, "the store of alerts does not answer: what fires is told when it is back")


class _Follower(threading.Thread):
    """The thread: goes along the outbox from where it ends when it begins."""

    def __init__(self, url: str, store: AlertStore, owner: Following) -> None:
        super().__init__(name="alerts-follower", daemon=True)
        self.begun = asyncio.Event()
        self.slots = threading.BoundedSemaphore(_AHEAD)
        self._url = url
        self._store = store
        self._following = owner
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._waked, self._wake = socket.socketpair()
        self._position: int | None = None

    def stop(self) -> None:
        """Let it end."""
        self._stopping.set()
        with suppress(OSError):
            self._wake.send(b".")

    def run(self) -> None:
        """Follow until it is stopped."""
        from psycopg2 import Error

        try:
            while not self._stopping.is_set():
                try:
                    self._follow()
                except (PostgresError, Error) as error:
                    lines = str(error).strip().splitlines() or [type(error).__name__]
                    self._soon(self._following.take_state, self, lines[0])
                    self._stopping.wait(AGAIN_S)
        finally:
            self._waked.close()
            self._wake.close()

    def _follow(self) -> None:
        from fibflow.io.alerts.outbox import CHANNEL
        from fibflow.io.postgresql.session import connect

        with closing(connect(self._url, program="fibflow serving alerts")) as connection:
            connection.autocommit = True
            # Not select: a server of many clients has numbers of files beyond its bounds.
            ready = select.poll()
            for one in (connection.fileno(), self._waked.fileno()):
                ready.register(one, select.POLLIN)
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            if self._position is None:
                self._position = self._store.last_position()
            known = False
            while not self._stopping.is_set():
                events = self._store.follow(self._position, _PAGE)
                if not known:
                    self._soon(self._following.take_state, self, None)
                    known = True
                if events:
                    self._hand(events)
                    self._position = events[-1].position
                if len(events) < _PAGE:
                    ready.poll(LOOK_S * 1_000)
                    connection.poll()
                    connection.notifies.clear()

    def _hand(self, events: Sequence[Event]) -> None:
        owners = self._following.owners()
        told = [(one.owner, one.symbol, _text(one)) for one in events if one.owner in owners]
        if not told:
            return
        while not self.slots.acquire(timeout=LOOK_S):
            if self._stopping.is_set():
                return
        self._soon(self._following.deal, self, told)

    def _soon(self, call: Callable[..., object], *arguments: Any) -> None:
        # The loop has closed: there is nobody to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)


def _text(event: Event) -> str:
    return orjson.dumps({"ev": ALERTS, **event_document(event)}).decode()

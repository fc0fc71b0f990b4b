"""The live store as a server reads it: from several threads, with short waits; passed over while away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fibflow.io.liverecords import LAYOUT
from fibflow.io.liveredis import LiveStoreError, Patience, another_store
from fibflow.io.livestore import LiveStore
from fibflow.serving.live.circuit import Circuit

#: How old what is known of the store's buckets may be, seconds.
_KNOWN_S = 2.0
_ONCE = Patience(bound_s=0)

T = TypeVar("T")


@dataclass
class Live:
    """Reads a live store. Safe to use from several threads: each has a connection of its own.

    The number of buckets is the store's own; ``buckets`` is what an empty one is taken to have.

    Attributes:
        url: of Redis.
        prefix: of the store's keys.
        buckets: of a store that is empty.
        timeout_s: of one answer.
        clock: seconds that only grow.
    """

    url: str = field(repr=False)
    prefix: str
    buckets: int
    timeout_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    circuit: Circuit = field(init=False, repr=False)
    _local: threading.local = field(init=False, repr=False, default_factory=threading.local)
    _made: list[LiveStore] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self.circuit = Circuit((LiveStoreError,), clock=self.clock)

    def ask(self, question: Callable[[LiveStore], T]) -> T:
        """Return the answer to a question to the store, in this thread.

        Raises:
            StoreDown: Redis does not answer, or did not a moment ago, or holds something else.
        """
        return self.circuit.ask(lambda: question(self._store()))

    def store(self, timeout_s: float) -> LiveStore:
        """Return a view of the store of one's own, that tries once.

        Raises:
            LiveStoreError: Redis does not answer, or holds something else.
        """
        made = LiveStore(self.url, self.prefix, self.buckets, timeout_s=timeout_s, patience=_ONCE)
        return self._with_its_buckets(made)

    def close(self) -> None:
        """Close the connections of all threads; a later question opens them again."""
        for store in self._made:
            store.close()

    def _store(self) -> LiveStore:
        """Return this thread's view of the store, with the buckets that it has now."""
        store: LiveStore | None = getattr(self._local, "store", None)
        if store is None:
            store = LiveStore(self.url, self.prefix, self.buckets, timeout_s=self.timeout_s, patience=_ONCE)
            self._local.store, self._local.known = store, None
            self._made.append(store)
        now = self.clock()
        if self._local.known is None or now - self._local.known >= _KNOWN_S:
            self._with_its_buckets(store)
            self._local.known = now
        return store

    def _with_its_buckets(self, store: LiveStore) -> LiveStore:
        """Return the store with the buckets that its ``meta`` says; itself where that says the same."""
        found: list[Any] = store.connection.ask(
            lambda client: client.hmget(store.key("meta"), ["layout", "buckets"])
        )
        layout, buckets = (None if value is None else value.decode() for value in found)
        if layout is None:
            return store
        if layout != str(LAYOUT) or buckets is None or not buckets.isdecimal() or int(buckets) < 1:
            raise another_store(layout, buckets)
        store.buckets = int(buckets)
        return store

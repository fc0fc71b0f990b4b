"""The keys of a store in the memory of a server process: looking one up asks nobody."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from fibflow.serving.keys.store import KeyRecord, KeysDown, KeyStore, digest, id_of

#: What is known is read anew in the background after the first, before a request goes on after the second.
FRESH_S, STALE_S = 1.0, 4.0
#: For how long keys that are known count while their store is away.
GRACE_S = 300.0
#: For a key that is not known the store is asked, so that a new one works at once; but not more often.
_NEW_S = 0.25
_RETRY_S = 1.0
_ANSWER_S = 3.0
_TOUCH_S = 60.0


class KeyBook:
    """All keys of a store, read again when its version has changed.

    A revoked key is known to be one within ``STALE_S``. While the store is away, keys that are known count
    for ``GRACE_S``, and of others nobody can say what they are.

    Args:
        store: where the keys are.
        pepper: of the server.
        clock: now, UTC; for when a key was used.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        store: KeyStore,
        pepper: str,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._monotonic = monotonic
        self._pool = ThreadPoolExecutor(1, "keys")
        self._records: dict[str, KeyRecord] = {}
        self._version: int | None = None
        self._read_at = self._failed_at = -float("inf")
        self._failure: KeysDown | None = None
        self._reading: asyncio.Task[None] | None = None
        self._used: dict[str, datetime] = {}
        self._touched_at = monotonic()

    async def find(self, text: str) -> KeyRecord | None:
        """Return the key that a text is, also a revoked or expired one; None where it is none.

        Raises:
            KeysDown: the store is away, and the key is not known, or not known well enough any more.
        """
        key_id = id_of(text)
        if key_id is None:
            return None
        record = await self.record(key_id)
        if record is None or not hmac.compare_digest(digest(text, self._pepper), record.digest):
            return None
        self._used[key_id] = self._clock()
        return record

    async def record(self, key_id: str) -> KeyRecord | None:
        """Return the key of an id. Raises ``KeysDown`` as ``find`` does."""
        age = self._monotonic() - self._read_at
        if age > STALE_S:
            await self._refreshed()
        elif age > FRESH_S:
            self._begin()
        record = self._records.get(key_id)
        if record is None and self._monotonic() - self._read_at > _NEW_S:
            await self._refreshed()
            record = self._records.get(key_id)
        age = self._monotonic() - self._read_at
        if age > GRACE_S or (record is None and age > STALE_S):
            raise self._failure or KeysDown("the store of API keys does not answer in time")
        return record

    async def check(self) -> None:
        """Raise ``KeysDown`` where the store does not answer now."""
        if self._monotonic() - self._read_at > FRESH_S:
            await self._refreshed()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Note what was used, and close the store."""
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=_ANSWER_S)
        used, self._used = self._used, {}

        def end() -> None:
            try:
                self._store.touch(used)
            except KeysDown:
                pass
            finally:
                self._store.close()

        ended = asyncio.get_running_loop().run_in_executor(self._pool, end)
        await asyncio.wait([ended], timeout=_ANSWER_S)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> asyncio.Task[None] | None:
        """Begin to read, unless somebody is at it or it failed just now."""
        if self._reading is None or self._reading.done():
            if self._monotonic() - self._failed_at < _RETRY_S:
                return None
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _refreshed(self) -> None:
        reading = self._begin()
        if reading is not None:
            await asyncio.wait([reading], timeout=_ANSWER_S)

    async def _read(self) -> None:
        began = self._monotonic()
        used: dict[str, datetime] = {}
        if self._used and began - self._touched_at > _TOUCH_S:
            used, self._used, self._touched_at = self._used, {}, began

        def question() -> tuple[int, list[KeyRecord] | None]:
            # The version first: what changes behind it is seen the next time.
            version = self._store.version()
            records = None if version == self._version else self._store.all()
            if used:
                self._store.touch(used)
            return version, records

        try:
            version, records = await asyncio.get_running_loop().run_in_executor(self._pool, question)
        except KeysDown as error:
            self._failure, self._failed_at = error, self._monotonic()
            return
        if records is not None:
            self._records = {record.id: record for record in records}
        self._version, self._read_at, self._failure = version, began, None

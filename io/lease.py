"""A lock in a lake, for jobs of which two at once would do the same work twice.

In a folder the system lets go of it when its process ends, however that ends. In a bucket it is a lease:
whoever holds it renews it, and the lease of a process that died ends some time later. It saves work; what
keeps two writers apart is each table's log.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fibflow.io.aws import AwsError
from fibflow.io.lake import Lake
from fibflow.io.storage import LakeError, Storage

_FOLDER = "_locks"
#: A lease holds for so many seconds after it was renewed last.
LEASE_S = 120.0
_RENEWED_EACH = 0.25


class Busy(LakeError):
    """Another process holds the lock; the message says which."""


@contextmanager
def locked(
    lake: Lake, name: str, what: str, *, clock: Callable[[], float] = time.time, lease_s: float = LEASE_S
) -> Iterator[None]:
    """Hold a lock for the time of a ``with`` block.

    Args:
        lake: where it lies.
        name: of the lock: a word.
        what: says who holds it, for the others' error line.
        clock: seconds since 1970.
        lease_s: in a bucket, how long a lease holds when it is not renewed.

    Raises:
        Busy: another process holds it.
        LakeError: the lake cannot be reached.
    """
    storage = Storage(lake.uri, lake.aws)
    holder = {"what": what, "host": socket.gethostname(), "pid": os.getpid(), "since": round(clock())}
    with ExitStack() as stack:
        if storage.is_s3:
            lease = _Lease(storage, name, {**holder, "id": lake.new_id()}, clock, lease_s)
            lease.take()
            stack.callback(lease.give_back)
            stack.enter_context(lease.renewed())
        else:
            stack.enter_context(_file_lock(storage, name, holder))
        yield


@contextmanager
def _file_lock(storage: Storage, name: str, holder: dict[str, Any]) -> Iterator[None]:
    path = Path(storage.path(f"{_FOLDER}/{name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise LakeError(storage.explain("lock", error)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(_line(name, _read(file.read()))) from None
        except OSError as error:
            raise LakeError(storage.explain("lock", error)) from error
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
        yield


@dataclass
class _Lease:
    """Files ``name-<number>.json``: the greatest number holds, and one process alone is first to write it."""

    storage: Storage
    name: str
    holder: dict[str, Any]
    clock: Callable[[], float]
    lease_s: float
    number: int = 0

    def take(self) -> None:
        numbers = self._numbers()
        last = max(numbers, default=0)
        if last:
            found = _read((self.storage.read(self._path(last)) or b"").decode("utf-8", "replace"))
            # One that cannot be read is just being written.
            if found.get("until", self.clock() + 1) > self.clock():
                raise Busy(_line(self.name, found))
        self.number = last + 1
        if not self.storage.put_if_absent(self._path(self.number), self._content(), str(self.holder["id"])):
            raise Busy(_line(self.name, {}))
        for number in numbers:
            with suppress(OSError):
                self.storage.filesystem.delete_file(self.storage.path(self._path(number)))

    @contextmanager
    def renewed(self) -> Iterator[None]:
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self.lease_s * _RENEWED_EACH):
                # Another try comes before it ends, whatever went wrong.
                with suppress(Exception):
                    self.storage.write(self._path(self.number), self._content())

        thread = threading.Thread(target=renew, name=f"lease-{self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def give_back(self) -> None:
        # It ends by itself where this fails.
        with suppress(OSError, LakeError, AwsError):
            self.storage.write(self._path(self.number), self._content(until=0.0))

    def _numbers(self) -> list[int]:
        pattern = re.compile(rf"{re.escape(self.name)}-(\d+)\.json")
        found = (pattern.fullmatch(name) for name in self.storage.names(_FOLDER))
        return [int(match[1]) for match in found if match]

    def _path(self, number: int) -> str:
        return f"{_FOLDER}/{self.name}-{number:06d}.json"

    def _content(self, until: float | None = None) -> bytes:
        ends = self.clock() + self.lease_s if until is None else until
        return json.dumps({**self.holder, "until": ends}).encode()


def _read(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _line(name: str, found: dict[str, Any]) -> str:
    who = f"{found.get('what', 'another run')}, process {found.get('pid', '?')} on {found.get('host', '?')}"
    return f"{name} is at work already ({who}): wait for its end, and run again"

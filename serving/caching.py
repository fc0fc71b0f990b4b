"""What HTTP caches are told of an answer, and the answers that a process keeps."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

from fastapi import Request
from starlette.responses import Response

from fibflow.serving import metrics
from fibflow.serving.scratch import Scratch

#: How long an answer may be kept, seconds: one that policy no longer changes, and any other.
SETTLED_S, OTHER_S = 4 * 3_600, 2
#: A key's answers are nobody else's, also behind a cache that many share.
VARY = "Authorization, Accept-Encoding"
_HITS, _MISSES = (metrics.CACHE.labels("pages", result) for result in ("hit", "miss"))


@dataclass(frozen=True)
class Page:
    """An answer as bytes.

    Attributes:
        body: its bytes, not compressed.
        content_type: of the body.
        settled: whether it may be kept for hours.
        headers: more of them.
        etag: strong, of body and type.
    """

    body: bytes
    content_type: str
    settled: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""

    def __post_init__(self) -> None:
        if not self.etag:
            object.__setattr__(self, "etag", etag_of(self.body, self.content_type))

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.body) + 600


def etag_of(body: bytes, content_type: str) -> str:
    """Return the strong ETag of a body."""
    digest = hashlib.sha256(content_type.encode() + b"\n")
    digest.update(body)
    return f'"{digest.hexdigest()[:32]}"'


class PageCache:
    """The answers asked for last: some in memory, more of them on the disk. Safe to use from several threads.

    Args:
        most_bytes: of memory.
        most_on_disk: of the disk; 0 for none.
    """

    def __init__(self, most_bytes: int, most_on_disk: int = 0) -> None:
        self._most = most_bytes
        self._pages: OrderedDict[Hashable, Page] = OrderedDict()
        self._lock = threading.Lock()
        self._disk = _OnDisk(most_on_disk) if most_on_disk else None
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._pages)

    def get(self, key: Hashable) -> Page | None:
        """Return an answer that is kept."""
        with self._lock:
            found = self._pages.get(key)
            if found is not None:
                self._pages.move_to_end(key)
        if found is None and self._disk is not None:
            found = self._disk.get(key)
        (_MISSES if found is None else _HITS).inc()
        return found

    def put(self, key: Hashable, page: Page) -> None:
        """Keep an answer; those asked for longest ago go. One of a quarter of all that may be kept is not."""
        if page.size * 4 > self._most:
            return
        gone: list[tuple[Hashable, Page]] = []
        with self._lock:
            old = self._pages.pop(key, None)
            self.bytes += page.size - (0 if old is None else old.size)
            self._pages[key] = page
            while self.bytes > self._most:
                gone.append(self._pages.popitem(last=False))
                self.bytes -= gone[-1][1].size
        if self._disk is not None:
            for each, left in gone:
                self._disk.put(each, left)


class _OnDisk:
    """Answers in a file that is written round and round: those written longest ago are written over."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._file = Scratch()
        self._lock = threading.Lock()
        #: Where each answer lies, with all of it but its body; in the order in which they were written.
        self._places: OrderedDict[Hashable, tuple[int, int, Page]] = OrderedDict()
        self._next = 0

    def get(self, key: Hashable) -> Page | None:
        found = self._places.get(key)
        if found is None:
            return None
        place, size, page = found
        body = self._file.read(size, place)
        # It may have been written over meanwhile.
        return replace(page, body=body) if self._places.get(key) is found else None

    def put(self, key: Hashable, page: Page) -> None:
        size = len(page.body)
        with self._lock:
            if size * 4 > self._most or key in self._places:
                return
            if self._next + size > self._most:
                self._drop(self._next, self._most)
                self._next = 0
            place, self._next = self._next, self._next + size
            self._drop(place, self._next)
            try:
                self._file.write(page.body, place)
            except OSError:
                # No room: what is in memory has to do.
                return
            self._places[key] = place, size, replace(page, body=b"")

    def _drop(self, start: int, stop: int) -> None:
        """Forget what lies in a part of the file: the oldest there is."""
        while self._places:
            place, size, _ = next(iter(self._places.values()))
            if place >= stop or place + size <= start:
                return
            self._places.popitem(last=False)


def respond_page(request: Request, page: Page) -> Response:
    """Return the response of an answer: 304 without a body where the client has it."""
    seconds = SETTLED_S if page.settled else OTHER_S
    headers = {
        "etag": page.etag,
        "cache-control": f"public, max-age={seconds}",
        "vary": VARY,
        **page.headers,
    }
    if _has(request.headers.get("if-none-match"), page.etag):
        return Response(status_code=304, headers=headers)
    return Response(page.body, headers={**headers, "content-type": page.content_type})


def respond(
    request: Request,
    body: bytes,
    content_type: str,
    settled: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response with a strong ETag from the content, or 304 where the client has it.

    Args:
        request: that is answered.
        body: not compressed.
        content_type: of the body.
        settled: caches may keep it for hours; else for seconds.
        headers: more of them.
    """
    return respond_page(request, Page(body, content_type, settled, headers or {}))


def _has(told: str | None, etag: str) -> bool:
    """Whether an ``If-None-Match`` names an ETag."""
    if told is None:
        return False
    given = [part.strip().removeprefix("W/") for part in told.split(",")]
    return "*" in given or etag in given

"""Calls of the vendor's REST interface: paced, asked again until there is a good answer, page by page."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import urllib3

from fibflow.io.vendor.answers import parsed, told
from fibflow.io.vendor.errors import (
    NoAccess,
    NotFound,
    Passing,
    Unreachable,
    VendorAway,
    VendorError,
    WrongKey,
)
from fibflow.io.vendor.pace import Rate, backoff, retry_after

T = TypeVar("T")

#: A wait that the vendor asks for beyond this is not waited for, seconds.
LONGEST_PATIENCE_S = 300.0
#: Attempts at one answer; fewer where the vendor was never reached.
ATTEMPTS, ATTEMPTS_TO_REACH = 8, 3

_MOST_PAGES = 100_000
_LONGEST_SAID = 240
_LATER = "run again later"
# Other answers than these come again however often one asks.
_PASSING = frozenset({408, 413, 425, 429, 499, 500, 502, 503, 504})


class _Answer(NamedTuple):
    """A good answer, as the official client hands it on."""

    status: int
    data: bytes


class Connection:
    """The official client's connection pool, in which each request waits its turn and is one attempt."""

    def __init__(self, pool: Any, rate: Rate, now: Callable[[], datetime]) -> None:
        self._pool, self._rate, self._now = pool, rate, now
        self._lock = threading.Lock()
        self.calls = 0
        self.reached = False

    def request(self, method: str, url: str, fields: Any = None, headers: Any = None) -> _Answer:
        """Make one attempt; the arguments are those of the official client's pool.

        Raises:
            Passing: it may go well later.
            WrongKey, NoAccess, NotFound, VendorError: it will not.
        """
        self._rate.take()
        with self._lock:
            self.calls += 1
        try:
            found = self._pool.request(method, url, fields=fields, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise Passing(_reason(error), reached=False) from None
        self.reached = True
        if found.status == 200:
            return _Answer(200, found.data)
        said = told(found.data)
        if found.status == 401:
            raise WrongKey(said)
        if found.status == 403:
            raise NoAccess(said)
        if found.status == 404:
            raise NotFound(said)
        if found.status not in _PASSING:
            raise VendorError(f"answered {found.status}{f' ({said})' if said else ''}")
        wait = retry_after(found.headers.get("Retry-After"), self._now)
        if wait is not None and wait <= LONGEST_PATIENCE_S:
            # It holds for the key, so for all threads.
            self._rate.pause(wait)
        raise Passing(f"answered {found.status}{f' ({said})' if said else ''}", reached=True, wait=wait)


class Calls:
    """Gets good answers, or says why there is none.

    Args:
        connection: makes one attempt.
        url: of the vendor.
        secret: the key, which is in no message.
        headers: of calls that the official client does not make.
        sleep: waits for some seconds.
        dice: parts callers that failed together.
    """

    def __init__(
        self,
        connection: Connection,
        url: str,
        secret: str,
        headers: Any,
        sleep: Callable[[float], object],
        dice: random.Random,
    ) -> None:
        self._connection, self._url, self._secret = connection, url, secret
        self._headers, self._sleep, self._dice = headers, sleep, dice

    @property
    def made(self) -> int:
        """How many requests were made, failed attempts included."""
        return self._connection.calls

    def pages(self, what: str, page: Callable[[], Any], read: Callable[[Any], T]) -> Iterator[T]:
        """Yield what each page of an answer holds; a page that fails is asked for again, alone."""
        seen: set[str] = set()
        ask = page
        while True:
            found, following = self.ask(what, ask, lambda body: (read(body), _following(body)))
            yield found
            if following is None:
                return
            if following in seen or len(seen) >= _MOST_PAGES:
                raise VendorError(f"{what}: the vendor's pages lead in a circle: {_LATER}")
            seen.add(following)

            def ask(path: str = following) -> Any:
                return self._connection.request("GET", self._url + path, headers=self._headers)

    def ask(self, what: str, call: Callable[[], Any], read: Callable[[Any], T]) -> T:
        """Return what an answer reads as, asking until there is a good one.

        Raises:
            WrongKey, NoAccess, NotFound, VendorError: the vendor refuses.
            VendorAway: it never gave a good answer.
        """
        failed = 0
        while True:
            try:
                return read(parsed(call().data))
            except Passing as error:
                failed += 1
                patience = ATTEMPTS if self._connection.reached else ATTEMPTS_TO_REACH
                if failed >= patience or (error.wait or 0.0) > LONGEST_PATIENCE_S:
                    raise self._final(what, error, failed) from None
                self._sleep(backoff(failed, self._dice))
            except WrongKey as error:
                said = self._scrubbed(str(error))
                raise WrongKey(
                    f"{self._url} refuses the key{f' ({said})' if said else ''}: "
                    "set MASSIVE_API_KEY, POLYGON_API_KEY or --key-file to one that is valid"
                ) from None
            except NoAccess as error:
                said = self._scrubbed(str(error))
                raise NoAccess(
                    f"{what}: the key's plan does not include them{f' ({said})' if said else ''}: "
                    "ask for less (--from), or change the plan"
                ) from None
            except NotFound as error:
                raise NotFound(f"{what}: {self._url} knows none ({self._scrubbed(str(error))})") from None
            except VendorError as error:
                raise VendorError(f"{what}: {self._url} {self._scrubbed(str(error))}") from None

    def _final(self, what: str, error: Passing, failed: int) -> VendorAway:
        if not self._connection.reached:
            return Unreachable(
                f"{self._url} cannot be reached: it {error}, {failed} times: "
                "check the network, and the address (--vendor-url)"
            )
        why = self._scrubbed(str(error))
        if error.wait is not None and error.wait > LONGEST_PATIENCE_S:
            return VendorAway(f"{what}: {self._url} {why} and asks to wait {error.wait:.0f} s: {_LATER}")
        return VendorAway(f"{what}: {self._url} {why}, the last of {failed} attempts: {_LATER}")

    def _scrubbed(self, text: str) -> str:
        """Return what somebody else said, without the key, and then no longer than a line is read."""
        said = " ".join(text.replace(self._secret, "***").split())
        return said if len(said) <= _LONGEST_SAID else f"{said[:_LONGEST_SAID]}..."


def _following(body: Any) -> str | None:
    """Return path and query of the next page, None after the last one."""
    given = body.get("next_url")
    if given is None:
        return None
    try:
        parts = urlsplit(given) if isinstance(given, str) else None
    except ValueError:
        parts = None
    # Behind our address another path could name another server, which would get the key.
    if parts is None or not parts.path.startswith("/"):
        raise Passing("answered with a next page that is no address", reached=True)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _reason(error: Exception) -> str:
    """Return why there was no answer, without addresses."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "has a name that is not known here"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "takes no connection"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "did not answer in time"
    if isinstance(error, urllib3.exceptions.SSLError):
        return "has no certificate that is trusted here"
    if isinstance(error, urllib3.exceptions.DecodeError):
        return "sent an answer that cannot be decompressed"
    return "cut the connection"

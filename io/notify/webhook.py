"""Events to webhooks: a signed POST, one deadline for all of it, and each address checked."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http.client import SWITCHING_PROTOCOLS, HTTPException, HTTPResponse
from typing import NamedTuple
from urllib.parse import urljoin

from fibflow import __version__
from fibflow.io.alerts.claims import End, Outcome
from fibflow.io.alerts.model import Event
from fibflow.io.notify.addresses import Lookup, Place, Refused, parsed, resolved
from fibflow.io.notify.body import body_of
from fibflow.io.notify.line import Line, Lines, left
from fibflow.io.vendor.pace import retry_after

TIMEOUT_S = 3.0
MOST_HOPS = 3
#: Bytes of an answer's body that are read, and thrown away: its status is all that counts.
_BODY = 4_096
_SAME_METHOD = (307, 308)
_OTHER_METHOD = (301, 302, 303)


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Return what the header ``Fibflow-Signature`` says.

    Args:
        secret: of the webhook.
        timestamp: seconds since 1970, as in ``Fibflow-Timestamp``.
        body: as it is sent.
    """
    made = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1={made.hexdigest()}"


class _Answer(NamedTuple):
    status: int
    location: str | None
    retry_after: str | None


class Webhooks:
    """Sends events to webhooks. Safe to use from several threads.

    Args:
        allow_http_loopback: webhooks on this machine too, also with ``http``; for tests.
        timeout_s: for a try: names, connections, redirects and answers.
        lookup: of names; the system's by default.
        lines: makes connections.
        clock: seconds that only grow.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        *,
        allow_http_loopback: bool = False,
        timeout_s: float = TIMEOUT_S,
        lookup: Lookup | None = None,
        lines: Lines | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loopback, self._timeout_s, self._lookup = allow_http_loopback, timeout_s, lookup
        self._clock, self._wall = clock, wall
        self._lines = lines or Lines(clock)

    def close(self) -> None:
        """Close the connections."""
        self._lines.close()

    def send(self, url: str, secret: str | None, event: Event) -> Outcome:
        """Send an event.

        Args:
            url: of the webhook.
            secret: signs it; None for no signature.
            event: to send.
        """
        began = self._clock()
        end, error, status, wait = self._send(url, secret, event, began + self._timeout_s)
        return Outcome(end, error, status, round((self._clock() - began) * 1_000), wait)

    def _send(
        self, url: str, secret: str | None, event: Event, until: float
    ) -> tuple[End, str | None, int | None, float | None]:
        try:
            place = parsed(url, allow_http_loopback=self._loopback)
        except Refused as refused:
            return End.REFUSED, str(refused), None, None
        body, head = self._request(secret, event)
        try:
            answer = self._follow(place, head, body, until)
        except Refused as refused:
            return End.FAILED, str(refused), None, None
        except (OSError, HTTPException, ValueError) as error:
            return End.FAILED, _reason(error, self._timeout_s), None, None
        status = answer.status
        if 200 <= status < 300:
            return End.DELIVERED, None, status, None
        if status == 410:
            return End.GONE, "answered 410 Gone", status, None
        wait = retry_after(answer.retry_after, lambda: datetime.fromtimestamp(self._wall(), UTC))
        if status in _OTHER_METHOD:
            return End.FAILED, f"answered {status}: give the address it moved to, or answer 308", status, wait
        return End.FAILED, f"answered {status}", status, wait

    def _request(self, secret: str | None, event: Event) -> tuple[bytes, str]:
        body = body_of(event)
        stamp = int(self._wall())
        headers = {
            "User-Agent": f"fibflow-notify/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Fibflow-Event-Id": event.id,
            "Fibflow-Timestamp": str(stamp),
        }
        if secret:
            headers["Fibflow-Signature"] = signature(secret, stamp, body)
        return body, "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def _follow(self, place: Place, head: str, body: bytes, until: float) -> _Answer:
        """Return the last answer after redirects, each of which is checked like the first address.

        Raises:
            Refused: one leads where no webhook may be.
            OSError, HTTPException, ValueError: there is no answer.
        """
        for hop in range(MOST_HOPS + 1):
            text = f"POST {place.path} HTTP/1.1\r\nHost: {place.authority}\r\n{head}\r\n"
            answer = self._ask(place, text.encode("ascii") + body, until)
            if answer.status not in _SAME_METHOD or answer.location is None:
                return answer
            if hop == MOST_HOPS:
                raise Refused(f"redirects more than {MOST_HOPS} times")
            try:
                target = parsed(urljoin(place.url, answer.location), allow_http_loopback=self._loopback)
            except Refused as error:
                raise Refused(f"redirects to where no webhook may be: {error}") from None
            except ValueError:
                # What it says repeats what the other side wrote.
                raise Refused("redirects to where no webhook may be: that is no URL") from None
            if place.scheme == "https" and target.scheme != "https":
                raise Refused("redirects from https to http")
            place = target
        raise AssertionError

    def _ask(self, place: Place, request: bytes, until: float) -> _Answer:
        line = self._lines.take(place)
        if line is not None:
            line.begin(until)
            try:
                return self._exchange(place, line, request)
            except (OSError, HTTPException):
                # The other side closed it while nothing was said; a new one tells more.
                if line.received or self._clock() >= until:
                    raise
        limit_s = left(until, self._clock)
        addresses = resolved(place, allow_http_loopback=self._loopback, lookup=self._lookup, limit_s=limit_s)
        line = self._lines.connect(place, addresses, until)
        line.begin(until)
        return self._exchange(place, line, request)

    def _exchange(self, place: Place, line: Line, request: bytes) -> _Answer:
        """Send a request on a connection and return its answer; the connection is kept or closed."""
        keep = False
        try:
            line.sendall(request)
            response = HTTPResponse(line, method="POST")  # type: ignore[arg-type]  # all that it uses of a socket
            with response:
                _begin(response)
                found = _Answer(
                    response.status, response.getheader("Location"), response.getheader("Retry-After")
                )
                # The status says it all: a body that breaks off changes nothing.
                with suppress(OSError, HTTPException, ValueError):
                    response.read(_BODY)
                    keep = response.isclosed() and not response.will_close and found.status >= 200
            return found
        finally:
            if keep:
                self._lines.give(place, line)
            else:
                line.close()


def _begin(response: HTTPResponse) -> None:
    """Read the head of the answer, and before it those that only say that it is to come (1xx)."""
    response.begin()
    while response.status < 200 and response.status != SWITCHING_PROTOCOLS:
        response.headers = None  # type: ignore[assignment]  # or it has begun already
        response.begin()


def _reason(error: Exception, timeout_s: float) -> str:
    """Return why there was no answer, without addresses."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection can be made"
    if isinstance(error, ConnectionRefusedError):
        return "takes no connection"
    if isinstance(error, ConnectionError):
        return "cut the connection"
    if isinstance(error, OSError):
        return "cannot be reached"
    return "answered what is no HTTP"

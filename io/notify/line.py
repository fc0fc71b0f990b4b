"""Connections to webhooks: to an address that was checked, and no call on them outlasts a deadline."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any

from urllib3.util.wait import wait_for_read

from fibflow.io.notify.addresses import Place

#: Bytes of an answer, its head too, that are read.
MOST_READ = 64 * 1024
_IDLE_S, _OLDEST_S = 15.0, 60.0
_MOST_IDLE = 256

Clock = Callable[[], float]


class Line:
    """A connection. However slowly bytes drip, what is done with it ends at ``until``.

    Args:
        sock: connected.
        clock: seconds that only grow.

    Attributes:
        until: of the clock.
        received: bytes since ``begin``.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock, self._clock = sock, clock
        self.made = self.used = clock()
        self.until = 0.0
        self.received = 0

    def begin(self, until: float) -> None:
        """Begin a request."""
        self.until, self.received = until, 0

    def sendall(self, data: bytes) -> None:
        """Send.

        Raises:
            OSError: it cannot, or not in time.
        """
        view = memoryview(data)
        while view:
            self._sock.settimeout(left(self.until, self._clock))
            view = view[self._sock.send(view) :]

    def recv_into(self, buffer: Any) -> int:
        """Receive what is there."""
        if self.received >= MOST_READ:
            raise HTTPException("an endless answer")
        self._sock.settimeout(left(self.until, self._clock))
        count = self._sock.recv_into(buffer)
        self.received += count
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what reads from it, for ``http.client.HTTPResponse``; closing that leaves it open."""
        return io.BufferedReader(_Raw(self), 4_096)

    def is_fit(self) -> bool:
        """Return whether another request may be sent: it is fresh, and the other side has said nothing."""
        now = self._clock()
        if now - self.used > _IDLE_S or now - self.made > _OLDEST_S:
            return False
        try:
            return not wait_for_read(self._sock, timeout=0)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """Close it."""
        self._sock.close()


class _Raw(io.RawIOBase):
    def __init__(self, line: Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._line.recv_into(buffer)


class Lines:
    """Connections that wait for another request to the same place. Safe to use from several threads.

    Args:
        clock: seconds that only grow.
        context: of TLS; by default this system's certificates count, or those of ``SSL_CERT_FILE``.
    """

    def __init__(self, clock: Clock = time.monotonic, context: ssl.SSLContext | None = None) -> None:
        self._clock = clock
        self._context = context or ssl.create_default_context()
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], list[Line]] = {}
        self._count = 0

    def take(self, place: Place) -> Line | None:
        """Return a connection to a place, checked when it was made; None where there is none."""
        while True:
            with self._lock:
                waiting = self._idle.get(place[:3])
                if not waiting:
                    return None
                line = waiting.pop()
                self._count -= 1
                if not waiting:
                    del self._idle[place[:3]]
            if line.is_fit():
                return line
            line.close()

    def give(self, place: Place, line: Line) -> None:
        """Keep a connection for later."""
        line.used = self._clock()
        with self._lock:
            dropped = self._drop() if self._count >= _MOST_IDLE else []
            self._idle.setdefault(place[:3], []).append(line)
            self._count += 1
        for each in dropped:
            each.close()

    def _drop(self) -> list[Line]:
        lines = [line for waiting in self._idle.values() for line in waiting]
        self._idle.clear()
        self._count = 0
        return lines

    def close(self) -> None:
        """Close all that wait."""
        with self._lock:
            dropped = self._drop()
        for line in dropped:
            line.close()

    def connect(self, place: Place, addresses: Sequence[str], until: float) -> Line:
        """Return a new connection to a place, by one of its addresses: its name is not asked for again.

        Args:
            place: whose certificate is checked.
            addresses: that were checked.
            until: of the clock.

        Raises:
            OSError: none takes it, or not in time.
        """
        failed: OSError | None = None
        for position, address in enumerate(addresses):
            # One that says nothing leaves the others their part of the time.
            share = left(until, self._clock) / (len(addresses) - position)
            ends = self._clock() + share
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            try:
                sock.settimeout(share)
                sock.connect((address, place.port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if place.scheme == "https":
                    sock.settimeout(left(ends, self._clock))
                    sock = self._context.wrap_socket(sock, server_hostname=place.host)
            except OSError as error:
                sock.close()
                failed = error
                continue
            except BaseException:
                sock.close()
                raise
            return Line(sock, self._clock)
        raise failed or OSError("no address")


def left(until: float, clock: Clock) -> float:
    """Return the seconds up to a deadline.

    Raises:
        TimeoutError: it has passed.
    """
    seconds = until - clock()
    if seconds <= 0:
        raise TimeoutError
    return seconds

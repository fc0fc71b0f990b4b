"""WebSocket frames (RFC 6455) as a client of this benchmark speaks them. Sans-IO."""

from __future__ import annotations

from fibflow.benchmarks.serving.wire import WireError

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
_FINAL, _MASKED, _CODE, _LENGTH = 0x80, 0x80, 0x0F, 0x7F
_TWO, _EIGHT = 126, 127
_HEAD_END = b"\r\n\r\n"
_SWITCHES = b"HTTP/1.1 101 "
#: Masking hides a client's bytes from proxies, of which there are none here: with zeros they stay.
_MASK = bytes(4)
#: The nonce of RFC 6455, section 1.3: nothing depends on it here.
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def handshake(host: str, path: str) -> bytes:
    """Return the request that opens a WebSocket, without compression."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n"
    ).encode("ascii")


def frame(code: int, payload: bytes) -> bytes:
    """Return a client's frame."""
    size = len(payload)
    if size < _TWO:
        head = bytes((_FINAL | code, _MASKED | size))
    elif size <= 0xFFFF:
        head = bytes((_FINAL | code, _MASKED | _TWO)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | code, _MASKED | _EIGHT)) + size.to_bytes(8, "big")
    return head + _MASK + payload


class Frames:
    """Reads what a server sends: the answer to the handshake, then whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.is_open = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes; return the frames that are whole now, code and payload each.

        Raises:
            WireError: the handshake was refused, or these are no frames of an unfragmented stream.
        """
        buffer = self._buffer
        buffer += data
        if not self.is_open:
            end = buffer.find(_HEAD_END)
            if end < 0:
                return []
            if not buffer.startswith(_SWITCHES):
                raise WireError(f"no WebSocket: {bytes(buffer[:40])!r}")
            self.is_open = True
            del buffer[: end + len(_HEAD_END)]
        found, at = [], 0
        while (whole := self._frame(at)) is not None:
            code, start, at = whole
            found.append((code, bytes(buffer[start:at])))
        del buffer[:at]
        return found

    def _frame(self, at: int) -> tuple[int, int, int] | None:
        """Return a frame's code, and where its payload begins and ends; None where it is not whole."""
        buffer = self._buffer
        if len(buffer) < at + 2:
            return None
        first, size = buffer[at], buffer[at + 1]
        if not first & _FINAL or size & _MASKED or not first & _CODE:
            raise WireError("a frame in fragments, or masked")
        start, wide = at + 2, {_TWO: 2, _EIGHT: 8}.get(size & _LENGTH, 0)
        if len(buffer) < start + wide:
            return None
        length = int.from_bytes(buffer[start : start + wide], "big") if wide else size & _LENGTH
        start += wide
        if len(buffer) < start + length:
            return None
        return first & _CODE, start, start + length

"""What a connection that broke has missed, and how it is filled from the vendor's REST interface.

A hole is a stretch of the feed's own time, from the last sign of life to the first message after. It lies in
the spool before everything that came after it, so that what fills it goes to the stream first, and time
stands still meanwhile. What cannot be had so soon is fetched while the feed goes on, and comes late.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol

import pyarrow as pa

from fibflow.io.ingest.eventtime import MINUTE_US
from fibflow.io.ingest.messages import frame_of
from fibflow.io.tickcolumns import TRADE
from fibflow.io.vendor.errors import NotFound, VendorAway, VendorError

_LOGGER = logging.getLogger(__name__)

_NOTE = "holes.json"
_SYMBOLS = "symbols.json"
# How far apart trades may come that were made at one time.
_SLACK_US = 2_000_000
_MS = 1000
_AGAIN_S = 5.0
# Answers that may wait to be sent, and how often to look whether it is to end while they do.
_AHEAD, _PUT_S = 64, 0.5
# What bounds memory: the trades of a symbol that are fetched at once, and the messages of an answer's part.
_PIECE_US = 3_600_000_000
_ROWS = 2_000


class Vendor(Protocol):
    """What of the vendor's REST interface is asked."""

    def minutes(self, symbol: str, start_us: int, end_us: int) -> pa.Table:
        """Return the minutes that begin in ``[start_us, end_us)``."""
        ...

    def trades(self, symbol: str, start_us: int, end_us: int) -> pa.Table:
        """Return the trades that were made in ``[start_us, end_us)``."""
        ...


@dataclass(frozen=True)
class Hole:
    """A stretch of the feed that did not come.

    Attributes:
        begin: the feed's time of the last sign of life, UTC microseconds.
        end: that of the first message after.
    """

    begin: int
    end: int

    @property
    def minutes(self) -> tuple[int, int]:
        """Starts of the minutes whose aggregates may be missing: from, to (exclusive).

        Those that ended in it, the one that ended just before it, whose aggregates may not all have come
        yet, and the one that its end lies in the sending of.
        """
        return self.begin // MINUTE_US * MINUTE_US - MINUTE_US, self.end // MINUTE_US * MINUTE_US

    @property
    def trades(self) -> tuple[int, int]:
        """Times of the trades that may be missing: from, to (exclusive)."""
        return self.begin - _SLACK_US, self.end + _SLACK_US

    def __str__(self) -> str:
        begin, end = (datetime.fromtimestamp(each // 1_000_000, UTC) for each in (self.begin, self.end))
        return f"the hole from {begin:%Y-%m-%dT%H:%M:%SZ} to {end:%Y-%m-%dT%H:%M:%SZ}"

    def to_bytes(self) -> bytes:
        """Return it as the spool has it."""
        return json.dumps([self.begin, self.end]).encode()

    @classmethod
    def of(cls, data: bytes) -> Hole:
        """Read what ``to_bytes`` wrote."""
        begin, end = json.loads(data)
        return cls(int(begin), int(end))


def minute_messages(rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows of minutes as the messages ``AM`` that would have come.

    Args:
        rows: as ``Vendor.minutes`` gives them.
    """
    starts: Any = rows["ts"].cast(pa.int64())
    columns = [
        rows[name].to_pylist() for name in ("symbol", "open", "high", "low", "close", "volume", "vwap")
    ]
    counts = rows["trade_count"].to_pylist()
    made = []
    for (symbol, o, h, low, c, v, vw), n, start in zip(
        zip(*columns, strict=True), counts, starts.to_pylist(), strict=True
    ):
        message = {"ev": "AM", "sym": symbol, "v": v, "vw": vw, "o": o, "c": c, "h": h, "l": low, "n": n}
        message |= {"s": start // _MS, "e": (start + MINUTE_US) // _MS}
        made.append({name: value for name, value in message.items() if value is not None})
    return made


def trade_messages(rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows of trades as the messages ``T`` that would have come.

    Args:
        rows: as ``Vendor.trades`` gives them.
    """
    names = {
        "sym": "symbol",
        "x": "exchange",
        "i": "trade_id",
        "z": "tape",
        "p": "price",
        "s": "size",
        "c": "conditions",
        "e": "correction",
        "q": "seq",
    }
    times: Any = rows["ts"].cast(pa.int64())
    made = []
    for row, time in zip(rows.drop_columns("ts").to_pylist(), times.to_pylist(), strict=True):
        message = {"ev": "T"} | {short: row[name] for short, name in names.items()} | {"t": time // _MS}
        made.append({name: value for name, value in message.items() if value is not None})
    return made


@dataclass
class Filling:
    """A hole that is being filled.

    Attributes:
        hole: the hole.
        asked: symbols and kinds that were asked for.
        left: those that have not been answered yet.
        unfilled: those that nothing was had of.
        why: the last reason for that.
        messages: how many were had.
        began: when, seconds.
        hopeless: kinds that need not be asked for any more, with why.
    """

    hole: Hole
    asked: int = 0
    left: int = 0
    unfilled: list[str] = field(default_factory=list)
    why: str = ""
    messages: int = 0
    began: float = 0.0
    hopeless: dict[str, str] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)


class Filler:
    """Fills holes, several symbols at a time.

    Args:
        vendor: is asked; it paces its calls and tries them again by itself.
        folder: keeps which holes are open, so that a process that was killed fills them again, and which
            symbols the feed has.
        kinds: ``AM``, ``T``: what the feed has of.
        symbols: those that it is subscribed to; None where it is to all: then those that it has had.
        threads: calls at a time.
        wait: waits so many seconds; true where it is to end.
        patience: seconds for which a vendor that is away is asked again.
        clock: seconds.
    """

    def __init__(
        self,
        vendor: Vendor,
        folder: Path,
        kinds: Iterable[str],
        symbols: Sequence[str] | None,
        threads: int,
        wait: Callable[[float], bool],
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        self._vendor, self._folder = vendor, folder
        self._kinds = tuple(kinds)
        self._wait, self._patience, self._clock = wait, patience, clock
        self._known: set[str] = set(symbols or ())
        self._learns = symbols is None
        self._noted = 0
        self._pool = ThreadPoolExecutor(threads, "fill")
        # Bounded: while Kinesis is away nothing more is fetched than this.
        self._had: Queue[bytes] = Queue(_AHEAD)
        self._ended = threading.Event()
        self._open: list[Filling] = []
        self._lock = threading.Lock()
        #: The holes that the disk is known to have.
        self._kept: frozenset[Hole] = frozenset()
        self._is_refused = False
        if self._learns and (folder / _SYMBOLS).exists():
            self._known.update(json.loads((folder / _SYMBOLS).read_bytes()))

    def saw(self, symbols: Iterable[str]) -> None:
        """Take in which symbols the feed has."""
        if self._learns:
            self._known.update(symbols)

    def note_symbols(self) -> None:
        """Keep which symbols there are, where there are more than were kept."""
        known = set(self._known)
        if self._learns and len(known) > self._noted:
            _write(self._folder / _SYMBOLS, json.dumps(sorted(known)).encode())
            self._noted = len(known)

    def left_open(self) -> list[Hole]:
        """Return the holes that an earlier process did not finish."""
        path = self._folder / _NOTE
        return [Hole(*pair) for pair in json.loads(path.read_bytes())] if path.exists() else []

    def start(self, hole: Hole) -> Filling:
        """Begin to fill a hole; what is had of it comes from ``had``."""
        filling = Filling(hole, began=self._clock())
        work = [(kind, symbol) for kind in self._kinds for symbol in sorted(self._known)]
        filling.asked = filling.left = len(work)
        with self._lock:
            self._open.append(filling)
            self._note()
        if not work:
            filling.done.set()
        for kind, symbol in work:
            self._pool.submit(self._fill, filling, kind, symbol)
        return filling

    def had(self, timeout: float) -> list[bytes]:
        """Return frames of messages that fill holes; none after so many seconds."""
        found: list[bytes] = []
        try:
            found.append(self._had.get(timeout=timeout) if timeout > 0 else self._had.get_nowait())
            while True:
                found.append(self._had.get_nowait())
        except Empty:
            return found

    def finished(self) -> list[Filling]:
        """Return the holes that nothing more comes of."""
        with self._lock:
            return [filling for filling in self._open if filling.done.is_set()]

    def forget(self, filling: Filling) -> None:
        """Close a hole: what was had of it is in the stream."""
        with self._lock:
            self._open.remove(filling)
            self._note()

    def keeps_open(self) -> bool:
        """Return whether the disk has the holes that are open, so that another process knows of them."""
        with self._lock:
            if not self._is_kept():
                self._note()
            return self._is_kept()

    @property
    def open(self) -> int:
        """How many holes are being filled."""
        return len(self._open)

    def close(self) -> None:
        """End; what is open is filled by the next process."""
        self._ended.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _is_kept(self) -> bool:
        # One too many is filled again, no more.
        return self._kept.issuperset(filling.hole for filling in self._open)

    def _note(self) -> None:
        """Have the disk know which holes are open; where it refuses, ``keeps_open`` tries again."""
        holes = [filling.hole for filling in self._open]
        try:
            _write(self._folder / _NOTE, json.dumps([[hole.begin, hole.end] for hole in holes]).encode())
        except OSError as error:
            if not self._is_refused:
                _LOGGER.warning("the holes that are open cannot be written: %s: free some space", error)
            self._is_refused = True
            return
        self._is_refused = False
        self._kept = frozenset(holes)

    def _fill(self, filling: Filling, kind: str, symbol: str) -> None:
        had = 0
        why = filling.hopeless.get(kind, "")
        try:
            for rows in () if why else self._messages(filling, kind, symbol):
                if not self._hand_on(rows):
                    return  # it is to end: the next process fills it
                had += len(rows)
        except NotFound:
            pass
        except VendorError as error:
            why = filling.hopeless[kind] = str(error)
        except Exception as error:
            why = f"{symbol}: {type(error).__name__}: {error}"
        if why and self._wait(0.0):
            return  # likewise
        with self._lock:
            filling.messages += had
            if why:
                filling.unfilled.append(symbol)
                filling.why = why
            filling.left -= 1
            if not filling.left:
                filling.done.set()

    def _hand_on(self, rows: list[dict[str, Any]]) -> bool:
        """Wait until rows are taken over; return whether they were before the end."""
        frame = frame_of(rows)
        while rows:
            try:
                self._had.put(frame, timeout=_PUT_S)
                break
            except Full:
                if self._ended.is_set():
                    return False
        return True

    def _messages(self, filling: Filling, kind: str, symbol: str) -> Iterator[list[dict[str, Any]]]:
        """Yield a symbol's messages, some at a time."""
        begin, end = filling.hole.trades if kind == TRADE else filling.hole.minutes
        step = _PIECE_US if kind == TRADE else end - begin
        for at in range(begin, end, step):
            rows = self._ask(filling, kind, symbol, at, min(at + step, end))
            for row in range(0, len(rows), _ROWS):
                part = rows.slice(row, _ROWS)
                yield trade_messages(part) if kind == TRADE else minute_messages(part)

    def _ask(self, filling: Filling, kind: str, symbol: str, begin: int, end: int) -> pa.Table:
        """Ask for a symbol's rows of a stretch; a vendor that is away again and again.

        Raises:
            VendorError: the vendor refuses, or was away for too long.
        """
        while True:
            try:
                ask = self._vendor.trades if kind == TRADE else self._vendor.minutes
                return ask(symbol, begin, end)
            except VendorAway:
                if self._clock() - filling.began > self._patience or self._wait(_AGAIN_S):
                    raise


def _write(path: Path, data: bytes) -> None:
    """Replace a file's content, whole or not at all."""
    scratch = path.with_suffix(".new")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)

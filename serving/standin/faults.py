"""Faults to order: which calls go wrong, and how. Pure.

What becomes of a call is drawn from the seed, its path and how often that was asked before, and from nothing
else: the same calls meet the same faults, whatever the order in which they come.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any


class FaultError(ValueError):
    """A fault that cannot be ordered; the message says what to write."""


class Kind(StrEnum):
    """What goes wrong with a call."""

    RATE = "429"
    ERROR = "500"
    NO_KEY = "401"
    NO_PLAN = "403"
    SLOW = "slow"
    CUT = "cut"
    NONSENSE = "nonsense"
    PARTIAL = "partial"
    EMPTY = "empty"


#: Names of what is asked, by path: the first that fits.
_NAMES = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("grouped", r"/v2/aggs/grouped/"),
        ("minutes", r"/v2/aggs/ticker/[^/]+/range/[^/]+/(second|minute|hour)/"),
        ("days", r"/v2/aggs/ticker/[^/]+/range/"),
        ("previous", r"/v2/aggs/ticker/[^/]+/prev$"),
        ("open-close", r"/v1/open-close/"),
        ("events", r"/vX/reference/tickers/[^/]+/events$"),
        ("types", r"/v3/reference/tickers/types$"),
        ("details", r"/v3/reference/tickers/[^/]+$"),
        ("tickers", r"/v3/reference/tickers$"),
        ("splits", r"/(v3/reference|stocks/v1)/splits$"),
        ("dividends", r"/(v3/reference|stocks/v1)/dividends$"),
        ("snapshots", r"/v[23]/snapshot"),
        ("trades", r"/v2/last/|/v3/trades/"),
        ("news", r"/v2/reference/news$"),
        ("market", r"/v1/marketstatus/|/v3/reference/(exchanges|conditions)$"),
        ("indicators", r"/v1/indicators/"),
    )
)
#: What is not the vendor's: neither counted nor disturbed.
OTHER = "other"
_TEXT = "KIND[:SHARE][:path=NAME][:times=N][:seconds=S]"


def name_of(path: str) -> str:
    """Return the name of what a path asks for, such as ``grouped``."""
    return next((name for name, pattern in _NAMES if pattern.match(path)), OTHER)


def draw(seed: int, *parts: object) -> float:
    """Return a number in [0, 1) that a seed and some parts give, the same on every machine."""
    text = "\x1f".join(map(str, (seed, *parts)))
    found = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(found, "big") / 2**64


@dataclass(frozen=True)
class Fault:
    """A fault that is ordered.

    Attributes:
        kind: what goes wrong.
        share: with such a part of the calls.
        path: with those whose name (``grouped``, ``minutes``, ...) or path fits this pattern.
        times: with so many calls at most; None for no bound.
        seconds: of ``429``: what Retry-After says; of ``slow``: how long the answer takes. Of ``partial`` the
            part that is left out, in percent, is ``percent``.
        percent: of ``partial``: so many of the results are left out.
    """

    kind: Kind
    share: float = 1.0
    path: str = "*"
    times: int | None = None
    seconds: float = 1.0
    percent: float = 50.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise FaultError(f"a share of {self.share:g} is none: give 0 to 1")
        if self.times is not None and self.times < 0:
            raise FaultError(f"times={self.times} is no number of calls")
        if not 0 <= self.seconds <= 3_600 or not 0 <= self.percent <= 100:
            raise FaultError("seconds takes 0 to 3600, percent 0 to 100")

    def fits(self, name: str, path: str) -> bool:
        """Return whether a call is of those that the fault is ordered for."""
        return fnmatchcase(name, self.path) or fnmatchcase(path, self.path)

    def plain(self) -> dict[str, Any]:
        """Return what ``of`` reads."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Fault:
        """Return the fault that a mapping names.

        Raises:
            FaultError: it names none.
        """
        known = {field.name for field in fields(cls)}
        if strange := sorted(set(told) - known):
            raise FaultError(f"{strange[0]} is nothing that a fault has: {_TEXT}")
        try:
            kind = Kind(str(told.get("kind")))
        except ValueError:
            raise FaultError(f"{told.get('kind')} is no fault: name one of {', '.join(Kind)}") from None
        try:
            times = told.get("times")
            return cls(
                kind,
                float(told.get("share", 1.0)),
                str(told.get("path", "*")),
                None if times is None else int(times),
                float(told.get("seconds", 1.0)),
                float(told.get("percent", 50.0)),
            )
        except FaultError:
            raise
        except (TypeError, ValueError):
            raise FaultError(f"a fault of {kind} has a value that is no number: {_TEXT}") from None


def pieces_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield kind and pieces of each fault of a text such as ``429:0.02:path=grouped,500``."""
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kind, *rest = part.split(":")
        yield kind, rest


def parse(text: str) -> list[Fault]:
    """Return the faults of a text such as ``429:0.02,500:0.02:path=grouped,slow:0.01:seconds=3``.

    Raises:
        FaultError: it cannot be read.
    """
    found = []
    for kind, rest in pieces_of(text):
        told: dict[str, Any] = {"kind": kind}
        for piece in rest:
            name, equals, value = piece.partition("=")
            told |= {name: value} if equals else {"share": piece}
        found.append(Fault.of(told))
    return found


class Orders:
    """The faults that are ordered, and the calls that came. Safe to use from several threads."""

    def __init__(self, seed: int = 0, faults: Iterable[Fault] = ()) -> None:
        self.seed = seed
        self._lock = threading.Lock()
        self._faults: list[tuple[int, Fault]] = []
        self._left: dict[int, int] = {}
        self._number = 0
        self._asked: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.names: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.order(*faults)

    def order(self, *faults: Fault) -> None:
        """Order faults, behind those that are: the first one that a call draws is its own."""
        with self._lock:
            for fault in faults:
                self._faults.append((self._number, fault))
                if fault.times is not None:
                    self._left[self._number] = fault.times
                self._number += 1

    def clear(self) -> None:
        """Let all go well from now on."""
        with self._lock:
            self._faults.clear()
            self._left.clear()

    def call(self, path: str, query: str = "", disturbed: bool = True) -> Fault | None:
        """Count a call, and return what goes wrong with it; None for nothing.

        Args:
            path: of the call.
            query: of the call.
            disturbed: False for one that is refused anyway: it draws nothing.
        """
        name, whole = name_of(path), f"{path}?{query}"
        with self._lock:
            self.calls[path] += 1
            self.names[name] += 1
            if not disturbed:
                return None
            self._asked[whole] += 1
            for number, fault in self._faults:
                if not fault.fits(name, path) or self._left.get(number, 1) < 1:
                    continue
                if draw(self.seed, number, whole, self._asked[whole]) < fault.share:
                    if number in self._left:
                        self._left[number] -= 1
                    return fault
        return None

    def answered(self, status: str) -> None:
        """Count an answer: its status, or the fault that it was."""
        with self._lock:
            self.answers[status] += 1

    def told(self) -> dict[str, Any]:
        """Return what is ordered, and what came."""
        with self._lock:
            return {
                "faults": [fault.plain() for _, fault in self._faults],
                "calls": dict(self.calls),
                "names": dict(self.names),
                "answers": dict(self.answers),
            }

    def forget(self) -> None:
        """Count from nothing again."""
        with self._lock:
            for counter in (self.calls, self.names, self.answers):
                counter.clear()

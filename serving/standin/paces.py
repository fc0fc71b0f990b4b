"""How fast a script is played, and what goes wrong at which places of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from fibflow.serving.standin.faults import FaultError, pieces_of

Seconds = npt.NDArray[np.float64]

#: Where a script is silent, as at night, playing it in time waits no longer than this, seconds of its time.
LONGEST_SILENCE_S = 60.0


class FeedKind(StrEnum):
    """What goes wrong with the feed."""

    CUT = "cut"
    CLOSE = "close"
    SILENCE = "silence"
    SLOW = "slow"


@dataclass(frozen=True)
class FeedFault:
    """A fault at a place of the script.

    Attributes:
        kind: ``cut``: connections break without a word, ``close``: they are closed with ``code``; both let
            nobody in while it lasts. ``silence``: nothing comes, and what is played is lost. ``slow``: at
            most ``rate`` messages a second are played.
        at: after so many messages of the script.
        length: it lasts for so many messages, ...
        seconds: ... and for so long.
        code: see there.
        rate: see there.
    """

    kind: FeedKind
    at: int
    length: int = 0
    seconds: float = 0.0
    code: int = 1012
    rate: float = 100.0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> FeedFault:
        """Return the fault that a mapping names.

        Raises:
            FaultError: it names none.
        """
        try:
            made = cls(**{**told, "kind": FeedKind(str(told.get("kind")))})
            if made.at < 0 or made.length < 0 or not 0 <= made.seconds <= 3_600 or made.rate <= 0:
                raise ValueError
        except (TypeError, ValueError):
            raise FaultError(
                f"a fault of the feed is {', '.join(FeedKind)}, with at=N, and length, seconds, code, rate"
            ) from None
        return made


_NUMBERS: dict[str, type[int] | type[float]] = {
    "at": int,
    "length": int,
    "seconds": float,
    "code": int,
    "rate": float,
}


def parse_feed(text: str) -> list[FeedFault]:
    """Return the faults of a text such as ``cut:at=5000:length=1000,silence:at=9000:seconds=3``.

    Raises:
        FaultError: it cannot be read.
    """
    found = []
    for kind, rest in pieces_of(text):
        told: dict[str, Any] = {"kind": kind}
        for piece in rest:
            name, _, value = piece.partition("=")
            try:
                told[name] = _NUMBERS[name](value)
            except (KeyError, ValueError):
                raise FaultError(f"{piece!r} is none of at=N, length=N, seconds=S, code=N, rate=N") from None
        found.append(FeedFault.of(told))
    return found


@dataclass(frozen=True)
class Pace:
    """How fast a script is played: in its own time, so many messages a second, or as fast as they are read.

    Attributes:
        speed: so many times as fast as its own time; None for another pace.
        rate: messages a second; None for another pace.
    """

    speed: float | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if any(value is not None and not value > 0 for value in (self.speed, self.rate)):
            raise FaultError("a pace is above 0: speed=60, or rate=10000, or none for as fast as it is read")

    @property
    def waits(self) -> bool:
        """Whether it is the clients that set the pace."""
        return self.speed is None and self.rate is None

    def due(self, sent: npt.NDArray[np.int64], before: int, done: int, last: float) -> Seconds:
        """Return when messages are due, seconds from the beginning.

        Args:
            sent: when each goes out by the script, UTC microseconds.
            before: likewise of the message before.
            done: how many there were before.
            last: when that was due.
        """
        if self.rate is not None:
            return (done + np.arange(len(sent))) / self.rate
        if self.speed is None:
            return np.zeros(len(sent))
        gaps = np.diff(sent, prepend=before) / 1e6
        return last + np.cumsum(np.clip(gaps, 0, LONGEST_SILENCE_S)) / self.speed

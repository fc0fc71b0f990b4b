"""What a look at a part of an installation finds."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fibflow.io.checkup.site import Site


class State(enum.StrEnum):
    """How a part is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Finding:
    """How a part is.

    Attributes:
        check: names the part.
        state: how it is.
        reason: what was seen, one line.
        advice: what to do, one line; empty where there is nothing.
    """

    check: str
    state: State
    reason: str
    advice: str = ""


class Wrong(Exception):
    """A part is not as it has to be.

    Attributes:
        reason: what was seen.
        advice: what to do.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice


@dataclass(frozen=True)
class Check:
    """A look at a part.

    Attributes:
        name: of the part.
        look: yields what is found, as it is found. It may raise ``Wrong``, or an error of ``io`` whose
            message is one line that says what to do.
        named_by: the options that name the part, for people; empty for a part that every installation has.
        is_asked: whether they were given.
    """

    name: str
    look: Callable[[Site], Iterator[Finding]] = field(repr=False)
    named_by: str = ""
    is_asked: bool = True

    def left_out(self) -> Finding:
        """Return what is said of a part that was not named."""
        return Finding(self.name, State.NOT_ASKED, f"name it with {self.named_by}")


def ok(check: str, reason: str) -> Finding:
    """Return that a part is as it has to be."""
    return Finding(check, State.OK, reason)


def warning(check: str, reason: str, advice: str) -> Finding:
    """Return that a part works and needs somebody's eye."""
    return Finding(check, State.WARNING, reason, advice)


def failed(check: str, reason: str, advice: str = "") -> Finding:
    """Return that a part does not work."""
    return Finding(check, State.FAILED, reason, advice)


def attempt(check: str, look: Callable[[], Finding]) -> Finding:
    """Return what a look finds; where it raises ``Wrong``, that this part does not work."""
    try:
        return look()
    except Wrong as wrong:
        return failed(check, wrong.reason, wrong.advice)

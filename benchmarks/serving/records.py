"""What came of questions, and its percentiles. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from fibflow.benchmarks.serving import answers
from fibflow.benchmarks.serving.questions import KINDS, Question
from fibflow.benchmarks.serving.wire import OK, Reader
from fibflow.benchmarks.streaming.visible import percentiles

Floats = npt.NDArray[np.float64]

_SHOWN = 5
_LONGEST = 120


@dataclass
class Record:
    """What came of questions; times are seconds of one clock.

    Attributes:
        questions: that were asked, or were to be.
        planned: when each was to be sent, shape (questions,).
        sent, done: when it was, and when its answer was whole; NaN for never.
        sizes: bytes of the bodies, as they came.
        errors: reasons, by how many questions failed for them.
        bodies: of the answers that were kept: question, coding, body.
    """

    questions: Sequence[Question]
    planned: Floats
    sent: Floats = field(init=False)
    done: Floats = field(init=False)
    sizes: npt.NDArray[np.int64] = field(init=False)
    errors: Counter[str] = field(default_factory=Counter)
    bodies: list[tuple[int, str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.questions)
        self.sent, self.done = np.full(count, np.nan), np.full(count, np.nan)
        self.sizes = np.zeros(count, np.int64)

    def take(self, ticket: int, reader: Reader, at: float) -> None:
        """Take an answer that is whole."""
        if reader.status != OK:
            self.fail(ticket, f"status {reader.status}: {_told(reader)}")
            return
        self.done[ticket], self.sizes[ticket] = at, reader.size
        if reader.kept is not None:
            self.bodies.append((ticket, reader.coding, reader.body))

    def fail(self, ticket: int, reason: str) -> None:
        """Take note that a question got no answer."""
        self.errors[f"{self.questions[ticket].kind}: {reason}"] += 1

    def wrong(self) -> list[str]:
        """Return what is wrong with the answers that were kept, a line each."""
        found = (answers.wrong(self.questions[ticket], coding, body) for ticket, coding, body in self.bodies)
        return [reason for reason in found if reason is not None]

    def plain(self, since: float) -> dict[str, Any]:
        """Return what came of the questions planned from an instant on: counts, and seconds by kind.

        Errors and wrong answers are of all. The seconds are from the planned time; a question without an
        answer counts as one that never came, NaN, and is among the slowest.
        """
        counted = self.planned >= since
        latency, kinds = self.done - self.planned, np.array([each.kind for each in self.questions])
        found = {}
        for kind in (*KINDS, "all"):
            own = counted if kind == "all" else counted & (kinds == kind)
            if own.any():
                answered = own & ~np.isnan(self.done)
                found[kind] = {
                    "asked": int(own.sum()),
                    "answered": int(answered.sum()),
                    "seconds": percentiles(latency[own]),
                    "bytes": float(self.sizes[answered].mean()) if answered.any() else 0.0,
                }
        wrong = self.wrong()
        return {
            "kinds": found,
            "late": percentiles((self.sent - self.planned)[counted]),
            "errors": dict(self.errors.most_common(_SHOWN)),
            "failed": self.errors.total(),
            "checked": len(self.bodies),
            "wrong": len(wrong),
            "wrong_shown": wrong[:_SHOWN],
        }


def _told(reader: Reader) -> str:
    """Return what an error says; of a request's own id nothing, so that equal errors count together."""
    try:
        found = orjson.loads(reader.body)
        return str(found.get("detail") or found.get("error") or found.get("message"))[:_LONGEST]
    except (orjson.JSONDecodeError, AttributeError):
        return reader.body[:_LONGEST].decode(errors="replace")

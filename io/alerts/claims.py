"""A delivery that a worker has claimed, what became of trying it, and when it is tried again."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field

from fibflow.io.alerts.model import Event


@dataclass(frozen=True)
class Claim:
    """A delivery that a worker has claimed.

    Attributes:
        id: its number.
        destination: id of where it goes.
        attempts: so far.
        age_s: seconds since the event was written.
        event: what is to be sent.
        kind: of the destination; empty where that was deleted.
        target: an https address, or a topic's ARN; empty likewise.
        secret: of a webhook.
        disabled: why nothing is sent there; None where something is.
    """

    id: int
    destination: int
    attempts: int
    age_s: float
    event: Event
    kind: str = ""
    target: str = field(default="", repr=False)
    secret: str | None = field(default=None, repr=False)
    disabled: str | None = None


class End(enum.Enum):
    """What became of a try."""

    DELIVERED = "delivered"
    FAILED = "failed"  # try again later
    REFUSED = "refused"  # it will never be taken: no more tries
    GONE = "gone"  # whoever is there wants nothing more at all


@dataclass(frozen=True)
class Outcome:
    """What became of a try.

    Attributes:
        end: in a word.
        error: why, for the event's owner; None where it was delivered.
        status: of HTTP; None where there was no answer.
        took_ms: how long it took.
        wait: seconds that the other side asks to be left alone for.
    """

    end: End
    error: str | None = None
    status: int | None = None
    took_ms: int = 0
    wait: float | None = None


@dataclass(frozen=True)
class Retries:
    """When to try again: later and later, and at random up to a bound, so that what failed together parts.

    Attributes:
        first_s: the bound after the first failure; it doubles with each.
        longest_s: the greatest bound.
        most_age_s: of the event, after which it is given up, ...
        least_attempts: ... if it was tried so often. What is replayed has its own tries.
        most_attempts: after which it is given up too; more than there are before ``most_age_s``, as the
            waits are half their bounds on average.
        longest_asked_s: of what the other side asks to wait, no more than this is waited.
    """

    first_s: float = 5.0
    longest_s: float = 3_600.0
    most_age_s: float = 86_400.0
    least_attempts: int = 5
    most_attempts: int = 100
    longest_asked_s: float = 3_600.0

    def after(self, attempts: int, age_s: float, wait: float | None, dice: random.Random) -> float | None:
        """Return the seconds until the next try, or None to give up.

        Args:
            attempts: so far, the one that just failed included.
            age_s: of the event.
            wait: what the other side asks for.
            dice: for the part that is random.
        """
        if attempts >= self.most_attempts or (age_s >= self.most_age_s and attempts >= self.least_attempts):
            return None
        bound = min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 60))
        return max(dice.uniform(0.0, bound), self.asked(wait))

    def asked(self, wait: float | None) -> float:
        """Return what is waited of what the other side asks for."""
        return min(wait or 0.0, self.longest_asked_s)

"""Which destinations fail, so that they are tried seldom and never take the place of those that do not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

_FIRST_S, _LONGEST_S = 2.0, 60.0
# Longer than the longest wait between two tries: who was not tried for so long has nothing that waits.
_FORGOTTEN_S = 3_600.0


@dataclass
class _Failing:
    count: int = 0
    rests_until: float = 0.0


class Breakers:
    """What a worker knows of destinations whose last try failed. For one thread.

    The first failures are no more than a mark: a destination that has one shares a part of the threads with
    all the others that do. From ``trip`` in a row on it rests, longer each time, and is then asked by one
    try.

    Args:
        dice: parts workers that saw the same failure.
        clock: seconds that only grow.
        trip: failures in a row.
    """

    def __init__(
        self, dice: random.Random, clock: Callable[[], float] = time.monotonic, trip: int = 3
    ) -> None:
        self._dice, self._clock, self._trip = dice, clock, trip
        self._failing: dict[int, _Failing] = {}

    def succeeded(self, destination: int) -> None:
        """A try was taken."""
        self._failing.pop(destination, None)

    def ended(self, destination: int) -> None:
        """Nothing more is sent there."""
        self._failing.pop(destination, None)

    def failed(self, destination: int, wait: float = 0.0) -> None:
        """A try failed.

        Args:
            destination: its id.
            wait: seconds for which it asks to be left alone.
        """
        held = self._failing.setdefault(destination, _Failing())
        held.count += 1
        rest = wait
        if held.count >= self._trip:
            bound = min(_LONGEST_S, _FIRST_S * 2.0 ** min(held.count - self._trip, 60))
            rest = max(rest, self._dice.uniform(bound / 2, bound))
        held.rests_until = max(held.rests_until, self._clock() + rest)

    def suspects(self) -> list[int]:
        """Return the destinations whose last try failed, but for those that were not tried for long."""
        since = self._clock() - _FORGOTTEN_S
        for destination in [each for each, held in self._failing.items() if held.rests_until < since]:
            del self._failing[destination]
        return list(self._failing)

    def room(self, destination: int, most: int) -> int:
        """Return how many tries may be under way: ``most``, one, or none."""
        held = self._failing.get(destination)
        if held is None:
            return most
        if self._clock() < held.rests_until:
            return 0
        return most if held.count < self._trip else 1

    @property
    def resting(self) -> int:
        """How many destinations are left alone now."""
        now = self._clock()
        return sum(now < held.rests_until for held in self._failing.values())

"""What a drill notes while it goes on: how long each step took, and what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Notes:
    """The notes of one drill.

    Attributes:
        name: of the drill.
        clock: seconds.
        steps: what was done, and for how many seconds.
        facts: what was seen, a line each.
        lines: what a command refused with, as it said it.
        problems: what is wrong, a line each.
        bars: how many bars were compared; None before that.
        wrong: how many of them are not batch's.
    """

    name: str
    clock: Callable[[], float] = time.monotonic
    steps: list[tuple[str, float]] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    bars: int | None = None
    wrong: int = 0

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Note how long a step takes, also where it fails."""
        began = self.clock()
        try:
            yield
        finally:
            self.steps.append((what, self.clock() - began))

    def took(self, what: str, seconds: float) -> None:
        """Note what was measured elsewhere."""
        self.steps.append((what, seconds))

    @property
    def passed(self) -> bool:
        """Whether bars were compared, and nothing is wrong."""
        return self.bars is not None and not self.wrong and not self.problems

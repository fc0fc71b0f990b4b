"""A tail as a runner keeps it."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from fibflow.io.alerts.tail import Position, ReadTail
from fibflow.tests.io.streams import Cell, Timer

NOW_S = 1_800_000_000.0


class Value(Cell):
    """A cell of one key that holds what it is given."""

    def read(self) -> Any:
        return self.values[0] if self.values else None

    def write(self, value: Any) -> None:
        self.values = [value]


class Runner:
    """Wakes a tail and fires its timer, with a clock that stands still until the timer is due.

    ``delay_s`` is what the last look asked for, in whole seconds.
    """

    def __init__(self, feed: Any, position: Position | None = None, moment_s: float = 60.0) -> None:
        self.feed, self.now = feed, NOW_S
        self.fn = ReadTail(feed, moment_s, lambda: self.now)
        self.fn.setup()
        self.state, self.due_at, self.due = Value(), Value(), Timer()
        self.is_awake = False
        if position is not None:
            self.state.write(position)

    @property
    def position(self) -> Position:
        return self.state.read() or self.feed.start

    @property
    def delay_s(self) -> int:
        assert self.due.at is not None
        return math.ceil(round(self.due.at - self.now, 3))

    def look(self) -> list[pa.Table]:
        """Wake it, or let its timer fire."""
        if not self.is_awake:
            self.is_awake = True
            return list(self.fn.process(("a", b""), self.state, self.due_at, self.due))
        assert self.due.at is not None
        self.now = self.due.at
        return list(self.fn.on_due(self.state, self.due_at, self.due))

"""A store that may be down: asked once in a while then, and passed over in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

T = TypeVar("T")


class StoreDown(Exception):
    """A store does not answer; one line that says what is wrong."""


@dataclass
class Circuit:
    """Asks a store, and for a while not again after it did not answer. Safe to use from several threads.

    Attributes:
        errors: what a store that does not answer raises; its first line is what is told.
        retry_s: how long it is passed over.
        clock: seconds that only grow.
    """

    errors: tuple[type[Exception], ...]
    retry_s: float = 2.0
    clock: Callable[[], float] = time.monotonic
    _lock: Lock = field(init=False, repr=False, default_factory=Lock)
    _wrong: str | None = field(init=False, default=None)
    _again: float = field(init=False, default=0.0)

    @property
    def wrong(self) -> str | None:
        """One line of what is wrong, as of the last question; None: nothing is."""
        return self._wrong

    def ask(self, question: Callable[[], T]) -> T:
        """Return the answer.

        Raises:
            StoreDown: the store does not answer, or did not a moment ago.
        """
        with self._lock:
            if self._wrong is not None:
                if self.clock() < self._again:
                    raise StoreDown(self._wrong)
                # One asks; the others go on passing it over.
                self._again = self.clock() + self.retry_s
        try:
            answer = question()
        except self.errors as error:
            wrong = (str(error).strip().splitlines() or [type(error).__name__])[0]
            with self._lock:
                self._wrong, self._again = wrong, self.clock() + self.retry_s
            raise StoreDown(wrong) from error
        with self._lock:
            self._wrong = None
        return answer

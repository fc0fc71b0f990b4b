"""Plans of the vendor: what a key may ask for, how far back, and how often."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from fibflow.serving.access import OPEN, Admission, Gate, Scope
from fibflow.serving.problems import Problem
from fibflow.serving.standin.faults import name_of

_REFUSED = "You are not entitled to this data. Please upgrade your plan"
_TOO_OLD = "Your plan doesn't include this data timeframe. Please upgrade your plan"
_MINUTE_S = 60.0
_DATE = re.compile(r"/(\d{4}-\d{2}-\d{2})(?=/|$)")


@dataclass(frozen=True)
class Plan:
    """What a key may.

    Attributes:
        name: of the plan.
        without: names of what it may not ask for, such as ``trades``.
        days: how far back its bars go; None for no bound.
        calls_a_minute: how often it may ask; None for no bound.
        feed: it may follow the WebSocket.
    """

    name: str = "all"
    without: frozenset[str] = frozenset()
    days: int | None = None
    calls_a_minute: int | None = None
    feed: bool = True

    def refuses(self, path: str, today: date) -> str | None:
        """Return why the plan has no such call; None where it has."""
        if name_of(path) in self.without:
            return _REFUSED
        if self.days is not None and name_of(path) in ("grouped", "days", "minutes", "open-close"):
            oldest = today - timedelta(days=self.days)
            found = _DATE.search(path)
            if found is not None and date.fromisoformat(found[1]) < oldest:
                return _TOO_OLD
        return None


PLANS = {
    plan.name: plan
    for plan in (
        Plan(),
        Plan("starter", frozenset({"trades", "snapshots"}), 5 * 366),
        Plan("basic", frozenset({"trades", "snapshots"}), 2 * 366, 5, feed=False),
    )
}


UNKNOWN_KEY = "Unknown API Key"
_NO_FEED = "Your plan doesn't include websocket access"


class StandInGate(Gate):
    """Lets in who has the key, to what the plan has; the WebSocket asks it.

    Args:
        key: the only one; None lets everybody in.
        plan: what it may.
    """

    def __init__(self, key: str | None, plan: Plan) -> None:
        super().__init__(open_access=True)
        self._key = key
        self._plan = plan

    async def ask(self, key: str | None, scope: Scope) -> Admission:
        """Return who has the key. Raises as ``Gate.ask`` does."""
        if self._key is not None and key != self._key:
            raise Problem(401, UNKNOWN_KEY)
        if scope is Scope.LIVE and not self._plan.feed:
            raise Problem(403, _NO_FEED)
        return Admission(OPEN)


class Rate:
    """So many calls in any minute. For one thread."""

    def __init__(self, calls: int | None, clock: Callable[[], float]) -> None:
        self._calls = calls
        self._clock = clock
        self._at: list[float] = []

    def take(self) -> int:
        """Return 0 and count a call, or return how many seconds to wait for the next."""
        if self._calls is None:
            return 0
        now = self._clock()
        self._at = [at for at in self._at if now - at < _MINUTE_S]
        if len(self._at) >= self._calls:
            return max(1, math.ceil(self._at[-self._calls] + _MINUTE_S - now))
        self._at.append(now)
        return 0

"""What live bars count, for metrics: a few sums over a whole table, never a row at a time."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute
from apache_beam.metrics import Metrics

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

NAMESPACE = "fibflow"
#: Each begins the name of a counter, with a word behind it: a timeframe, or a reason.
BARS_OUT, BARS_REVISED, REJECTED = "bars_out.", "bars_revised.", "rejected."
_PLAIN = ("ticks_in", "history_in", "late", "dead_letters", "bars_out", "bars_open")


def by_word(column: Any) -> dict[str, int]:
    """Return how often each word of a column of strings comes, plain ones or a dictionary's."""
    found: dict[str, int] = {}
    for each in pc.value_counts(column):
        word, count = str(each["values"]), each["counts"].as_py()
        # Chunks of a dictionary may have the same word at different places.
        found[word] = found.get(word, 0) + count
    return found


class LiveCounts:
    """The counters of ``LiveBarsFn``; it travels with the DoFn."""

    def __init__(self) -> None:
        self._counters = {name: Metrics.counter(NAMESPACE, name) for name in _PLAIN}

    def rows(self, name: str, count: int) -> None:
        """Count rows of a kind."""
        if name not in self._counters:
            self._counters[name] = Metrics.counter(NAMESPACE, name)
        self._counters[name].inc(count)

    def bars(self, bars: pa.Table) -> None:
        """Count bars that go out (``partials.BAR_BATCH``), by timeframe, and those of them that are revised.

        A bar goes out when it ends, with each revision, and once more when it is final: a revised one is not
        counted as revised then.
        """
        self.rows("bars_out", len(bars))
        timeframes = bars["timeframe"]
        for timeframe, count in by_word(timeframes).items():
            self.rows(BARS_OUT + timeframe, count)
        revised = pc.and_not(pc.greater(bars["revision"], 0), bars["final"])
        if pc.any(revised).as_py():
            for timeframe, count in by_word(timeframes.filter(revised)).items():
                self.rows(BARS_REVISED + timeframe, count)

    def letters(self, letters: pa.Table) -> None:
        """Count dead letters, by reason."""
        self.rows("dead_letters", len(letters))
        for reason, count in by_word(letters["reason"]).items():
            self.rows(REJECTED + reason, count)

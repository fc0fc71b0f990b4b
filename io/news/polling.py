"""One poll of the vendor's news: what is new or changed into the lake, what is refused into the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

from fibflow.io.failpoints import hit
from fibflow.io.lake import Lake
from fibflow.io.news.articles import Refused, rows_of
from fibflow.io.news.letters import Letters
from fibflow.io.news.table import NewsTable, Written
from fibflow.io.vendor.errors import VendorAway

#: How far before the newest article a poll begins: articles come late, and are changed.
OVERLAP = timedelta(hours=2)
#: Now and then, and at first, it begins further back; so often.
LONG_OVERLAP, LONG_EVERY = timedelta(days=3), timedelta(hours=1)
#: So many articles make a commit, when there are many.
_A_COMMIT = 5_000


class NewsSource(Protocol):
    """What is asked of the vendor, as ``Vendor`` answers."""

    def news(self, since: datetime) -> Iterator[list[Any]]:
        """Yield the articles from an instant on, page by page, the oldest first."""


@dataclass
class Polled:
    """What polls did.

    Attributes:
        since: from when on articles were asked for; of the last poll.
        given: articles that the vendor gave.
        written: what became of those that were taken.
        refused: how many were not, by reason.
        letters: refused ones that were not known as such.
    """

    since: datetime | None = None
    given: int = 0
    written: Written = field(default_factory=Written)
    refused: Counter[str] = field(default_factory=Counter)
    letters: int = 0

    @property
    def anything(self) -> bool:
        """Whether the lake is another now."""
        return bool(self.written.new or self.written.changed or self.letters)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield names and values."""
        if self.since is not None:
            yield "asked for since", f"{self.since:%Y-%m-%d %H:%M} UTC"
        yield "articles given", f"{self.given:,}"
        yield "new", f"{self.written.new:,}"
        if self.written.late:
            yield "  older than the newest before", f"{self.written.late:,}"
        yield "changed", f"{self.written.changed:,}"
        yield "as they were", f"{self.written.unchanged:,}"
        for reason, count in sorted(self.refused.items()):
            yield f"refused: {reason}", f"{count:,}"
        if self.refused:
            yield "refused for the first time", f"{self.letters:,}"


class Poller:
    """Polls the vendor's news into a lake, for one writer at a time.

    Args:
        vendor: is asked.
        lake: takes them.
        now: the time of day.
        new_run: ids of runs, none twice.
    """

    def __init__(
        self, vendor: NewsSource, lake: Lake, now: Callable[[], datetime], new_run: Callable[[], str]
    ) -> None:
        self._vendor = vendor
        self._now = now
        self._new_run = new_run
        self._letters = Letters(lake)
        self._looked_back: datetime | None = None
        self.news = NewsTable(lake)

    def poll(self, first: date | None = None) -> Polled:
        """Ask for what may be new, and write it; what came before an error stays.

        Args:
            first: ask from this date on, where that was never done, instead of from shortly before the newest
                article that is known.

        Raises:
            VendorError: the vendor does not answer, or refuses, or knows nothing of what it gave before.
            LakeError: the lake cannot be read or written.
        """
        now = self._now()
        newest = self.news.newest()
        long = self._looked_back is None or now - self._looked_back >= LONG_EVERY
        known_since = None if first is None else self.news.since
        whole = first is not None and (known_since is None or first < known_since)
        since = _midnight(first) if first is not None and whole else self._since(now, newest, long)
        done = Polled(since)
        waiting: list[Any] = []
        try:
            for page in self._vendor.news(since):
                done.given += len(page)
                waiting += page
                if len(waiting) >= _A_COMMIT:
                    self._write(waiting, done)
                    waiting = []
        finally:
            self._write(waiting, done)
        known = newest is not None and newest >= since.timestamp() * 1e6
        if known and not done.given:
            raise VendorAway(
                f"news since {since:%Y-%m-%d %H:%M} UTC: the vendor gives none, and gave some before: "
                "run again later"
            )
        if first is not None and whole:
            self.news.has_since(first, self._new_run())
        if long:
            self._looked_back = now
        return done

    def _since(self, now: datetime, newest: int | None, long: bool) -> datetime:
        back = LONG_OVERLAP if long else OVERLAP
        last = now if newest is None else min(now, datetime.fromtimestamp(newest / 1e6, UTC))
        return (last - back).replace(microsecond=0)

    def _write(self, found: list[Any], done: Polled) -> None:
        if not found:
            return
        rows, refused = rows_of(found, self._now())
        run = self._new_run()
        done.written += self.news.write(rows, run)
        hit("after-news")
        self._audit(refused, done, run)

    def _audit(self, refused: list[Refused], done: Polled, run: str) -> None:
        done.refused += Counter(one.reason for one in refused)
        done.letters += self._letters.write(refused, run)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)

"""The audit of news: articles that were refused, in the table ``dead_letters``, each once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

from fibflow.io.lake import Lake, Scope
from fibflow.io.news.articles import REASONS, Refused, published_of
from fibflow.io.snapshot import Snapshot
from fibflow.io.tables import DEAD_LETTERS

#: Where they say that they come from.
ORIGIN = "news"
#: Of an article that is longer only so many bytes are kept.
_LONGEST = 65_536


@dataclass
class Letters:
    """Writes refused articles of a lake, for one writer at a time. What is there already is read once.

    Attributes:
        lake: of the table.
    """

    lake: Lake
    _known: set[tuple[str, bytes]] | None = field(default=None, repr=False)

    def write(self, refused: Sequence[Refused], run: str) -> int:
        """Write articles that are not there with that reason, and return how many that were.

        Args:
            refused: in any order.
            run: the run's id.

        Raises:
            LakeError: the table cannot be read or written.
        """
        if not refused:
            return 0
        table = self.lake.table(DEAD_LETTERS)
        snapshot = table.snapshot() if table.exists else Snapshot.empty(table.storage, DEAD_LETTERS)
        if self._known is None:
            rows, _ = snapshot.read(["reason", "payload"], where={"reason": list(REASONS)})
            reasons: list[Any] = rows["reason"].to_pylist()
            payloads: list[Any] = rows["payload"].to_pylist()
            self._known = set(zip(reasons, payloads, strict=True))
        new = {key: article for key, article in _keyed(refused) if key not in self._known}
        if not new:
            return 0
        letters = [
            {
                "reason": reason,
                "origin": ORIGIN,
                "symbol": _first_ticker(article),
                "ts": published_of(article.get("published_utc")) if isinstance(article, dict) else None,
                "payload": payload,
                "run": run,
            }
            for (reason, payload), article in new.items()
        ]
        file = table.writer().write(pa.Table.from_pylist(letters, DEAD_LETTERS.schema), {}, f"news-{run}")
        table.commit([file], base_version=snapshot.version, scope=Scope(symbols=()), run=run)
        self._known |= new.keys()
        return len(new)


def _keyed(refused: Iterable[Refused]) -> list[tuple[tuple[str, bytes], Any]]:
    return [((reason, orjson.dumps(article)[:_LONGEST]), article) for reason, article in refused]


def _first_ticker(article: Any) -> str | None:
    found = article.get("tickers") if isinstance(article, dict) else None
    first = found[0] if isinstance(found, list) and found else None
    return first if isinstance(first, str) else None

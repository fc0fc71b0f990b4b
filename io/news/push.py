"""News in the live store: a stream in Redis of its own, ``news``, which servers follow. No Beam.

An entry is an article: its JSON as it is told to clients, its tickers, and its ``revision``. Beside the
stream stands up to which change of ``reference.news`` it was told. So what a writer that was killed did not
tell is told by the next, and nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import redis

from fibflow.io.lake import LakeTable
from fibflow.io.livestore import LiveStore
from fibflow.io.livestore_scripts import Script
from fibflow.io.news.articles import micros, us_of
from fibflow.io.news.files import rows_at, whole
from fibflow.io.snapshot import Snapshot
from fibflow.io.tables import NEWS
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import TIMESTAMP

#: What was published before is no news.
RECENT = timedelta(days=1)
#: About how many articles the stream keeps.
KEEP = 5_000
#: The position of who has seen nothing.
START = "0-0"

_STREAM, _UP_TO = "news", "news-up-to"
_A_CALL = 200
_COLUMNS = NEWS.file_schema.names

# KEYS: the stream, up to what was told. ARGV: 1 up to what it is told then, 2 how many entries are kept,
# then of each article its JSON, its tickers, its revision.
_TELL = Script(
    """
local held = redis.call('GET', KEYS[2])
if held and tonumber(held) >= tonumber(ARGV[1]) then return 0 end
for i = 3, #ARGV, 3 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'a', ARGV[i], 't', ARGV[i + 1], 'v', ARGV[i + 2])
end
redis.call('SET', KEYS[2], ARGV[1])
return (#ARGV - 2) / 3
"""
)


@dataclass(frozen=True)
class Told:
    """An article that was told.

    Attributes:
        position: from where to go on.
        article: the vendor's JSON object.
        tickers: its own.
        revision: 0 for one that is new, else how often it was changed.
    """

    position: str
    article: bytes
    tickers: tuple[str, ...]
    revision: int


def tell(store: LiveStore, table: LakeTable, now: datetime) -> int:
    """Tell what has changed in the table since the last call, and return how many articles that were.

    Args:
        store: the live store.
        table: ``reference.news``.
        now: articles published over ``RECENT`` before are passed over.

    Raises:
        LiveStoreError: Redis stays away, or refuses.
        LakeError: the table cannot be read.
    """
    if not table.exists:
        return 0
    held: Any = store.connection.ask(lambda client: client.get(store.key(_UP_TO)))
    rows = _changed(table.snapshot(), int(held) if held is not None else -1)
    if not len(rows):
        return 0
    last = int(micros(rows["updated"])[-1])
    rows = rows.filter(as_arrow(micros(rows["published"]) >= us_of(now - RECENT)))
    told = 0
    for start in range(0, len(rows), _A_CALL):
        part = rows.slice(start, _A_CALL)
        told += _told(store, part, int(micros(part["updated"])[-1]))
    # Also over those that are passed over.
    _told(store, rows.slice(len(rows)), last)
    return told


def _told(store: LiveStore, rows: pa.Table, up_to: int) -> int:
    columns: tuple[list[Any], ...] = (
        rows["article"].to_pylist(),
        rows["tickers"].to_pylist(),
        rows["revision"].to_pylist(),
    )
    flat = [value for row in zip(*columns, strict=True) for value in row]
    keys = [store.key(_STREAM), store.key(_UP_TO)]
    return int(store.connection.call(_TELL, [(keys, [up_to, KEEP, *flat])])[0])


def _changed(snapshot: Snapshot, after: int) -> pa.Table:
    """Return the rows that were changed after an instant, in that order."""
    parts = [NEWS.file_schema.empty_table()]
    for file in _files_after(snapshot, after):
        rows, footer = whole(snapshot.storage, file, ["updated"])
        places = (micros(rows["updated"]) > after).nonzero()[0]
        parts.append(rows_at(snapshot.storage, file, places, _COLUMNS, footer))
    return pa.concat_tables(parts).sort_by("updated").combine_chunks()


def _files_after(snapshot: Snapshot, after: int) -> Sequence[Any]:
    if not len(snapshot):
        return []
    ends: Any = snapshot.files["max.updated"].cast(TIMESTAMP).cast(pa.int64())
    last = ends.fill_null(after + 1).to_pylist()
    known = dict(zip(snapshot.unquoted_paths, last, strict=True))
    return [file for file in snapshot.select() if known[file.path] > after]


def position(store: LiveStore) -> str:
    """Return the end of the stream: from here on all is news.

    Raises:
        LiveStoreError: Redis stays away, or refuses.
    """
    found: Any = store.connection.ask(lambda client: client.xrevrange(store.key(_STREAM), count=1))
    return found[0][0].decode() if found else START


def read(store: LiveStore, after: str, block_ms: int = 1_000, count: int = 100) -> list[Told]:
    """Return what was told after a position, oldest first; waits for it.

    Args:
        store: the store.
        after: of ``position``, or of the last article.
        block_ms: how long to wait where nothing has come; less than the store's ``timeout_s``.
        count: how many at most.

    Raises:
        LiveStoreError: Redis stays away, or refuses.
    """

    def question(client: redis.Redis) -> Any:
        return client.xread({store.key(_STREAM): after}, count, block_ms)

    found = store.connection.ask(question)
    return [
        Told(entry.decode(), fields[b"a"], _tickers(fields[b"t"]), int(fields[b"v"]))
        for entry, fields in (found[0][1] if found else [])
    ]


def _tickers(text: bytes) -> tuple[str, ...]:
    return tuple(text.decode().split(",")) if text else ()

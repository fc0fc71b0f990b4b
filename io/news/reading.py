"""Reading ``reference.news`` by symbol and time, again and again: for a server's process.

Of each file the times and the tickers are kept, twenty-odd bytes an article, so that a question reads nothing
but the row groups of the articles that answer it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from fibflow.io.datafiles import DataFile
from fibflow.io.lake import Lake
from fibflow.io.news.articles import micros
from fibflow.io.news.files import Int64, of_each, rows_at, whole
from fibflow.io.storage import LakeError, Storage
from fibflow.io.tables import NEWS
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import ARTICLES

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

_LOG = logging.getLogger(__name__)
#: A look at the table may take this part of the time; what is so many times older than it may be is waited
#: for.
_SHARE, _STALE = 0.1, 4
_COLUMNS = ["id", "published", "article"]
_NONE = ARTICLES.empty_table().select(_COLUMNS)
#: Of so many files the footers are kept.
_FOOTERS = 32

Int32 = npt.NDArray[np.int32]
Place = tuple[int, str]


@dataclass(frozen=True)
class Wanted:
    """Which articles.

    Attributes:
        fits: says of a ticker whether an article that has it is asked for; None for all articles.
        ticker: the only one that fits; None where there may be others.
        start, end: published in ``[start, end)``, UTC microseconds; None for no bound.
        limit: how many at most.
        descending: newest first.
        after: go on behind this one: when it was published, UTC microseconds, and its id.
    """

    fits: Callable[[str], bool] | None = None
    ticker: str | None = None
    start: int | None = None
    end: int | None = None
    limit: int = 10
    descending: bool = True
    after: Place | None = None


@dataclass(frozen=True)
class _Kept:
    """What is kept of a file.

    Attributes:
        file: which.
        published: of its rows, ascending.
        codes: its tickers' numbers, ascending.
        starts: where the rows of each begin in ``rows``, and the end.
        rows: the rows that have a ticker, ascending, ticker by ticker.
    """

    file: DataFile
    published: Int64
    codes: Int32
    starts: Int64
    rows: Int32

    def of(self, codes: Int32 | None) -> Int64:
        """Return the rows that have one of some tickers, each once, ascending; None for all rows."""
        if codes is None:
            return np.arange(len(self.published))
        at = np.searchsorted(self.codes, codes)
        at = at[self.codes[np.minimum(at, len(self.codes) - 1)] == codes] if len(self.codes) else at[:0]
        if len(at) == 1:
            return self.rows[self.starts[at[0]] : self.starts[at[0] + 1]].astype(np.int64)
        parts = [self.rows[self.starts[place] : self.starts[place + 1]] for place in at.tolist()]
        return np.unique(np.concatenate([np.zeros(0, np.int32), *parts])).astype(np.int64)


@dataclass(frozen=True)
class _Known:
    """A version of the table: its files, the newest first."""

    version: int = -1
    files: tuple[_Kept, ...] = ()


@dataclass(frozen=True)
class Found:
    """Where articles lie: enough to answer a question, with those that were published at the same instants.

    Attributes:
        wanted: the question.
        parts: files, and the places in each; the same places hold the same articles for ever.
    """

    wanted: Wanted
    parts: tuple[tuple[DataFile, tuple[int, ...]], ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What answers that are kept go by, with the question."""
        return tuple((file.path, places) for file, places in self.parts)


class NewsReader:
    """The articles of a lake, for one process. Safe to use from several threads.

    The table's version is looked at when what is known is older than ``refresh_s`` (0: at each question); of
    files that are new the index is made then. Where the lake cannot be read, what was known stays.
    """

    def __init__(self, lake: Lake, refresh_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._table = lake.table(NEWS)
        self._refresh_s = refresh_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: _Known | None = None
        self._due = 0.0
        # Numbers of tickers, for as long as the process lives.
        self._codes: dict[str, int] = {}
        self._footers: dict[str, pq.FileMetaData] = {}
        self._of_footers = threading.Lock()

    @property
    def _storage(self) -> Storage:
        return self._table.storage

    # What there is ------------------------------------------------------------------------------------------

    def known(self) -> _Known:
        """Return the table as it is, or was not long ago.

        Raises:
            LakeError: the lake cannot be read, and never could.
        """
        known, now = self._known, self._monotonic()
        if known is not None and now < self._due:
            return known
        if known is None or self._refresh_s <= 0:
            with self._lock:
                return self._refreshed()
        # Who comes while another looks takes what is known.
        if self._lock.acquire(blocking=False):
            if now < self._due + _STALE * self._refresh_s:
                threading.Thread(target=self._refresh_and_release, name="news", daemon=True).start()
            else:
                self._refresh_and_release()
        return self._known or known

    def _refresh_and_release(self) -> None:
        try:
            self._refreshed()
        finally:
            self._lock.release()

    def _refreshed(self) -> _Known:
        """Look at the table where it is time; the lock is held."""
        began = self._monotonic()
        known = self._known
        if known is not None and began < self._due:
            return known
        try:
            version = self._table.version
            if known is None or version != known.version:
                known = self._read(version, known or _Known())
        except LakeError as error:
            if known is None:
                raise
            _LOG.warning("news stays as it was: %s", error)
        self._known = known
        now = self._monotonic()
        pause = max(self._refresh_s, (now - began) / _SHARE) if self._refresh_s > 0 else 0.0
        self._due = now + pause
        return known

    def _read(self, version: int, before: _Known) -> _Known:
        if version < 0:
            return _Known()
        snapshot = self._table.snapshot()
        kept = {one.file.path: one for one in before.files}
        files = snapshot.select()
        new = [file for file in files if file.path not in kept]
        columns = ["published", "tickers"]
        read = of_each(self._storage, new, lambda file: whole(self._storage, file, columns)[0])
        kept |= {file.path: self._indexed(file, rows) for file, rows in zip(new, read, strict=True)}
        newest = sorted((kept[file.path] for file in files), key=lambda one: one.published[-1], reverse=True)
        return _Known(snapshot.version, tuple(newest))

    def _indexed(self, file: DataFile, rows: pa.Table) -> _Kept:
        lists: Any = pc.split_pattern(rows["tickers"].combine_chunks(), ",")
        words: Any = lists.flatten().dictionary_encode()
        names: list[Any] = words.dictionary.to_pylist()
        for name in names:
            self._codes.setdefault(name, len(self._codes))
        numbers = np.array([self._codes[name] for name in names], np.int32)
        codes = numbers[np.asarray(words.indices)] if names else np.zeros(0, np.int32)
        row_of = np.asarray(pc.list_parent_indices(lists)).astype(np.int32)
        named = codes != self._codes.get("", -1)
        codes, row_of = codes[named], row_of[named]
        order = np.lexsort((row_of, codes))
        distinct, starts = np.unique(codes[order], return_index=True)
        edges = np.append(starts, len(order)).astype(np.int64)
        return _Kept(file, micros(rows["published"]), distinct, edges, row_of[order])

    # Answers ------------------------------------------------------------------------------------------------

    def find(self, wanted: Wanted) -> Found:
        """Return where the articles lie that a question asks for; nothing is read for it.

        Raises:
            LakeError: the lake cannot be read, and never could.
        """
        known = self.known()
        codes = self._codes_of(wanted)
        if codes is not None and not len(codes):
            return Found(wanted, ())
        files = known.files if wanted.descending else _oldest_first(known.files)
        # One more tells whether there are more; of those at the place to go on from, ids have to tell.
        most = wanted.limit + 1
        parts: list[tuple[_Kept, Int64]] = []
        counted = _Nearest(most, wanted)
        for kept in files:
            if counted.is_beyond(kept.published):
                break
            rows = _between(kept, kept.of(codes), wanted)
            rows = counted.take(kept.published[rows], rows)
            if len(rows):
                parts.append((kept, rows))
        chosen = ((kept, counted.near(kept.published[rows], rows)) for kept, rows in parts)
        return Found(wanted, tuple((kept.file, tuple(rows.tolist())) for kept, rows in chosen if len(rows)))

    def read(self, found: Found) -> tuple[pa.Table, bool]:
        """Return ``id``, ``published`` and ``article`` in the order asked for, and whether there are more.

        Raises:
            LakeError: a file cannot be read.
        """
        wanted = found.wanted

        def one(part: tuple[DataFile, tuple[int, ...]]) -> pa.Table:
            file, places = part
            return rows_at(self._storage, file, np.array(places, np.int64), _COLUMNS, self._footer(file))

        # A few row groups: threads would take longer.
        parts = of_each(self._storage, found.parts, one, at_once=1)
        rows = pa.concat_tables([_NONE, *parts])
        order: Any = "descending" if wanted.descending else "ascending"
        rows = rows.sort_by([("published", order), ("id", order)])
        if wanted.after is not None:
            rows = rows.filter(_behind(rows, wanted.after, wanted.descending))
        return rows.slice(0, wanted.limit).combine_chunks(), len(rows) > wanted.limit

    def _codes_of(self, wanted: Wanted) -> Int32 | None:
        if wanted.fits is None:
            return None
        if wanted.ticker is not None:
            code = self._codes.get(wanted.ticker) if wanted.fits(wanted.ticker) and wanted.ticker else None
            return np.array([] if code is None else [code], np.int32)
        fitting = [code for name, code in list(self._codes.items()) if name and wanted.fits(name)]
        return np.sort(np.array(fitting, np.int32))

    def _footer(self, file: DataFile) -> pq.FileMetaData:
        known = self._footers.get(file.path)
        if known is None:
            try:
                with self._storage.filesystem.open_input_file(self._storage.path(file.path)) as source:
                    known = pq.read_metadata(source)
            except (OSError, pa.ArrowInvalid) as error:
                raise LakeError(
                    self._storage.explain(f"read {file.path} of {NEWS.name} at", error)
                ) from error
            with self._of_footers:
                while len(self._footers) >= _FOOTERS:
                    del self._footers[next(iter(self._footers))]
                self._footers[file.path] = known
        return known


@dataclass
class _Nearest:
    """The instants of the articles found so far, and how many of them a page takes."""

    most: int
    wanted: Wanted
    times: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    #: No article beyond this instant is needed; None while there are too few.
    bound: int | None = None

    def is_beyond(self, published: Int64) -> bool:
        """Whether a file with such rows, ascending, and all files after it have none that is needed."""
        if self.bound is None:
            return False
        return published[-1] < self.bound if self.wanted.descending else published[0] > self.bound

    def take(self, times: Int64, rows: Int64) -> Int64:
        """Count rows of a file with their times, ascending, and return those that may be needed."""
        near = self._near_of_one(times)
        self.times = np.sort(np.concatenate([self.times, times[near]]))
        ahead = self.times
        if self.wanted.after is not None:
            # Those of the instant itself may all lie before the place.
            at = self.wanted.after[0]
            ahead = ahead[ahead < at] if self.wanted.descending else ahead[ahead > at]
        if len(ahead) >= self.most:
            self.bound = int(ahead[-self.most] if self.wanted.descending else ahead[self.most - 1])
        return rows[near]

    def near(self, times: Int64, rows: Int64) -> Int64:
        """Return the rows that are needed once all files are known."""
        if self.bound is None:
            return rows
        return rows[times >= self.bound if self.wanted.descending else times <= self.bound]

    def _near_of_one(self, times: Int64) -> slice:
        after, count = self.wanted.after, len(times)
        if self.wanted.descending:
            end = count if after is None else int(np.searchsorted(times, after[0], side="left"))
            if end <= self.most:
                return slice(0, count)
            return slice(int(np.searchsorted(times, times[end - self.most], side="left")), count)
        begin = 0 if after is None else int(np.searchsorted(times, after[0], side="right"))
        if count - begin <= self.most:
            return slice(0, count)
        return slice(0, int(np.searchsorted(times, times[begin + self.most - 1], side="right")))


def _oldest_first(files: tuple[_Kept, ...]) -> list[_Kept]:
    return sorted(files, key=lambda one: one.published[0])


def _between(kept: _Kept, rows: Int64, wanted: Wanted) -> Int64:
    """Return the rows that lie within the times asked for, and not before the place to go on from."""
    times = kept.published[rows]
    first, last = 0, len(rows)
    if wanted.start is not None:
        first = int(np.searchsorted(times, wanted.start))
    if wanted.end is not None:
        last = int(np.searchsorted(times, wanted.end))
    if wanted.after is not None and wanted.descending:
        last = min(last, int(np.searchsorted(times, wanted.after[0], side="right")))
    if wanted.after is not None and not wanted.descending:
        first = max(first, int(np.searchsorted(times, wanted.after[0])))
    return rows[first : max(first, last)]


def _behind(rows: pa.Table, after: Place, descending: bool) -> Any:
    """Return which rows lie behind a place."""
    compare = pc.less if descending else pc.greater
    times, ids = micros(rows["published"]), rows["id"].combine_chunks()
    later = times < after[0] if descending else times > after[0]
    same = times == after[0]
    return as_arrow(later | (same & np.asarray(compare(ids, after[1]))))

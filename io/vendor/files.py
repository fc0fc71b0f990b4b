"""The raw folder: what the vendor gave, in Parquet files that ``pipelines.load`` lands.

    daily/date=2024-03-11.parquet                  all symbols of a session
    daily/symbol=A/2024-03-11_2024-03-13.parquet   sessions of one symbol that its neighbours have
    minutes/symbol=A/2024-03.parquet               a month of a symbol's minutes
    _asked/...                                     when a symbol did not trade, as the vendor said

Each file comes whole or not at all, and its footer says when it was asked for and how whole it is. Prices are
as they were traded.
"""

from __future__ import annotations

import io
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from fibflow.io.aws import AwsConfig
from fibflow.io.failpoints import hit
from fibflow.io.files import RawFile, list_raw
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.schemas import DAILY_ROWS, TIMESTAMP

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

DAILY, MINUTES, ASKED = "daily", "minutes", "_asked"

_VALUES: list[Any] = [field for field in DAILY_ROWS if field.name not in ("symbol", "session")]
_KEY: list[Any] = [pa.field("symbol", pa.string()), pa.field("ts", TIMESTAMP)]
#: A session's rows in memory and in its file (where ``session`` is called ``date``): by symbol, each once.
SESSION_ROWS = pa.schema([pa.field("symbol", pa.string()), pa.field("session", pa.date32()), *_VALUES])
#: A symbol's minutes in memory and, without the symbol, in its file.
SYMBOL_MINUTES = pa.schema([*_KEY, *_VALUES])
#: Stretches of sessions, both ends included, of which the vendor has nothing of a symbol: it did not trade,
#: or its row was withdrawn; with an empty symbol, sessions that the vendor gave twice as they are held.
NO_TRADE = pa.schema([_KEY[0], pa.field("first", pa.date32()), pa.field("last", pa.date32())])

_ABOUT = b"fibflow.vendor"
_SESSION = re.compile(r"date=(\d{4}-\d{2}-\d{2})\.parquet")
_RANGE = re.compile(r"(\d{4}-\d{2}-\d{2})_\d{4}-\d{2}-\d{2}\.parquet")
_MONTH = re.compile(r"(\d{4}-\d{2})\.parquet")
_STAGED = ".vendor-"
_THREADS = 16
#: More files of what did not trade than this are made one.
_MOST_ASKED = 64


class SessionFile(NamedTuple):
    """What the footer of a session's file says.

    Attributes:
        whole: it was asked for after the session's day.
        symbols: the only ones that were kept; None for all.
        rows: how many it holds.
        asked: when.
    """

    whole: bool
    symbols: frozenset[str] | None
    rows: int
    asked: datetime

    def covers(self, symbols: frozenset[str] | None) -> bool:
        """Whether it is whole, and of all these symbols (None: of all that there are)."""
        if not self.whole:
            return False
        return self.symbols is None or (symbols is not None and symbols <= self.symbols)


@dataclass(frozen=True)
class RawFolder:
    """The folder, or the prefix of a bucket. Safe to use from several threads; files are not changed by two.

    Attributes:
        storage: the place.
        new_id: gives unique texts.
    """

    storage: Storage
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex

    @classmethod
    def at(cls, uri: str, aws: AwsConfig | None = None) -> RawFolder:
        """Return the folder at an address, there or not."""
        return cls(Storage(uri, aws))

    def uri(self, part: str) -> str:
        """Return the address of ``DAILY`` or ``MINUTES``, for ``pipelines.load``."""
        return self.storage.child(part).uri

    def raw_files(self, part: str) -> list[RawFile]:
        """Return the files of a part that ``pipelines.load`` would read; none where there is no such folder.

        Raises:
            InputError, LakeError: the place cannot be read.
        """
        # A killed run may leave folders without a file, which are no input.
        selector = pafs.FileSelector(self.storage.path(part), recursive=True, allow_not_found=True)
        try:
            found = self.storage.filesystem.get_file_info(selector)
        except OSError as error:
            raise LakeError(self.storage.explain("read", error)) from error
        if not any(info.path.endswith(".parquet") for info in found):
            return []
        return list_raw(self.uri(part), self.storage.aws)

    def first(self) -> date | None:
        """Return the first session that a file's name says it may hold; None where none says so.

        Raises:
            InputError, LakeError: the place cannot be read.
        """
        names = (file.path.rpartition("/")[2] for file in self.raw_files(DAILY))
        found = (_SESSION.fullmatch(name) or _RANGE.fullmatch(name) for name in names)
        return min((date.fromisoformat(match[1]) for match in found if match), default=None)

    def sessions(self, first: date, last: date) -> dict[date, SessionFile]:
        """Return what the files of the sessions in ``[first, last]`` say; a file that cannot be read is none.

        Raises:
            LakeError: the place cannot be read.
        """
        days = []
        for name in self.storage.names(DAILY):
            found = _SESSION.fullmatch(name)
            if found and first <= (day := date.fromisoformat(found[1])) <= last:
                days.append(day)
        with ThreadPoolExecutor(_THREADS) as pool:
            read = pool.map(lambda day: self._about(session_path(day)), days)
            return {
                day: SessionFile(
                    about["whole"], _symbols_of(about), about["rows"], datetime.fromisoformat(about["asked"])
                )
                for day, about in zip(days, read, strict=True)
                if about is not None
            }

    def read_session(self, day: date) -> pa.Table | None:
        """Return a session's rows, SESSION_ROWS; None where there is no file, or none that can be read."""
        rows = self._read(session_path(day))
        if rows is None:
            return None
        return rows.rename_columns(SESSION_ROWS.names).cast(SESSION_ROWS)

    def write_session(
        self, day: date, rows: pa.Table, asked: datetime, whole: bool, symbols: frozenset[str] | None
    ) -> None:
        """Write a session's rows in place of what was there.

        Args:
            day: the session.
            rows: SESSION_ROWS.
            asked: when the vendor was asked.
            whole: after the session's day.
            symbols: the only ones that were kept; None for all.
        """
        about = {"asked": asked.isoformat(), "whole": whole, "rows": len(rows)}
        if symbols is not None:
            about["symbols"] = sorted(symbols)
        self._write(session_path(day), _named(rows), about)

    def write_range(self, symbol: str, first: date, last: date, rows: pa.Table, asked: datetime) -> None:
        """Write rows of one symbol, SESSION_ROWS, each session once, asked for in ``[first, last]``.

        They join those of an earlier answer to the same.
        """
        about = {"asked": asked.isoformat(), "first": first.isoformat(), "last": last.isoformat()}
        path = f"{DAILY}/symbol={quote(symbol, safe='')}/{first}_{last}.parquet"
        named = _named(rows.drop_columns(["symbol"]))
        held = self._read(path)
        if held is not None:
            others = pc.invert(pc.is_in(held["date"], named["date"].combine_chunks()))
            named = pa.concat_tables([held.filter(others).cast(named.schema), named])
        self._write(path, named.sort_by("date"), about)

    def months(self, symbol: str) -> dict[str, frozenset[date]]:
        """Return the whole sessions of each month of a symbol's minutes, by ``2024-03``."""
        folder = f"{MINUTES}/symbol={quote(symbol, safe='')}"
        found = (_MONTH.fullmatch(name) for name in self.storage.names(folder))
        names = [match[1] for match in found if match]
        abouts = [self._about(f"{folder}/{name}.parquet") for name in names]
        return {
            name: frozenset(map(date.fromisoformat, about["sessions"]))
            for name, about in zip(names, abouts, strict=True)
            if about is not None
        }

    def read_month(self, symbol: str, month: str) -> pa.Table:
        """Return a month's minutes of a symbol, SYMBOL_MINUTES; none where there is no file."""
        rows = self._read(month_path(symbol, month))
        if rows is None:
            return SYMBOL_MINUTES.empty_table()
        named = rows.add_column(0, "symbol", pa.array([symbol] * len(rows), pa.string()))
        return named.rename_columns(SYMBOL_MINUTES.names).cast(SYMBOL_MINUTES)

    def write_month(
        self, symbol: str, month: str, rows: pa.Table, asked: datetime, sessions: Iterable[date]
    ) -> None:
        """Write a month's minutes of a symbol, SYMBOL_MINUTES, of which these sessions are whole."""
        about = {"asked": asked.isoformat(), "sessions": sorted(day.isoformat() for day in sessions)}
        named = rows.drop_columns(["symbol"]).rename_columns(
            ["timestamp" if name == "ts" else name for name in SYMBOL_MINUTES.names[1:]]
        )
        self._write(month_path(symbol, month), named, about)

    def no_trade(self) -> pa.Table:
        """Return where the vendor said that nothing traded, NO_TRADE."""
        names = sorted(name for name in self.storage.names(ASKED) if name.endswith(".parquet"))
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(lambda name: self._read(f"{ASKED}/{name}"), names))
        rows = pa.concat_tables(
            [NO_TRADE.empty_table(), *(part.cast(NO_TRADE) for part in parts if part is not None)]
        )
        if len(names) > _MOST_ASKED:
            # Killed between the two, the same is said twice.
            self.add_no_trade(rows)
            for name in names:
                self.storage.filesystem.delete_file(self.storage.path(f"{ASKED}/{name}"))
        return rows

    def add_no_trade(self, rows: pa.Table) -> None:
        """Remember more of NO_TRADE."""
        self._write(f"{ASKED}/{self.new_id()}.parquet", rows, {})

    def forget_no_trade(self) -> None:
        """Forget all of NO_TRADE: what is missing will be asked for again."""
        for name in self.storage.names(ASKED):
            self.storage.filesystem.delete_file(self.storage.path(f"{ASKED}/{name}"))

    def sweep(self, before: datetime) -> None:
        """Remove what killed runs left half written, if it is older than ``before``."""
        if self.storage.is_s3:
            return
        for path in Path(self.storage.base).glob(f"**/{_STAGED}*"):
            try:
                if path.stat().st_mtime < before.timestamp():
                    path.unlink()
            except FileNotFoundError:
                continue

    def _about(self, path: str) -> dict[str, Any] | None:
        """Return what a file's footer says of it; None for no file, or none of ours that can be read."""
        try:
            with self.storage.filesystem.open_input_file(self.storage.path(path)) as source:
                footer = pq.read_metadata(source).metadata or {}
            return json.loads(footer[_ABOUT])
        except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError):
            return None
        except OSError as error:
            if _is_broken(error):
                return None
            raise LakeError(self.storage.explain(f"read {path} of", error)) from error

    def _read(self, path: str) -> pa.Table | None:
        try:
            with self.storage.filesystem.open_input_file(self.storage.path(path)) as source:
                return pq.ParquetFile(source).read()
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        except OSError as error:
            if _is_broken(error):
                return None
            raise LakeError(self.storage.explain(f"read {path} of", error)) from error

    def _write(self, path: str, rows: pa.Table, about: dict[str, Any]) -> None:
        metadata = {_ABOUT: json.dumps({"basis": "raw", **about}, separators=(",", ":")).encode()}
        sink = io.BytesIO()
        pq.write_table(rows.replace_schema_metadata(metadata), sink, compression="zstd")
        try:
            if self.storage.is_s3:
                self.storage.write(path, sink.getvalue())
            else:
                self._replace(Path(self.storage.path(path)), sink.getvalue())
        except OSError as error:
            raise LakeError(self.storage.explain(f"write {path} to", error)) from error
        hit("after-vendor-file")

    def _replace(self, target: Path, content: bytes) -> None:
        """Put a file in its place in one step: it is there with all its bytes, or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f"{_STAGED}{self.new_id()}")
        try:
            with staged.open("wb") as file:
                file.write(content)
                file.flush()
                hit("before-vendor-file")
                os.fsync(file.fileno())
            staged.replace(target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise


def session_path(day: date) -> str:
    """Return the path of a session's file in the folder."""
    return f"{DAILY}/date={day.isoformat()}.parquet"


def month_path(symbol: str, month: str) -> str:
    """Return the path of a month of a symbol's minutes in the folder."""
    return f"{MINUTES}/symbol={quote(symbol, safe='')}/{month}.parquet"


def symbols_with_minutes(folder: RawFolder) -> list[str]:
    """Return the symbols that the folder has minutes of."""
    names: Sequence[str] = folder.storage.names(MINUTES)
    return sorted(unquote(name.partition("=")[2]) for name in names if name.startswith("symbol="))


def _named(rows: pa.Table) -> pa.Table:
    """Return rows with the session under a name that ``pipelines.load`` knows."""
    return rows.rename_columns(["date" if name == "session" else name for name in rows.column_names])


def _symbols_of(about: dict[str, Any]) -> frozenset[str] | None:
    return frozenset(about["symbols"]) if "symbols" in about else None


def _is_broken(error: OSError) -> bool:
    """Whether it is what is in a file that is wrong, not the way to it."""
    return error.errno is None and "AWS Error" not in str(error)

"""Keys in a file of SQLite: for a server on one machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from fibflow.serving.keys.store import (
    KeyRecord,
    KeysDown,
    KeysError,
    instant_of,
    scopes_of,
    scopes_text,
    seconds_of,
)

_WAIT_S = 2.0
_TABLES = """
CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL, owner TEXT NOT NULL, scopes TEXT NOT NULL, rate REAL NOT NULL,
    burst INTEGER NOT NULL, created REAL NOT NULL, expires REAL, revoked REAL, last_used REAL);
CREATE TABLE IF NOT EXISTS api_keys_version (version INTEGER NOT NULL);
INSERT INTO api_keys_version SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM api_keys_version);
"""
_CHANGED = "UPDATE api_keys_version SET version = version + 1"
_COLUMNS = "id, digest, owner, scopes, rate, burst, created, expires, revoked, last_used"

T = TypeVar("T")


class SqliteKeys:
    """A store of keys in a file, which the first key makes, readable by its owner only."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"SqliteKeys({str(self.path)!r})"

    def version(self) -> int:
        """Return the number of changes; -1 where there is no file."""
        return self._read(
            lambda db: int(db.execute("SELECT version FROM api_keys_version").fetchone()[0]), -1
        )

    def all(self) -> list[KeyRecord]:
        """Return all keys, the oldest first."""

        def question(db: sqlite3.Connection) -> list[KeyRecord]:
            rows = db.execute(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created, id")
            return [record_of(row) for row in rows]

        return self._read(question, [])

    def add(self, record: KeyRecord) -> None:
        """Keep a key.

        Raises:
            KeysError: there is one of this id.
        """

        def change(db: sqlite3.Connection) -> None:
            db.execute(f"INSERT INTO api_keys ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", row_of(record))
            db.execute(_CHANGED)

        try:
            self._write(change)
        except sqlite3.IntegrityError:
            raise KeysError(f"there is a key {record.id} already: make another") from None

    def revoke(self, key_id: str, at: datetime) -> bool:
        """Let a key be used no more from an instant on."""

        def change(db: sqlite3.Connection) -> bool:
            done = db.execute(
                "UPDATE api_keys SET revoked = :at WHERE id = :id AND (revoked IS NULL OR revoked > :at)",
                {"at": at.timestamp(), "id": key_id},
            ).rowcount
            if done:
                db.execute(_CHANGED)
            return bool(done)

        return self._write(change) if self.path.exists() else False

    def touch(self, used: Mapping[str, datetime]) -> None:
        """Note when keys were used last."""
        rows = [(at.timestamp(), key_id) for key_id, at in used.items()]
        if rows and self.path.exists():
            self._write(
                lambda db: db.executemany(
                    "UPDATE api_keys SET last_used = max(coalesce(last_used, 0), ?) WHERE id = ?", rows
                )
            )

    def close(self) -> None:
        """Do nothing: each question opens the file and closes it."""

    def _read(self, question: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        with self._lock:
            if not self.path.exists():
                return nothing
            try:
                with closing(self._open()) as db:
                    return question(db)
            except sqlite3.Error as error:
                raise self._down(error) from error

    def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                self._make()
                with closing(self._open()) as db, db:
                    return change(db)
            except sqlite3.IntegrityError:
                raise
            except (sqlite3.Error, OSError) as error:
                raise self._down(error) from error

    def _make(self) -> None:
        if self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        with closing(self._open()) as db, db:
            db.executescript(_TABLES)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=_WAIT_S)

    def _down(self, error: Exception) -> KeysDown:
        return KeysDown(f"the file of keys {self.path} cannot be used: {error}")


def record_of(row: tuple) -> KeyRecord:
    """Return the key of a row."""
    key_id, digest, owner, scopes, rate, burst, *instants = row
    created, expires, revoked, last_used = map(instant_of, instants)
    assert created is not None
    return KeyRecord(
        key_id,
        bytes(digest),
        owner,
        scopes_of(scopes),
        float(rate),
        int(burst),
        created,
        expires,
        revoked,
        last_used,
    )


def row_of(record: KeyRecord) -> tuple:
    """Return the row of a key."""
    instants = (record.created, record.expires, record.revoked, record.last_used)
    return (
        record.id,
        record.digest,
        record.owner,
        scopes_text(record.scopes),
        record.rate,
        record.burst,
        *map(seconds_of, instants),
    )

"""Delta's transaction log as this package writes it: one JSON file a version, put where none is.

``deltalake`` reads every table here. Commits are written by us, by the protocol of writer version 2,
because its Python API (1.6) can neither create a table that has properties of ours, nor change
properties in the commit that changes files: a killed run would leave one without the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.storage import Storage

LOG = "_delta_log"
_LAST_CHECKPOINT = f"{LOG}/_last_checkpoint"
PREFIX = "fibflow."
SCOPE = "fibflow.scope"
RUN = "fibflow.run"
COMMIT = "fibflow.commit"
_READ_AHEAD = 16

_COMMIT_FILE = re.compile(r"^(\d{20})\.(?:json|checkpoint(?:\.[^/]*)?\.parquet)$")


@dataclass(frozen=True)
class Scope:
    """What a run may change: symbols, timeframes, and sessions ``start`` to ``end``, both included.

    None means all. Two runs whose scopes share nothing can both land.
    """

    symbols: tuple[str, ...] | None = None
    timeframes: tuple[str, ...] | None = None
    start: date | None = None
    end: date | None = None

    def intersects(self, other: Scope) -> bool:
        """Whether both may change the same row."""
        return (
            _overlap(self.symbols, other.symbols)
            and _overlap(self.timeframes, other.timeframes)
            and not (self.end is not None and other.start is not None and self.end < other.start)
            and not (other.end is not None and self.start is not None and other.end < self.start)
        )

    def to_json(self) -> str:
        """One JSON object, as it stands in a commit's ``fibflow.scope``."""
        return json.dumps(
            {
                "symbols": None if self.symbols is None else sorted(self.symbols),
                "timeframes": None if self.timeframes is None else sorted(self.timeframes),
                "from": self.start.isoformat() if self.start else None,
                "to": self.end.isoformat() if self.end else None,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Scope:
        """The inverse of ``to_json``."""
        d = json.loads(text)
        return cls(
            None if d.get("symbols") is None else tuple(d["symbols"]),
            None if d.get("timeframes") is None else tuple(d["timeframes"]),
            date.fromisoformat(d["from"]) if d.get("from") else None,
            date.fromisoformat(d["to"]) if d.get("to") else None,
        )

    def describe(self) -> str:
        """A few words for an error line."""
        parts = [_shortened(self.timeframes), _shortened(self.symbols)]
        if self.start or self.end:
            parts.append(f"{self.start or ''}..{self.end or ''}")
        return " of ".join(part for part in parts if part) or "everything"


def _overlap(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> bool:
    if a is None or b is None:
        # An empty list touches nothing, also where the other side is "all".
        return a != () and b != ()
    return not set(a).isdisjoint(b)


def _shortened(names: tuple[str, ...] | None) -> str:
    if names is None:
        return ""
    shown = " ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


@dataclass(frozen=True)
class Entry:
    """One commit of the log, whoever wrote it."""

    version: int
    actions: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The actions of one kind: ``add``, ``remove``, ``txn``, ``metaData``, ``commitInfo`` ..."""
        return [action[kind] for action in self.actions if kind in action]

    def files(self, kind: str, moved: bool = True) -> list[DataFile]:
        """The files of the ``add`` or ``remove`` actions, without those that only moved rows if so asked."""
        return [
            DataFile(
                unquote(action["path"]),
                action.get("size") or 0,
                json.loads(action.get("stats") or "{}").get("numRecords", 0),
                action.get("partitionValues") or {},
                action.get("stats") or "",
                action.get("modificationTime", 0),
            )
            for action in self.of(kind)
            if moved or action.get("dataChange", True)
        ]

    @property
    def info(self) -> dict[str, Any]:
        """What the commit's writer said of it."""
        return next(iter(self.of("commitInfo")), {})

    @property
    def changes_rows(self) -> bool:
        """Whether rows came or went: compaction, vacuum and new properties only touch files and facts."""
        return any(f.get("dataChange", True) for f in (*self.of("add"), *self.of("remove")))

    @property
    def scope(self) -> Scope | None:
        """What the commit's rows belong to; None where its files only moved rows (compaction, vacuum)."""
        text = self.info.get(SCOPE)
        if self.of("protocol") and self.version > 0:
            return Scope()
        if not self.changes_rows:
            return None
        return Scope.from_json(text) if text else Scope()


class DeltaLog:
    """The versions of one table."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def head(self) -> int:
        """The newest version, -1 where there is no table."""
        # A stream's log has tens of thousands of versions: only what follows the checkpoint is listed.
        hint = self.storage.read(_LAST_CHECKPOINT) if self.storage.is_s3 else None
        after = f"{json.loads(hint)['version']:020d}" if hint else ""
        found = (_COMMIT_FILE.match(name) for name in self.storage.names(LOG, after))
        return max((int(m.group(1)) for m in found if m), default=-1)

    def read(self, version: int) -> Entry | None:
        """One commit; None where it is not there (not yet, or no longer: old ones expire)."""
        content = self.storage.read(f"{LOG}/{version:020d}.json")
        if content is None:
            return None
        return Entry(version, [json.loads(line) for line in content.splitlines() if line.strip()])

    def backwards(self, version: int) -> Iterator[Entry]:
        """The commits from a version back to the oldest that the log still holds."""
        ahead = _READ_AHEAD if self.storage.is_s3 else 1
        with ThreadPoolExecutor(ahead) as pool:
            for newest in range(version, -1, -ahead):
                oldest = max(-1, newest - ahead)
                for entry in pool.map(self.read, range(newest, oldest, -1)):
                    if entry is None:
                        return
                    yield entry

    def put(self, version: int, actions: Iterable[Mapping[str, Any]], token: str) -> bool:
        """Makes a version, atomically; False when it exists already."""
        lines = "\n".join(json.dumps(action, separators=(",", ":")) for action in actions)
        return self.storage.put_if_absent(f"{LOG}/{version:020d}.json", lines.encode(), token)


def commit_info(
    operation: str, run: str, token: str, scope: Scope, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """What a commit says of itself, but for its time and the version that it follows."""
    return {
        "operation": operation,
        "operationParameters": {"mode": "Append"},
        "engineInfo": "fibflow",
        RUN: run,
        COMMIT: token,
        SCOPE: scope.to_json(),
        **{PREFIX + key.removeprefix(PREFIX): value for key, value in metadata.items()},
    }


def creation_actions(
    spec: TableSpec, table_id: str, created: int, configuration: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What version 0 says of the table; ``created`` is milliseconds since 1970."""
    return [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {
            "metaData": {
                "id": table_id,
                "name": spec.name,
                "description": None,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": schema_string(spec.schema),
                "partitionColumns": list(spec.partition_by),
                "createdTime": created,
                "configuration": dict(configuration),
            }
        },
    ]


def schema_string(schema: pa.Schema) -> str:
    """An arrow schema as Delta's JSON, every column nullable."""
    from deltalake import Schema

    plain = pa.schema([pa.field(field.name, field.type) for field in schema])
    return str(Schema.from_arrow(plain).to_json())

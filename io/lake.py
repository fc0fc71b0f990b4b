"""Delta tables whose files workers write and one commit makes visible, on a folder or S3.

No lock is held. A commit lands only as the next version of the log; one that finds other versions there
since its base reads what they touched: it lands on top where they share nothing, and else says why not.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from fibflow.io.datafiles import DataFile, DataFileWriter, TableSpec
from fibflow.io.deltalog import (
    COMMIT,
    PREFIX,
    RUN,
    DeltaLog,
    Entry,
    Scope,
    commit_info,
    creation_actions,
    schema_string,
)
from fibflow.io.failpoints import hit
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError, Storage

if TYPE_CHECKING:
    from fibflow.io.aws import AwsConfig

__all__ = [
    "ConflictError",
    "Lake",
    "LakeError",
    "LakeTable",
    "PropertyMismatch",
    "RebaseNeeded",
    "Scope",
    "TableMissing",
    "TableSpec",
    "VersionMissing",
]

_CHECKPOINT_EVERY = 10
_CHECKPOINT_ACTIONS = 2_000
_ATTEMPTS = 100
_WRITER_VERSION = 2


class ConflictError(LakeError):
    """Another run wrote the same rows first; nothing of this commit is visible."""


class RebaseNeeded(LakeError):
    """Files that this commit replaces were replaced by another: merge again on a new snapshot."""


class PropertyMismatch(LakeError):
    """The table was made with other properties than this run asks for."""


class TableMissing(LakeError):
    """There is no such table."""


class VersionMissing(LakeError):
    """The table is not as old as that."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Lake:
    """A folder or S3 prefix of tables. ``clock`` stamps commits; ``new_id`` gives unique hexadecimal ids."""

    uri: str
    aws: AwsConfig | None = None
    clock: Callable[[], datetime] = field(default=_utc_now, repr=False)
    new_id: Callable[[], str] = field(default=_new_id, repr=False)

    def table(self, spec: TableSpec) -> LakeTable:
        """The table ``<uri>/<spec.name>``, there or not; the first commit makes it."""
        if "%" in str(self.uri):
            # deltalake 1.6 decodes it on the way to some of its files.
            raise LakeError(f"{self.uri}: the path of a lake cannot hold the character %")
        return LakeTable(Storage(self.uri, self.aws).child(spec.name), spec, self.clock, self.new_id)


class LakeTable:
    """One table. Nothing is cached: each call sees the newest version."""

    def __init__(
        self,
        storage: Storage,
        spec: TableSpec,
        clock: Callable[[], datetime] = _utc_now,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self.storage = storage
        self.spec = spec
        self.clock = clock
        self.log = DeltaLog(storage)
        self._new_id = new_id

    def __repr__(self) -> str:
        return f"LakeTable({self.storage.uri!r})"

    @property
    def exists(self) -> bool:
        """Whether a commit has made the table. Raises LakeError where the place cannot be reached."""
        return self.log.head() >= 0

    @property
    def version(self) -> int:
        """The newest version, -1 where there is no table."""
        return self.log.head()

    def writer(self) -> DataFileWriter:
        """What workers write data files with."""
        return DataFileWriter(self.storage, self.spec)

    def open(self, version: int | None = None) -> DeltaTable:
        """The table as ``deltalake`` sees it. Raises TableMissing, or LakeError."""
        try:
            return DeltaTable(self.storage.uri, version=version, storage_options=self.storage.delta_options)
        except TableNotFoundError as error:
            raise TableMissing(f"there is no table {self.spec.name} at {self.storage.uri}") from error
        except DeltaError as error:
            at = "" if version is None else f" at version {version}"
            raise LakeError(self.storage.explain(f"open {self.spec.name}{at} at", error)) from error

    def snapshot(self, as_of: int | datetime | None = None) -> Snapshot:
        """The active files: of the newest version, of version ``as_of``, or as they were at that instant.

        Raises TableMissing; LakeError for a version that is not there or columns that are not the spec's.
        """
        version = self._version_at(as_of) if isinstance(as_of, datetime) else as_of
        table = self.open(version)
        self._check_schema(table)
        return Snapshot.of(table, self.storage, self.spec)

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The commits that the log still holds, newest first, as Delta describes them."""
        return list(self.open().history(limit))

    @property
    def properties(self) -> dict[str, str]:
        """The table's own properties, keys with their ``fibflow.`` prefix; none where there is no table."""
        return _own(self.open().metadata().configuration) if self.exists else {}

    def app_version(self, app_id: str) -> int | None:
        """The version that commits last gave for an application transaction."""
        return self.open().transaction_version(app_id) if self.exists else None

    def check(self, expected: Mapping[str, str], properties: Mapping[str, str] | None = None) -> None:
        """Raises PropertyMismatch where the table has another value than ``expected`` for one of its keys.

        A key that the table lacks is no mismatch. ``properties`` saves reading them again.
        """
        found = self.properties if properties is None else properties
        for key, value in expected.items():
            if key in found and found[key] != value:
                name = key.removeprefix(PREFIX)
                raise PropertyMismatch(
                    f"{self.spec.name} was made with {name}={found[key]}; this run asks for {name}={value}: "
                    "use another lake, or --full-refresh to write the table anew"
                )

    def changes(self, since: int, until: int | None = None) -> tuple[list[DataFile], list[DataFile]]:
        """The files (added, removed) by versions ``since`` + 1 to ``until`` (the newest), where rows changed.

        Compaction only moves rows and does not show. A file that came and went is in neither list; one that
        compaction has merged since is, and can be read until vacuum takes it. Raises LakeError when the log
        no longer holds those versions.
        """
        added: dict[str, DataFile] = {}
        removed: dict[str, DataFile] = {}
        last = self.log.head() if until is None else until
        for version in range(since + 1, last + 1):
            entry = self._entry(version)
            for file in entry.files("remove", moved=False):
                if added.pop(file.path, None) is None:
                    removed[file.path] = file
            for file in entry.files("add", moved=False):
                # A stream takes commits back, and may give them again.
                if removed.pop(file.path, None) is None:
                    added[file.path] = file
        return list(added.values()), list(removed.values())

    def commit(
        self,
        add: Sequence[DataFile] = (),
        remove: Sequence[DataFile] = (),
        *,
        base_version: int,
        scope: Scope,
        run: str,
        properties: Mapping[str, str] | None = None,
        app: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
        operation: str = "WRITE",
        data_change: bool = True,
        exact: bool = False,
    ) -> int:
        """Makes ``add`` visible and ``remove`` invisible in one version, and returns it.

        Args:
            add: new files of this table, as its writer described them.
            remove: files of this table, as a snapshot gave them.
            base_version: the snapshot's version that this run worked from, -1 where there was no table.
            scope: what this run may change; later runs read it from the commit.
            run: the run's id, for other runs' error lines.
            properties: set in the same version, others stay; keys start with ``fibflow.``, or ``delta.`` for
                Delta's own.
            app: application transactions, set in the same version.
            metadata: more facts for the commit, JSON values; keys get the prefix ``fibflow.``.
            operation: Delta's word for what was done.
            data_change: False when rows only moved between files.
            exact: land as the version after the base, or not at all.

        Raises:
            ConflictError: a version since the base changed rows of the same scope, or the same property.
            RebaseNeeded: none did, but files to remove are gone, or an application transaction is ahead; or,
                when ``exact``, another version came first.
            PropertyMismatch: another run made the table meanwhile, with other properties.
        """
        token = self._new_id()
        draft = _Draft(tuple(add), tuple(remove), scope, run, properties or {}, app or {}, data_change)
        draft.validate(self.spec)
        info = commit_info(operation, run, token, scope, metadata or {})
        hit("before-commit", self.spec.name)
        seen = base_version
        for _ in range(_ATTEMPTS):
            head = self.log.head()
            for version in range(seen + 1, head + 1):
                entry = self._entry(version, "run again")
                # The put may have landed although its answer was lost.
                if entry.info.get(COMMIT) == token:
                    return version
                if exact:
                    raise RebaseNeeded(f"{self.spec.name} has a version {version} meanwhile: run again")
                self._judge(entry, draft)
            seen = max(seen, head)
            now = int(self.clock().timestamp() * 1000)
            stamp = {"timestamp": now, **info, **({"readVersion": base_version} if base_version >= 0 else {})}
            actions = [{"commitInfo": stamp}, *self._actions(head, base_version, draft, now)]
            if self.log.put(head + 1, actions, token):
                hit("after-commit", self.spec.name)
                self.checkpoint(head + 1, len(add) + len(remove))
                return head + 1
        raise ConflictError(f"{self.spec.name} is written to too often to commit: run again")

    def _entry(self, version: int, advice: str = "do a full run") -> Entry:
        entry = self.log.read(version)
        if entry is None:
            raise LakeError(f"{self.spec.name} no longer has the log of version {version}: {advice}")
        return entry

    def _judge(self, entry: Entry, draft: _Draft) -> None:
        """Raises where a version that landed since the base keeps the draft from landing."""
        if not draft.data_change:
            return
        landed = entry.scope
        if landed is not None and landed.intersects(draft.scope):
            raise ConflictError(
                f"another run wrote {self.spec.name} at the same time (version {entry.version}, run "
                f"{entry.info.get(RUN, 'unknown')}, {landed.describe()}): nothing was written; run again"
            )
        for txn in entry.of("txn"):
            if txn["version"] > draft.app.get(txn["appId"], txn["version"]):
                raise RebaseNeeded(
                    f"{self.spec.name} has {txn['appId']} at {txn['version']} since version {entry.version}: "
                    "run again"
                )

    def _actions(self, head: int, base_version: int, draft: _Draft, now: int) -> list[dict[str, Any]]:
        """The actions of the draft as version ``head + 1``."""
        actions: list[dict[str, Any]] = []
        stamp = now
        if head < base_version:
            raise LakeError(f"{self.spec.name} has no version {base_version} any more: run again")
        if head < 0:
            actions += creation_actions(self.spec, str(uuid.UUID(self._new_id())), now, draft.properties)
        else:
            metadata, newest = self._on_top(head, base_version, draft)
            actions += metadata
            # Files of a later version are younger, whatever the clocks say.
            stamp = max(now, newest + 1)
        actions += [
            {"txn": {"appId": app_id, "version": version, "lastUpdated": now}}
            for app_id, version in draft.app.items()
        ]
        actions += [{"remove": f.to_remove_action(now, draft.data_change)} for f in draft.remove]
        actions += [{"add": f.to_add_action(stamp, draft.data_change)} for f in draft.add]
        return actions

    def _on_top(self, head: int, base_version: int, draft: _Draft) -> tuple[list[dict[str, Any]], int]:
        """Checks the draft against version ``head``.

        Returns the new metadata where properties change, and the stamp of the youngest file.
        """
        table = self.open(head)
        self.check_writable(table)
        snapshot = Snapshot.of(table, self.storage, self.spec)
        active = snapshot.paths
        newest = max(snapshot.newest, *(file.modified for file in draft.add), 0)
        if gone := {file.path for file in draft.remove} - active:
            raise RebaseNeeded(f"{self.spec.name}: {len(gone)} of the files to replace are gone: run again")
        if twice := {file.path for file in draft.add} & active:
            raise LakeError(f"{self.spec.name} already holds {min(twice)}: nothing was written")
        current = table.metadata().configuration
        changed = {k: v for k, v in draft.properties.items() if current.get(k) != v}
        if not changed:
            return [], newest
        if base_version < 0:
            self.check(changed, current)
        elif head > base_version:
            before = self.open(base_version).metadata().configuration
            if moved := [k for k in changed if k in current and before.get(k) != current[k]]:
                raise ConflictError(
                    f"another run set {moved[0]} of {self.spec.name} to {current[moved[0]]} "
                    "at the same time: nothing was written; run again"
                )
        return [{"metaData": self._metadata(table, {**current, **changed})}], newest

    def check_writable(self, table: DeltaTable) -> None:
        """Raises LakeError where an open table has other columns or a newer protocol than we write."""
        writer = table.protocol().min_writer_version
        if writer > _WRITER_VERSION:
            raise LakeError(
                f"another tool moved {self.spec.name} to Delta's writer version {writer}; Fibflow writes "
                f"{_WRITER_VERSION}: use another lake"
            )
        self._check_schema(table)

    def _metadata(self, table: DeltaTable, configuration: Mapping[str, str]) -> dict[str, Any]:
        found = table.metadata()
        return {
            "id": str(found.id),
            "name": found.name,
            "description": found.description,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": table.schema().to_json(),
            "partitionColumns": list(found.partition_columns),
            "createdTime": found.created_time,
            "configuration": dict(configuration),
        }

    def _check_schema(self, table: DeltaTable) -> None:
        found = _column_types(table.schema().to_json())
        wanted = _column_types(schema_string(self.spec.schema))
        if found != wanted or tuple(table.metadata().partition_columns) != self.spec.partition_by:
            raise LakeError(
                f"{self.spec.name} at {self.storage.uri} has other columns or partitions than this release "
                "writes: use another lake"
            )

    def checkpoint(self, version: int, actions: int) -> None:
        """Makes a checkpoint now and then, after a commit of so many actions."""
        if actions < _CHECKPOINT_ACTIONS and (version == 0 or version % _CHECKPOINT_EVERY):
            return
        # The commit has landed; a checkpoint only makes the next opens faster.
        with contextlib.suppress(DeltaError, LakeError, OSError):
            self.open(version).create_checkpoint()

    def _version_at(self, instant: datetime) -> int:
        wanted = int(instant.timestamp() * 1000)
        stamped = [(c["timestamp"], c["version"]) for c in self.history() if "timestamp" in c]
        found = [version for at, version in stamped if at <= wanted]
        if not found:
            raise VersionMissing(f"{self.spec.name} has no version as old as {instant.isoformat()}")
        return int(max(found))


@dataclass(frozen=True)
class _Draft:
    """A commit that has not landed."""

    add: tuple[DataFile, ...]
    remove: tuple[DataFile, ...]
    scope: Scope
    run: str
    properties: Mapping[str, str]
    app: Mapping[str, int]
    data_change: bool

    def validate(self, spec: TableSpec) -> None:
        adds, removes = [f.path for f in self.add], [f.path for f in self.remove]
        if len(set(adds)) < len(adds) or set(adds) & set(removes):
            raise ValueError(f"{spec.name}: a file is added twice, or added and removed")
        if strange := [key for key in self.properties if not key.startswith((PREFIX, "delta."))]:
            raise ValueError(f"{spec.name}: the property {strange[0]!r} does not start with {PREFIX!r}")


def _own(configuration: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in configuration.items() if key.startswith(PREFIX)}


def _column_types(schema: str) -> list[tuple[str, Any]]:
    return [(f["name"], f["type"]) for f in json.loads(schema)["fields"]]

"""The newest version of a table as one who appends often sees it: followed through the log.

Opening a table costs by its files, and listing its log by its age. Who has opened it once can read on
instead: a commit then costs two small reads and one write, whatever the table holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fibflow.io.datafiles import DataFile
from fibflow.io.deltalog import COMMIT, Entry, Scope, commit_info
from fibflow.io.failpoints import hit
from fibflow.io.lake import LakeTable, TableMissing
from fibflow.io.snapshot import Snapshot


@dataclass(frozen=True)
class Tip:
    """What one application has to know of a version to put the next one on top.

    Attributes:
        version: the version.
        number: what the application's last transaction said, 0 where there was none.
        stamp: when the youngest file came, milliseconds since 1970.
        properties: the table's configuration.
    """

    version: int
    number: int
    stamp: int
    properties: Mapping[str, str]


class LogTail:
    """The tip of a table for one application. Not for several threads at once."""

    def __init__(self, table: LakeTable, app_id: str, new_id: Callable[[], str]) -> None:
        self._table = table
        self._app_id = app_id
        self._new_id = new_id
        self._tip: Tip | None = None

    def follow(self) -> Tip | None:
        """Return the tip of the newest version, None where there is no table.

        Raises:
            LakeError: the table cannot be read, or is not one that we write.
        """
        tip = self._tip
        while tip is not None:
            entry = self._table.log.read(tip.version + 1)
            if entry is None:
                break
            tip = self._after(tip, entry)
        # What follows a version that has expired may have expired too.
        if tip is None or self._table.log.read(tip.version) is None:
            tip = self._opened()
        self._tip = tip
        return tip

    def _after(self, tip: Tip, entry: Entry) -> Tip | None:
        """The tip one version on; None where the table has to be opened to know."""
        if entry.of("metaData") or entry.of("protocol"):
            return None
        numbers = [txn["version"] for txn in entry.of("txn") if txn["appId"] == self._app_id]
        stamps = [action.get("modificationTime", 0) for action in entry.of("add")]
        return replace(
            tip,
            version=entry.version,
            number=numbers[-1] if numbers else tip.number,
            stamp=max(tip.stamp, *stamps, 0),
        )

    def _opened(self) -> Tip | None:
        try:
            delta = self._table.open()
        except TableMissing:
            return None
        self._table.check_writable(delta)
        snapshot = Snapshot.of(delta, self._table.storage, self._table.spec)
        number = delta.transaction_version(self._app_id)
        return Tip(snapshot.version, number or 0, snapshot.newest, dict(delta.metadata().configuration))

    def append(
        self, files: Sequence[DataFile], number: int, scope: Scope, run: str, metadata: Mapping[str, Any]
    ) -> int | None:
        """Make files visible in the version after the tip, and return it; None where another came first.

        The caller has followed the log to the tip, and proved that none of the files is there yet.

        Args:
            files: new files, as their writer described them.
            number: of the application's transaction.
            scope: what the rows belong to.
            run: the run's id.
            metadata: more facts for the commit.
        """
        tip = self._tip
        assert tip is not None
        token = self._new_id()
        now = int(self._table.clock().timestamp() * 1000)
        # Files of a later version are younger, whatever the clocks say.
        stamp = max(now, tip.stamp + 1)
        info = commit_info("WRITE", run, token, scope, metadata)
        actions = [
            {"commitInfo": {"timestamp": now, **info, "readVersion": tip.version}},
            {"txn": {"appId": self._app_id, "version": number, "lastUpdated": now}},
            *({"add": file.to_add_action(stamp)} for file in files),
        ]
        hit("before-commit", self._table.spec.name)
        version = tip.version + 1
        if not self._table.log.put(version, actions, token):
            landed = self._table.log.read(version)
            # The put may have landed although its answer was lost.
            if landed is None or landed.info.get(COMMIT) != token:
                return None
        hit("after-commit", self._table.spec.name)
        self._tip = replace(tip, version=version, number=number, stamp=stamp)
        self._table.checkpoint(version, len(files))
        return version

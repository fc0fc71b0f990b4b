"""What became of a table since a commit that a restored state remembers: what a stream has to take back."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from fibflow.io.datafiles import DataFile
from fibflow.io.deltalog import PREFIX, Entry
from fibflow.io.lake import LakeTable
from fibflow.io.storage import LakeError

#: In a compaction's commit: an application's id to the number of its last commit that may have been merged.
COMPACTED = f"{PREFIX}compacted"
#: In a compaction's commit: until when, ISO 8601, commits may have been merged.
COMPACTED_UNTIL = f"{PREFIX}compacted_until"


@dataclass
class Since:
    """The files of one application's commits after one of them, by path.

    Attributes:
        added: they came since, and are there.
        gone: they were there, and are not: a commit since took them back.
        landed: all that came since, whether they are still there or not; where others took rows out of the
            table, what came after that.
        merged: they came since, and compaction has put their rows into other files.
        merger: the newest commit that did so.
    """

    added: dict[str, DataFile] = field(default_factory=dict)
    gone: dict[str, DataFile] = field(default_factory=dict)
    landed: set[str] = field(default_factory=set)
    merged: set[str] = field(default_factory=set)
    merger: Entry | None = None

    def apply(self, entry: Entry, app_id: str) -> None:
        """Go one version on."""
        ours = number_of(entry, app_id) is not None
        for file, action in zip(entry.files("remove"), entry.of("remove"), strict=True):
            came = self.added.pop(file.path, None)
            if not action.get("dataChange", True):
                if came is not None:
                    self.merged.add(file.path)
                    self.merger = entry
            elif ours and came is None:
                self.gone[file.path] = file
        if not ours and any(action.get("dataChange", True) for action in entry.of("remove")):
            # Somebody set the table back: what waits in the state is added again, twice rather than never.
            self.landed.clear()
        if ours:
            for file in entry.files("add", moved=False):
                self.landed.add(file.path)
                if self.gone.pop(file.path, None) is None:
                    self.added[file.path] = file


def number_of(entry: Entry, app_id: str) -> int | None:
    """Return the number that a commit gave an application's transaction, None where it gave none."""
    return next((txn["version"] for txn in entry.of("txn") if txn["appId"] == app_id), None)


def since(table: LakeTable, app_id: str, number: int, head: int, whole: bool = True) -> Since:
    """Return what became of the table between the application's commit ``number`` and version ``head``.

    Args:
        table: the table.
        app_id: the application.
        number: its commit that the restored state remembers as the last; 0 for none.
        head: the newest version.
        whole: refuse where the log does not reach back that far; else go by what it holds.

    Raises:
        LakeError: the log does not reach back to that commit, or never held it.
    """
    entries = table.log.backwards(head)
    before: Iterator[Entry] = iter(())
    after: list[Entry] = []
    reached = False
    for entry in entries:
        found = number_of(entry, app_id)
        if found is not None and found <= number:
            if found < number:
                raise LakeError(
                    f"{table.spec.name} at {table.storage.uri} never had commit {number} of {app_id}: "
                    "the savepoint is of another lake"
                )
            reached, before = True, chain([entry], entries)
            break
        after.append(entry)
        # An application counts from 1.
        if found == 1:
            reached, before = True, entries
            break
    if not reached and whole:
        raise LakeError(_expired(table, app_id, number))
    result = Since()
    for entry in reversed(after):
        result.apply(entry, app_id)
    if result.gone and whole:
        _describe(result.gone, before)
        if not all(file.modified for file in result.gone.values()):
            raise LakeError(_expired(table, app_id, number))
    return result


def refuse_older(table: LakeTable, app_id: str, written: int) -> None:
    """Raise LakeError where compaction has merged commits that came after a savepoint was written.

    What the first commit after a restore would find, said before the job starts.

    Args:
        table: the table.
        app_id: the application.
        written: when the savepoint was, UTC microseconds.
    """
    merger: Entry | None = None
    for entry in table.log.backwards(table.log.head()):
        if entry.info.get("timestamp", 0) * 1000 <= written:
            return
        through = entry.info.get(COMPACTED, {}).get(app_id)
        if merger is None and through:
            merger, most = entry, through
        number = number_of(entry, app_id)
        if merger is not None and number is not None and number <= most:
            raise LakeError(
                f"{table.spec.name} at {table.storage.uri} was compacted through commit {most} of {app_id}, "
                f"and this savepoint is older than commit {number}: start from a savepoint taken after "
                f"{merger.info.get(COMPACTED_UNTIL)}"
            )


def _describe(files: dict[str, DataFile], entries: Iterator[Entry]) -> None:
    """Put what the commits that brought the files said of them in the place of what removed them said."""
    wanted = set(files)
    for entry in entries:
        for file in entry.files("add"):
            if file.path in wanted:
                wanted.remove(file.path)
                files[file.path] = file
        if not wanted:
            return


def _expired(table: LakeTable, app_id: str, number: int) -> str:
    return (
        f"the log of {table.spec.name} no longer reaches back to commit {number} of {app_id}: "
        "start from a newer savepoint"
    )


def refuse_merged(table: LakeTable, app_id: str, number: int, found: Since, pending: Collection[str]) -> None:
    """Raise LakeError where rows that have to be taken back lie in files with rows that have not."""
    if found.merged <= set(pending) or found.merger is None:
        return
    info: dict[str, Any] = found.merger.info
    through, until = info.get(COMPACTED, {}).get(app_id), info.get(COMPACTED_UNTIL)
    how_far = f"through commit {through} " if through else ""
    when = f"taken after {until}" if until else f"newer than version {found.merger.version}"
    raise LakeError(
        f"{table.spec.name} at {table.storage.uri} was compacted {how_far}of {app_id}, and this savepoint "
        f"knows its commits up to {number} only: start from a savepoint {when}"
    )

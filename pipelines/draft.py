"""What a load asks to commit to its bronze table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from fibflow.io.datafiles import DataFile
from fibflow.io.lake import LakeTable, PropertyMismatch, RebaseNeeded, Scope
from fibflow.io.landing import FILE_ROWS, REPLACED, rewritten_name
from fibflow.io.ledger import MOST_SMALL_FILES, SMALL_FILE_ROWS
from fibflow.io.manifest import Manifest
from fibflow.io.snapshot import Snapshot, read_files
from fibflow.io.upsert import pieces, sort_rows

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Draft:
    """Files to add and to remove.

    Attributes:
        run: the load's id.
        landed: its number.
        add, remove: files of which rows are new or changed.
        moved_to, moved_from: files of which only sources of rows changed: no reader has to look at them.
        sessions: those whose rows are new or changed, oldest first.
        anew: the load replaces all that the table holds.
    """

    run: str
    landed: int
    add: list[DataFile]
    remove: list[DataFile]
    moved_to: list[DataFile] = field(default_factory=list)
    moved_from: list[DataFile] = field(default_factory=list)
    sessions: list[date] = field(default_factory=list)
    anew: bool = False

    @classmethod
    def of(cls, bronze: LakeTable, base: Snapshot, manifest: Manifest, run: str, landed: int) -> Draft:
        """Take what the pipeline wrote; merge the small files of periods that have many."""
        sessions = sorted(
            _EPOCH + timedelta(days=int(name.partition(".")[2]))
            for name in manifest.tallies
            if name.startswith("session.")
        )
        made = {file.path: file for file in manifest.of_table(base.spec.name)}
        gone = {file.path: file for file in manifest.of_table(REPLACED)}
        for period, small in _periods_to_merge(base, made, gone).items():
            merged = _merged(bronze, small, period, run)
            for file in small:
                if made.pop(file.path, None) is None:
                    gone[file.path] = file
                else:
                    bronze.storage.filesystem.delete_file(bronze.storage.path(file.path))
            made |= {file.path: file for file in merged}
        moves = {}
        for path in gone:
            written = f"{path.rpartition('/')[0]}/{rewritten_name(path, run)}.parquet"
            if written in made and _newest(made[written]) < landed:
                moves[path] = written
        moved_to = [made.pop(written) for written in moves.values()]
        moved_from = [gone.pop(path) for path in moves]
        return cls(run, landed, list(made.values()), list(gone.values()), moved_to, moved_from, sessions)

    def in_place_of(self, snapshot: Snapshot) -> Draft:
        """Return the draft of a load that replaces all that the table holds."""
        return replace(self, remove=snapshot.select(), anew=True)

    @property
    def written(self) -> int:
        """How many files are added."""
        return len(self.add) + len(self.moved_to)

    @property
    def replaced(self) -> int:
        """How many files are removed."""
        return len(self.remove) + len(self.moved_from)

    def commit(
        self, bronze: LakeTable, base_version: int, scope: Scope, properties: Mapping[str, str]
    ) -> int:
        """Commit, and return the version; rows that only moved have a commit of their own.

        Raises:
            ConflictError: another load changed rows of the same scope first.
            RebaseNeeded: another load landed first, and this one has to be made again.
        """
        version = base_version
        if self.moved_to:
            version = bronze.commit(
                self.moved_to,
                self.moved_from,
                base_version=base_version,
                scope=Scope(symbols=()),
                run=self.run,
                metadata={"landed": []},
                operation="OPTIMIZE",
                data_change=False,
            )
        if not (self.add or self.remove):
            return version
        try:
            return bronze.commit(
                self.add,
                self.remove,
                base_version=base_version,
                scope=scope,
                run=self.run,
                properties=properties,
                metadata={"landed": [self.landed], **({"full": True} if self.anew else {})},
                operation="MERGE",
            )
        except PropertyMismatch as error:
            # Another load made the table meanwhile, perhaps only with sessions of other years.
            raise RebaseNeeded(str(error)) from error


def _periods_to_merge(
    base: Snapshot, made: Mapping[str, DataFile], gone: Mapping[str, DataFile]
) -> dict[str, list[DataFile]]:
    """Return the small files of each period that gets files and has too many small ones."""
    touched = {file.partition["period"] for file in made.values()}
    small: dict[str, list[DataFile]] = defaultdict(list)
    for file in (*base.select(), *made.values()):
        period = file.partition["period"]
        if period in touched and file.rows < SMALL_FILE_ROWS and file.path not in gone:
            small[str(period)].append(file)
    return {period: files for period, files in sorted(small.items()) if len(files) > MOST_SMALL_FILES}


def _merged(bronze: LakeTable, files: Sequence[DataFile], period: str, run: str) -> list[DataFile]:
    """Write the rows of small files of a period to few files."""
    spec = bronze.spec
    rows, _ = read_files(bronze.storage, spec, files, spec.file_schema.names, dictionary=["symbol"])
    assert spec.time_column is not None
    parts = pieces(sort_rows(rows, spec.time_column), FILE_ROWS)
    return [
        bronze.writer().write(part, {"period": period}, f"{run}-merged-{number}")
        for number, part in enumerate(parts)
    ]


def _newest(file: DataFile) -> int:
    """Return the greatest number of a load that changed a row of a file."""
    return int(json.loads(file.stats)["maxValues"]["landed"])

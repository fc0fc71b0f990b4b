"""What a pipeline made, told to the process that commits: one small JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from fibflow.io.datafiles import DataFile
from fibflow.io.storage import LakeError, Storage

FILE = "manifest.json"
PROGRESS = "progress"


class Wrote(NamedTuple):
    """A data file that a worker wrote for a table."""

    table: str
    file: DataFile


class Tally(NamedTuple):
    """Something counted: ``rows_read``, or ``rejected.<reason>``."""

    name: str
    number: int


class Newest(NamedTuple):
    """The newest session seen in the rows: days since 1970."""

    day: int


Told = Wrote | Tally | Newest


@dataclass
class Manifest:
    """All that workers told.

    Attributes:
        files: by table, in order of path.
        tallies: what was counted, summed.
        newest: the newest session of the rows, days since 1970; None for minutes.
    """

    files: dict[str, list[DataFile]] = field(default_factory=dict)
    tallies: Counter[str] = field(default_factory=Counter)
    newest: int | None = None

    @classmethod
    def of(cls, told: Iterable[Told]) -> Manifest:
        """Gather what workers told; a file that a retried bundle wrote again counts once."""
        files: dict[str, dict[str, DataFile]] = {}
        tallies: Counter[str] = Counter()
        days: list[int] = []
        for item in told:
            if isinstance(item, Wrote):
                files.setdefault(item.table, {})[item.file.path] = item.file
            elif isinstance(item, Newest):
                days.append(item.day)
            else:
                tallies[item.name] += item.number
        ordered = {table: [found[path] for path in sorted(found)] for table, found in files.items()}
        return cls(ordered, tallies, max(days, default=None))

    def of_table(self, name: str) -> list[DataFile]:
        """Return the files of a table."""
        return self.files.get(name, [])

    def write(self, staging: Storage) -> None:
        """Write the manifest to its place in ``staging``."""
        files = {table: [asdict(file) for file in found] for table, found in self.files.items()}
        content = json.dumps({"files": files, "tallies": self.tallies, "newest": self.newest}).encode()
        staging.write(FILE, content)

    @classmethod
    def read(cls, staging: Storage) -> Manifest:
        """Read the manifest of a pipeline that has ended.

        Raises:
            LakeError: where there is none.
        """
        content = staging.read(FILE)
        if content is None:
            raise LakeError(f"the pipeline left no manifest at {staging.uri}: it did not end; run again")
        found: dict[str, Any] = json.loads(content)
        files = {table: [DataFile(**file) for file in made] for table, made in found["files"].items()}
        return cls(files, Counter(found["tallies"]), found["newest"])

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
    count: int


@dataclass
class Manifest:
    """All files by table, in order of path, and all tallies."""

    files: dict[str, list[DataFile]] = field(default_factory=dict)
    tallies: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, told: Iterable[Wrote | Tally]) -> Manifest:
        """Gather what workers told; a file that a retried bundle wrote again counts once."""
        files: dict[str, dict[str, DataFile]] = {}
        tallies: Counter[str] = Counter()
        for item in told:
            if isinstance(item, Wrote):
                files.setdefault(item.table, {})[item.file.path] = item.file
            else:
                tallies[item.name] += item.count
        return cls({table: [found[path] for path in sorted(found)] for table, found in files.items()}, tallies)

    def of_table(self, name: str) -> list[DataFile]:
        """Return the files of a table."""
        return self.files.get(name, [])

    def write(self, staging: Storage) -> None:
        """Write the manifest to its place in ``staging``."""
        files = {table: [asdict(file) for file in found] for table, found in self.files.items()}
        content = json.dumps({"files": files, "tallies": self.tallies}).encode()
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
        return cls(files, Counter(found["tallies"]))

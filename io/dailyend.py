"""How the daily run ended last, for who watches it: a file of the lake, written at each run's end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from fibflow.io.storage import LakeError, Storage

_STATE = "_daily/ended.json"


@dataclass(frozen=True)
class DailyEnd:
    """What is known of daily runs.

    Attributes:
        succeeded: when one last ended well, with a zone; None: none has.
        differences: bars of the stream that differ from batch's for no known reason, as the last one found;
            None where it did not look.
    """

    succeeded: datetime | None = None
    differences: int | None = None

    @classmethod
    def read(cls, storage: Storage) -> DailyEnd:
        """Return what a lake says; nothing where it says nothing that can be read.

        Raises:
            LakeError: the lake cannot be read.
        """
        content = storage.read(_STATE)
        if content is None:
            return cls()
        try:
            told = json.loads(content)
            at, differences = told["succeeded"], told["differences"]
            return cls(
                None if at is None else datetime.fromisoformat(at),
                None if differences is None else int(differences),
            )
        except (ValueError, KeyError, TypeError):
            return cls()

    def write(self, storage: Storage) -> None:
        """Note it in a lake.

        Raises:
            LakeError: it cannot be written.
        """
        at = None if self.succeeded is None else self.succeeded.isoformat()
        content = json.dumps({"succeeded": at, "differences": self.differences})
        try:
            storage.write(_STATE, content.encode())
        except OSError as error:
            raise LakeError(storage.explain("write to", error)) from error

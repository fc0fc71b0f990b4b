"""Meters: steps that note when tables pass a place in a job's graph, and how late their rows are.

What a meter notes goes to files of its own in a local folder, once a bundle, so that it is exact to the
table, needs no server, and costs two numbers a table.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_NOTE = np.dtype([("at", "<f8"), ("rows", "<i8"), ("final", "<i8")])
#: Tables that a rate within a run needs.
LEAST = 10
_NOTES, _LAGS = "notes", "lags"


@beam.typehints.with_input_types(pa.Table)
class Meter(beam.DoFn):
    """Notes when each table came, its rows, and how many of these are final bars.

    Args:
        folder: where to; made before.
        place: what the place is called.
        lags: note also how old each row is, by its ``ts`` and this machine's clock.
    """

    def __init__(self, folder: str, place: str, lags: bool = False) -> None:
        self._folder, self._place, self._lags = folder, place, lags

    def setup(self) -> None:
        """Name this instance's files."""
        self._name = f"{self._place}.{os.getpid()}.{uuid.uuid4().hex}"

    def start_bundle(self) -> None:
        self._kept: list[tuple[float, int, int]] = []
        self._ages: list[Floats] = []

    def process(self, element: pa.Table) -> None:
        now, final = time.time(), 0
        if self._lags and len(element):
            ts = element["ts"].combine_chunks().view(pa.int64()).to_numpy(zero_copy_only=False)
            self._ages.append(np.column_stack((ts / 1e6, now - ts / 1e6)))
        if "final" in element.column_names:
            flags: Any = element["final"].combine_chunks()
            final = flags.true_count
        self._kept.append((now, len(element), final))

    def finish_bundle(self) -> None:
        self._append(_NOTES, [np.array(self._kept, _NOTE)] if self._kept else [])
        self._append(_LAGS, self._ages)

    def _append(self, kind: str, parts: list[Any]) -> None:
        if parts:
            with Path(self._folder, f"{self._name}.{kind}").open("ab") as file:
                file.write(np.concatenate(parts).tobytes())


@dataclass(frozen=True)
class Notes:
    """What the meters of one place noted, in the order of time; arrays have shape (tables,).

    Attributes:
        at: when a table came, seconds since 1970.
        rows: of the table.
        final: rows of it that are final bars.
        process: the id of the process that it came to.
    """

    at: Floats
    rows: Ints
    final: Ints
    process: Ints

    @property
    def total(self) -> int:
        """All rows."""
        return int(self.rows.sum())

    @property
    def last(self) -> float:
        """When the last table came; 0 where none has."""
        return float(self.at[-1]) if len(self.at) else 0.0

    def by_process(self) -> dict[int, int]:
        """Return the rows of each process."""
        return {int(each): int(self.rows[self.process == each].sum()) for each in np.unique(self.process)}


def read_notes(folder: Path, place: str) -> Notes:
    """Return what the meters of a place have noted so far."""
    found: list[Any] = [np.zeros(0, _NOTE)]
    processes = [np.zeros(0, np.int64)]
    for path in sorted(folder.glob(f"{place}.*.{_NOTES}")):
        # A writer may be in the middle of its last note.
        content = path.read_bytes()
        notes = np.frombuffer(content[: len(content) // _NOTE.itemsize * _NOTE.itemsize], _NOTE)
        found.append(notes)
        processes.append(np.full(len(notes), int(path.name.split(".")[1]), np.int64))
    notes = np.concatenate(found)
    order = np.argsort(notes["at"], kind="stable")
    notes, process = notes[order], np.concatenate(processes)[order]
    return Notes(notes["at"], notes["rows"], notes["final"], process)


def read_lags(folder: Path, place: str) -> Floats:
    """Return the times of a place's rows and how late they came, seconds; shape (rows, 2), in no order."""
    parts = [np.fromfile(path, np.float64) for path in sorted(folder.glob(f"{place}.*.{_LAGS}"))]
    return np.concatenate([np.zeros(0), *parts]).reshape(-1, 2)


def rate(notes: Notes, end: float) -> float:
    """Return ticks a second from the first table to ``end``.

    The first table starts the clock, so its rows do not count: when they began to be read is not known.
    """
    if len(notes.at) < 2:
        raise ValueError(f"{len(notes.at)} tables: a rate needs two at least")
    return float((notes.total - notes.rows[0]) / (end - notes.at[0]))


def middle_rate(notes: Notes, begin: float = 0.1, end: float = 0.9) -> float:
    """Return ticks a second between two parts of all rows: without the beginning and the end of a run.

    NaN where fewer than ``LEAST`` tables lie between: those come in bursts.
    """
    passed = np.cumsum(notes.rows)
    first, last = np.searchsorted(passed, [begin * notes.total, end * notes.total])
    if last - first < LEAST:
        return float("nan")
    return float((passed[last] - passed[first]) / (notes.at[last] - notes.at[first]))

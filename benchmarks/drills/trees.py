"""Other releases of the package: copies of the source with some lines changed, for programs to import."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What commands and workers import.
ROOMS = ("io", "pipelines", "runners", "serving", "transforms")
_LEFT_OUT = ("__pycache__", "node_modules", "target", "static")


@dataclass(frozen=True)
class Change:
    """A text of a file that another one takes the place of; it is there once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Release:
    """A release that could follow this one.

    Attributes:
        version: what it calls itself.
        what: what is different, for people.
        changes: its lines.
    """

    version: str
    what: str
    changes: Sequence[Change]


#: A counter of the new code, by which it is told that workers run it.
COUNTER = "rows_of_upgrade"

KEEPS_STATE = Release(
    "0.1.1",
    "a counter more in the step that makes bars, and larger arrays in memory",
    (
        Change(
            "transforms/livedofn.py",
            "        is_history = note_of(rows) is not None\n",
            f'        beam.metrics.Metrics.counter("fibflow", "{COUNTER}").inc()\n'
            "        is_history = note_of(rows) is not None\n",
        ),
        Change("transforms/livestate.py", "_ROOM = 64\n", "_ROOM = 128\n"),
    ),
)
#: Nothing else would tell of this one: cells of a new name are empty, and each is written in its old format.
RENAMES = Release(
    "0.2.0",
    "the cells of minutes have another name, their format its old number",
    (Change("transforms/livecells.py", 'f"minutes_{slot}"', 'f"held_{slot}"'),),
)
NEW_FORMAT = Release(
    "0.3.0",
    "cells of another format",
    (Change("transforms/livecells.py", "\nFORMAT = 1\n", "\nFORMAT = 2\n"),),
)


def copy(release: Release, folder: Path, root: Path = ROOT) -> Path:
    """Make a release in a folder, and return the folder: on ``PYTHONPATH`` it comes before what is installed.

    Args:
        release: what to change.
        folder: a new one.
        root: of the package.

    Raises:
        ValueError: a text is not there once: the source has changed, and the release with it.
    """
    package = folder / "fibflow"
    package.mkdir(parents=True)
    for room in ROOMS:
        shutil.copytree(root / room, package / room, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    init = (root / "__init__.py").read_text()
    before, quote, rest = init.partition('__version__ = "')
    if not quote:
        raise ValueError("__init__.py names no version")
    (package / "__init__.py").write_text(f'{before}{quote}{release.version}"{rest.partition(chr(34))[2]}')
    for change in release.changes:
        path = package / change.file
        text = path.read_text()
        if text.count(change.old) != 1:
            raise ValueError(
                f"{change.file} holds {change.old.strip()!r} {text.count(change.old)} times, not once"
            )
        path.write_text(text.replace(change.old, change.new))
    return folder

"""Jars laid out in a folder, for a class path of our own order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path


def lay_out(jars: Sequence[Path], folder: Path) -> list[Path]:
    """Lay the jars out in a folder, so that they sort in this order.

    Not as symbolic links: Java follows those, and then finds the neighbours of the original that its manifest
    names, among them another logging API than Flink's.

    Returns:
        The files, in this order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{place:03d}-{jar.name}": jar for place, jar in enumerate(jars)}
    for old in folder.iterdir():
        if old.name not in wanted or not _same(old, wanted[old.name]):
            old.unlink()
    for name, jar in wanted.items():
        if (folder / name).exists():
            continue
        try:
            (folder / name).hardlink_to(jar)
        except OSError:  # another file system
            shutil.copy2(jar, folder / name)
    return [folder / name for name in wanted]


def _same(copy: Path, jar: Path) -> bool:
    one, other = copy.stat(), jar.stat()
    return os.path.samestat(one, other) or (one.st_size, one.st_mtime) == (other.st_size, other.st_mtime)

"""Named places at which a test can kill the process, as a machine that loses power would.

``FIBFLOW_FAILPOINT=name`` kills at the first hit of ``name``, ``name:3`` at the third, ``name/table`` at one
for that table. Unset, a hit costs one look into the environment.

``FIBFLOW_FAILPOINT_FILE=path`` names a file that holds the same text, for processes that are started again
with the environment that they had: it can be written while they run, and who dies takes it along.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

VARIABLE = "FIBFLOW_FAILPOINT"
FILE_VARIABLE = "FIBFLOW_FAILPOINT_FILE"

_hits: Counter[str] = Counter()
_lock = threading.Lock()


def hit(name: str, table: str = "") -> None:
    """SIGKILLs this process when the environment says that it dies here.

    Args:
        name: the place.
        table: of the lake, where the place has to do with one.
    """
    given = os.environ.get(VARIABLE)
    file = None if given else os.environ.get(FILE_VARIABLE)
    target, _, nth = (_read(file) if file else given or "").partition(":")
    if not target or target not in (name, f"{name}/{table}"):
        return
    with _lock:
        _hits[target] += 1
        count = _hits[target]
    if count >= int(nth or 1) and (not file or _take(file)):
        os.kill(os.getpid(), signal.SIGKILL)


def _read(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except FileNotFoundError:
        return ""


def _take(file: str) -> bool:
    """Whether this process is the one that dies."""
    try:
        Path(file).unlink()
    except FileNotFoundError:
        return False
    return True

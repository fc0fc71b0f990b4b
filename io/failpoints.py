"""Named places at which a test can kill the process, as a machine that loses power would.

``FIBFLOW_FAILPOINT=name`` kills at the first hit of ``name``, ``name:3`` at the third. Unset, a hit costs
one look into the environment.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

VARIABLE = "FIBFLOW_FAILPOINT"

_hits: Counter[str] = Counter()
_lock = threading.Lock()


def hit(name: str) -> None:
    """SIGKILLs this process when the environment says that it dies here."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    target, _, nth = wanted.partition(":")
    if target != name:
        return
    with _lock:
        _hits[name] += 1
        count = _hits[name]
    if count >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)

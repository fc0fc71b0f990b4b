"""CPU time of the servers of a stack, read from the kernel while a job runs."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

_TICK = os.sysconf("SC_CLK_TCK")
_STEP_S = 0.25
#: What a worker process of Beam is told apart by: the pool that starts them is a server of the stack.
_WORKER = b"sdk_worker"
WORKERS, POOL = "python-workers", "worker-pool"
#: After the name in parentheses: session, own user and system time, those of children that ended.
_SESSION, _TIMES = 3, slice(11, 15)


def seconds_by_session() -> dict[tuple[int, bool], float]:
    """Return the CPU seconds of all processes, by (session, whether they are Beam's Python workers)."""
    found: dict[tuple[int, bool], float] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rsplit(") ", 1)[1].split()
            is_worker = _WORKER in (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        key = int(fields[_SESSION]), is_worker
        found[key] = found.get(key, 0.0) + sum(map(int, fields[_TIMES])) / _TICK
    return found


class Sampler(ABC):
    """Takes samples from its beginning to its end, and in between every so many seconds."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(self._step_s):
            self._sample()

    @abstractmethod
    def _sample(self) -> None:
        """Take one."""


class CpuSampler(Sampler):
    """Samples the CPU time of processes, by the session that they belong to, until it is closed.

    Args:
        sessions: the sessions' ids by name; this process's own is added as ``benchmark``.
    """

    def __init__(self, sessions: Mapping[str, int]) -> None:
        self._names = {pid: name for name, pid in sessions.items()} | {os.getsid(0): "benchmark"}
        self._samples: list[tuple[float, dict[str, float]]] = []
        super().__init__(_STEP_S)

    def _sample(self) -> None:
        seconds: dict[str, float] = {}
        for (session, is_worker), spent in seconds_by_session().items():
            if name := self._names.get(session):
                name = WORKERS if is_worker else name
                seconds[name] = seconds.get(name, 0.0) + spent
        self._samples.append((time.time(), seconds))

    def between(self, begin: float, end: float) -> dict[str, float]:
        """Return the CPU seconds of each between two instants, interpolated between samples."""
        return spent(self._samples, begin, end)


def spent(samples: list[tuple[float, dict[str, float]]], begin: float, end: float) -> dict[str, float]:
    """Return the CPU seconds by name between two instants, of samples (instant, totals by name)."""
    times = np.array([at for at, _ in samples])
    found = {}
    for name in sorted({name for _, seconds in samples for name in seconds}):
        totals = np.maximum.accumulate(np.array([seconds.get(name, 0.0) for _, seconds in samples]))
        low, high = np.interp([begin, end], times, totals)
        found[name] = float(high - low)
    return found

"""The cluster of the streaming benchmark with PostgreSQL beside it, and jobs with alerts."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from fibflow.benchmarks.streaming.cluster import BenchCluster, Running, Shape
from fibflow.io.livestore import LiveStore
from fibflow.io.postgresql import migrate
from fibflow.pipelines.livegraph import LiveJob
from fibflow.runners.services.stack import Stack

_LOADED_WITHIN_S = 600.0
#: A counter of ``EvaluateAlerts``, as Flink's metrics name it.
CHANGES_IN = "alert_changes_in"


class AlertCluster(BenchCluster):
    """``BenchCluster`` whose jobs have alerts while ``alerts`` says how many there are.

    Jobs begin to read the stream when they have all of them: the emulator of Kinesis stands still until then.

    Attributes:
        alerts: that the database holds, and a job is to load; 0 for jobs without alerts.
        loaded_s: how long the last job took to load them.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.stack = Stack(("redis", "postgres", "moto", "flink", "beam"), folder=folder / "stack", slots=2)
        self.alerts = 0
        self.loaded_s = 0.0

    def __enter__(self) -> AlertCluster:
        super().__enter__()
        self.url = self.environment["DATABASE_URL"]
        migrate.upgrade(self.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_moto(signal.SIGCONT)
        super().__exit__(kind, error, trace)

    def submit(self, shape: Shape, name: str) -> Running:
        """Submit a job, and let it read the stream when it has the alerts."""
        try:
            job = super().submit(shape, name)
            if self.alerts:
                job.until(
                    lambda: counted(job, CHANGES_IN) >= self.alerts, _LOADED_WITHIN_S, "the loading of alerts"
                )
                self.loaded_s = time.time() - job.submitted
        finally:
            self._let_moto(signal.SIGCONT)
        return job

    def _job(self, shape: Shape, name: str, run: str, folder: Path, store: LiveStore | None) -> LiveJob:
        job = super()._job(shape, name, run, folder, store)
        self._let_moto(signal.SIGSTOP)
        return replace(job, alerts=self.url if self.alerts else None)

    def _let_moto(self, number: signal.Signals) -> None:
        pid = self.stack.pid("moto")
        if pid is not None:
            os.kill(pid, number)


def counted(job: Running, counter: str) -> int:
    """Return a counter of a job, over all subtasks; some seconds old."""
    total = 0
    for vertex in job.ask("")["vertices"]:
        names = [each["id"] for each in job.ask(f"/vertices/{vertex['id']}/metrics")]
        for name in names:
            if name.endswith(counter):
                told = job.ask(f"/vertices/{vertex['id']}/metrics?get={quote(name)}")
                total += sum(int(each["value"]) for each in told if re.fullmatch(r"\d+", each["value"]))
    return total

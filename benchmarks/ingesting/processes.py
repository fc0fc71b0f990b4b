"""The processes of the benchmark, and what the ingest costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fibflow.benchmarks.streaming.cpu import Sampler

_KEY = "benchmark"
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_WITHIN_S = 60.0


class BenchmarkError(Exception):
    """Something did not go as it has to; the message says what."""


class Child:
    """A process that says where it listens, and ends with its standard input."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-P", "-m", module, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.line())

    def line(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise BenchmarkError(f"{' '.join(map(str, self.process.args))} has ended")  # type: ignore[arg-type] # a list
        return line

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate(timeout=_WITHIN_S) if self.process.poll() is None else None


class IngestProcess:
    """``python -m pipelines.ingest``, its log beside its spool.

    Args:
        folder: of both.
        feed: the WebSocket's URL.
        kinesis: the service's.
        arguments: more of its command line.
    """

    def __init__(self, folder: Path, feed: str, kinesis: str, *arguments: str) -> None:
        self.log = folder / "ingest.log"
        env = os.environ | {
            "MASSIVE_API_KEY": _KEY,
            "AWS_ENDPOINT_URL": kinesis,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        command = [sys.executable, "-P", "-m", "fibflow.pipelines.ingest", "--to", "kinesis://ticks"]
        command += ["--feed-url", feed, "--spool", str(folder / "spool"), "--listen", "127.0.0.1:0"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], env=env, stdout=log, stderr=subprocess.STDOUT
            )
        self._port = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> float:
        """Have it drain and end; return the seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        if code := self.process.wait(_WITHIN_S * 5):
            raise BenchmarkError(f"the ingest ended with {code}: {self.log.read_text()[-2_000:]}")
        return time.monotonic() - began

    def counters(self) -> dict[str, float]:
        """Return its metrics, by name without what all have in common."""
        lines = self._get("/metrics").splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name.removeprefix("fibflow_ingest_"): float(value) for name, value in values.items()}

    def health(self) -> dict[str, Any]:
        """Return what ``/healthz`` tells."""
        told: dict[str, Any] = json.loads(self._get("/healthz"))
        return told

    def _get(self, path: str) -> str:
        if not self._port:
            until = time.monotonic() + _WITHIN_S
            while " has /healthz" not in (said := self.log.read_text()):
                if time.monotonic() > until or self.process.poll() is not None:
                    raise BenchmarkError(f"the ingest did not start: {said}")
                time.sleep(0.05)
            self._port = int(said.split(" has /healthz")[0].rpartition(":")[2])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=30) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()


class Watch(Sampler):
    """Takes the memory and the CPU seconds of a process, once a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(1.0)
        self._folder = Path(f"/proc/{pid}")
        self.memory: list[int] = []
        self.cpu: list[float] = []

    def _sample(self) -> None:
        try:
            pages = int((self._folder / "statm").read_text().split()[1])
            times = (self._folder / "stat").read_text().rsplit(") ", 1)[1].split()[11:13]
        except (OSError, IndexError):
            return  # it has ended
        self.memory.append(pages * _PAGE)
        self.cpu.append(sum(map(int, times)) / _TICK)

    @property
    def cpu_s(self) -> float:
        """CPU seconds from the beginning to the end."""
        return self.cpu[-1] - self.cpu[0] if self.cpu else 0.0

"""The servers that are measured: Fibflow's as a process of its own, Redis, and what both cost."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.streaming.cpu import Sampler
from fibflow.runners.services.process import Leash, Process, free_ports
from fibflow.runners.services.redis import Redis

_STARTS_WITHIN_S = 120.0
_STOPS_WITHIN_S = 30.0
_SAMPLE_S = 1.0
_KB = 1024
_SESSION = 3


class Server:
    """``python -m serving`` on a free port; ends with the block, and with this process.

    Args:
        folder: of its log and its pid file.
        lake: that it serves.
        redis: URL of the live store; None for none.
        arguments: more of its command line.
    """

    def __init__(self, folder: Path, lake: Path, redis: str | None, arguments: Sequence[str]) -> None:
        self._leash = Leash()
        self._process = Process("server", folder, self._leash)
        self._command = [sys.executable, "-P", "-m", "fibflow.serving", "--lake", str(lake), "--open"]
        self._command += ["--port", "0", "--quiet", "--redis", redis or "", *arguments]
        self.port = 0

    @property
    def session(self) -> int:
        """The session of its processes."""
        pid = self._process.pid
        if pid is None:
            raise BenchmarkError(f"the server has ended: {self._process.log}")
        return pid

    def __enter__(self) -> Server:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        log = self._process.log
        begin = log.stat().st_size if log.exists() else 0

        def answers() -> bool:
            with log.open("rb") as said:
                said.seek(begin)
                for line in said:
                    # It says its address as JSON, once it answers.
                    if line.startswith(b'{"url"') and line.endswith(b"\n"):
                        self.port = json.loads(line)["port"]
            return self.port > 0

        # No database and no Redis of whoever runs this.
        self._process.start(self._command, {"REDIS_URL": "", "DATABASE_URL": ""})
        self._process.wait_until(answers, _STARTS_WITHIN_S)

    def _stop(self) -> None:
        try:
            self._process.stop(_STOPS_WITHIN_S)
        finally:
            self._leash.close()


class RedisServer:
    """Redis on a free port; ends with the block, and with this process."""

    def __init__(self, folder: Path) -> None:
        self._leash = Leash()
        self._service = Redis(folder / "redis", free_ports(["redis"])["redis"])
        self._process = Process("redis", folder, self._leash)

    @property
    def url(self) -> str:
        """Of the live store."""
        return self._service.exports()["REDIS_URL"]

    @property
    def session(self) -> int:
        """The session of its process."""
        pid = self._process.pid
        if pid is None:
            raise BenchmarkError(f"Redis has ended: {self._process.log}")
        return pid

    def __enter__(self) -> RedisServer:
        try:
            self._service.prepare()
            start = self._process.starts + 1
            self._process.start(self._service.command(start), {})
            self._process.wait_until(lambda: self._service.answers(start), self._service.start_seconds)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.stop(_STOPS_WITHIN_S)
        finally:
            self._leash.close()


@dataclass(frozen=True)
class Memory:
    """Of all processes of a session, bytes.

    Attributes:
        pss: what is shared counts for each process in part: what they hold together.
        rss: the sum of their resident sets, what is shared counted for each.
        processes: how many they are.
    """

    pss: int
    rss: int
    processes: int


def memory_of(session: int) -> Memory:
    """Return what the processes of a session hold now."""
    pss = rss = processes = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rsplit(") ", 1)[1].split()
            if int(fields[_SESSION]) != session:
                continue
            rollup = (folder / "smaps_rollup").read_text()
        except (OSError, IndexError):
            continue  # it has ended
        sizes = {line.split(":")[0]: line.split()[1] for line in rollup.splitlines()[1:]}
        pss += int(sizes["Pss"]) * _KB
        rss += int(sizes["Rss"]) * _KB
        processes += 1
    return Memory(pss, rss, processes)


class MemorySampler(Sampler):
    """Samples the memory of a session until the block ends.

    Attributes:
        most: the sample with the greatest PSS.
        samples: how many there were.
    """

    def __init__(self, session: int) -> None:
        self._session = session
        self.most = Memory(0, 0, 0)
        self.samples = 0
        super().__init__(_SAMPLE_S)

    def _sample(self) -> None:
        self.most = max(self.most, memory_of(self._session), key=lambda memory: memory.pss)
        self.samples += 1


def stay_on(cores: int) -> int:
    """Let this process and all that it starts run on some cores only; return how many they are."""
    own = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, own)
    return len(own)


def load() -> str:
    """Return the load averages of 1, 5 and 15 minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())

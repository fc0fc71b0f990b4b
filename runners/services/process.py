"""What every server of the local stack is made of: a command, a process with a pid file, a ready check."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fibflow.runners.services import pids

HOST = "127.0.0.1"
_POLL_SECONDS = 0.05
_PROBE_SECONDS = 2.0
_KILL_SECONDS = 10.0
_TAIL_LINES = 15
_FIRST_PORT = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class ServiceError(Exception):
    """A server is missing, did not start, or died: a line that says what to do, then the end of its log."""


class Service(ABC):
    """One server of a stack: how it is started and asked. It starts nothing itself.

    Attributes:
        name: What the stack calls it.
        port: The loopback port on which it answers.
        listens: Whether it listens there itself, so that nobody else may.
        start_seconds: How long it may take to answer.
    """

    name: str
    port: int
    listens = True
    start_seconds = 60.0

    @property
    def address(self) -> str:
        """``host:port`` at which it answers."""
        return f"{HOST}:{self.port}"

    def prepare(self) -> None:
        """Write what the server needs before it starts: its files, its data folder.

        Raises:
            ServiceError: something it needs is not installed.
        """
        return

    @abstractmethod
    def command(self, start: int) -> list[str]:
        """Return the command line of its ``start``-th start, 1 and up."""

    def environment(self) -> dict[str, str]:
        """Return the variables to add to the server's environment."""
        return {}

    @abstractmethod
    def answers(self, start: int) -> bool:
        """Ask the ``start``-th start of the server once, and return within seconds whether it answered."""

    def exports(self) -> dict[str, str]:
        """Return the variables with which a program reaches the server."""
        return {}


@dataclass(frozen=True)
class _Record:
    """A pid file: who runs, how often it was started, where this start's log begins."""

    pid: int
    born: str
    starts: int
    log_start: int


class Leash:
    """A process that kills what is on it when the holder ends, however that happens.

    Not ``PR_SET_PDEATHSIG``: that follows the *thread* that started a process, and reaches no grandchildren.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def add(self, pid: int, born: str) -> None:
        """Put a session on the leash."""
        self._say(f"+{pid} {born}\n")

    def remove(self, pid: int, born: str) -> None:
        """Take a session off."""
        with suppress(BrokenPipeError):  # whoever stops things goes on when the leash was killed
            self._say(f"-{pid} {born}\n")

    def close(self) -> None:
        """Let go: kills what is still on it."""
        with self._lock:
            if self._process is not None:
                self._process.communicate()
                self._process = None

    def _say(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", pids.__file__],
                    stdin=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()


class Process:
    """A named process that leads a session of its own; its pid file and its log say all that is known of it.

    Args:
        name: Its name, and that of its files.
        folder: The stack's folder: ``pids/<name>.json`` and ``logs/<name>.log`` are below it.
        leash: What ends it with this process; without one it stays when this process ends.
    """

    def __init__(self, name: str, folder: Path, leash: Leash | None = None) -> None:
        self.name = name
        self.pid_file = folder / "pids" / f"{name}.json"
        self.log = folder / "logs" / f"{name}.log"
        self._leash = leash
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        record = self._record()
        if self._child is not None:
            self._child.poll()
        return record.pid if record and pids.is_alive(record.pid, record.born) else None

    @property
    def starts(self) -> int:
        """How often it was started since its stack was set up."""
        record = self._record()
        return record.starts if record else 0

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command in a session of its own, its output appended to the log.

        Raises:
            ServiceError: the program is not there, or may not be run.
        """
        self.kill()  # what an earlier start left of its session
        starts = self.starts + 1
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log_start = log.tell()
            try:
                self._child = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
            except OSError as error:
                raise ServiceError(f"{self.name}: cannot run {command[0]}: {error.strerror}") from error
        pid = self._child.pid
        born = pids.birth(pid)
        if born is None:
            raise ServiceError(self._ended(log_start))
        if self._leash:
            self._leash.add(pid, born)
        self._write(_Record(pid, born, starts, log_start))

    def wait_until(self, answers: Callable[[], bool], seconds: float) -> None:
        """Wait until the server answers.

        Raises:
            ServiceError: it ended, or it did not answer in time.
        """
        record = self._record()
        if record is None:
            raise ServiceError(f"{self.name} was not started")
        deadline = time.monotonic() + seconds
        while not answers():
            if self.pid is None:
                raise ServiceError(self._ended(record.log_start))
            if time.monotonic() > deadline:
                what = f"{self.name} runs (pid {record.pid}) but did not answer within {seconds:g} s"
                raise ServiceError(self._with_log(what, record.log_start))
            time.sleep(_POLL_SECONDS)

    def terminate(self) -> None:
        """Ask it to end."""
        pid = self.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def stop(self, seconds: float) -> None:
        """Ask it to end, wait, and kill what is left of its session; its pid file stays."""
        self.terminate()
        deadline = time.monotonic() + seconds
        while self.pid is not None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill it and all that it started, at once, as a machine's end would; its pid file stays."""
        record = self._record()
        if record is None:
            return
        deadline = time.monotonic() + _KILL_SECONDS
        # Until none is left: one of them may be starting another.
        while pids.signal_session(record.pid, record.born, signal.SIGKILL):
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{self.name} (pid {record.pid}) is still there {_KILL_SECONDS:g} s after SIGKILL"
                )
            time.sleep(_POLL_SECONDS / 10)
        if self._child is not None and self._child.pid == record.pid:
            self._child.wait()  # its threads may end after it
        if self._leash:
            self._leash.remove(record.pid, record.born)

    def _record(self) -> _Record | None:
        try:
            return _Record(**json.loads(self.pid_file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ServiceError(f"{self.pid_file} is not a pid file: remove it, and see what runs") from error

    def _write(self, record: _Record) -> None:
        draft = self.pid_file.with_suffix(".draft")
        draft.write_text(json.dumps(record.__dict__))
        draft.replace(self.pid_file)

    def _ended(self, log_start: int) -> str:
        code = self._child.poll() if self._child is not None else None
        return self._with_log(f"{self.name} ended" + (f" with exit code {code}" if code else ""), log_start)

    def _with_log(self, line: str, log_start: int) -> str:
        with self.log.open("rb") as log:
            log.seek(log_start)
            tail = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        said = "".join(f"\n  | {text}" for text in tail) if tail else " (empty)"
        return f"{line}. Its log: {self.log}{said}"


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """Return a loopback port for each name that nobody listens on now, all different.

    None of those that the system gives to connections: such a one could be taken before a server listens
    there, by whoever connects to anything.
    """
    most = _given_from()
    left = random.SystemRandom().sample(range(_FIRST_PORT, most), most - _FIRST_PORT)
    found: list[int] = []
    while len(found) < len(names):
        if not left:
            raise ServiceError(f"no port from {_FIRST_PORT} to {most - 1} is free on {HOST}")
        port = left.pop()
        with socket.socket() as probe:
            # As servers do: a port whose last connections are about to be forgotten is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                found.append(port)
    return dict(zip(names, found, strict=True))


def _given_from() -> int:
    """Return the first port that the system gives to connections."""
    with suppress(OSError, ValueError):
        first = int(_RANGE.read_text().split()[0])
        if first >= 2 * _FIRST_PORT:
            return first
    return 2 * _FIRST_PORT


def is_taken(port: int) -> bool:
    """Return whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(_PROBE_SECONDS)
        return probe.connect_ex((HOST, port)) == 0


def http_json(address: str, path: str) -> Any | None:
    """Return the JSON that an HTTP server gives for a path, or None where it does not answer with 200."""
    connection = http.client.HTTPConnection(address, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return json.loads(body) if response.status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def exchange(port: int, request: bytes, enough: int) -> bytes:
    """Send bytes to a loopback port and return the first ``enough`` bytes of what comes back, or fewer."""
    answer = b""
    try:
        with socket.create_connection((HOST, port), timeout=_PROBE_SECONDS) as connection:
            connection.sendall(request)
            while len(answer) < enough and (piece := connection.recv(enough - len(answer))):
                answer += piece
    except OSError:
        return answer
    return answer


def speaks_grpc(port: int) -> bool:
    """Return whether an HTTP/2 server answers there: its first frame is SETTINGS (RFC 9113, section 3.4)."""
    frame_header, settings = 9, 4
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, settings, 0, 0, 0, 0, 0])
    greeting = exchange(port, preface, frame_header)
    return len(greeting) == frame_header and greeting[3] == settings

"""Flink's REST API (1.19): jobs, their checkpoints, savepoints, and how to end them."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

#: Gives the time in seconds, from any beginning.
Clock = Callable[[], float]
#: Waits so many seconds.
Sleep = Callable[[float], None]

_TIMEOUT = 10.0
_POLL = 0.5
_ID = re.compile(r"[0-9a-f]{32}")
_OURS = re.compile(r"fibflow-(.+)-[0-9a-f]{16}")
# Lines of Java's traces, and of Flink's around them, that say nothing of the cause.
_NOISE = re.compile(
    r"at |\.\.\. \d+ more|Internal server error|<Exception on server|End of exception on server"
    r"|Caused by: .*Hadoop is not in the classpath"
)
_JAVA_NAME = re.compile(r"(?:[A-Za-z_$][\w$]*\.)+[A-Z][\w$]*: ")
_STARTING = re.compile(r"[Nn]ot all required tasks are|is initializing|is not being executed at the moment")
_UNKNOWN = "Could not find Flink job"
#: States in which a job is over, whatever it was.
ENDED = frozenset({"FINISHED", "CANCELED", "FAILED"})
_MOST_TEXT = 300


class FlinkError(Exception):
    """Flink cannot do what it was asked for. The message is one line that says what to do."""


@dataclass(frozen=True)
class Job:
    """A job of a cluster.

    Attributes:
        id: Flink's, 32 hexadecimal digits.
        name: as it was submitted.
        state: ``RUNNING``, ``RESTARTING``, ``FINISHED``, ``CANCELED``, ``FAILED``, ...
        started: milliseconds since 1970.
        changed: when it came into its state, milliseconds since 1970.
    """

    id: str
    name: str
    state: str
    started: int
    changed: int

    @property
    def called(self) -> str:
        """Its name as our command lines have it: ``live`` of ``fibflow-live-0123456789abcdef``."""
        ours = _OURS.fullmatch(self.name)
        return ours[1] if ours else self.name

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDED


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint or savepoint of a job that Flink completed.

    Attributes:
        id: its number within the job.
        path: where it is, a URI; None where it is gone, or was never kept. Flink answers from a list that
            may be three seconds old, but knows at once what it has deleted: even the newest may be gone.
        size: bytes of the whole state; an incremental one wrote fewer.
        triggered: milliseconds since 1970.
        took: milliseconds from the trigger to the last answer.
        is_savepoint: it was asked for; Flink never deletes it.
    """

    id: int
    path: str | None
    size: int
    triggered: int
    took: int
    is_savepoint: bool


class FlinkRest:
    """A client of a job manager.

    Args:
        address: ``host:port``, or ``http://`` or ``https://`` before it.
        timeout: of each request, seconds.

    Raises:
        FlinkError: the address cannot be read.
    """

    def __init__(self, address: str, timeout: float = _TIMEOUT) -> None:
        try:
            url = urlsplit(address if "://" in address else f"http://{address}")
            host, port = url.hostname, url.port
        except ValueError:
            host = port = None
        if not host or url.scheme not in ("http", "https"):
            raise FlinkError(f"{address!r} is no address of a Flink job manager: write it as host:8081")
        self.address = address
        self._host, self._port, self._secure = host, port, url.scheme == "https"
        self._prefix = url.path.rstrip("/")
        self._timeout = timeout

    def overview(self) -> dict[str, Any]:
        """Return the cluster's numbers: ``flink-version``, ``taskmanagers``, ``slots-available``, ...

        Raises:
            FlinkError: it cannot be reached.
        """
        return self._ask("GET", "/overview", "flink-version")

    def jobs(self) -> list[Job]:
        """Return the jobs that the job manager knows, the newest first; ended ones for some time.

        Raises:
            FlinkError: it cannot be reached.
        """
        told = self._ask("GET", "/jobs/overview", "jobs")["jobs"]
        jobs = [
            Job(job["jid"], job["name"], job["state"], job["start-time"], job["last-modification"])
            for job in told
        ]
        return sorted(jobs, key=lambda job: job.started, reverse=True)

    def job(self, named: str, running: bool = True) -> Job:
        """Return one job.

        Args:
            named: its id, its name, or what we call it, where only one such job runs.
            running: it has to; otherwise the newest of a name is meant where none runs.

        Raises:
            FlinkError: there is none, or several run.
        """
        jobs = self.jobs()
        of_name = [job for job in jobs if named in (job.id, job.name, job.called)]
        live = [job for job in of_name if not job.is_over]
        if len(live) > 1:
            raise FlinkError(
                f"{len(live)} jobs called {named} run: name one by its id, "
                f"{' or '.join(job.id for job in live)}"
            )
        if live:
            return live[0]
        if of_name and not running:
            return of_name[0]
        if of_name:
            raise FlinkError(f"job {named} does not run, it is {of_name[0].state}")
        known = sorted({job.called for job in jobs if not job.is_over})
        has = f"it runs {', '.join(known)}" if known else "it runs none"
        raise FlinkError(f"Flink at {self.address} knows no job {named}: {has}")

    def restarts(self, job: str) -> int | None:
        """Return how often a job was restarted after failures; None where it does not say."""
        told = self._ask("GET", f"/jobs/{quote(job)}/metrics?get=numRestarts")
        values = [item.get("value") for item in told if item.get("id") == "numRestarts"]
        return int(values[0]) if values and str(values[0]).lstrip("-").isdigit() else None

    def checkpoints(self, job: str) -> list[Checkpoint]:
        """Return the completed checkpoints and savepoints that the job manager remembers, newest first.

        Raises:
            FlinkError: it knows no such job.
        """
        told = self._ask("GET", f"/jobs/{quote(job)}/checkpoints")
        latest = told.get("latest") or {}
        listed = [*(told.get("history") or []), latest.get("completed"), latest.get("savepoint")]
        found = {
            item["id"]: Checkpoint(
                id=item["id"],
                path=None if item.get("discarded") else uri_of(item.get("external_path")),
                size=item.get("state_size") or 0,
                triggered=item["trigger_timestamp"],
                took=item.get("end_to_end_duration") or 0,
                is_savepoint=bool(item.get("is_savepoint")),
            )
            for item in listed
            if item and item.get("status") == "COMPLETED"
        }
        return [found[number] for number in sorted(found, reverse=True)]

    def failure(self, job: str) -> str | None:
        """Return why a job failed last, one line; None where it never did."""
        told = self._ask("GET", f"/jobs/{quote(job)}/exceptions?maxExceptions=1")
        trace = told.get("root-exception") or ""
        return _cause(trace) if trace else None

    def cancel(self, job: str) -> None:
        """Ask for the end of a job, without a savepoint.

        Raises:
            FlinkError: it knows no such job, or it is over.
        """
        self._ask("PATCH", f"/jobs/{quote(job)}?mode=cancel")

    def stop(
        self,
        job: str,
        folder: str | None = None,
        *,
        clock: Clock,
        sleep: Sleep,
        deadline: float = 300.0,
        drain: bool = False,
    ) -> str:
        """End a job with a savepoint and return the savepoint's URI.

        Args:
            job: its id.
            folder: where to, a URI; None for the cluster's default.
            clock: seconds.
            sleep: waits.
            deadline: seconds within which the savepoint has to be there.
            drain: let every window end first: only for a job that never goes on.

        Raises:
            FlinkError: the savepoint failed, and the job goes on; or it took too long.
        """
        # A native savepoint of RocksDB leaves out timers that are kept on the heap: the job would go on
        # without its sources, and say nothing.
        body = {"targetDirectory": folder, "drain": drain, "formatType": "CANONICAL"}
        trigger = self._ask("POST", f"/jobs/{quote(job)}/stop", "request-id", body=body)["request-id"]
        path = self._savepoint(job, trigger, clock, sleep, deadline)
        self._ended(job, clock, sleep, deadline)
        return path

    def ended(self, job: str, *, clock: Clock, sleep: Sleep, deadline: float = 60.0) -> str:
        """Wait for the end of a job and return its state.

        Raises:
            FlinkError: it has not ended in time.
        """
        return self._ended(job, clock, sleep, deadline)

    def _savepoint(self, job: str, trigger: str, clock: Clock, sleep: Sleep, deadline: float) -> str:
        began = clock()
        while True:
            told = self._ask("GET", f"/jobs/{quote(job)}/savepoints/{quote(trigger)}", "status")
            if told["status"]["id"] == "COMPLETED":
                break
            if clock() - began > deadline:
                raise FlinkError(
                    f"the savepoint of job {job} is not there after {deadline:g} s: give it a longer "
                    "--deadline, or see what holds it up in Flink's web interface"
                )
            sleep(_POLL)
        operation = told.get("operation") or {}
        if path := uri_of(operation.get("location")):
            return path
        why = _cause((operation.get("failure-cause") or {}).get("stack-trace") or "")
        if _UNKNOWN in why:
            raise FlinkError(f"Flink at {self.address}: {_no_job(job)}")
        raise FlinkError(f"the savepoint of job {job} failed, and the job goes on: {why}")

    def _ended(self, job: str, clock: Clock, sleep: Sleep, deadline: float) -> str:
        began = clock()
        while (state := str(self._ask("GET", f"/jobs/{quote(job)}", "state")["state"])) not in ENDED:
            if clock() - began > deadline:
                raise FlinkError(
                    f"job {job} is {state} after {deadline:g} s: see what holds it up in Flink's web "
                    "interface"
                )
            sleep(_POLL)
        return state

    def _ask(self, method: str, path: str, *needs: str, body: Any = None) -> Any:
        """Return what the API answers; ``needs`` are in it."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        try:
            content = None if body is None else json.dumps(body).encode()
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, self._prefix + path, content, headers)
            response = connection.getresponse()
            status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise FlinkError(
                f"Flink at {self.address} cannot be reached ({why}): check --flink-master, and that it runs"
            ) from error
        finally:
            connection.close()
        try:
            told = json.loads(text) if text else {}
        except ValueError:
            told = None
        if status >= http.client.BAD_REQUEST:
            raise FlinkError(f"Flink at {self.address}: {_refusal(status, told, path)}")
        if told is None or not all(name in told for name in needs):
            raise FlinkError(f"{self.address} answers, but is no Flink job manager: check --flink-master")
        return told


def flink_name(job: str, run: str) -> str:
    """Return what Flink is to call a run of a job; ``run`` has 16 hexadecimal digits."""
    return f"fibflow-{job}-{run}"


def uri_of(path: str | None) -> str | None:
    """Return a path as Flink says it (``file:/x``, ``<checkpoint-not-externally-addressable>``) as a URI."""
    if not path or path.startswith("<"):
        return None
    if path.startswith("file:") and not path.startswith("file://"):
        return "file://" + path.removeprefix("file:")
    return path


def _refusal(status: int, told: Any, path: str) -> str:
    errors: Sequence[str] = (told or {}).get("errors") or [] if isinstance(told, dict) else []
    text = _cause("\n".join(str(error) for error in errors)) if errors else f"HTTP status {status}"
    job = _ID.search(path)
    if status == http.client.NOT_FOUND and job:
        return _no_job(job[0])
    return text


def _no_job(job: str) -> str:
    return f"it runs no job {job} (any more): list says which there are"


def _cause(trace: str) -> str:
    """The innermost cause of a Java stack trace that says something, one line."""
    lines = [line.strip() for line in trace.splitlines()]
    told = [line for line in lines if line and not _NOISE.match(line)]
    causes = [line.removeprefix("Caused by: ") for line in told if line.startswith("Caused by: ")]
    line = (causes or told[:1] or ["no cause was given"])[-1]
    if _STARTING.search(line):
        return "not all of its tasks run yet: wait until they do, and try again"
    return _JAVA_NAME.sub("", line)[:_MOST_TEXT]

"""Numbers of a job out of Flink's REST API (1.19): its tasks' metrics, its watermark, its checkpoints.

Flink's job manager asks its task managers for metrics when somebody asks it, at most every ten seconds, and
answers with what it knew before: a number is as old as the scrape before this one. Names are as Flink makes
them: ``0.Operator.kinesis_messages_trades``, with ``_`` for each dot, colon, comma and space of a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from fibflow.io.flinkrest import FlinkRest

# Flink takes lines of 4,096 bytes.
_MOST_QUERY = 3_000
#: Beam's watermarks of who knows no time yet, and of whose input is over, milliseconds; Flink's are beyond.
_LEAST, _MOST = -9_223_372_036_854_775, 9_223_372_036_854_775


class Reading(NamedTuple):
    """A metric of a task: which subtask's, its name without the operator's, and what it says."""

    subtask: int
    name: str
    value: str


@dataclass(frozen=True)
class Vertex:
    """Tasks of a job that do the same.

    Attributes:
        id: Flink's.
        name: of its operators.
        runs: all of them run, or have ended.
    """

    id: str
    name: str
    runs: bool


@dataclass(frozen=True)
class Checkpoints:
    """A job's checkpoints, since it was submitted.

    Attributes:
        failed: how many failed.
        size: bytes of the state in the last one; None where there is none.
        took: seconds.
        ended: when it was whole, seconds since 1970.
    """

    failed: int
    size: int | None = None
    took: float = 0.0
    ended: float = 0.0


class FlinkNumbers(FlinkRest):
    """A client that reads numbers; it changes nothing."""

    def vertices(self, job: str) -> list[Vertex]:
        """Return the job's vertices.

        Raises:
            FlinkError: it knows no such job.
        """
        told = self._ask("GET", f"/jobs/{quote(job)}", "vertices")["vertices"]
        return [Vertex(each["id"], each["name"], each["status"] in ("RUNNING", "FINISHED")) for each in told]

    def readings(self, job: str, vertex: str, wanted: Callable[[str], bool]) -> Iterator[Reading]:
        """Yield the metrics of a vertex's subtasks.

        Args:
            job: its id.
            vertex: its id.
            wanted: says of a name, without the operator's, whether it is.

        Raises:
            FlinkError: it knows no such job or vertex.
        """
        path = f"/jobs/{quote(job)}/vertices/{quote(vertex)}/metrics"
        known = [each["id"] for each in self._ask("GET", path)]
        names = [name for name in known if wanted(name.rpartition(".")[2])]
        for part in _parts(names):
            for each in self._ask("GET", f"{path}?get={part}"):
                subtask, _, name = each["id"].partition(".")
                if subtask.isdigit() and each.get("value") is not None:
                    yield Reading(int(subtask), name.rpartition(".")[2], str(each["value"]))

    def totals(self, job: str) -> Checkpoints:
        """Return what is known of the job's checkpoints.

        Raises:
            FlinkError: it knows no such job.
        """
        told: dict[str, Any] = self._ask("GET", f"/jobs/{quote(job)}/checkpoints", "counts")
        failed = int(told["counts"].get("failed") or 0)
        last = (told.get("latest") or {}).get("completed")
        if not last:
            return Checkpoints(failed)
        took = (last.get("end_to_end_duration") or 0) / 1000
        return Checkpoints(failed, last.get("state_size") or 0, took, last["trigger_timestamp"] / 1000 + took)


def instant_of(watermark: str) -> float | None:
    """Return a watermark in seconds since 1970; None where no time is known, or none comes any more."""
    try:
        ms = int(watermark)
    except ValueError:
        return None
    return ms / 1000 if _LEAST < ms < _MOST else None


def _parts(names: Sequence[str]) -> Iterator[str]:
    """Yield names for ``get=``, as many at a time as a request takes."""
    part = ""
    for name in map(quote, names):
        if part and len(part) + len(name) >= _MOST_QUERY:
            yield part
            part = ""
        part = f"{part},{name}" if part else name
    if part:
        yield part

"""What a live job's state looks like, kept in the lake for each job that ran, and held against another's.

A savepoint says nothing of what its bytes mean: a cell of another name is empty, a cell of other contents is
read wrongly, and buckets by another number hold other symbols. So each submission leaves a layout under
Flink's id of the job, and whoever goes on from a savepoint or checkpoint of that job is compared with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from fibflow.io import submissions
from fibflow.io.storage import LakeError, Storage

FOLDER = f"{submissions.FOLDER}/layouts"
_FORMAT = 1
#: How Flink calls a savepoint's folder, with the first six digits of the job's id; and a checkpoint's.
_SAVEPOINT = re.compile(r"savepoint-([0-9a-f]{6})-[0-9a-f]+")
_CHECKPOINT = re.compile(r"chk-\d+")
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_NAMED = 3


class LayoutMismatch(LakeError):
    """A savepoint's state is not what the job would read. The message is one line that says what to do."""


@dataclass(frozen=True)
class Layout:
    """What a job's state is.

    Attributes:
        release: of Fibflow, which submitted the job; it is named, not compared.
        options: those that decide what the state means, by the option of pipelines.stream.
        sources: the steps that begin with nothing, in the runner's order: it tells them apart by place.
        steps: of each step with state, what each of its parts is: key, cells, timers, format.
    """

    release: str
    options: Mapping[str, str]
    sources: tuple[str, ...]
    steps: Mapping[str, Mapping[str, str]]


def keep(lake: Storage, job: str, layout: Layout) -> None:
    """Keep the layout of a job that runs.

    Args:
        lake: the lake's place.
        job: Flink's id.
        layout: of its state.

    Raises:
        LakeError: the file cannot be written.
    """
    content = json.dumps({"format": _FORMAT, **asdict(layout)}, indent=1, sort_keys=True).encode()
    submissions.write_whole(lake, f"{FOLDER}/{job}.json", content)


def of_savepoint(lake: Storage, uri: str) -> Layout | None:
    """Return the layout of the job that wrote a savepoint or checkpoint, by its folder's name.

    Args:
        lake: the lake's place.
        uri: the folder. None is known of a renamed one, nor of one of a job that kept none.

    Raises:
        LakeError: what is kept cannot be read.
    """
    place = PurePosixPath(uri.rstrip("/"))
    if _CHECKPOINT.fullmatch(place.name):
        job = place.parent.name if _ID.fullmatch(place.parent.name) else None
    elif found := _SAVEPOINT.fullmatch(place.name):
        known = (name.removesuffix(".json") for name in lake.names(FOLDER) if name.endswith(".json"))
        ids = [name for name in known if _ID.fullmatch(name) and name.startswith(found[1])]
        job = ids[0] if len(ids) == 1 else None
    else:
        job = None
    return None if job is None else _read(lake, f"{FOLDER}/{job}.json")


def _read(lake: Storage, path: str) -> Layout | None:
    content = lake.read(path)
    if content is None:
        return None
    try:
        found: dict[str, Any] = json.loads(content)
        if found.pop("format") != _FORMAT:
            # What a later release keeps is not compared by halves.
            raise LakeError(
                f"{lake.uri}/{path} is of another release: resume with that release, or move the file away "
                "to go on without a comparison"
            )
        return Layout(**{**found, "sources": tuple(found["sources"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LakeError(
            f"{lake.uri}/{path} cannot be read: move it away to go on without a comparison of the state"
        ) from error


def check(kept: Layout, job: Layout, name: str) -> None:
    """Refuse a state that a job would not read as it was written.

    A step or a cell that the state lacks begins empty: that is no reason.

    Args:
        kept: of the job that wrote the savepoint.
        job: of the one that is to go on.
        name: of the job, for the message.

    Raises:
        LayoutMismatch: they differ in what must not differ; options, or code.
    """
    options = [
        f"{option} {had} (not {job.options.get(option, 'none')})"
        for option, had in sorted(kept.options.items())
        if job.options.get(option) != had
    ]
    if options:
        raise LayoutMismatch(
            f"this state of job {name} was made with {_some(options)}: resume with what it was made with, or "
            f"{_anew(name)}"
        )
    if code := _of_code(kept, job):
        was = f"by Fibflow {kept.release}" if kept.release != job.release else "by other code"
        raise LayoutMismatch(
            f"this state of job {name} was written {was} and cannot be read by this one ({_some(code)}): "
            f"resume with the code that wrote it, or {_anew(name)}"
        )


def _of_code(kept: Layout, job: Layout) -> list[str]:
    """What differs in steps and their parts, a phrase each."""
    found = []
    if kept.sources != job.sources:
        found.append(f"it reads from {_listed(job.sources)}, the state is of {_listed(kept.sources)}")
    for step, parts in sorted(kept.steps.items()):
        if step not in job.steps:
            found.append(f"step {step} is gone")
            continue
        now = job.steps[step]
        for part, was in sorted(parts.items()):
            if part not in now:
                found.append(f"step {step}: {part} is gone")
            elif now[part] != was:
                found.append(f"step {step}: {part} is {now[part]}, was {was}")
    return found


def _some(phrases: list[str]) -> str:
    more = len(phrases) - _MOST_NAMED
    return "; ".join(phrases[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"


def _anew(name: str) -> str:
    return (
        f"make its bars anew: pipelines.stream without --savepoint, with --job NEW --replaces {name} (the "
        "stream holds the running session), and pipelines.reconcile (bronze.ticks holds those that ended)"
    )

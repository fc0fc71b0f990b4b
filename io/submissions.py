"""What was submitted, kept beside the lake's tables: with it a job goes on as it was started."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fibflow.io.redisaddress import without_password
from fibflow.io.storage import LakeError, Storage

FOLDER = "_jobs"
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: A retained checkpoint may be an earlier job's: of the one before, where this one never completed any.
_REMEMBERED = 20


@dataclass(frozen=True)
class Submission:
    """How a job was submitted last.

    Attributes:
        name: the job's, the same for all that go on from each other.
        argv: the command line of pipelines.stream; the password of Redis is not kept.
        checkpoints: the folder of its checkpoints, a URI.
        submitted: microseconds since 1970.
        jobs: Flink's ids of the jobs of this name, the newest last.
        savepoint: the one that the last stop left; None from the next submission on.
    """

    name: str
    argv: tuple[str, ...]
    checkpoints: str
    submitted: int
    jobs: tuple[str, ...] = ()
    savepoint: str | None = None


def submitted(
    lake: Storage, name: str, argv: Sequence[str], checkpoints: str, job: str, at: int
) -> Submission:
    """Keep how a job was submitted, and return it; ids of earlier jobs of the name stay.

    Args:
        lake: the lake's place.
        name: the job's: letters, digits, ``.``, ``_`` and ``-``.
        argv: its command line.
        checkpoints: the folder of its checkpoints, a URI.
        job: Flink's id.
        at: now, microseconds since 1970.

    Raises:
        LakeError: the name is none, or the file cannot be written.
    """
    earlier = read(lake, name)
    known = tuple(each for each in (earlier.jobs if earlier else ()) if each != job)
    made = Submission(name, tuple(argv), checkpoints, at, (*known, job)[-_REMEMBERED:])
    _write(lake, made)
    return made


def stopped(lake: Storage, name: str, savepoint: str) -> Submission | None:
    """Keep the savepoint that a stop left; returns None where nothing is known of the job.

    Raises:
        LakeError: the file cannot be read or written.
    """
    found = read(lake, name)
    if found is None:
        return None
    made = replace(found, savepoint=savepoint)
    _write(lake, made)
    return made


def read(lake: Storage, name: str) -> Submission | None:
    """Return how a job was submitted last, None where nothing is known of it.

    Raises:
        LakeError: the name is none, or the file cannot be read.
    """
    content = lake.read(_path(name))
    if content is None:
        return None
    try:
        found: dict[str, Any] = json.loads(content)
        if found.pop("format") != _FORMAT:
            raise LakeError(f"{lake.uri}/{_path(name)} is of another release: submit the job anew")
        return Submission(**{**found, "argv": tuple(found["argv"]), "jobs": tuple(found["jobs"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LakeError(f"{lake.uri}/{_path(name)} cannot be read: submit the job anew") from error


def names(lake: Storage) -> list[str]:
    """Return the jobs of which a submission is kept, sorted.

    Raises:
        LakeError: the place cannot be read.
    """
    found = (name.removesuffix(".json") for name in lake.names(FOLDER) if name.endswith(".json"))
    return sorted(name for name in found if _NAME.fullmatch(name))


def _path(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise LakeError(f"{name!r} is no name of a job: use letters, digits, '.', '_' and '-'")
    return f"{FOLDER}/{name}.json"


def _write(lake: Storage, made: Submission) -> None:
    # In one that is read back, too: an earlier release kept it.
    argv = [without_password(each) for each in made.argv]
    content = json.dumps({"format": _FORMAT, **asdict(made), "argv": argv}, indent=1).encode()
    write_whole(lake, _path(made.name), content)


def write_whole(lake: Storage, path: str, content: bytes) -> None:
    """Write a file of a lake over what was there; a crash leaves one or the other.

    Raises:
        LakeError: it cannot be written.
    """
    try:
        if lake.is_s3:
            lake.write(path, content)
            return
        target = Path(lake.path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Half a file would leave a job that cannot go on.
        draft = target.with_name(f".{target.name}.draft")
        draft.write_bytes(content)
        draft.replace(target)
    except OSError as error:
        raise LakeError(lake.explain(f"write {path} of", error)) from error

"""Savepoints and retained checkpoints where they are kept: a folder or a bucket that Flink wrote."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs as pafs

from fibflow.io.aws import AwsConfig
from fibflow.io.flinkrest import uri_of
from fibflow.io.storage import LakeError, Storage

#: Flink writes it last: with it a savepoint is whole.
METADATA = "_metadata"
_CHECKPOINT = re.compile(r"chk-(\d+)")


class SavepointError(LakeError):
    """There is no such savepoint. The message is one line that says what to do."""


@dataclass(frozen=True)
class Kept:
    """A savepoint or checkpoint.

    Attributes:
        uri: its folder.
        job: Flink's id of the job, where the folder says it.
        written: when it was whole, microseconds since 1970.
    """

    uri: str
    job: str | None
    written: int


def check(uri: str, aws: AwsConfig | None = None) -> Kept:
    """Return a savepoint that is whole.

    Args:
        uri: its folder, or the file ``_metadata`` in it; ``file:/x`` as Flink says it, too.
        aws: for ``s3://``.

    Raises:
        SavepointError: there is no such folder, or nothing whole in it.
        LakeError: the place cannot be read.
    """
    given = (uri_of(uri) or uri).rstrip("/").removesuffix(f"/{METADATA}")
    place = Storage(given, aws)
    try:
        folder, metadata = place.filesystem.get_file_info([place.base, place.path(METADATA)])
    except OSError as error:
        raise LakeError(place.explain("read", error)) from error
    if metadata.type == pafs.FileType.File:
        address = place.uri if place.is_s3 else f"file://{place.uri}"
        parent = PurePosixPath(place.base).parent.name
        is_checkpoint = _CHECKPOINT.fullmatch(PurePosixPath(place.base).name) is not None
        return Kept(address, parent if is_checkpoint else None, _micros(metadata))
    if folder.type == pafs.FileType.NotFound:
        raise SavepointError(f"there is no savepoint {given}: pipelines.jobs checkpoints lists what there is")
    raise SavepointError(
        f"{given} is no savepoint, or one that was never completed (no file {METADATA} in it): name the "
        "folder that holds the file"
    )


def retained(checkpoints: str, jobs: Collection[str], aws: AwsConfig | None = None) -> list[Kept]:
    """Return the whole checkpoints of some jobs that a folder of checkpoints still holds, newest first.

    Args:
        checkpoints: the folder that the jobs' folders are in, a URI.
        jobs: Flink's ids.
        aws: for ``s3://``.

    Raises:
        LakeError: the place cannot be read.
    """
    root = Storage(uri_of(checkpoints) or checkpoints, aws)
    found: list[tuple[int, int, Kept]] = []
    for job in jobs:
        place = root.child(job)
        try:
            listed = place.filesystem.get_file_info(
                pafs.FileSelector(place.base, allow_not_found=True, recursive=False)
            )
            numbers = {
                int(match[1]): f"{item.base_name}/{METADATA}"
                for item in listed
                if (match := _CHECKPOINT.fullmatch(item.base_name))
            }
            files = place.filesystem.get_file_info([place.path(name) for name in numbers.values()])
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise LakeError(place.explain("read", error)) from error
        for number, info in zip(numbers, files, strict=True):
            if info.type == pafs.FileType.File:
                uri = f"{place.uri if place.is_s3 else f'file://{place.uri}'}/chk-{number}"
                found.append((_micros(info), number, Kept(uri, job, _micros(info))))
    return [kept for *_, kept in sorted(found, key=lambda item: item[:2], reverse=True)]


def _micros(info: pafs.FileInfo) -> int:
    return (info.mtime_ns or 0) // 1000

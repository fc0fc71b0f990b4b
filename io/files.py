"""The raw input files on a folder or in a bucket: which there are, and which of them goes before another."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs

from fibflow.io.aws import AwsConfig, explain_s3_error

_FORMATS = (".parquet", ".csv", ".csv.gz")
_SYMBOL_FOLDER = re.compile(r"(?:^|/)(?:symbol|ticker)=([^/]+)/")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class InputError(ValueError):
    """Input that cannot be used. The message is one line: what, where, and what to do."""


class RawFile(NamedTuple):
    """One raw input file.

    Attributes:
        path: Path in its filesystem: absolute on a folder, ``bucket/key`` on S3.
        size: Bytes.
        modified: Modification time, microseconds since 1970, UTC.
        symbol: Symbol of the folder ``symbol=X`` it lies in, None where there is none.
        is_daily_file: Its name starts with ``date=``.
    """

    path: str
    size: int
    modified: int
    symbol: str | None
    is_daily_file: bool

    @property
    def is_parquet(self) -> bool:
        """Whether it is Parquet; CSV otherwise."""
        return self.path.lower().endswith(".parquet")


def precedence_key(file: RawFile) -> tuple[bool, int, str]:
    """Return the key that sorts files from weakest to strongest: of two with one row, the later wins."""
    return file.is_daily_file, file.modified, file.path


def filesystem_for(uri: str, aws: AwsConfig | None = None) -> tuple[pafs.FileSystem, str]:
    """Return the filesystem of ``uri`` and the path in it, without a slash at the end. Nothing is looked up.

    Args:
        uri: A folder or file, ``file://...`` or ``s3://bucket/...``.
        aws: For ``s3://``; resolved from the environment where it is not given.

    Raises:
        InputError: The scheme is unknown, or the bucket is missing.
        AwsError: No credentials, or no region.
    """
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return pafs.LocalFileSystem(), _absolute(uri)
    if scheme in ("s3", "s3a"):
        path = rest.strip("/")
        if not path or rest.startswith("/"):
            raise InputError(f"{uri}: no bucket is named; write s3://bucket/folder")
        return (aws or AwsConfig.resolve()).pyarrow_filesystem(), path
    if scheme == "file":
        return pafs.LocalFileSystem(), _absolute(unquote(urlsplit(uri).path))
    raise InputError(f"{uri}: {scheme}:// is not supported; give a folder or s3://bucket/folder")


def list_raw(uri: str, aws: AwsConfig | None = None) -> list[RawFile]:
    """List the Parquet and CSV files at or under ``uri``, sorted by path.

    Files and folders whose names start with ``.`` or ``_`` are left out. A file without a byte is not: it
    is a broken one, and reading it says so.

    Args:
        uri: A folder or file, or ``s3://bucket/...``.
        aws: For ``s3://``; resolved from the environment where it is not given.

    Raises:
        InputError: There is no such folder or bucket, no such file in it, or no access.
        AwsError: No credentials, or no region.
    """
    filesystem, base = filesystem_for(uri, aws)
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            found = list(_scan(base))
        else:
            found = _select(filesystem, base)
    except FileNotFoundError as error:
        raise InputError(f"{uri}: there is no such folder") from error
    except PermissionError as error:
        raise InputError(f"{uri}: no permission to read {error.filename or base}") from error
    except OSError as error:
        raise InputError(explain_s3_error(error, uri)) from error
    files = sorted(_raw_file(path, size, modified) for path, size, modified in found)
    if not files:
        raise InputError(f"{uri}: no .parquet, .csv or .csv.gz file is in it")
    return files


def _absolute(path: str) -> str:
    return Path(path).expanduser().absolute().as_posix().rstrip("/") or "/"


def _scan(base: str) -> Iterator[tuple[str, int, int]]:
    """Yield (path, size, modified) of the raw files at or under a local path."""
    if Path(base).is_file():
        if base.lower().endswith(_FORMATS):
            stat = Path(base).stat()
            yield base, stat.st_size, stat.st_mtime_ns // 1000
    else:
        yield from _scan_folder(base)


def _scan_folder(base: str) -> Iterator[tuple[str, int, int]]:
    """Yield (path, size, modified) of the raw files under a local folder."""
    with os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith((".", "_")):
                continue
            if entry.is_dir():
                if not (entry.is_symlink() and _holds(entry.path, base)):
                    yield from _scan_folder(entry.path)
            elif entry.name.lower().endswith(_FORMATS):
                stat = entry.stat()
                yield entry.path, stat.st_size, stat.st_mtime_ns // 1000


def _holds(link: str, folder: str) -> bool:
    """Return whether a link leads back to a folder or one above it: following it would never end."""
    return Path(folder).resolve().is_relative_to(Path(link).resolve())


def _select(filesystem: pafs.FileSystem, base: str) -> list[tuple[str, int, int]]:
    """Return (path, size, modified) of the raw objects at or under a key."""
    (info,) = filesystem.get_file_info([base])
    if info.type == pafs.FileType.File:
        infos = [info]
    else:
        infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    return [
        (info.path, info.size or 0, (info.mtime_ns or 0) // 1000)
        for info in infos
        if info.type == pafs.FileType.File
        and info.path.lower().endswith(_FORMATS)
        and not any(part.startswith((".", "_")) for part in info.path[len(base) :].split("/"))
    ]


def _raw_file(path: str, size: int, modified: int) -> RawFile:
    folder = _SYMBOL_FOLDER.search(path)
    symbol = unquote(folder[1]) if folder and folder[1] != _HIVE_NULL else None
    return RawFile(path, size, modified, symbol, path.rpartition("/")[2].startswith("date="))

"""A place for tables: a folder or a prefix of an S3 bucket, as pyarrow, boto3 and deltalake each see it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from fibflow.io.aws import AwsConfig, explain_s3_error

_S3 = ("s3://", "s3a://")
_LOST_THE_RACE = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


class LakeError(Exception):
    """A lake cannot be read or written; the message is one line that says what to do."""


@dataclass(frozen=True)
class Storage:
    """A folder, or a prefix of a bucket. It can be pickled: each process opens its own clients.

    ``uri`` is a folder (``file://`` allowed) or ``s3://bucket/prefix``. ``aws`` is for S3 only, where the
    environment is asked when none is given.
    """

    uri: str
    aws: AwsConfig | None = None

    def __post_init__(self) -> None:
        uri = str(self.uri)
        if self.is_s3:
            if self.aws is None:
                object.__setattr__(self, "aws", AwsConfig.resolve())
            uri = "s3://" + uri.split("://", 1)[1].strip("/")
        else:
            uri = uri.removeprefix("file://")
            if "://" in uri:
                raise LakeError(f"{uri} is no folder and no s3:// address")
            uri = str(Path(uri).absolute())
        object.__setattr__(self, "uri", uri)

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "aws": self.aws}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def is_s3(self) -> bool:
        """Whether it is in a bucket."""
        return str(self.uri).startswith(_S3)

    @property
    def base(self) -> str:
        """The path as pyarrow's filesystem takes it."""
        return self.uri.removeprefix("s3://")

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Pyarrow's filesystem that ``base`` is a path of."""
        # A role's keys in a client do not renew themselves.
        return self._open() if self.aws is not None and self.aws.rotating else self._filesystem

    @cached_property
    def _filesystem(self) -> pafs.FileSystem:
        return self._open()

    def _open(self) -> pafs.FileSystem:
        if self.is_s3:
            assert self.aws is not None
            return self.aws.pyarrow_filesystem()
        return pafs.LocalFileSystem()

    @property
    def delta_options(self) -> dict[str, str] | None:
        """The storage options of ``deltalake``."""
        return self.aws.delta_storage_options() if self.is_s3 and self.aws is not None else None

    def explain(self, verb: str, error: BaseException) -> str:
        """One line: what could not be done here, and why."""
        if self.is_s3:
            return f"cannot {verb} {explain_s3_error(error, self.uri)}"
        return f"cannot {verb} {self.uri}: {(str(error).splitlines() or [type(error).__name__])[0]}"

    def child(self, name: str) -> Storage:
        """The place of that name in this one."""
        return Storage(f"{self.uri}/{name}", self.aws)

    def path(self, relative: str) -> str:
        """A path in this place as pyarrow's filesystem takes it."""
        return f"{self.base}/{relative}" if relative else self.base

    def names(self, directory: str, after: str = "") -> list[str]:
        """The names of the files directly in ``directory``; none where it does not exist.

        ``after`` saves listing names up to that one where the place can: others may come too.
        Raises LakeError where the place itself cannot be reached (a wrong bucket, refused credentials).
        """
        if self.is_s3 and after:
            return self._s3_names_after(directory, after)
        selector = pafs.FileSelector(self.path(directory), allow_not_found=True)
        try:
            if not self.is_s3:
                return os.listdir(self.path(directory))  # noqa: PTH208 - names, not paths: it is the fast one
            found = self.filesystem.get_file_info(selector)
            # A bucket that is not there lists as empty.
            bucket = None if found else self.filesystem.get_file_info(self.base.split("/")[0])
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise LakeError(self.explain("read", error)) from error
        if bucket is not None and bucket.type == pafs.FileType.NotFound:
            raise LakeError(self.explain("read", FileNotFoundError("NoSuchBucket")))
        return [info.base_name for info in found]

    def _s3_names_after(self, directory: str, after: str) -> list[str]:
        from botocore.exceptions import BotoCoreError, ClientError

        assert self.aws is not None
        bucket, _, prefix = self.path(directory).partition("/")
        try:
            pages = self.aws.boto3_client("s3").get_paginator("list_objects_v2")
            found = pages.paginate(
                Bucket=bucket, Prefix=f"{prefix}/", Delimiter="/", StartAfter=f"{prefix}/{after}"
            )
            return [item["Key"][len(prefix) + 1 :] for page in found for item in page.get("Contents", ())]
        except (BotoCoreError, ClientError) as error:
            raise LakeError(self.explain("read", error)) from error

    def read(self, relative: str) -> bytes | None:
        """The whole content of one file, None where there is none."""
        try:
            with self.filesystem.open_input_file(self.path(relative)) as source:
                return bytes(source.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise LakeError(self.explain(f"read {relative} of", error)) from error

    def write(self, relative: str, content: bytes) -> None:
        """Writes one file whole, over what was there."""
        target = self.path(relative)
        if not self.is_s3:
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        with self.filesystem.open_output_stream(target) as sink:
            sink.write(content)

    def put_if_absent(self, relative: str, content: bytes, token: str) -> bool:
        """Writes a file whole, or not at all where one of that name exists.

        Returns False when the name was taken. ``token`` is unique to the caller: it names the staged file.
        """
        if self.is_s3:
            return self._s3_put_if_absent(relative, content)
        target = Path(self.path(relative))
        staged = target.with_name(f".{target.name}.{token}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                staged.write_bytes(content)
                target.hardlink_to(staged)
            finally:
                staged.unlink(missing_ok=True)
        except FileExistsError:
            return False
        except OSError as error:
            raise LakeError(self.explain("commit to", error)) from error
        return True

    def _s3_put_if_absent(self, relative: str, content: bytes) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        assert self.aws is not None
        bucket, _, key = self.path(relative).partition("/")
        try:
            self.aws.boto3_client("s3").put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in _LOST_THE_RACE:
                return False
            raise LakeError(self.explain("commit to", error)) from error
        return True

"""What serving's command lines share: a line an error, exit codes, where keys are."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from fibflow.io.aws import AwsConfig, AwsError
from fibflow.io.storage import LakeError
from fibflow.serving.keys.sqlite import SqliteKeys
from fibflow.serving.keys.store import KeysDown, KeysError, KeyStore
from fibflow.serving.logs import scrubbed
from fibflow.transforms.calendar import CalendarError

OK, FAILED, USAGE = 0, 1, 2
PEPPER = "FIBFLOW_KEY_PEPPER"
_REMOTE = ("s3://", "s3a://")


class UsageError(ValueError):
    """The command line asks for something that cannot be; the message is one line that says what to do."""


class ServeError(Exception):
    """The server cannot run; the message is one line that says what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with the code for bad usage."""
        self.exit(USAGE, f"{self.prog}: {scrubbed(message)} (see --help)\n")


def run_main(run: Callable[[Sequence[str] | None], int], program: str) -> NoReturn:
    """Run a command line and leave with its exit code; a known error is one line on standard error."""
    try:
        code = run(None)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read the output has seen enough. What is buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except (UsageError, KeysError, CalendarError) as error:
        code = say(program, error, USAGE)
    except (AwsError, LakeError, KeysDown, ServeError) as error:
        code = say(program, error, FAILED)
    except KeyboardInterrupt:
        code = OK
    sys.exit(code)


def say(program: str, error: BaseException, code: int) -> int:
    """Print an error as one line without secrets, and return the code."""
    sys.stderr.write(f"{program}: {scrubbed(' '.join(str(error).split()))}\n")
    return code


def add_key_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where keys are."""
    keys = parser.add_argument_group("API keys")
    keys.add_argument(
        "--postgres",
        metavar="URL",
        help="database of keys, for several servers, and of last prices (default: DATABASE_URL; '' for none)",
    )
    keys.add_argument(
        "--keys",
        metavar="FILE",
        help="SQLite file of keys, instead of --postgres (default: LAKE.keys.sqlite beside the lake)",
    )


def add_aws_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of AWS that the environment does not give."""
    aws = parser.add_argument_group("AWS (default: the environment, as for every AWS tool)")
    aws.add_argument("--region", help="region of the buckets")
    aws.add_argument("--endpoint-url", metavar="URL", help="another S3 service than Amazon's")
    aws.add_argument("--profile", help="a profile of the AWS configuration files")


def aws_of(args: argparse.Namespace, needed: bool) -> AwsConfig | None:
    """Return the AWS settings where they are needed.

    Raises:
        AwsError: no credentials or no region.
    """
    if not needed:
        return None
    return AwsConfig.resolve(
        os.environ, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
    )


def is_remote(uri: str) -> bool:
    """Return whether a lake lies in a bucket."""
    return uri.startswith(_REMOTE)


def given(argument: str | None, env: Mapping[str, str], name: str) -> str | None:
    """Return an argument, else a variable of the environment; None where both are empty."""
    return (env.get(name) if argument is None else argument) or None


def keys_path(keys: str | None, lake: str | None) -> str | None:
    """Return the path of the file of keys; None where nothing says one."""
    if keys:
        return keys
    if not lake or is_remote(lake):
        return None
    folder = Path(lake.removeprefix("file://")).absolute()
    return str(folder.with_name(folder.name + ".keys.sqlite"))


def store_of(postgres: str | None, keys: str | None, lake: str | None) -> KeyStore:
    """Return the store of keys.

    Raises:
        UsageError: nothing says where it is.
    """
    if keys is None and postgres:
        from fibflow.serving.keys.postgres import PostgresKeys

        return PostgresKeys(postgres)
    path = keys_path(keys, lake)
    if path is None:
        raise UsageError("nothing says where API keys are: give --postgres URL or --keys FILE")
    return SqliteKeys(path)

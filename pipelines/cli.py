"""What the command lines share: arguments, a line an error, exit codes, progress, the table at the end."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fibflow.io.aws import AwsConfig, AwsError
from fibflow.io.failures import failure
from fibflow.io.files import InputError
from fibflow.io.lake import Lake, PropertyMismatch
from fibflow.io.manifest import PROGRESS
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.calendar import CalendarError
from fibflow.transforms.timeframe import TimeframeError

OK, FAILED, USAGE = 0, 1, 2


class UsageError(ValueError):
    """The command line asks for something that cannot be; the message is one line that says what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with the code for bad usage."""
        self.exit(USAGE, f"{self.prog}: {message} (see --help)\n")


def date_of(text: str) -> date:
    """Read a date, for ``argparse``."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date: write YYYY-MM-DD") from None


def add_lake_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--lake`` and the settings of AWS that the environment does not give."""
    parser.add_argument("--lake", required=True, metavar="URI", help="a folder, or s3://bucket/prefix")
    add_aws_arguments(parser)


def add_aws_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of AWS that the environment does not give."""
    aws = parser.add_argument_group("AWS (default: the environment, as for every AWS tool)")
    aws.add_argument("--region", help="region of the buckets")
    aws.add_argument("--endpoint-url", metavar="URL", help="another S3 service than Amazon's")
    aws.add_argument("--profile", help="a profile of the AWS configuration files")


def symbols_of(given: str | None, option: str = "--symbols") -> frozenset[str] | None:
    """Return the symbols that an option names with commas; None where it is not given.

    Raises:
        UsageError: it names none.
    """
    if given is None:
        return None
    found = frozenset(filter(None, map(str.strip, given.split(","))))
    if not found:
        raise UsageError(f"{option} names no symbol")
    return found


def aws_of(args: argparse.Namespace, *uris: str | None) -> AwsConfig | None:
    """Return the AWS settings where any of the addresses needs them.

    Raises:
        AwsError: no credentials or no region.
    """
    if not any(uri and uri.startswith(("s3://", "s3a://")) for uri in uris):
        return None
    return AwsConfig.resolve(
        os.environ, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
    )


def lake_of(args: argparse.Namespace) -> Lake:
    """Return the lake that ``--lake`` names."""
    return Lake(args.lake, aws_of(args, args.lake))


def new_run_id() -> str:
    """Return the id of a run: part of the names of the files that it writes."""
    return uuid.uuid4().hex[:16]


def run_main(
    run: Callable[[Sequence[str] | None], int],
    argv: Sequence[str] | None = None,
    known: tuple[type[Exception], ...] = (),
) -> NoReturn:
    """Run a command line and leave with its exit code; a known error is one line on standard error.

    Args:
        run: the command.
        argv: its arguments.
        known: errors of services that only some commands use.
    """
    logging.basicConfig(
        level=os.environ.get("FIBFLOW_LOG", "ERROR").upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    if "FIBFLOW_LOG" not in os.environ:
        # Beam logs what a worker raised, several times, before the one line that says it.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    program = Path(sys.argv[0]).name.removesuffix(".py")
    failures: tuple[type[Exception], ...] = (AwsError, InputError, LakeError, PropertyMismatch, *known)
    try:
        code = run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read the output (head, a pager) has seen enough. What is buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except (UsageError, TimeframeError, CalendarError) as error:
        code = _say(program, error, USAGE)
    except failures as error:
        code = _say(program, error, FAILED)
    except KeyboardInterrupt:
        code = _say(program, RuntimeError("interrupted: run again"), FAILED)
    sys.stdout.flush()
    sys.exit(code)


def _say(program: str, error: BaseException, code: int) -> int:
    line = " ".join(str(error).split())
    print(f"{program}: {line}", file=sys.stderr)
    return code


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers`` and ``--staging``."""
    parser.add_argument(
        "--workers", type=int, help="how many bundles at a time (default: one a core, at most 4)"
    )
    parser.add_argument("--staging", metavar="URI", help="place for temporary files, seen by all workers")


def workers_of(args: argparse.Namespace) -> int:
    """Return how many bundles run at a time.

    Raises:
        UsageError: fewer than one is asked for.
    """
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers is {args.workers}: give 1 or more")
    return args.workers or default_workers()


def default_workers() -> int:
    """Return how many bundles run at a time: one a core, up to four."""
    return min(4, os.cpu_count() or 1)


def cause_of(error: BaseException) -> BaseException:
    """Return the known error at the root of what a runner raised, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AwsError | InputError | LakeError | CalendarError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


@contextmanager
def known_errors(staging: Storage) -> Iterator[None]:
    """Raise the known error behind what a runner raises: what a worker left in ``staging``, or a cause."""
    try:
        yield
    except Exception as error:
        known = failure(staging) or cause_of(error)
        if known is error:
            raise
        raise known from None


@contextmanager
def staging_place(given: str | None, lake: Lake, local_runner: bool, run: str) -> Iterator[Storage]:
    """Yield the place for spill files and manifests, and clear it up where it is a local folder.

    Args:
        given: what the command line names; None for a temporary folder, or, for a runner elsewhere, a place
            within the lake.
        lake: the lake.
        local_runner: workers see this machine's folders.
        run: the run's id.
    """
    if given is None and local_runner:
        folder = tempfile.mkdtemp(prefix="fibflow-")
        try:
            yield Storage(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    base = Storage(given or f"{lake.uri.rstrip('/')}/_staging", lake.aws)
    place = base.child(run)
    try:
        yield place
    finally:
        place.filesystem.delete_dir_contents(place.base, missing_dir_ok=True)


@contextmanager
def progress(staging: Storage, units: int, what: str, console: Console | None = None) -> Iterator[None]:
    """Show how many units of work are done while the pipeline runs: on a terminal a bar, elsewhere lines."""
    console = console or Console(stderr=True)
    ended = threading.Event()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task(what, total=max(units, 1))

    def watch() -> None:
        shown = 0
        while not ended.wait(0.5):
            done = min(len(staging.names(PROGRESS)), units)
            bar.update(task, completed=done)
            if not console.is_terminal and units and done * 4 // units > shown:
                shown = done * 4 // units
                console.print(f"{what}: {done} of {units}", highlight=False)

    watcher = threading.Thread(target=watch, daemon=True)
    if console.is_terminal:
        bar.start()
    else:
        console.print(f"{what}: {units} units", highlight=False)
    watcher.start()
    try:
        yield
        bar.update(task, completed=units)
    finally:
        ended.set()
        watcher.join()
        if console.is_terminal:
            bar.stop()


def print_table(title: str, rows: Iterable[tuple[str, str]], console: Console | None = None) -> None:
    """Print names with their values, values to the right."""
    console = console or Console()
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)

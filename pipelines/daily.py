"""What runs every evening: ``python -m pipelines.daily``.

Reference data, backfill, load, batch, reconcile, maintain, where asked for PostgreSQL, and a report on the
data's quality: one command, one exit code. Safe to run twice, late, over a holiday, while a stream writes,
and to kill: run it again. The vendor's key comes from ``MASSIVE_API_KEY`` or ``POLYGON_API_KEY``, or from a
file.

    python -m pipelines.daily --lake lake --raw raw --from 2023-01-03
    python -m pipelines.daily --lake lake --raw raw --postgres --notify arn:aws:sns:us-east-1:123456789012:ops
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

from rich.console import Console

from fibflow.io.aws import AwsConfig, AwsError
from fibflow.io.dailyend import DailyEnd
from fibflow.io.failpoints import hit
from fibflow.io.files import InputError
from fibflow.io.lake import Lake
from fibflow.io.lease import locked
from fibflow.io.notices import NoticeError, publish, region_of
from fibflow.io.postgres import PostgresError
from fibflow.io.storage import LakeError, Storage
from fibflow.io.vendor.access import KEY_VARIABLES
from fibflow.pipelines import cli, runner, vendors
from fibflow.pipelines.nightly.changes import Named, Told, name_changes
from fibflow.pipelines.nightly.order import Outcome, State, carry_out, line_of
from fibflow.pipelines.nightly.steps import BACKFILL, NEEDS, POSTGRES, REFERENCE, Nightly
from fibflow.pipelines.runner import Place, Runner, add_runner_arguments
from fibflow.runners.memory import keep_freed_memory
from fibflow.transforms.timeframe import parse_timeframes

#: Each is one line that says what to do.
KNOWN_ERRORS = (*runner.KNOWN_ERRORS, *vendors.KNOWN_ERRORS, PostgresError)
_STEP_ERRORS = (*KNOWN_ERRORS, AwsError, InputError, LakeError)
_LOCK = "daily"
_HOOK_S = 300
#: Variables that are no concern of who is told of a failure.
_SECRETS = frozenset({*KEY_VARIABLES, "DATABASE_URL"})


class DailyError(Exception):
    """A step failed; one line of which, and why."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; what it does not know goes to Beam."""
    made = cli.Parser(
        prog="pipelines.daily",
        description="Bring a lake up to date: reference data, history, bars, the stream's bars, upkeep.",
        epilog="Options that are not listed here go to Beam.",
        allow_abbrev=False,
    )
    cli.add_lake_arguments(made)
    vendors.add_history_arguments(made, recheck=5)
    made.add_argument(
        "--timeframes", help="of batch: such as fibonacci,5m (default: those that are there, else fibonacci)"
    )
    made.add_argument("--bars-from", choices=("trades", "minutes"), help="as in pipelines.reconcile")
    made.add_argument("--no-dividends", action="store_true", help="leave dividends out")
    made.add_argument(
        "--full-reference", action="store_true", help="ask for all symbols, splits and dividends again"
    )
    made.add_argument(
        "--postgres",
        metavar="URL",
        nargs="?",
        const=os.environ.get("DATABASE_URL", ""),
        help="bring PostgreSQL up to date too (without URL: DATABASE_URL)",
    )
    made.add_argument("--retention-days", type=float, default=30.0, metavar="DAYS", help="of upkeep: 30")
    made.add_argument("--skip", default="", metavar="STEP,...", help=f"leave out some of {', '.join(NEEDS)}")
    told = made.add_argument_group("when a step fails")
    told.add_argument("--notify", metavar="ARN", help="tell an SNS topic")
    told.add_argument(
        "--on-failure",
        metavar="COMMAND",
        help="run a command: the line of why is in FIBFLOW_DAILY_WHY, the table on its standard input",
    )
    vendors.add_vendor_arguments(made)
    cli.add_work_arguments(made)
    add_runner_arguments(made)
    return made


def run(argv: Sequence[str] | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments.
        now: the time of day.

    Raises:
        UsageError: the command line asks for what cannot be.
        WrongKey: there is no key of the vendor.
        Busy: another daily run of this lake is at work.
        DailyError: a step failed; the others were done as far as they do not need it.
    """
    args, beam_flags = parser().parse_known_args(argv)
    names = _checked(args)
    workers, place = cli.workers_of(args), Place.of(args)
    aws = _aws_of_notices(args)
    rows: list[tuple[str, str]] = []
    try:
        lake = Lake(args.lake, cli.aws_of(args, args.lake, args.raw, args.staging))
        vendor = cache(lambda: vendors.vendor_of(args))
        if {REFERENCE, BACKFILL} & set(names):
            # Not an hour later.
            vendor()
        keep_freed_memory()
        what = f"begun {now():%Y-%m-%d %H:%M} UTC"
        with locked(lake, _LOCK, what), Runner(place, beam_flags) as beam_runner:
            nightly = Nightly(lake, args, vendor, beam_runner, workers, now)
            return _carry_out(lake, nightly, names, rows)
    except Exception as error:
        why = " ".join(str(error).split())
        known = isinstance(error, (*_STEP_ERRORS, DailyError, cli.UsageError))
        _tell(args, aws, why if known else f"{type(error).__name__}: {why}", rows)
        raise


def _carry_out(lake: Lake, nightly: Nightly, names: Sequence[str], rows: list[tuple[str, str]]) -> int:
    """Do the steps, and print what they did; ``rows`` takes the table."""
    began = time.monotonic()
    since = Told.read(lake)
    if since is None:
        since = Told.now(lake)
        since.write(lake)
    outcomes = carry_out(nightly.steps(names), _STEP_ERRORS, time.monotonic, _begins)
    until = Told.now(lake)
    named, problem = _name(lake, since, until)
    rows += _rows(outcomes, named, time.monotonic() - began)
    cli.print_table("daily", rows)
    hit("before-told")
    if problem is None and until != since:
        until.write(lake)
    why = "; ".join(filter(None, (line_of(outcomes), problem)))
    _note(lake, nightly, failed=bool(why))
    if not why:
        return cli.OK
    if problem is None and all(outcome.usage for outcome in outcomes if outcome.state is State.FAILED):
        raise cli.UsageError(why)
    raise DailyError(why)


def _note(lake: Lake, nightly: Nightly, failed: bool) -> None:
    """Note how the run ended, for who watches; where it failed, that this fails too changes nothing."""
    place = Storage(lake.uri, lake.aws)
    with suppress(LakeError) if failed else nullcontext():
        succeeded = DailyEnd.read(place).succeeded if failed else nightly.now()
        DailyEnd(succeeded, nightly.differences).write(place)


def _checked(args: argparse.Namespace) -> list[str]:
    """Return the names of the steps to do."""
    skipped = set(filter(None, map(str.strip, args.skip.split(","))))
    if strange := sorted(skipped - set(NEEDS)):
        raise cli.UsageError(f"--skip names no step {strange[0]}: there are {', '.join(NEEDS)}")
    if args.recheck < 0:
        raise cli.UsageError(f"--recheck is {args.recheck}: give 0 or more")
    if not 0 <= args.retention_days < 36_500:
        raise cli.UsageError(f"--retention-days {args.retention_days:g}: name a number of days, 0 or more")
    if args.minutes and not args.symbols:
        raise cli.UsageError("--minutes takes the symbols that --symbols names: name some")
    cli.symbols_of(args.symbols)
    if args.timeframes:
        parse_timeframes(args.timeframes)
    if args.postgres == "":
        raise cli.UsageError("--postgres names no database, and DATABASE_URL is not set")
    if args.on_failure is not None:
        _command(args.on_failure)
    if args.postgres is None:
        skipped.add(POSTGRES)
    return [name for name in NEEDS if name not in skipped]


def _command(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise cli.UsageError(f"--on-failure is no command: {str(error).lower()}") from None
    if not words:
        raise cli.UsageError("--on-failure names no command")
    return words


def _aws_of_notices(args: argparse.Namespace) -> AwsConfig | None:
    if args.notify is None:
        return None
    try:
        region = region_of(args.notify)
    except ValueError as error:
        raise cli.UsageError(f"--notify {error}") from None
    # --endpoint-url is the lake's store.
    return AwsConfig.resolve(os.environ, region=region, profile=args.profile)


def _begins(name: str) -> None:
    print(f"daily: {name}", file=sys.stderr, flush=True)


def _name(lake: Lake, since: Told, until: Told) -> tuple[Named, str | None]:
    """Return what changed, or one line of why that cannot be said."""
    try:
        return name_changes(lake, since, until), None
    except (LakeError, AwsError, OSError) as error:
        return Named(), f"what changed cannot be said: {error}"


def _rows(outcomes: Sequence[Outcome], named: Named, seconds: float) -> list[tuple[str, str]]:
    """Return the table at the end: each step with what it did, then each change."""
    rows: list[tuple[str, str]] = []
    if all(outcome.state is State.NOTHING for outcome in outcomes):
        rows.append(("nothing to do", "no session is new, and nothing changed"))
    for outcome in outcomes:
        text = (
            f"{outcome.state}, {outcome.seconds:.1f} s" if outcome.state is not State.SKIPPED else "skipped"
        )
        rows.append((outcome.name, f"{text}: {outcome.why}" if outcome.why else text))
        rows += [(f"  {name}", value) for name, value in outcome.rows]
    rows += named.lines
    return [*rows, ("seconds", f"{seconds:.1f}")]


def _tell(args: argparse.Namespace, aws: AwsConfig | None, why: str, rows: Sequence[tuple[str, str]]) -> None:
    """Tell people of a failure; that this fails too is said, and changes nothing."""
    text = f"{why}\n\n{_plain(rows)}" if rows else f"{why}\n"
    if args.notify is not None and aws is not None:
        try:
            publish(args.notify, f"fibflow daily: {why}", text, aws)
        except NoticeError as error:
            print(f"daily: no notice was sent: {error}", file=sys.stderr)
    if args.on_failure is not None:
        env = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        _hook(_command(args.on_failure), {**env, "FIBFLOW_DAILY_WHY": why}, text)


def _hook(command: list[str], env: Mapping[str, str], text: str) -> None:
    try:
        done = subprocess.run(command, input=text, text=True, env=env, timeout=_HOOK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"daily: {command[0]} did not run to its end: {error}", file=sys.stderr)
    else:
        if done.returncode:
            print(f"daily: {command[0]} ended with {done.returncode}", file=sys.stderr)


def _plain(rows: Sequence[tuple[str, str]]) -> str:
    """Return the table as text without a terminal's colours."""
    sink: Any = io.StringIO()
    cli.print_table("daily", rows, Console(file=sink, width=120, no_color=True))
    return str(sink.getvalue())


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], known=(*KNOWN_ERRORS, DailyError))

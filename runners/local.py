"""The local stack: every server that Fibflow talks to in production, on this machine, without containers.

``python -m runners.local up`` starts Redis, PostgreSQL, an emulator of AWS, a Flink cluster, Beam's job
server and its Python worker pool, each in a process of its own, with pid files, logs and data in
``.local``; ``status`` tells how they are, and ``down`` stops them. `Stack` is the same for tests. All
listen on loopback only, but for Flink's reporters of metrics: those are off unless ``--ports`` names theirs.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fibflow.runners.services import plan as plans
from fibflow.runners.services.plan import GROUPS, KINDS, PORTS, Plan
from fibflow.runners.services.process import Process, ServiceError
from fibflow.runners.services.stack import Stack, State, stop_together, tidy

__all__ = ["Stack", "main", "run"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0, or 1 where something did not start or is not up.
    """
    args = _parser().parse_args(argv)
    folder = args.folder.resolve()
    commands = {"up": _up, "status": _status, "down": _down}
    try:
        return commands[args.command](args, folder)
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was started runs on until `down`\n")
        return INTERRUPTED


def _up(args: argparse.Namespace, folder: Path) -> int:
    with _alone(folder):
        stack = _planned(args, folder)
        try:
            started = stack.start(*(args.only or ()))
        finally:
            _show(stack.states())
    _say(f"started {', '.join(started)}" if started else "all were up already")
    _say(f"variables with all addresses: source {folder / 'stack.env'}")
    return OK


def _status(args: argparse.Namespace, folder: Path) -> int:
    states = Stack.recall(folder).states(*(args.only or ()))
    _show(states)
    return OK if all(state.state == "up" for state in states) else FAILED


def _down(args: argparse.Namespace, folder: Path) -> int:
    with _alone(folder):
        names = [path.stem for path in sorted((folder / "pids").glob("*.json"))]
        chosen = [name for name in names if not args.only or plans.kind_of(name) in args.only]
        stopped = stop_together([Process(name, folder) for name in chosen])
        if not args.only:
            tidy(folder)
    _say(f"stopped {', '.join(stopped)}" if stopped else f"nothing ran in {folder}")
    return OK


def _planned(args: argparse.Namespace, folder: Path) -> Stack:
    """Return the stack that is asked for: what is there already, and more."""
    known = plans.recall(folder)
    asked = Plan(args.only or KINDS, args.ports, args.task_managers or 1, args.slots or 2)
    if known is not None:
        sizes = (args.task_managers or known.task_managers, args.slots or known.slots)
        kinds = plans.kinds_of([*known.kinds, *asked.kinds])
        asked = Plan(kinds, {**known.ports, **args.ports}, *sizes)
        changed = (known.ports, known.task_managers, known.slots) != (asked.ports, *sizes)
        if changed and any(state.pid for state in Stack.recall(folder).states()):
            raise ServiceError(f"the stack in {folder} runs with other sizes or ports: `down` it first")
    return Stack(
        asked.kinds,
        folder=folder,
        ports=asked.ports,
        task_managers=asked.task_managers,
        slots=asked.slots,
        leashed=False,
    )


def _show(states: Sequence[State]) -> None:
    rows = [("service", "state", "pid", "address", "log")]
    rows += [
        (each.name, each.state, str(each.pid or "-"), each.address or "-", str(each.log)) for each in states
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder: two commands at once would start things twice."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(f"another command is at work in {folder}: wait for it to end") from None
        yield


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="runners.local", description="Start, show and stop the servers of the local stack.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="up|status|down")
    up = commands.add_parser("up", help="start what is not up, and what died")
    status = commands.add_parser("status", help="show the servers; exit code 0 when all are up")
    down = commands.add_parser("down", help="stop the servers; data and logs stay")
    groups = "; ".join(f"{name} is {' and '.join(kinds)}" for name, kinds in GROUPS.items())
    for command in (up, status, down):
        command.add_argument(
            "--folder", type=Path, default=Path(".local"), help="for pid files, logs, data (default: .local)"
        )
        command.add_argument(
            "--only",
            type=_kinds,
            metavar="NAME,...",
            help=f"some of {', '.join(KINDS)} (default: all); {groups}",
        )
    up.add_argument("--task-managers", type=int, metavar="N", help="how many task managers (default: 1)")
    up.add_argument("--slots", type=int, metavar="N", help="slots of each task manager (default: 2)")
    up.add_argument(
        "--ports",
        type=_ports,
        default={},
        metavar="NAME=PORT,...",
        help=f"for {', '.join(PORTS)} (default: free ones)",
    )
    return parser


def _kinds(text: str) -> tuple[str, ...]:
    try:
        return plans.kinds_of(name.strip() for name in text.split(","))
    except ServiceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _ports(text: str) -> dict[str, int]:
    try:
        pairs = [pair.split("=") for pair in text.split(",")]
        return {name.strip(): int(port) for name, port in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PORT,...") from None


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    sys.exit(run())


if __name__ == "__main__":
    main()

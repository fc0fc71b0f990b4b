"""Process ids that are still who they were, and a leash: what is on it dies with the process that holds it.

A pid alone says little: the kernel gives it out again. With the instant of the process's birth it names one
process. The servers lead sessions of their own, so that what they start can be found when they are gone.

Run as a script, this is the leash: it reads ``+pid birth`` and ``-pid birth`` and, when its input ends, also
because its holder was killed, it kills the sessions that are left. Standard library only: it starts at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
# Places in /proc/PID/stat after the name, which ends with the last parenthesis.
_STATE, _SESSION, _START = 0, 3, 19


def birth(pid: int) -> str | None:
    """Return when a process was born, in one word that no other process of this pid has; None if it is gone.

    One that has ended and that nobody has waited for counts as gone.
    """
    fields = _stat(pid)
    if fields is None:
        return None
    return f"{_boot()}:{fields[_START]}"


def is_alive(pid: int, born: str) -> bool:
    """Return whether the pid is still the process that was born then."""
    return birth(pid) == born


def session(pid: int, born: str) -> list[int]:
    """Return the living processes of the session that this process leads, or led, itself among them."""
    if birth(pid) not in (born, None) or not born.startswith(f"{_boot()}:"):
        return []
    # While a session has a member its number is given to no new process: without its leader it is still ours.
    members = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields is not None and int(fields[_SESSION]) == pid:
            members.append(int(entry.name))
    return sorted(members)


def signal_session(pid: int, born: str, number: signal.Signals) -> int:
    """Send a signal to each process of a session, and return to how many."""
    sent = 0
    for member in session(pid, born):
        try:
            os.kill(member, number)
        except ProcessLookupError:
            continue
        sent += 1
    return sent


def _stat(pid: int) -> list[str] | None:
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[_STATE] in "ZX" else fields


def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def hold(lines: Iterable[str]) -> None:
    """Follow the leash's orders to their end, then kill the sessions that are left."""
    held: dict[int, str] = {}
    for line in lines:
        order, _, born = line.strip().partition(" ")
        if order.startswith("+"):
            held[int(order[1:])] = born
        elif held.get(int(order[1:])) == born:
            del held[int(order[1:])]
    for pid, born in held.items():
        signal_session(pid, born, signal.SIGKILL)


if __name__ == "__main__":
    hold(iter(sys.stdin.readline, ""))

"""This machine: Python, the packages, Java, the calendar, and whether a port can be reached."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

import fibflow
from fibflow.io.checkup.findings import Finding, Wrong, failed, ok, warning
from fibflow.io.checkup.site import CONNECT_S, Site
from fibflow.transforms.calendar import SECOND_US, TradingCalendar, load_calendar

PYTHON, JAVA = (3, 11), 17
#: A calendar should know the sessions of so many days to come, and has to know those of the longest window.
AHEAD_DAYS, LEAST_AHEAD_DAYS = 365, 60
_SHOWN = 4
_LOCKED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", re.MULTILINE)
_NEEDED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)")


def versions(site: Site) -> Iterator[Finding]:
    """Look at Python, the packages against the lock, and Java where Flink is asked for."""
    running = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != PYTHON:
        yield failed("python", f"this is Python {running}", "run Fibflow on Python 3.11")
    else:
        yield ok("python", f"Python {running}, Fibflow {fibflow.__version__}")
    lock = Path(fibflow.__file__).parent / "requirements.lock"
    yield packages(lock.read_text() if lock.exists() else None)
    if site.flink is not None:
        yield _java(site.env)


def packages(lock: str | None) -> Finding:
    """Look at the packages.

    Args:
        lock: the text of the lock; None where this is no checkout.
    """
    name = "packages"
    missing = [need for need in _needs() if _installed(need) is None]
    if missing:
        return failed(name, f"not installed: {', '.join(missing)}", "install what the lock says: make setup")
    if lock is None:
        return ok(
            name, "all that Fibflow needs are installed; there is no lock here to compare versions with"
        )
    pinned = dict(_LOCKED.findall(lock))
    differ = [
        f"{package} {found} for {wanted}"
        for package, wanted in pinned.items()
        if (found := _installed(package)) is not None and found != wanted
    ]
    if differ:
        more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        return warning(
            name,
            f"other versions than the lock's: {', '.join(differ[:_SHOWN])}{more}",
            "install what the lock says: make setup",
        )
    count = sum(_installed(package) is not None for package in pinned)
    return ok(name, f"{count} are as the lock says")


def _needs() -> list[str]:
    """Return what users of the package need, without its extras."""
    try:
        wanted = metadata.requires("fibflow") or []
    except metadata.PackageNotFoundError:
        return []
    return [found[1] for line in wanted if "extra ==" not in line and (found := _NEEDED.match(line))]


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _java(env: Mapping[str, str]) -> Finding:
    name, home = "java", env.get("JAVA_HOME")
    need = f"install Java {JAVA} or later, or set JAVA_HOME: pipelines.stream needs it to submit a job"
    program = shutil.which("java", path=str(Path(home) / "bin") if home else env.get("PATH"))
    if program is None:
        return warning(name, f"there is none {'in JAVA_HOME' if home else 'on the path'}", need)
    try:
        told = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=CONNECT_S * 5)
    except (OSError, subprocess.TimeoutExpired) as error:
        return warning(name, f"it does not start ({type(error).__name__})", need)
    version = re.search(r'version "(\d+)', told.stderr + told.stdout)
    if version is None or int(version[1]) < JAVA:
        return warning(name, f"it is Java {version[1] if version else 'of an unknown version'}", need)
    return ok(name, f"Java {version[1]}")


def reaches(calendar: TradingCalendar, now: float) -> Finding:
    """Return how far ahead of an instant (seconds since 1970) a calendar knows sessions."""
    today = int(now // 86_400)
    last = int(calendar.days[-1])
    reason = f"{calendar.name} of hash {calendar.digest}, up to {np.datetime64(last, 'D')}"
    advice = "install a later release of exchange_calendars"
    if last - today < LEAST_AHEAD_DAYS:
        return failed("calendar", f"{reason}: windows of several sessions have no end", advice)
    if last - today < AHEAD_DAYS:
        return warning("calendar", f"{reason}: less than a year", advice)
    return ok("calendar", reason)


def calendar_of(name: str, now: float) -> TradingCalendar:
    """Return a calendar through the year after next.

    Raises:
        CalendarError: there is none of that name, or the library cannot make it.
    """
    return load_calendar(name, _year(now) + 2)


def is_open(calendar: TradingCalendar, now: float, after_s: float = 0.0) -> bool:
    """Return whether a regular session runs, and has run for so long."""
    at = int(now * SECOND_US)
    place = int(np.searchsorted(calendar.opens, at, side="right")) - 1
    since = int(calendar.opens[place]) + int(after_s * SECOND_US)
    return place >= 0 and since <= at < int(calendar.closes[place])


def _year(now: float) -> int:
    return int(np.datetime64(int(now), "s").astype("datetime64[Y]").astype(int)) + 1970


def worker_pool(site: Site) -> Iterator[Finding]:
    """Look whether the worker pool takes connections."""
    assert site.worker_pool is not None
    host, port = site.worker_pool
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise Wrong(
            f"{host}:{port} takes no connection ({error.strerror or error})",
            "start it beside each task manager (docs/runners.md), or correct --worker-pool",
        ) from None
    yield ok("worker pool", f"{host}:{port} takes connections")

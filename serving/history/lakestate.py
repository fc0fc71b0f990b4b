"""What a server process knows of its lake: which files each table has, for now and for versions of before.

Reading a Delta log takes too long for each request. A snapshot is kept and looked at again when it is older
than ``refresh_s``: by one thread, while the others go on with what they have. Only where it is much older,
after a pause, do they wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deltalake.exceptions import DeltaError

from fibflow.io import tables
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake, TableMissing, VersionMissing
from fibflow.io.readbars import View, check_terms
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.serving.history.query import AsOf
from fibflow.serving.problems import Problem
from fibflow.transforms.calendar import TradingCalendar, load_calendar

_LOG = logging.getLogger("fibflow.serving")

#: What is this many times older than it may be is waited for, so many seconds at most.
_STALE, _WAIT_S = 5, 2.0
#: How long a lake that was never reached is not asked again, seconds.
_FAILED_S = 1.0
#: What a lake that cannot be read raises.
_FAILURES = (LakeError, DeltaError, OSError)
_ATTEMPTS = 2
#: How many snapshots of before are kept.
_OLD = 32
#: The tables that bars come from.
READ = (tables.BARS, tables.LIVE, tables.DAILY, tables.MINUTES)


def unreachable(error: BaseException) -> Problem:
    """Return what is told where the lake does not answer; what it said is logged, as it may name places."""
    _LOG.error("the lake cannot be read: %s", error)
    return Problem(
        503, "the lake cannot be read at the moment: try again", "lake_unreachable", {"Retry-After": "1"}
    )


def gone() -> Problem:
    """Return what is told of versions whose files or log were vacuumed away."""
    return Problem(
        410, "the lake no longer has these versions: ask for the newest, without cursor", "version_gone"
    )


def no_bars() -> Problem:
    """Return what is told where there is nothing to read."""
    return Problem(404, "this lake has no bars yet: run pipelines.batch or pipelines.stream on it", "no_bars")


@dataclass(frozen=True)
class Tables:
    """One version of each table; None for one that is not there.

    Attributes:
        bars, live: ``silver.bars``, ``silver.live``.
        daily, minutes: ``bronze.daily``, ``bronze.minutes``.
        sources: what was found of them, for whoever asks them.
    """

    bars: Snapshot | None
    live: Snapshot | None
    daily: Snapshot | None
    minutes: Snapshot | None
    sources: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @property
    def view(self) -> View:
        """The tables of bars."""
        return View(self.bars, self.live)

    @property
    def present(self) -> list[Snapshot]:
        """The tables that are there."""
        return [table for table in (self.bars, self.live, self.daily, self.minutes) if table is not None]

    @property
    def versions(self) -> tuple[int, int, int, int]:
        """The versions; -1 for a table that is not there."""
        four = (self.bars, self.live, self.daily, self.minutes)
        a, b, c, d = (-1 if table is None else table.version for table in four)
        return a, b, c, d

    def property(self, key: str) -> str | None:
        """What the tables say of how bars are made: the first that says it."""
        return next((table.properties[key] for table in self.present if key in table.properties), None)


class LakeState:
    """The tables of a lake, for one server process. Safe to use from several threads."""

    def __init__(
        self,
        lake: Lake,
        refresh_s: float,
        now: Callable[[], float] = time.monotonic,
        wrap: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot,
    ) -> None:
        """Take the lake.

        Args:
            lake: to read.
            refresh_s: how old what is known may be; 0: look at each question.
            now: seconds, for ages.
            wrap: what is done with each new snapshot.
        """
        self._lake = lake
        self._refresh_s = refresh_s
        self._now = now
        self._wrap = wrap
        self._found: Tables | None = None
        self._looked = float("-inf")
        self._looks = 0
        self._failed: tuple[float, Problem] | None = None
        self._refreshing = threading.Lock()
        self._old: OrderedDict[Hashable, Snapshot | None] = OrderedDict()
        self._old_lock = threading.Lock()
        self._calendars: dict[str, TradingCalendar] = {}

    # Now ---------------------------------------------------------------------------------------------------

    def now(self) -> Tables:
        """Return the newest tables that are known.

        Raises:
            Problem: 503 where the lake was never reached, 404 where it has no table to make bars of.
        """
        found, age = self._found, self._now() - self._looked
        if found is None or self._refresh_s <= 0:
            self._check_failed()
            with self._refreshing:
                if self._found is None or self._refresh_s <= 0:
                    self._check_failed()
                    self._refresh(strict=True)
        elif age > _STALE * self._refresh_s:
            if self._refreshing.acquire(timeout=_WAIT_S):
                try:
                    if self._now() - self._looked > self._refresh_s:
                        self._refresh(strict=False)
                finally:
                    self._refreshing.release()
        elif age > self._refresh_s and self._refreshing.acquire(blocking=False):
            threading.Thread(target=self._refresh_and_release, name="lake", daemon=True).start()
        found = self._found
        assert found is not None
        if not found.present:
            raise no_bars()
        return found

    def known(self) -> Tables | None:
        """Return the newest tables that are known; None where it would take a look at the lake."""
        if self._found is None:
            # To look may take long, and is not for the loop.
            return None
        if self._refresh_s <= 0 or self._now() - self._looked > _STALE * self._refresh_s:
            return None
        return self.now()

    def look_again(self) -> Tables:
        """Return the newest tables, from the lake: what is known was found to be out of date."""
        before = self._looks
        with self._refreshing:
            # Of many who ask at once the first one looks.
            if self._looks == before:
                self._refresh(strict=True)
        return self.now()

    def reach(self) -> None:
        """Look at the lake.

        Raises:
            Problem: 503, it does not answer.
        """
        try:
            for spec in (tables.BARS, tables.LIVE):
                _ = self._lake.table(spec).version
        except _FAILURES as error:
            raise unreachable(error) from error

    def _refresh_and_release(self) -> None:
        try:
            self._refresh(strict=False)
        finally:
            self._refreshing.release()

    def _refresh(self, strict: bool) -> None:
        """Read what has changed. The lock is held. A failure leaves what is known; ``strict``: raises."""
        try:
            self._found = self._look()
        except _FAILURES as error:
            if strict:
                problem = unreachable(error)
                self._failed = self._now(), problem
                raise problem from error
            _LOG.warning("what is known of the lake stays as it was: %s", error)
        except Problem as problem:
            if strict:
                raise
            _LOG.error("what is known of the lake stays as it was: %s", problem.detail)
        finally:
            self._looked = self._now()
            self._looks += 1

    def _check_failed(self) -> None:
        """Raise what those were told who looked just now: a lake that is away is not asked once a reader."""
        failed = self._failed
        if failed is not None and self._found is None and self._now() - failed[0] < _FAILED_S:
            raise failed[1]

    def _look(self) -> Tables:
        before = _four(self._found)
        newest = tuple(self._newest(spec, old) for spec, old in zip(READ, before, strict=True))
        if self._found is not None and all(a is b for a, b in zip(newest, before, strict=True)):
            # With what was found of them.
            return self._found
        found = Tables(*newest)
        try:
            check_terms(found.view)
        except LakeError as error:
            raise Problem(503, str(error), "tables_do_not_mix") from error
        return found

    def _newest(self, spec: TableSpec, before: Snapshot | None) -> Snapshot | None:
        table = self._lake.table(spec)
        for attempt in range(_ATTEMPTS):
            version = table.version
            if before is not None and before.version == version:
                return before
            if version < 0:
                return None
            try:
                return self._wrap(table.snapshot())
            except _FAILURES:
                # Vacuum may have taken a part of the log while it was read.
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    # Before ------------------------------------------------------------------------------------------------

    def at(self, as_of: AsOf | None) -> Tables:
        """Return the tables as they are, or as they were.

        Raises:
            Problem: as ``now``; 410 where versions are gone, 404 where there was no table yet.
        """
        if as_of is None:
            return self.now()
        if as_of.instant is not None:
            return self._at_instant(as_of.instant)
        now = self.now()
        wanted = (as_of.bars, as_of.live, as_of.daily, as_of.minutes)
        found = Tables(
            *(
                self._at_version(spec, version, newest)
                for spec, version, newest in zip(READ, wanted, _four(now), strict=True)
            )
        )
        if not found.present:
            raise gone()
        return found

    def _at_version(self, spec: TableSpec, version: int | None, newest: Snapshot | None) -> Snapshot | None:
        if version is None or (newest is not None and newest.version == version):
            return newest
        if version < 0:
            return None
        if newest is None or version > newest.version:
            # The cursor of another process that has looked since.
            newest = dict(zip(READ, _four(self.look_again()), strict=True))[spec]
            if newest is None or version > newest.version:
                raise Problem(404, f"{spec.name} has no version {version} yet", "unknown_version")
            if newest.version == version:
                return newest
        return self._kept((spec.name, version), lambda: self._read(spec, version))

    def _read(self, spec: TableSpec, version: int) -> Snapshot | None:
        try:
            return self._wrap(self._lake.table(spec).snapshot(version))
        except TableMissing:
            raise gone() from None
        except _FAILURES as error:
            # The log answers for its newest version, so it is this one that it lacks.
            self.reach()
            raise gone() from error

    def _at_instant(self, instant: datetime) -> Tables:
        def read(spec: TableSpec) -> Callable[[], Snapshot | None]:
            def snapshot() -> Snapshot | None:
                try:
                    return self._wrap(self._lake.table(spec).snapshot(instant))
                except (TableMissing, VersionMissing):
                    return None
                except _FAILURES as error:
                    self.reach()
                    raise gone() from error

            return snapshot

        # The newest versions are part of the name: an instant to come is not what it is now.
        mark = self.now().versions
        found = Tables(*(self._kept((spec.name, instant, mark), read(spec)) for spec in READ))
        if not found.present:
            raise Problem(404, f"this lake had no bars at {instant.isoformat()}", "no_bars")
        return found

    def _kept(self, key: Hashable, make: Callable[[], Snapshot | None]) -> Snapshot | None:
        with self._old_lock:
            if key in self._old:
                self._old.move_to_end(key)
                return self._old[key]
        made = make()
        with self._old_lock:
            self._old[key] = made
            while len(self._old) > _OLD:
                self._old.popitem(last=False)
        return made

    # What it is made with ----------------------------------------------------------------------------------

    def calendar_of(self, found: Tables) -> TradingCalendar:
        """Return the calendar that the tables were made with."""
        name = found.property(tables.CALENDAR) or "XNYS"
        if name not in self._calendars:
            self._calendars[name] = load_calendar(name)
        return self._calendars[name]


def _four(found: Tables | None) -> tuple[Snapshot | None, Snapshot | None, Snapshot | None, Snapshot | None]:
    return (None,) * 4 if found is None else (found.bars, found.live, found.daily, found.minutes)

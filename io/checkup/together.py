"""Looks side by side, with one deadline for all: what hangs fails alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from fibflow.io.aws import AwsError
from fibflow.io.checkup.findings import Check, Finding, State, Wrong, failed
from fibflow.io.checkup.site import Site
from fibflow.io.dynamodb import DynamoError
from fibflow.io.flinkrest import FlinkError
from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.postgresql.session import PostgresError
from fibflow.io.storage import LakeError
from fibflow.io.vendor.errors import VendorError
from fibflow.transforms.calendar import CalendarError

#: Begins the name of each look's thread.
THREADS = "look at "
#: Each is one line that says what to do.
KNOWN = (
    AwsError,
    CalendarError,
    DynamoError,
    FlinkError,
    KinesisError,
    LakeError,
    LiveStoreError,
    PostgresError,
    VendorError,
)


class _Look:
    """One check in a thread of its own."""

    def __init__(self, check: Check, site: Site) -> None:
        self.check = check
        self._site = site
        self._found: list[Finding] = []
        # It may hang for good, and must not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"{THREADS}{check.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Return whether it is over, within some seconds."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def found(self) -> list[Finding]:
        """Return what was found so far."""
        return [
            replace(each, reason=self._site.scrubbed(each.reason), advice=self._site.scrubbed(each.advice))
            for each in list(self._found)
        ]

    def _run(self) -> None:
        name = self.check.name
        try:
            for finding in self.check.look(self._site):
                self._found.append(finding)
        except Wrong as wrong:
            self._found.append(failed(name, wrong.reason, wrong.advice))
        except KNOWN as error:
            self._found.append(failed(name, str(error)))
        except Exception as error:  # one part's surprise is not the others'
            self._found.append(
                failed(name, f"{type(error).__name__}: {error}", "this look itself went wrong")
            )


def look(checks: Sequence[Check], site: Site, timeout_s: float) -> list[Finding]:
    """Look at all parts at once.

    Args:
        checks: the parts.
        site: the installation.
        timeout_s: for all of them.

    Returns:
        What was found, in the order of the checks. The thread of a look that hangs is left behind.
    """
    ends = time.monotonic() + timeout_s
    site = replace(site, ends=site.clock() + timeout_s)
    looks = {check.name: _Look(check, site) for check in checks if check.is_asked}
    for each in looks.values():
        each.start()
    found: list[Finding] = []
    for check in checks:
        if not check.is_asked:
            found.append(check.left_out())
            continue
        running = looks[check.name]
        over = running.wait(ends - time.monotonic())
        found += running.found()
        if not over:
            found.append(
                failed(
                    check.name,
                    f"no answer within {timeout_s:g} s",
                    "see whether it can be reached from here (security groups); or give more --timeout",
                )
            )
    return found


def is_well(found: Sequence[Finding]) -> bool:
    """Return whether nothing failed."""
    return all(each.state is not State.FAILED for each in found)

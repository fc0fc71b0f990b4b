"""``pipelines.doctor`` for tests: run in this process, and what it found."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from fibflow.pipelines import doctor
from fibflow.tests.pipelines.lakes import XNYS, sessions
from fibflow.tests.pipelines.raws import Bronze, Raw, rows_of

#: What of the environment names parts of an installation.
NAMES = (
    *("FIBFLOW_LAKE", "FIBFLOW_SOURCE", "FIBFLOW_SERVER_URL", "FIBFLOW_API_KEY", "FIBFLOW_SNS_TOPIC"),
    *("FIBFLOW_DYNAMODB", "FIBFLOW_DYNAMODB_TICKS", "REDIS_URL", "DATABASE_URL", "FLINK_REST_URL"),
    *("BEAM_WORKER_POOL", "MASSIVE_API_KEY", "POLYGON_API_KEY", "FIBFLOW_VENDOR_URL"),
)
#: Times out where something is broken only.
PATIENT = ("--timeout", "120")


@dataclass(frozen=True)
class Report:
    """What a run said: its exit code, and the findings in their order."""

    code: int
    found: list[dict[str, str]]
    text: str

    def __getitem__(self, check: str) -> tuple[str, str, str]:
        """State, reason and advice of the one finding of a check."""
        ((state, reason, advice),) = [
            (each["state"], each["reason"], each["advice"]) for each in self.found if each["check"] == check
        ]
        return state, reason, advice

    def states(self, *left_out: str) -> set[str]:
        """The states of all that was asked for."""
        asked = [each for each in self.found if each["state"] != "not asked"]
        return {each["state"] for each in asked if each["check"] not in left_out}


def looked(*argv: str, **more: Any) -> Report:
    """Run the command line; ``more`` are other clocks and disks."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = doctor.run(["--json", *PATIENT, *argv], **more)
    found = json.loads(said.getvalue())
    assert found["well"] is (code == 0)
    return Report(code, found["checks"], said.getvalue())


def due(now: datetime) -> list[date]:
    """The last ten sessions whose days have ended."""
    last = XNYS.day_ends.searchsorted(int(now.timestamp()) * 1_000_000, side="right") - 1
    day = XNYS.days[last].astype("datetime64[D]").item()
    return sessions(str(day - timedelta(days=30)), str(day))[-10:]


def land(uri: str, raw: Raw, days: list[date], aws: Any = None) -> None:
    """Land days of one symbol."""
    raw.put("symbol=AAPL/data.parquet", rows_of("AAPL", days))
    Bronze(uri, aws).first(raw)


def now() -> datetime:
    return datetime.now(UTC)

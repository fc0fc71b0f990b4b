"""Backfills that are killed, in processes of their own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from datetime import date
from pathlib import Path

import pytest

from fibflow.io.failpoints import VARIABLE
from fibflow.tests.pipelines.backfills import KEY, Job
from fibflow.tests.pipelines.lakes import command, sessions
from fibflow.tests.pipelines.raws import FAST
from fibflow.tests.vendors import standin

FIRST, LAST = date(2024, 1, 2), date(2024, 2, 14)
DAYS = sessions(str(FIRST), str(LAST))
AT_ONCE = 2


def process(job: Job, failpoint: str, *options: str) -> int:
    given = ["--lake", job.lake.uri, "--raw", job.raw, "--vendor-url", job.vendor.url, "--rate", "1000"]
    bounds = ["--from", str(FIRST), "--to", str(LAST), "--at-once", str(AT_ONCE)]
    done = subprocess.run(
        command("backfill", *given, *bounds, *FAST, *options),
        env={**os.environ, "POLYGON_API_KEY": KEY, VARIABLE: failpoint},
        capture_output=True,
        text=True,
        check=False,
    )
    assert KEY not in done.stdout + done.stderr
    return done.returncode


def test_killed_five_times_at_random_the_lake_has_what_the_vendor_has(tmp_path: Path) -> None:
    dice = random.Random(7)
    faults = "429:0.02:seconds=0,500:0.01,cut:0.01,nonsense:0.01"
    with standin(symbols=6, first=FIRST, last=LAST, minutes=0, faults=faults) as vendor:
        job = Job(str(tmp_path), vendor)
        for place in ("after-vendor-file", "before-vendor-file", "after-vendor-file", "before-vendor-file"):
            assert process(job, f"{place}:{dice.randint(1, 6)}") == -signal.SIGKILL
        # All is fetched, and nothing landed.
        assert process(job, "before-commit") == -signal.SIGKILL
        assert process(job, "") == 0
        days = vendor.days()
        assert job.rows().equals(days.cast(job.rows().schema))
        calls, answers = vendor.names["grouped"], vendor.answers
        # Each session once, what went wrong again, and of a killed run what was under way.
        wrong = sum(answers.values()) - answers["200"]
        assert len(DAYS) <= calls <= len(DAYS) + wrong + 4 * AT_ONCE
        assert job.fetch(FIRST, last=LAST).calls == 0
    left = [path.name for path in Path(job.raw, "daily").iterdir() if path.name.startswith(".")]
    assert len(left) <= 4


@pytest.mark.parametrize("place", ["before-vendor-file", "after-vendor-file"])
def test_what_a_symbol_lacks_is_asked_for_again_where_the_answer_was_lost(place: str, tmp_path: Path) -> None:
    with standin(symbols=6, first=FIRST, last=LAST, minutes=0) as vendor:
        job = Job(str(tmp_path), vendor)
        chosen = ",".join(sorted({str(name) for name in vendor.days()["symbol"].to_pylist()})[:3])
        assert process(job, f"{place}:2", "--symbols", chosen, "--no-load") == -signal.SIGKILL
        assert process(job, "", "--symbols", chosen, "--no-load") == 0
        days = vendor.days().to_pylist()
        wanted = [row for row in days if row["symbol"] in chosen.split(",")]
        assert job.copied().to_pylist() == wanted
        assert vendor.names["days"] <= 3 + 1 + 2 * AT_ONCE

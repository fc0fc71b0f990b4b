"""A lake that grew step by step holds what a full run over the same files makes."""

from __future__ import annotations

import pytest

from fibflow.tests.pipelines.lakes import History, Silver
from fibflow.tests.pipelines.raws import Bronze

TIMEFRAMES = ("--timeframes", "3d,5d,13d,34d")
ANCHORS = ("exchange", "listing", "rows")


@pytest.mark.parametrize("seed", [1, 2])
def test_an_incremental_run_leaves_what_a_full_run_makes(seed, tmp_path):
    history = History.draw(tmp_path / "raw", seed)
    bronze = Bronze(str(tmp_path / "bronze"))
    options = [("--anchor", anchor, *TIMEFRAMES) for anchor in ANCHORS]
    lakes = [Silver(str(tmp_path / anchor), source=("--input", f"{bronze.uri}/bronze.daily")) for anchor in ANCHORS]
    bad = []
    for number, (step, happen) in enumerate([("start", history.start), *history.steps()]):
        happen()
        bronze.first(history.raw)
        for lake, own in zip(lakes, options, strict=True):
            lake.batch(*own)
            fresh = Silver(str(tmp_path / f"fresh-{number}-{own[1]}"))
            fresh.batch("--input", str(history.raw), "--price-basis", "raw", *own)
            a, b = lake.content(), fresh.content()
            if a != b:
                bad.append((step, own[1], len(a), len(b), len(a.keys() - b.keys()), len(b.keys() - a.keys())))
    assert not bad

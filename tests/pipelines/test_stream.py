"""The theorem on real servers: the lake of the stream is batch over its archive minus the late rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fibflow.runners.services.stack import Stack
from fibflow.tests.pipelines.live import LiveRun, Market, compare

#: Half of Maundy Thursday in Stockholm, then the first session after the clocks went forward.
HALF_DAY_AND_DST = ("2024-03-28", "2024-04-02")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(["redis", "moto", "flink", "beam"], slots=2) as running:
        yield running


@pytest.mark.parametrize("feed", ["trades", "minutes"])
def test_the_lake_of_the_stream_is_batch_over_its_archive(stack: Stack, tmp_path: Path, feed: str) -> None:
    market = Market.of(feed, HALF_DAY_AND_DST, calendar="XSTO")
    run = LiveRun(stack, tmp_path, market, f"ticks-{feed}", feed)
    run.create_stream()
    run.submit()
    try:
        for segment in market.segments():
            run.play(segment)
        run.wait_for_end()
    finally:
        run.cancel()
    found = compare(run)
    assert found.bars > 10_000
    assert (found.missing, found.surplus, found.different) == (0, 0, 0)
    assert min(found.late, found.revised, found.duplicates) > 0
    truth = market.tape.truth
    assert found.unreadable == truth.broken
    assert found.ticks == truth.readable
    assert found.ticks == found.used + found.duplicates + found.late

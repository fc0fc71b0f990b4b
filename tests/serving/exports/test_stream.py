"""An export on its way: its thread, its place, its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest

from fibflow.serving.exports.stream import Export, Slots
from fibflow.serving.exports.writers import ExportFormat, writer_of
from fibflow.serving.problems import Problem
from fibflow.tests.io.barlakes import XNYS, daily_rows, make_bars
from fibflow.transforms.timeframe import Timeframe

DAYS = daily_rows({"A": ("2024-01-02", "2024-03-28"), "B": ("2024-01-02", "2024-03-28")})
BARS = make_bars(DAYS, "3d")[0].sort_by([("symbol", "ascending"), ("ts", "ascending")])


@pytest.fixture
def slots():
    made = Slots(1)
    yield made
    made.close()


async def free(slots: Slots) -> None:
    while slots.taken:
        await asyncio.sleep(0)


async def begun(
    slots: Slots, tables: Iterator[pa.Table], told: list[str], cancel: Callable[[], None] = lambda: None
) -> Export:
    """An export of a zip, whose place is taken."""
    await slots.place()
    writer = writer_of(ExportFormat.BACKTESTING, (), False, Timeframe(3, 0), XNYS)

    def cancelled() -> None:
        told.append("cancelled")
        cancel()

    return Export(slots, tables, writer, cancelled, lambda: told.append("closed"))


def test_pieces_come_in_order_and_then_its_place_is_free(slots):
    told: list[str] = []

    async def whole() -> list[bytes]:
        export = await begun(slots, iter([BARS.slice(0, 10), BARS.slice(10)]), told)
        pieces = []
        while (piece := await export.next()) is not None:
            pieces.append(piece)
        export.close()
        await free(slots)
        return pieces

    pieces = asyncio.run(whole())
    assert len(pieces) == 3
    assert b"".join(pieces).startswith(b"PK")
    assert told == ["closed"]


def test_an_error_of_the_source_is_the_clients_and_gives_the_place_back(slots):
    told: list[str] = []

    def broken() -> Iterator[pa.Table]:
        yield BARS.slice(0, 10)
        raise Problem(410, "gone")

    async def run() -> None:
        export = await begun(slots, broken(), told)
        assert await export.next()
        with pytest.raises(Problem, match="gone"):
            await export.next()
        export.close()
        await free(slots)

    asyncio.run(run())
    assert told == ["closed"]


def test_an_export_that_nobody_began_gives_its_place_back(slots):
    told: list[str] = []

    async def run() -> None:
        (await begun(slots, iter([BARS]), told)).close()
        await free(slots)

    asyncio.run(run())
    assert told == ["closed"]


def test_who_goes_away_cancels_what_runs_and_the_place_is_free_when_its_thread_is(slots):
    told: list[str] = []
    reading, cancelled = threading.Event(), threading.Event()

    def slow() -> Iterator[pa.Table]:
        yield BARS.slice(0, 10)
        reading.set()
        assert cancelled.wait(30)
        told.append("ended")
        yield BARS.slice(10)

    async def run() -> None:
        export = await begun(slots, slow(), told, cancelled.set)
        assert await export.next()
        waiting = asyncio.ensure_future(export.next())
        while not reading.is_set():
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert slots.taken == 1
        export.close()
        await free(slots)

    asyncio.run(run())
    assert told == ["cancelled", "ended", "closed"]


def test_an_export_may_end_after_its_threads(slots):
    told: list[str] = []

    async def run() -> None:
        export = await begun(slots, iter([BARS.slice(0, 10), BARS.slice(10)]), told)
        assert await export.next()
        slots.close()
        export.close()
        assert slots.taken == 0

    asyncio.run(run())
    assert told == ["closed"]


def test_who_waits_comes_in_turn(slots):
    told: list[str] = []

    async def second(name: str) -> None:
        await slots.place()
        told.append(name)
        slots.give_back()

    async def run() -> None:
        await slots.place()
        waiting = [asyncio.create_task(second(name)) for name in ("a", "b", "c")]
        await asyncio.sleep(0)
        assert told == []
        waiting[1].cancel()
        await asyncio.to_thread(slots.give_back)
        await asyncio.gather(*waiting, return_exceptions=True)
        await free(slots)

    asyncio.run(run())
    assert told == ["a", "c"]


@pytest.mark.parametrize("made", [Slots(1, line=0), Slots(1, wait_s=0.0)], ids=["no line", "no patience"])
def test_a_line_that_is_full_or_stands_is_a_429(made):
    async def run() -> None:
        await made.place()
        with pytest.raises(Problem) as told:
            await made.place()
        assert (told.value.status, told.value.code) == (429, "too_many_exports")
        made.give_back()
        await made.place()
        made.give_back()

    asyncio.run(run())
    assert made.taken == 0
    made.close()


def test_a_turn_that_comes_as_its_waiter_goes_is_passed_on(slots):
    async def run() -> None:
        await slots.place()
        gone, stays = (asyncio.create_task(slots.place()) for _ in range(2))
        await asyncio.sleep(0)
        slots.give_back()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        await stays
        assert slots.taken == 1
        slots.give_back()

    asyncio.run(run())
    assert slots.taken == 0

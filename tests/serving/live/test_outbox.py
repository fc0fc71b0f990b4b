from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.live.fragments import FRAME_BYTES, FRAME_ROWS
from fibflow.serving.live.outbox import MOST_BYTES, Outbox


def drained(outbox: Outbox) -> list[str]:
    """All that can be read now."""

    async def read() -> list[str]:
        found = []
        while len(outbox):
            frame = await outbox.next()
            assert frame is not None
            found.append(frame)
        return found

    return asyncio.run(read())


def test_objects_are_gathered_to_one_frame():
    outbox = Outbox(10)
    for text in ("1", "2", "3"):
        outbox.add(text)
    assert drained(outbox) == ["[1,2,3]"]


def test_frames_and_objects_stay_in_order():
    outbox = Outbox(10)
    outbox.add("1")
    outbox.add("2")
    outbox.put("[3]")
    outbox.add("4")
    assert drained(outbox) == ["[1,2]", "[3]", "[4]"]


def test_a_frame_that_was_taken_gets_no_more_objects():
    outbox = Outbox(10)
    outbox.add("1")
    assert drained(outbox) == ["[1]"]
    outbox.add("2")
    assert drained(outbox) == ["[2]"]


@given(st.lists(st.integers(1, FRAME_BYTES // 3), max_size=60))
def test_frames_are_bounded_and_nothing_is_lost(sizes):
    outbox = Outbox(1_000)
    texts = [json.dumps("x" * size) for size in sizes]
    for text in texts:
        outbox.add(text)
    frames = drained(outbox)
    assert all(len(frame) <= FRAME_BYTES for frame in frames)
    assert [word for frame in frames for word in json.loads(frame)] == [json.loads(text) for text in texts]


def test_a_frame_has_so_many_objects_at_most():
    outbox = Outbox(10)
    for place in range(FRAME_ROWS + 1):
        outbox.add(str(place))
    assert [len(json.loads(frame)) for frame in drained(outbox)] == [FRAME_ROWS, 1]


def test_with_one_frame_too_many_the_client_is_slow_and_gets_nothing_more():
    told = []
    outbox = Outbox(3, lambda: told.append("slow"))
    for place in range(4):
        assert not outbox.slow
        outbox.put(f"[{place}]")
    outbox.put("[9]")
    assert (outbox.slow, len(outbox), told) == (True, 0, ["slow"])
    assert asyncio.run(outbox.next()) is None


def test_bytes_are_bounded_too():
    outbox = Outbox(1_000)
    frame = "x" * FRAME_BYTES
    for _ in range(MOST_BYTES // FRAME_BYTES):
        outbox.put(frame)
    assert not outbox.slow
    outbox.put("x")
    assert outbox.slow


def test_what_was_read_makes_room():
    outbox = Outbox(2)
    for place in range(20):
        outbox.put("x" * FRAME_BYTES)
        outbox.add(str(place))
        assert len(drained(outbox)) == 2
    assert not outbox.slow


def test_what_is_there_comes_before_what_came_while_it_was_read():
    outbox = Outbox(10)
    outbox.add("1")
    outbox.hold()
    outbox.add("5")
    outbox.put("[6]")
    outbox.release(["[2]", "[3]"])
    outbox.add("7")
    assert drained(outbox) == ["[1]", "[2]", "[3]", "[5]", "[6]", "[7]"]


def test_nothing_is_read_while_held():
    async def held() -> str | None:
        outbox = Outbox(10)
        outbox.put("[1]")
        outbox.hold()
        reading = asyncio.create_task(outbox.next())
        await asyncio.sleep(0)
        assert not reading.done()
        outbox.release([])
        return await reading

    assert asyncio.run(held()) == "[1]"


def test_a_reader_waits_for_what_comes():
    async def wait() -> str | None:
        outbox = Outbox(10)
        reading = asyncio.create_task(outbox.next())
        await asyncio.sleep(0)
        outbox.add("1")
        outbox.add("2")
        return await reading

    assert asyncio.run(wait()) == "[1,2]"


@pytest.mark.parametrize("held", [False, True])
def test_after_the_last_frame_there_is_no_more(held):
    async def last() -> list[str | None]:
        outbox = Outbox(10)
        outbox.put("[1]")
        if held:
            outbox.hold()
        outbox.finish("[2]")
        outbox.put("[3]")
        outbox.add("4")
        return [await outbox.next() for _ in range(3)]

    assert asyncio.run(last()) == ["[1]", "[2]", None]

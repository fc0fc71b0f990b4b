"""The vendor's WebSocket: what is said on it, and what is made of what the vendor says."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from fibflow.io.ingest.feed import Feed, FeedLost, FeedRefused, feed_url, statuses_of
from fibflow.tests.io.ingest.feedserver import FeedServer

KEY = "secret-key"


@pytest.fixture
def server():
    with FeedServer(KEY) as running:
        yield running


def connect(feed, then, told=None):
    """What ``then`` makes of a connection."""

    async def main():
        async with feed.connected((told if told is not None else []).append) as connection:
            return await then(connection)

    return asyncio.run(main())


async def nothing(connection):
    return connection


def test_frames_come_as_bytes_as_they_were_sent(server):
    frame = '[{"ev":"T","sym":"Ü", "p":1.50}]'

    async def two(connection):
        await asyncio.to_thread(server.send, frame, [{"ev": "T"}])
        return await connection.frame(), await connection.frame(), await connection.alive(5.0)

    feed = Feed(server.url, KEY, ["T.A", "T.B", "T.A"])
    assert connect(feed, two) == (frame.encode(), b'[{"ev": "T"}]', True)
    assert server.subscribed == [["T.A", "T.B"]]


def test_many_topics_are_asked_for_in_parts(server):
    topics = [f"T.S{number}" for number in range(1201)]
    connect(Feed(server.url, KEY, topics), nothing)
    assert [topic for part in server.subscribed for topic in part] == topics
    assert max(map(len, server.subscribed)) <= 500


def test_a_wrong_key_is_one_line_that_does_not_have_it(server):
    with pytest.raises(FeedRefused, match=r"refuses the key .*set MASSIVE_API_KEY") as caught:
        connect(Feed(server.url, "mine-and-wrong", ["T.*"]), nothing)
    assert "mine-and-wrong" not in str(caught.value)
    assert "mine-and-wrong" not in repr(Feed(server.url, "mine-and-wrong", ["T.*"]))
    assert "\n" not in str(caught.value)


def test_a_plan_without_access_is_one_line_and_part_of_it_is_told(server):
    server.entitled = ["AM.*"]
    with pytest.raises(FeedRefused, match=r"gives none of T\.\* \(not entitled: T\.\*\): ask for less"):
        connect(Feed(server.url, KEY, ["T.*"]), nothing)
    told: list[str] = []
    connect(Feed(server.url, KEY, ["T.*", "AM.*"]), nothing, told)
    assert told == [f"{server.url} refuses (not entitled: T.*)"]


def test_too_many_connections_may_pass(server):
    server.crowded = True
    with pytest.raises(FeedLost, match=r"too many connections with this key .*: stop another one"):
        connect(Feed(server.url, KEY, ["T.*"]), nothing)


def test_who_is_not_there_or_says_nothing_is_lost(server):
    server.leave()
    with pytest.raises(FeedLost, match=r"ws://127.0.0.1:\d+/stocks cannot be reached: .+"):
        connect(Feed(server.url, KEY, ["T.*"]), nothing)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        feed = Feed(f"ws://127.0.0.1:{mute.getsockname()[1]}/stocks", KEY, ["T.*"], timeout=0.1)
        with pytest.raises(FeedLost, match="cannot be reached: it did not answer in time"):
            connect(feed, nothing)


@pytest.mark.parametrize("code", [1000, 1001, 1012, None])
def test_any_end_is_an_end_and_what_came_before_it_is_had(server, code):
    async def to_the_end(connection):
        await asyncio.to_thread(server.send, [{"ev": "T"}])
        first = await connection.frame()
        await asyncio.to_thread(server.cut if code is None else lambda: server.close(code))
        with pytest.raises(FeedLost) as caught:
            await connection.frame()
        return first, str(caught.value)

    first, why = connect(Feed(server.url, KEY, ["T.*"]), to_the_end)
    assert first == b'[{"ev": "T"}]'
    assert ("was cut" if code is None else str(code)) in why


def test_the_key_in_a_closes_reason_is_not_told(server):
    async def to_the_end(connection):
        await asyncio.to_thread(server.close, 1008, f"no more for {KEY}")
        with pytest.raises(FeedLost) as caught:
            await connection.frame()
        return str(caught.value)

    assert "(1008 no more for ***)" in connect(Feed(server.url, KEY, ["T.*"]), to_the_end)


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (b'[{"ev":"status","status":"x","message":"y"}]', (1, True)),
        (b'{"ev": "status", "status": "x"}', (1, True)),
        (b'[{"ev":"status","status":"x"},{"ev":"T"},{"ev":"status"}]', (2, False)),
        (b'[{"ev":"T","sym":"status"}]', (0, False)),
        (b'[{"ev":"status",', (0, False)),
        (b"[]", (0, False)),
    ],
)
def test_statuses(frame, found):
    statuses, alone = statuses_of(frame)
    assert (len(statuses), alone) == found


def test_what_the_vendor_says_in_passing():
    feed = Feed("ws://h/stocks", KEY, ["T.*"])
    said = {"status": "slow_consumer", "message": f"too slow, {KEY}"}
    assert feed.passing(said) == "the vendor says slow_consumer (too slow, ***)"
    assert feed.passing(json.loads('{"status":"success","message":"subscribed"}')) is None


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("wss://host/stocks", "wss://host/stocks"),
        ("ws://host:8100", "ws://host:8100/stocks"),
        ("host:8100", "ws://host:8100/stocks"),
        ("ws://host/ws/v1/stocks/", "ws://host/ws/v1/stocks"),
    ],
)
def test_addresses(given, url):
    assert feed_url(given) == url


@pytest.mark.parametrize("given", ["http://host", "wss://", "wss://me:key@host/stocks", "wss://h/s?apiKey=k"])
def test_what_is_no_address(given):
    with pytest.raises(ValueError, match="has to read wss://host/stocks"):
        feed_url(given)

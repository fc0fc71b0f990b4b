"""The feed: who gets what of a script, when, and what goes wrong at its places."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.serving.live.outbox import Outbox
from fibflow.serving.live.topics import parse
from fibflow.serving.standin.faults import FaultError
from fibflow.serving.standin.feed import STEP_S, Feed
from fibflow.serving.standin.following import Follower, Part
from fibflow.serving.standin.paces import LONGEST_SILENCE_S, FeedFault, Pace
from fibflow.serving.standin.script import MESSAGES, Session
from fibflow.tests.serving.live.wires import wait_for
from fibflow.tests.serving.standin.conftest import FIRST, LAST, now
from fibflow.tests.vendors import standin

_BOUND_S = 60.0
#: A minute of them all is a frame of the feed.
TRADES = 4


def script(vendor, trades=TRADES):
    """What is played, in its order."""
    texts: list[Any] = [
        text for part in Session.of(vendor.lake, None, trades).parts() for text in part["message"].to_pylist()
    ]
    return [json.loads(text) for text in texts]


class Wire:
    """A client of the feed that reads when it is told to."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.frames: list[int] = []

    async def say(self, action: str, params: str) -> None:
        await self.socket.send(json.dumps({"action": action, "params": params}))

    async def read(self) -> list[dict[str, Any]]:
        text = await asyncio.wait_for(self.socket.recv(), _BOUND_S)
        self.frames.append(len(text))
        return json.loads(text)

    async def take(self, count: int) -> list[dict[str, Any]]:
        """So many messages that are no status, or a few more of the last frame's."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += [message for message in await self.read() if message["ev"] != "status"]
        return found

    async def rest(self) -> list[dict[str, Any]]:
        """All until the connection ends."""
        found: list[dict[str, Any]] = []
        try:
            while True:
                found += [message for message in await self.read() if message["ev"] != "status"]
        except websockets.ConnectionClosed:
            return found


@asynccontextmanager
async def wire(vendor, topics="AM.*,T.*", key="any"):
    """A connection that follows some topics, and reads no further ahead than it has to."""
    host, _, port = vendor.feed.partition(":")
    plain = socket.create_connection((host, int(port)))
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    url = f"ws://{vendor.feed}/stocks"
    async with websockets.connect(
        url, sock=plain, max_size=1 << 20, max_queue=1, compression=None
    ) as connection:
        made = Wire(connection)
        assert (await made.read())[0]["status"] == "connected"
        await made.say("auth", key)
        assert (await made.read())[0]["status"] == "auth_success"
        if topics:
            await made.say("subscribe", topics)
            assert {told["status"] for told in await made.read()} == {"success"}
        try:
            yield made
        finally:
            # A farewell would wait behind all that is still to be read.
            connection.transport.abort()
            await connection.wait_closed()


@asynccontextmanager
async def again(vendor):
    """A connection once the feed lets somebody in."""
    async with AsyncExitStack() as stack:
        client = None
        async with asyncio.timeout(_BOUND_S):
            while client is None:
                with suppress(websockets.InvalidMessage, websockets.ConnectionClosed):
                    client = await stack.enter_async_context(wire(vendor))
        yield client


def test_the_vendors_clients_get_all_of_it(package, vendor):
    expected = script(vendor)
    got: list[Any] = []

    async def follow() -> None:
        client = package.WebSocketClient(
            "any", feed=vendor.feed, market="stocks", secure=False, subscriptions=["AM.*", "T.*"]
        )

        async def take(messages: list[Any]) -> None:
            got.extend(messages)
            if len(got) >= len(expected):
                await client.close()

        async with asyncio.timeout(_BOUND_S):
            await client.connect(take)

    vendor.play(trades=TRADES)
    asyncio.run(follow())
    assert len(got) == len(expected) > 10_000
    for model, message in zip(got, expected, strict=True):
        assert (model.event_type, model.symbol) == (message["ev"], message["sym"])
        if message["ev"] == "T":
            assert (model.price, model.size, model.timestamp) == (message["p"], message["s"], message["t"])
        else:
            assert (model.close, model.volume, model.start_timestamp) == (
                message["c"],
                message["v"],
                message["s"],
            )
    assert vendor.played["state"] == "played"
    assert vendor.played["position"] == vendor.played["total"] == len(expected)


def test_a_wrong_key_and_a_plan_without_a_feed_raise_their_auth_error(package):
    async def follow(vendor, key) -> None:
        client = package.WebSocketClient(
            key, feed=vendor.feed, market="stocks", secure=False, subscriptions=["AM.*"]
        )
        async with asyncio.timeout(_BOUND_S):
            await client.connect(lambda messages: None)

    for plan, key, told in (("all", "other", "Unknown API Key"), ("basic", "secret", "websocket access")):
        with (
            standin(symbols=2, first=FIRST, last=LAST, key="secret", plan=plan, clock=now) as vendor,
            pytest.raises(package.exceptions.AuthError, match=told),
        ):
            asyncio.run(follow(vendor, key))


def test_topics_are_kept_to(vendor):
    expected = script(vendor)
    one, other = sorted({message["sym"] for message in expected})[:2]

    async def follow() -> list[dict[str, Any]]:
        async with wire(vendor, f"AM.{one},T.{other},AM.{other}") as client:
            await client.say("unsubscribe", f"AM.{other}")
            await client.read()
            vendor.play(trades=TRADES)
            wanted = [m for m in expected if (m["ev"], m["sym"]) in (("AM", one), ("T", other))]
            assert await client.take(len(wanted)) == wanted
            return wanted

    assert len(asyncio.run(follow())) > 1_000


def test_it_is_played_as_fast_as_all_read_it(vendor):
    expected = script(vendor, trades=30)

    async def follow() -> None:
        vendor.play(trades=30, followers=2)
        async with wire(vendor) as fast, wire(vendor) as slow:
            reading = asyncio.create_task(fast.take(len(expected)))
            await asyncio.sleep(0)
            # What waits for the slow one fills what lies between; there it stops.
            async with asyncio.timeout(_BOUND_S):
                while (played := vendor.played)["behind"] < 8:
                    await asyncio.sleep(0.01)
            assert 0 < played["position"] < len(expected)
            assert played["behind"] < 20
            assert not reading.done()
            assert await slow.take(len(expected)) == await reading == expected
            # Far from the vendor's bound of a megabyte, and not a frame a message.
            assert max(fast.frames) <= 256 << 10
            assert len(fast.frames) < len(expected) / 20

    asyncio.run(follow())


def test_a_cut_and_what_is_missed_meanwhile(vendor):
    expected = script(vendor)
    vendor.feed_fault("cut", at=3_000, length=1_500)
    vendor.feed_fault("close", at=6_000, code=1011)
    vendor.play(trades=TRADES)

    async def follow() -> list[list[dict[str, Any]]]:
        found, codes = [], []
        async with wire(vendor) as client:
            found.append(await client.rest())
            codes.append(client.socket.close_code)
        async with again(vendor) as client:
            found.append(await client.rest())
            codes.append(client.socket.close_code)
        async with again(vendor) as client:
            found.append(await client.take(len(expected) - 6_000))
        assert codes == [1006, 1011]
        return found

    # Played as fast as it is read, it waits for who comes again, once the fault is over.
    assert asyncio.run(follow()) == [expected[:3_000], expected[4_500:6_000], expected[6_000:]]


def test_a_silence_loses_what_is_played_and_a_slow_stretch_nothing(vendor):
    expected = script(vendor)
    vendor.feed_fault("silence", at=2_000, length=700)
    vendor.feed_fault("slow", at=4_000, length=50, rate=500)

    async def follow() -> list[dict[str, Any]]:
        async with wire(vendor) as client:
            vendor.play(trades=TRADES)
            return await client.take(len(expected) - 700)

    assert asyncio.run(follow()) == expected[:2_000] + expected[2_700:]


def test_nobody_is_let_in_while_it_lasts_and_orders_end_it(vendor):
    vendor.feed_fault("cut", at=100, length=1, seconds=3_600)
    vendor.play(rate=100_000.0)

    async def follow() -> None:
        async with wire(vendor) as client:
            assert len(await client.rest()) == 100
        with pytest.raises((websockets.InvalidMessage, websockets.ConnectionClosed)):
            async with wire(vendor):
                pass
        vendor.clear()
        async with wire(vendor):
            pass

    asyncio.run(follow())


def test_it_begins_anew_and_ends_when_it_is_told_to(vendor):
    first = script(vendor, 0)[0]

    async def follow() -> None:
        async with wire(vendor, "AM.*") as client:
            for _ in range(2):
                vendor.play(rate=1_000.0)
                while first not in await client.take(1):
                    pass
                assert vendor.played["state"] == "playing"
            vendor.end()
            assert vendor.played["state"] == "idle"

    asyncio.run(follow())
    wait_for(lambda: vendor.played["followers"] == 0, _BOUND_S)


# Without a server: a clock that only sleeping moves.


class Told:
    """A script of messages a second apart, of one symbol."""

    start = 0

    def __init__(self, total: int) -> None:
        self.total = total

    def parts(self):
        for begin in range(0, self.total, 64):
            places = range(begin, min(begin + 64, self.total))
            yield pa.table(
                [
                    pa.array(["T"] * len(places)),
                    pa.array(["A"] * len(places)).dictionary_encode(),
                    pa.array([place * 1_000_000 for place in places]).cast(pa.timestamp("us", "UTC")),
                    pa.array([json.dumps({"place": place}) for place in places]),
                ],
                names=MESSAGES.names,
            ).cast(MESSAGES)


class Stage:
    """A feed, and a client of it that notes when each message came."""

    def __init__(self) -> None:
        self.now = 100.0
        self.feed = Feed(lambda: self.now, self.sleep)
        self.came: dict[int, float] = {}
        self.outbox = Outbox(1_000)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        # All that waits takes its turn.
        for _ in range(5):
            await asyncio.sleep(0)

    async def listen(self) -> None:
        self.feed.subscribe(self.outbox, [parse("T.*")])
        while (frame := await self.outbox.next()) is not None:
            for message in json.loads(frame):
                self.came[message["place"]] = self.now - 100

    async def play(self, total: int, pace: Pace, *faults: FeedFault) -> dict[int, float]:
        """When each message came that did, seconds from the beginning."""
        self.feed.order(*faults)
        listening = asyncio.create_task(self.listen())
        await asyncio.sleep(0)
        await self.feed.play(Told(total), pace)
        async with asyncio.timeout(_BOUND_S):
            while self.feed.told()["state"] != "played" or len(self.outbox):
                await asyncio.sleep(0)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        return self.came


def played(total: int, pace: Pace, *faults: dict[str, Any]) -> dict[int, float]:
    return asyncio.run(Stage().play(total, pace, *map(FeedFault.of, faults)))


@pytest.mark.parametrize(("pace", "each"), [(Pace(rate=40.0), 1 / 40), (Pace(speed=8.0), 1 / 8)])
def test_messages_come_when_they_are_due(pace, each):
    came = played(200, pace)
    assert sorted(came) == list(range(200))
    for place, at in came.items():
        assert place * each <= at + 1e-9
        assert at <= place * each + 3 * STEP_S


def test_a_silence_by_the_clock_loses_what_is_due_in_it():
    came = played(400, Pace(rate=100.0), {"kind": "silence", "at": 100, "seconds": 1.5})
    missed = sorted(set(range(400)) - set(came))
    assert missed == list(range(100, 100 + len(missed)))
    assert 145 <= len(missed) <= 155


def test_a_slow_stretch_comes_late_and_is_made_up_for():
    came = played(400, Pace(rate=100.0), {"kind": "slow", "at": 100, "length": 50, "rate": 10.0})
    assert sorted(came) == list(range(400))
    assert came[149] - came[100] >= 4.8
    assert came[399] < 7


def test_a_pause_where_the_clients_set_the_pace():
    came = played(100, Pace(), {"kind": "silence", "at": 10, "seconds": 30.0, "length": 5})
    assert sorted(set(range(100)) - set(came)) == list(range(10, 15))
    assert came[9] == 0
    assert came[15] == 30


def test_faults_that_meet_all_count():
    faults = (
        {"kind": "silence", "at": 20, "length": 30},
        {"kind": "slow", "at": 40, "length": 40, "rate": 50.0},
        {"kind": "silence", "at": 60, "length": 5},
    )
    came = played(100, Pace(), *faults)
    assert sorted(came) == [*range(20), *range(50, 60), *range(65, 100)]


def test_when_messages_are_due():
    sent = np.array([10, 11, 11, 75, 1_000], np.int64) * 1_000_000
    assert Pace(rate=10.0).due(sent, 0, 20, 1.9).tolist() == [2.0, 2.1, 2.2, 2.3, 2.4]
    assert Pace().due(sent, 0, 20, 1.9).tolist() == [0.0] * 5
    found = Pace(speed=2.0).due(sent, 8_000_000, 20, 1.9)
    # A night takes no longer than a minute.
    gaps = [2, 1, 0, LONGEST_SILENCE_S, LONGEST_SILENCE_S]
    assert found.tolist() == pytest.approx((1.9 + np.cumsum(gaps) / 2).tolist())


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"speed": -1.0}])
def test_a_pace_that_is_none(wrong):
    with pytest.raises(FaultError, match="above 0"):
        Pace(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "cut"},
        {"kind": "burn", "at": 1},
        {"kind": "cut", "at": -1},
        {"kind": "slow", "at": 0, "rate": 0},
    ],
)
def test_a_fault_that_is_none(wrong):
    with pytest.raises(FaultError):
        FeedFault.of(wrong)


names = st.sampled_from(["A", "BRK.B", "C"])
kinds = st.sampled_from(["AM", "T"])
topics = st.lists(st.builds("{}.{}".format, kinds, names | st.just("*")), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(kinds, names), min_size=1, max_size=30), topics, topics, st.data())
def test_a_follower_gets_what_it_follows_in_order(messages, wanted, unwanted, data):
    follower = Follower()
    follower.change(map(parse, wanted), add=True)
    assert follower.key == follower.key
    follower.change(map(parse, unwanted), add=False)
    topics_left = set(wanted) - set(unwanted)
    texts = [json.dumps({"ev": kind, "sym": name, "place": at}) for at, (kind, name) in enumerate(messages)]
    columns = [
        pa.array([kind for kind, _ in messages]),
        pa.array([name for _, name in messages]).dictionary_encode(),
        pa.array(range(len(messages))).cast(pa.timestamp("us", "UTC")),
        pa.array(texts),
    ]
    part = Part(pa.table(columns, names=MESSAGES.names).cast(MESSAGES))
    begin = data.draw(st.integers(0, len(messages)))
    end = data.draw(st.integers(begin, len(messages)))
    frames, count = part.frames(follower, begin, end)
    found = [message for frame in frames for message in json.loads(frame)]
    assert found == [
        json.loads(text)
        for text, (kind, name) in list(zip(texts, messages, strict=True))[begin:end]
        if f"{kind}.*" in topics_left or f"{kind}.{name}" in topics_left
    ]
    assert count == len(found)
    assert follower.topics() == len(topics_left)


def test_frames_stay_small():
    texts = [json.dumps({"ev": "T", "sym": "A", "i": "x" * 1_000, "q": place}) for place in range(2_000)]
    columns = [
        pa.array(["T"] * len(texts)),
        pa.array(["A"] * len(texts)).dictionary_encode(),
        pa.array([0] * len(texts)).cast(pa.timestamp("us", "UTC")),
        pa.array(texts),
    ]
    follower = Follower()
    follower.change([parse("T.*")], add=True)
    frames, _ = Part(pa.table(columns, names=MESSAGES.names).cast(MESSAGES)).frames(follower, 0, len(texts))
    assert max(map(len, frames)) <= 256 << 10
    assert Counter(message["q"] for frame in frames for message in json.loads(frame)) == Counter(range(2_000))

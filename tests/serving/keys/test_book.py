"""Keys in memory: what is asked of the store, when, and what counts while it is away."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime

import pytest

from fibflow.serving.keys.book import FRESH_S, GRACE_S, STALE_S, KeyBook
from fibflow.serving.keys.scope import Scope
from fibflow.serving.keys.sqlite import SqliteKeys
from fibflow.serving.keys.store import KeysDown, issue

NOW = datetime(2024, 1, 24, 18, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Counting(SqliteKeys):
    """A store that counts what it is asked, and that can be away."""

    def __init__(self, path) -> None:
        super().__init__(path)
        self.versions = self.reads = 0
        self.away = False

    def version(self):
        self.versions += 1
        if self.away:
            raise KeysDown("away")
        return super().version()

    def all(self):
        self.reads += 1
        return super().all()


def key(seed: int = 1):
    return issue("Ada", [Scope.HISTORY], NOW, random.Random(seed).randbytes, pepper="black")


class World:
    def __init__(self, path) -> None:
        self.store = Counting(path)
        self.clock = Clock()
        self.known = key(1)
        self.store.add(self.known.record)

    def book(self) -> KeyBook:
        return KeyBook(self.store, "black", lambda: NOW, self.clock)


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "keys.sqlite")


async def settled(book: KeyBook) -> None:
    """Wait for what is read in the background."""
    if book._reading is not None:
        await book._reading


def test_a_key_that_is_known_asks_nobody(world):
    async def asking():
        book = world.book()
        for _ in range(100):
            assert (await book.find(world.known.text)).id == world.known.record.id
        assert (world.store.versions, world.store.reads) == (1, 1)
        await book.close()

    asyncio.run(asking())


def test_many_that_ask_at_once_read_the_store_once(world):
    async def asking():
        book = world.book()
        found = await asyncio.gather(*(book.find(world.known.text) for _ in range(50)))
        assert all(found)
        assert world.store.versions == 1
        await book.close()

    asyncio.run(asking())


def test_the_store_is_read_again_only_when_its_version_has_changed(world):
    async def asking():
        book = world.book()
        await book.find(world.known.text)
        for _ in range(3):
            world.clock.now += FRESH_S + 0.1
            await book.find(world.known.text)
            await settled(book)
        assert (world.store.versions, world.store.reads) == (4, 1)
        await book.close()

    asyncio.run(asking())


@pytest.mark.parametrize("asked_in_between", [False, True])
def test_a_revocation_is_known_within_five_seconds(world, asked_in_between):
    async def asking():
        book = world.book()
        await book.find(world.known.text)
        world.store.revoke(world.known.record.id, NOW)
        until = world.clock.now + 5
        while world.clock.now < until:
            world.clock.now += 0.5
            if asked_in_between:
                await book.find(world.known.text)
        assert (await book.find(world.known.text)).state(NOW) == "revoked"
        await book.close()

    asyncio.run(asking())


def test_a_new_key_works_at_once(world):
    async def asking():
        book = world.book()
        await book.find(world.known.text)
        world.clock.now += 0.3
        fresh = key(2)
        world.store.add(fresh.record)
        assert await book.find(fresh.text) is not None
        await book.close()

    asyncio.run(asking())


def test_guesses_do_not_make_the_store_work(world):
    async def asking():
        book = world.book()
        for seed in range(2, 302):
            assert await book.find(key(seed).text) is None
        assert world.store.versions <= 2
        await book.close()

    asyncio.run(asking())


def test_another_secret_under_a_known_id_is_not_the_key(world):
    async def asking():
        book = world.book()
        text = world.known.text
        assert await book.find(text[:-1] + ("A" if text[-1] != "A" else "B")) is None
        assert await book.find("nonsense") is None
        await book.close()

    asyncio.run(asking())


def test_another_pepper_knows_no_key(world):
    async def asking():
        book = KeyBook(world.store, "white", lambda: NOW, world.clock)
        assert await book.find(world.known.text) is None
        await book.close()

    asyncio.run(asking())


def test_known_keys_count_for_a_while_when_the_store_is_away_and_others_do_not(world):
    async def asking():
        book = world.book()
        await book.find(world.known.text)
        world.store.away = True
        world.clock.now += STALE_S + 1
        assert await book.find(world.known.text) is not None
        with pytest.raises(KeysDown):
            await book.find(key(2).text)
        world.clock.now += GRACE_S
        with pytest.raises(KeysDown):
            await book.find(world.known.text)
        world.store.away = False
        world.clock.now += 2
        assert await book.find(world.known.text) is not None
        assert await book.find(key(2).text) is None
        await book.close()

    asyncio.run(asking())


def test_a_store_that_is_away_at_the_start_lets_nobody_in_and_is_found_when_it_comes(world):
    async def asking():
        world.store.away = True
        book = world.book()
        with pytest.raises(KeysDown):
            await book.find(world.known.text)
        with pytest.raises(KeysDown):
            await book.check()
        world.store.away = False
        world.clock.now += 2
        await book.check()
        assert await book.find(world.known.text) is not None
        await book.close()

    asyncio.run(asking())


def test_a_store_that_is_away_is_not_asked_by_every_request(world):
    async def asking():
        world.store.away = True
        book = world.book()
        for _ in range(50):
            with pytest.raises(KeysDown):
                await book.find(world.known.text)
        assert world.store.versions == 1
        await book.close()

    asyncio.run(asking())


def test_use_is_noted_once_a_minute_and_at_the_end(world):
    async def asking():
        book = world.book()
        await book.find(world.known.text)
        world.clock.now += 2
        await book.find(world.known.text)
        await settled(book)
        assert world.store.all()[0].last_used is None
        world.clock.now += 61
        await book.find(world.known.text)
        await settled(book)
        assert world.store.all()[0].last_used == NOW
        fresh = key(2)
        world.store.add(fresh.record)
        world.clock.now += 0.3
        await book.find(fresh.text)
        await book.close()
        assert {record.last_used for record in world.store.all()} == {NOW}

    asyncio.run(asking())

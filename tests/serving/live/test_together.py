"""Questions for one price that come at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from fibflow.serving.live.prices import REDIS, Found, Price
from fibflow.serving.live.together import Together

_BOUND_S = 20.0


def price(symbol: str, value: float) -> Price:
    return Price(symbol, 0, value, None, None, REDIS, "trade")


class Stores:
    """A live store that says of each question that it was asked, and waits until it may answer."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.may_answer = threading.Semaphore(0)
        self.error: Exception | None = None
        self.alone: list[str] = []

    def live(self, symbols: Sequence[str]) -> dict[str, Price]:
        self.questions.append(sorted(symbols))
        assert self.may_answer.acquire(timeout=_BOUND_S)
        if self.error is not None:
            raise self.error
        return {name: price(name, len(self.questions)) for name in symbols if name != "LACKING"}

    async def all(self, symbol: str) -> Found:
        self.alone.append(symbol)
        return Found({}, ("all",), {})


async def asked(stores: Stores, count: int) -> None:
    async with asyncio.timeout(_BOUND_S):
        while len(stores.questions) < count:
            await asyncio.sleep(0)


def test_those_that_come_while_one_is_asked_are_one_question():
    stores = Stores()
    together = Together(stores.live, stores.all)

    async def run() -> list[Found]:
        first = asyncio.create_task(together.find("A"))
        await asked(stores, 1)
        # Also of the symbol that is asked for just now: its answer may be of before.
        later = [asyncio.create_task(together.find(name)) for name in ("B", "A", "C", "B")]
        await asyncio.sleep(0)
        stores.may_answer.release()
        stores.may_answer.release()
        return [await first, *[await one for one in later]]

    found = asyncio.run(run())
    together.close()
    assert stores.questions == [["A"], ["A", "B", "C"]]
    told = [(name, one.price) for each in found for name, one in each.prices.items()]
    assert told == [("A", 1), ("B", 2), ("A", 2), ("C", 2), ("B", 2)]
    assert stores.alone == []


@pytest.mark.parametrize("error", [None, OSError("away")])
def test_what_the_live_store_does_not_tell_is_asked_for_by_itself(error):
    stores = Stores()
    together = Together(stores.live, stores.all)
    stores.error = error

    async def run() -> list[Found]:
        stores.may_answer.release()
        return list(await asyncio.gather(together.find("LACKING"), together.find("A")))

    lacking, other = asyncio.run(run())
    together.close()
    assert lacking.asked == ("all",)
    assert stores.alone == (["LACKING"] if error is None else ["LACKING", "A"])
    assert other.asked == ((REDIS,) if error is None else ("all",))


def test_without_a_live_store_each_is_asked_for_by_itself():
    stores = Stores()
    together = Together(None, stores.all)
    assert asyncio.run(together.find("A")).asked == ("all",)
    together.close()


def test_who_goes_away_leaves_the_others_their_answer():
    stores = Stores()
    together = Together(stores.live, stores.all)

    async def run() -> Found:
        gone, stays = (asyncio.create_task(together.find("A")) for _ in range(2))
        await asked(stores, 1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        stores.may_answer.release()
        return await stays

    assert asyncio.run(run()).asked == (REDIS,)
    together.close()

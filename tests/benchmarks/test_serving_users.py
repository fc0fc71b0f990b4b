"""Users over real sockets: the open loop waits for nobody, the closed loop asks as it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np

from fibflow.benchmarks.serving.questions import Plan, Question
from fibflow.benchmarks.serving.records import Record
from fibflow.benchmarks.serving.users import ClosedLoop, OpenLoop, kept_of
from fibflow.benchmarks.serving.wire import request_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#: What only something broken reaches, seconds.
BOUND_S = 20.0
Answer = Callable[[int], Awaitable[bytes | None]]


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[int]:
    """Yield the port of a server: ``answer`` takes the number of the request, None closes the connection."""
    asked = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                number, asked = asked, asked + 1
                said = await answer(number)
                if said is None:
                    break
                writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def asking(count: int, users: int = 1, step: float = 0.001) -> tuple[Plan, list[bytes]]:
    questions = [Question("price", f"/{number}", ("A",)) for number in range(count)]
    made = Plan(np.arange(count, dtype=np.float64) * step, np.arange(count) % users, questions)
    return made, [request_of("x", question.target, "gzip") for question in questions]


def run_open(count: int, answer: Answer, users: int = 1, patience_s: float = BOUND_S):
    async def run():
        made, requests = asking(count, users)
        async with served(answer) as port:
            loop = OpenLoop(port, made, requests, np.zeros(count, bool))
            return await asyncio.wait_for(loop.run(0.0, patience_s), 2 * BOUND_S)

    return asyncio.run(run())


def test_a_question_is_sent_though_earlier_ones_have_no_answer():
    all_asked = asyncio.Event()

    async def hold(number: int) -> bytes:
        # With one question at a time nothing would ever be answered.
        if number == 4:
            all_asked.set()
        await all_asked.wait()
        return OK

    ran = run_open(5, hold)
    assert ran.record.errors.total() == 0
    assert not np.isnan(ran.record.done).any()
    assert ran.opened == 5


def test_nothing_is_sent_before_its_time_or_done_before_it_is_sent():
    async def at_once(number: int) -> bytes:
        return OK

    async def run():
        made, requests = asking(6, users=2, step=0.0)
        made.at[:] = [0.0, 0.0, 0.05, 0.05, 0.1, 0.1]
        async with served(at_once) as port:
            return await OpenLoop(port, made, requests, np.zeros(6, bool)).run(0.0, BOUND_S)

    ran = asyncio.run(run())
    assert ran.record.errors.total() == 0
    assert (ran.record.sent >= ran.record.planned).all()
    assert (ran.record.done >= ran.record.sent).all()


def test_a_connection_that_the_server_cuts_is_an_error_and_the_next_question_has_a_new_one():
    async def cut_first(number: int) -> bytes | None:
        return OK if number else None

    ran = run_open(3, cut_first)
    assert dict(ran.record.errors) == {"price: the server closed the connection": 1}
    assert int(np.isnan(ran.record.done).sum()) == 1


def test_what_has_no_answer_in_time_is_an_error():
    async def never(number: int) -> bytes | None:
        if number:
            return OK
        await asyncio.Event().wait()
        return None

    ran = run_open(3, never, patience_s=0.2)
    assert dict(ran.record.errors) == {"price: no answer in time": 1}


def test_a_closed_loop_has_as_many_questions_under_way_as_connections():
    under_way, most = 0, 0

    async def count(number: int) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return OK

    async def run():
        made, requests = asking(1_000)
        record = Record(made.questions, np.full(1_000, np.nan))
        async with served(count) as port:
            loop = ClosedLoop(port, record, requests, np.zeros(1_000, bool))
            return await asyncio.wait_for(loop.run(3, 0.0, BOUND_S, BOUND_S), 2 * BOUND_S)

    ran = asyncio.run(run())
    # All were asked long before the time was over: then nothing more is.
    assert ran.record.plain(0.0)["kinds"]["all"]["answered"] == 1_000
    assert 1 <= most <= 3
    assert ran.opened == 3


def test_the_first_answer_is_always_kept():
    kept = kept_of(np.random.default_rng(0), 1_000, 0.0)
    assert kept.tolist() == [True, *[False] * 999]
    assert 50 < kept_of(np.random.default_rng(0), 1_000, 0.1).sum() < 150

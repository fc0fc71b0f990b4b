"""The load generator: users in a process of their own, who cost little, for they share the server's cores.

    python -m benchmarks.serving.users open --port 8000 --catalogue FILE --users 1000 --seconds 60 ...
    python -m benchmarks.serving.users closed --port 8000 --catalogue FILE --connections 8 --seconds 20 ...

Prints one JSON object. *Open*: a question is sent at its planned time, whether or not earlier ones have come
back, on a connection of the user's that is free, or a new one. *Closed*: each connection asks anew as soon as
its answer is whole.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.serving.questions import CODINGS, HISTORY, PRICES, Book, Mix, Plan, plan
from fibflow.benchmarks.serving.records import Record
from fibflow.benchmarks.serving.wire import Connection, request_of

HOST = "127.0.0.1"
#: Connections that are opened at once, before the start.
_OPENED_AT_ONCE = 50
#: More questions a second than a server on two cores answers: of so many a connection's are drawn.
_MOST_A_SECOND = 4_000
ASKED = {"history": HISTORY, "prices": PRICES}
#: Each history once.
TOUR = "tour"


@dataclass(frozen=True)
class Ran:
    """What a run was.

    Attributes:
        record: what came of its questions.
        begun: when it began, by the record's clock.
        opened: how many connections were opened.
        at: when it began and ended, seconds since 1970, what does not count left out.
    """

    record: Record
    begun: float
    opened: int
    at: tuple[float, float]


class Users:
    """Connections, and who uses them.

    Args:
        port: of the server.
        record: of what is asked.
        requests: the questions as bytes.
        kept: of which questions the answers are kept, shape (questions,).
    """

    def __init__(self, port: int, record: Record, requests: Sequence[bytes], kept: Any) -> None:
        self._port = port
        self._record = record
        self._requests = requests
        self._kept = kept
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = 0
        self.opened = 0
        self.changed = asyncio.Event()

    async def connect(self, count: int) -> list[Connection]:
        """Open connections."""
        found: list[Connection] = []
        for start in range(0, count, _OPENED_AT_ONCE):
            batch = [self.open(user) for user in range(start, min(count, start + _OPENED_AT_ONCE))]
            found += await asyncio.gather(*batch)
        return found

    async def open(self, user: int) -> Connection:
        """Open a connection for a user.

        Raises:
            BenchmarkError: the server does not take it.
        """
        self.opened += 1
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(lambda: Connection(self._ended), HOST, self._port)
        except OSError as error:
            raise BenchmarkError(f"no connection: {error.strerror or error}") from None
        made.user = user
        return made

    def ask(self, connection: Connection, ticket: int) -> None:
        """Send a question."""
        self._record.sent[ticket] = time.perf_counter()
        self.waiting += 1
        connection.ask(self._requests[ticket], ticket, bool(self._kept[ticket]))

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the rest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def free(self, connection: Connection) -> None:
        """Take a connection whose answer has come; it may be closed."""

    def _ended(self, connection: Connection, error: str | None) -> None:
        now, ticket = time.perf_counter(), connection.ticket
        assert ticket is not None
        connection.ticket = None
        self.waiting -= 1
        if error is None:
            self._record.take(ticket, connection.reader, now)
        else:
            self._record.fail(ticket, error)
        self.changed.set()
        self.free(connection)


class OpenLoop(Users):
    """Users who ask at planned times."""

    def __init__(self, port: int, made: Plan, requests: Sequence[bytes], kept: Any) -> None:
        super().__init__(port, Record(made.questions, made.at), requests, kept)
        self._at: list[float] = made.at.tolist()
        self._user: list[int] = made.user.tolist()
        self._idle: list[list[Connection]] = [[] for _ in range(max(self._user) + 1)]
        self._next = 0
        self._all: list[Connection] = []

    async def run(self, warm_s: float, patience_s: float) -> Ran:
        """Ask all questions, and wait for the answers so long at most."""
        self._all = await self.connect(len(self._idle))
        for connection in self._all:
            self._idle[connection.user].append(connection)
        begun = time.perf_counter()
        clock = time.time() + warm_s
        self._record.planned = self._record.planned + begun
        self._at = self._record.planned.tolist()
        self._pump()
        until = self._at[-1] + patience_s
        while (self._next < len(self._at) or self.waiting) and time.perf_counter() < until:
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), 0.5)
            except TimeoutError:
                continue
        ended = time.time()
        self._end()
        return Ran(self._record, begun, self.opened, (clock, ended))

    def free(self, connection: Connection) -> None:
        if connection.is_open:
            self._idle[connection.user].append(connection)

    def _pump(self) -> None:
        """Send what is due."""
        now = time.perf_counter()
        while self._next < len(self._at) and self._at[self._next] <= now:
            self._launch(self._next)
            self._next += 1
        if self._next < len(self._at):
            asyncio.get_running_loop().call_later(self._at[self._next] - now, self._pump)

    def _launch(self, ticket: int) -> None:
        idle = self._idle[self._user[ticket]]
        while idle:
            connection = idle.pop()
            if connection.is_open:
                self.ask(connection, ticket)
                return
        self.do(self._ask_on_a_new_one(ticket))

    async def _ask_on_a_new_one(self, ticket: int) -> None:
        self.waiting += 1
        try:
            connection = await self.open(self._user[ticket])
        except BenchmarkError as error:
            self._record.fail(ticket, str(error))
        else:
            self._all.append(connection)
            self.ask(connection, ticket)
        finally:
            self.waiting -= 1
            self.changed.set()

    def _end(self) -> None:
        for connection in self._all:
            ticket, connection.ticket = connection.ticket, None
            if ticket is not None:
                self._record.fail(ticket, "no answer in time")
            connection.close()


class ClosedLoop(Users):
    """Connections that ask again and again."""

    def __init__(self, port: int, record: Record, requests: Sequence[bytes], kept: Any) -> None:
        super().__init__(port, record, requests, kept)
        self._next = 0
        self._until = 0.0

    async def run(self, connections: int, warm_s: float, seconds: float, patience_s: float) -> Ran:
        """Ask for some seconds, and wait for the last answers so long at most."""
        made = await self.connect(connections)
        begun, clock = time.perf_counter(), time.time()
        self._until = begun + warm_s + seconds
        for connection in made:
            self.free(connection)
        bound = self._until + patience_s
        while self.waiting and time.perf_counter() < bound:
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), 0.5)
            except TimeoutError:
                continue
        for connection in made:
            ticket, connection.ticket = connection.ticket, None
            if ticket is not None:
                self._record.fail(ticket, "no answer in time")
            connection.close()
        ended = min(clock + warm_s + seconds, time.time())
        return Ran(self._record, begun, self.opened, (clock + warm_s, ended))

    def free(self, connection: Connection) -> None:
        if time.perf_counter() >= self._until:
            return
        if not connection.is_open:
            self.do(self._again(connection.user))
        elif self._next < len(self._requests):
            ticket, self._next = self._next, self._next + 1
            self.ask(connection, ticket)
            self._record.planned[ticket] = self._record.sent[ticket]

    async def _again(self, user: int) -> None:
        try:
            self.free(await self.open(user))
        except BenchmarkError as error:
            self._record.errors[str(error)] += 1


def collect_no_more() -> None:
    """Let garbage be: a collection would hold all answers up that come meanwhile."""
    gc.collect()
    gc.freeze()
    gc.disable()


def kept_of(rng: np.random.Generator, questions: int, share: float) -> Any:
    """Return of which questions the answers are kept, shape (questions,); of the first one always."""
    kept = rng.random(questions) < share
    kept[:1] = True
    return kept


def run_open(args: argparse.Namespace, book: Book) -> dict[str, Any]:
    """Run users who ask at planned times; see ``main`` for the arguments."""
    mix = Mix(1 - args.price - args.export, args.price, args.export)
    made = plan(book, args.users, args.warm_s + args.seconds, args.every_s, mix, args.seed)
    host = f"{HOST}:{args.port}"
    codings = [CODINGS[user % len(CODINGS)] for user in made.user.tolist()]
    requests = [
        request_of(host, question.target, coding)
        for question, coding in zip(made.questions, codings, strict=True)
    ]
    kept = kept_of(np.random.default_rng([args.seed, 1]), len(requests), args.checked)
    users = OpenLoop(args.port, made, requests, kept)
    collect_no_more()
    ran = uvloop.run(users.run(args.warm_s, args.patience_s))
    found = ran.record.plain(ran.begun + args.warm_s)
    return {**found, "opened": ran.opened, "at": ran.at, "users": args.users}


def run_closed(args: argparse.Namespace, book: Book) -> dict[str, Any]:
    """Run connections that ask again and again; see ``main`` for the arguments."""
    rng = np.random.default_rng(args.seed)
    if args.ask == TOUR:
        questions = book.tour(rng)
    else:
        ways = cycle(ASKED[args.ask])
        count = round(_MOST_A_SECOND * (args.warm_s + args.seconds))
        questions = book.draw(rng, [next(ways) for _ in range(count)])
    count = len(questions)
    host = f"{HOST}:{args.port}"
    # By twos: both codings for both ways to ask.
    requests = [
        request_of(host, question.target, CODINGS[place // 2 % len(CODINGS)])
        for place, question in enumerate(questions)
    ]
    record = Record(questions, np.full(count, np.nan))
    users = ClosedLoop(args.port, record, requests, kept_of(rng, count, args.checked))
    collect_no_more()
    ran = uvloop.run(users.run(args.connections, args.warm_s, args.seconds, args.patience_s))
    since = ran.begun + args.warm_s
    found = record.plain(since)
    answered = int(((record.done >= since) & (record.done < since + args.seconds)).sum())
    return {
        **found,
        "rate": answered / args.seconds,
        "opened": ran.opened,
        "at": ran.at,
        "connections": args.connections,
        "ask": args.ask,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: ask, then print what came of it."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving.users", description="Users of a server.")
    parser.add_argument("loop", choices=("open", "closed"))
    parser.add_argument("--port", type=int, required=True, help="of the server, on the loopback")
    parser.add_argument("--catalogue", type=Path, required=True, help="of the lake that it serves")
    parser.add_argument("--seconds", type=float, required=True, help="measured")
    parser.add_argument("--warm-s", type=float, default=0.0, help="before, not counted")
    parser.add_argument("--patience-s", type=float, default=10.0, help="for the last answers")
    parser.add_argument("--seed", type=int, required=True, help="of the questions")
    parser.add_argument("--prices-seed", type=int, required=True, help="of the live store's prices")
    parser.add_argument("--checked", type=float, default=0.01, help="share of the answers that are checked")
    parser.add_argument("--users", type=int, default=1_000, help="open: how many")
    parser.add_argument("--every-s", type=float, default=1.0, help="open: between a user's questions")
    parser.add_argument("--price", type=float, default=0.495, help="open: share of live prices")
    parser.add_argument("--export", type=float, default=0.01, help="open: share of exports")
    parser.add_argument("--connections", type=int, default=1, help="closed: how many")
    parser.add_argument("--ask", choices=(*ASKED, TOUR), default="history", help="closed: what")
    args = parser.parse_args(argv)
    # A connection a user, and more where answers are late.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        book = Book(args.catalogue, args.prices_seed)
        found = run_open(args, book) if args.loop == "open" else run_closed(args, book)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

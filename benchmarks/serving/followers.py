"""WebSocket clients in a process of their own: most follow some symbols' minutes, some follow all.

    python -m benchmarks.serving.followers --port 8000 --catalogue FILE --clients 1000 --wild 20 --topics 20
        --minutes 20 --warm 1 --seed 2 --values-seed 1 --written FILE

Prints a line of JSON when all have subscribed. A line on standard input says that all is written: when each
has its bars, or some seconds later, it prints a line of what came. Frames are kept as they come, with the
time, and read when all is over: the clients share the server's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow.parquet as pq
import uvloop

from fibflow.benchmarks.serving import frames, market
from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.serving.users import HOST, collect_no_more
from fibflow.benchmarks.serving.wire import WireError
from fibflow.benchmarks.serving.writer import names_of
from fibflow.benchmarks.streaming.visible import percentiles

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PATH = "/stocks"
_READY_WITHIN_S = 120.0
_CONNECTED_AT_ONCE = 50
_LOOK_S = 0.25
_BAR = b'"ev":"AM"'
_EVERY = "AM.*"
_SHOWN = 5


@dataclass
class Heard:
    """What came to all clients, frame by frame.

    Attributes:
        at: when, seconds since 1970.
        client: to whom.
        frame: which of ``texts`` it was.
        texts: frames, each once: those of all symbols come to many.
    """

    at: list[float] = field(default_factory=list)
    client: list[int] = field(default_factory=list)
    frame: list[int] = field(default_factory=list)
    texts: dict[bytes, int] = field(default_factory=dict)

    def take(self, client: int, text: bytes, at: float) -> None:
        """Keep a frame."""
        self.at.append(at)
        self.client.append(client)
        self.frame.append(self.texts.setdefault(text, len(self.texts)))


class Client(asyncio.Protocol):
    """One WebSocket.

    Args:
        number: its own.
        host: as the header has it.
        topics: to subscribe to.
        heard: where frames of bars go.
    """

    def __init__(self, number: int, host: str, topics: Sequence[str], heard: Heard) -> None:
        self.number, self._host, self._topics, self._heard = number, host, topics, heard
        self._frames = frames.Frames()
        self._transport: Any = None
        self._told = 0
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bars = 0
        self.error: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(frames.handshake(self._host, PATH))

    def data_received(self, data: bytes) -> None:
        at = time.time()
        try:
            for code, payload in self._frames.feed(data):
                self._take(code, payload, at)
        except WireError as error:
            self._fail(str(error))

    def _take(self, code: int, payload: bytes, at: float) -> None:
        if code == frames.TEXT:
            if self.ready.done():
                self.bars += payload.count(_BAR)
                self._heard.take(self.number, payload, at)
            else:
                self._greet(payload)
        elif code == frames.PING:
            self._transport.write(frames.frame(frames.PONG, payload))
        elif code == frames.CLOSE:
            self._fail(f"closed with {int.from_bytes(payload[:2], 'big')}")

    def _greet(self, payload: bytes) -> None:
        """Say who we are, and what we follow; be ready when all topics are taken."""
        for told in orjson.loads(payload):
            kind = told.get("status")
            if kind == "connected":
                self._say("auth", "open")
            elif kind == "auth_success":
                self._say("subscribe", ",".join(self._topics))
            elif kind == "success":
                self._told += 1
            else:
                self._fail(f"told {told.get('message', told)}")
        if self._told == len(self._topics) and not self.ready.done():
            self.ready.set_result(None)

    def _say(self, action: str, params: str) -> None:
        text = orjson.dumps({"action": action, "params": params})
        self._transport.write(frames.frame(frames.TEXT, text))

    def _fail(self, reason: str) -> None:
        self.error = self.error or reason
        if not self.ready.done():
            self.ready.set_exception(BenchmarkError(reason))
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._fail("the server closed the connection")

    def close(self) -> None:
        """Close it."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()


def topics_of(
    names: Sequence[str], clients: int, wild: int, topics: int, seed: int
) -> list[list[int] | None]:
    """Return the symbols that each client follows, by number; None for all of them."""
    rng = np.random.default_rng(seed)
    each = min(topics, len(names))
    chosen: list[list[int] | None] = [
        np.sort(rng.choice(len(names), each, replace=False)).tolist() for _ in range(clients - wild)
    ]
    return [*[None] * wild, *chosen]


async def follow(
    port: int, names: Sequence[str], followed: Sequence[list[int] | None], minutes: int, told: Told
) -> tuple[Heard, list[Client]]:
    """Connect, say that all is ready, and read until ``told`` says that it is over."""
    heard, host, loop = Heard(), f"{HOST}:{port}", asyncio.get_running_loop()
    clients: list[Client] = []

    async def one(number: int, symbols: list[int] | None) -> None:
        topics = [_EVERY] if symbols is None else [f"AM.{names[symbol]}" for symbol in symbols]
        _, client = await loop.create_connection(lambda: Client(number, host, topics, heard), HOST, port)
        clients.append(client)
        await client.ready

    async with asyncio.timeout(_READY_WITHIN_S):
        for start in range(0, len(followed), _CONNECTED_AT_ONCE):
            part = followed[start : start + _CONNECTED_AT_ONCE]
            await asyncio.gather(*(one(start + place, symbols) for place, symbols in enumerate(part)))
    clients.sort(key=lambda client: client.number)
    print(json.dumps({"ready": len(clients)}), flush=True)
    wanted = [minutes * (len(names) if symbols is None else len(symbols)) for symbols in followed]
    while not told.is_over(
        all(client.bars >= count or client.error for client, count in zip(clients, wanted, strict=True))
    ):
        await asyncio.sleep(_LOOK_S)
    for client in clients:
        client.close()
    return heard, clients


class Told:
    """What standard input tells: a line when all is written; its end is the end.

    Args:
        patience_s: how long is waited for bars when all is written.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._until: float | None = None

    def listen(self) -> None:
        """Begin to listen."""
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._read)

    def _read(self) -> None:
        more = os.read(sys.stdin.fileno(), 1_024)
        self._until = time.monotonic() + (self._patience_s if more else 0)
        if not more:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())

    def is_over(self, has_all: bool) -> bool:
        """Return whether all is written, and all has come or long enough been waited for."""
        return self._until is not None and (has_all or time.monotonic() > self._until)


@dataclass(frozen=True)
class Bars:
    """Bars as they came, shape (bars,) each.

    Attributes:
        at: when, seconds since 1970.
        client, symbol, minute: to whom, and which bar it was; a symbol of -1 is not known.
        close: of the bar.
    """

    at: Floats
    client: Ints
    symbol: Ints
    minute: Ints
    close: Floats


def bars_of(heard: Heard, names: Sequence[str]) -> Bars:
    """Read the frames."""
    numbers = {name: number for number, name in enumerate(names)}
    read: list[npt.NDArray[Any]] = []
    for text in heard.texts:
        rows = [each for each in orjson.loads(text) if each["ev"] == "AM"]
        found = np.array([(numbers.get(row["sym"], -1), row["s"], row["c"]) for row in rows], np.float64)
        read.append(found.reshape(-1, 3))
    frame = np.array(heard.frame, np.int64)
    sizes = np.array([len(rows) for rows in read], np.int64)
    whole = [np.zeros((0, 3)), *(read[each] for each in heard.frame)]
    symbol, start, close = np.concatenate(whole).T
    counts = sizes[frame] if len(frame) else sizes[:0]
    minute = (start.astype(np.int64) * 1_000 - market.OPEN_US) // market.MINUTE_US
    return Bars(
        np.repeat(np.array(heard.at, np.float64), counts),
        np.repeat(np.array(heard.client, np.int64), counts),
        symbol.astype(np.int64),
        minute,
        close,
    )


@dataclass(frozen=True)
class Written:
    """When bars were written, seconds since 1970, shape (symbols, minutes).

    Attributes:
        stored: Redis's time of the entry.
        began: when the call began that wrote the minute.
    """

    stored: Floats
    began: Floats

    @classmethod
    def read(cls, path: Path, symbols: int, minutes: int) -> Written:
        """Read what the writer has left.

        Raises:
            BenchmarkError: it did not write all.
        """
        table = pq.read_table(path)
        if len(table) != symbols * minutes:
            raise BenchmarkError(f"{len(table)} bars were written, not {symbols * minutes}")
        shape = symbols, minutes
        return cls(
            table["stored_ms"].to_numpy().reshape(shape) / 1000, table["began"].to_numpy().reshape(shape)
        )


def evaluate(
    bars: Bars, written: Written, followed: Sequence[list[int] | None], seed: int, warm: int
) -> dict[str, Any]:
    """Return how late the bars came, seconds, and whether each client got its own, each once and as written.

    Args:
        bars: that came.
        written: what was written, and when.
        followed: the symbols of each client; None for all.
        seed: of the values.
        warm: so many minutes do not count.
    """
    symbols, minutes = written.stored.shape
    known = (bars.symbol >= 0) & (bars.minute >= 0) & (bars.minute < minutes)
    symbol, minute, client, at = (part[known] for part in (bars.symbol, bars.minute, bars.client, bars.at))
    values = np.stack([market.closes(symbols, seed, each) for each in range(minutes)], axis=1)
    right = values[symbol, minute] == bars.close[known]
    wanted = np.zeros((len(followed), symbols), np.bool_)
    for number, own in enumerate(followed):
        wanted[number, slice(None) if own is None else own] = True
    strange = ~wanted[client, symbol]
    key = (client * symbols + symbol) * minutes + minute
    once = np.unique(key[~strange])
    expected = int(wanted.sum()) * minutes
    counted = minute >= warm
    wild = np.array([own is None for own in followed])[client]

    def late(since: Floats, of: Any) -> dict[str, float]:
        return percentiles((at - since[symbol, minute])[counted & of])

    return {
        "bars": int(counted.sum()),
        "expected": expected,
        "missing": expected - len(once),
        "twice": int((~strange).sum()) - len(once),
        "wrong": int((~known).sum() + strange.sum() + (~right).sum()),
        "stored": late(written.stored, True),
        "stored_some": late(written.stored, ~wild),
        "stored_all": late(written.stored, wild),
        "began": late(written.began, True),
    }


async def run(
    args: argparse.Namespace, names: Sequence[str], followed: Sequence[list[int] | None]
) -> tuple[Heard, list[Client]]:
    """Follow until all has come, or standard input ends."""
    told = Told(args.patience_s)
    told.listen()
    return await follow(args.port, names, followed, args.minutes, told)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: follow, then print what came."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving.followers", description="WebSocket clients.")
    parser.add_argument("--port", type=int, required=True, help="of the server, on the loopback")
    parser.add_argument("--catalogue", type=Path, required=True, help="whose symbols")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--wild", type=int, required=True, help="of them follow all symbols")
    parser.add_argument("--topics", type=int, default=20, help="symbols of each other one")
    parser.add_argument("--minutes", type=int, required=True, help="that are written")
    parser.add_argument("--warm", type=int, default=1, help="of them do not count")
    parser.add_argument("--patience-s", type=float, default=10.0, help="for the last bars")
    parser.add_argument("--seed", type=int, required=True, help="of what is followed")
    parser.add_argument("--values-seed", type=int, required=True, help="of what is written")
    parser.add_argument("--written", type=Path, required=True, help="the writer's file of when")
    args = parser.parse_args(argv)
    names = names_of(args.catalogue)
    followed = topics_of(names, args.clients, args.wild, args.topics, args.seed)
    try:
        collect_no_more()
        heard, clients = uvloop.run(run(args, names, followed))
        lost = [client.error for client in clients if client.error is not None]
        written = Written.read(args.written, len(names), args.minutes)
        found = evaluate(bars_of(heard, names), written, followed, args.values_seed, args.warm)
    except (BenchmarkError, OSError, TimeoutError) as error:
        print(f"benchmarks: {error or type(error).__name__}", file=sys.stderr)
        return 1
    shown = lost[:_SHOWN]
    print(json.dumps({**found, "clients": len(clients), "lost": len(lost), "lost_shown": shown}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A stand-in as tests and benchmarks hold it: started in a thread or a process, ordered over HTTP."""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.serving.server import Server
from fibflow.serving.settings import Settings
from fibflow.serving.standin.app import CONTROL, StandIn
from fibflow.serving.standin.connections import breakable
from fibflow.serving.standin.make import Wanted, make
from fibflow.serving.standin.market import Market
from fibflow.transforms.schemas import ARTICLES


class Vendor:
    """A stand-in that runs.

    Attributes:
        url: of its REST calls.
        feed: of its WebSocket, as the official clients take it: ``host:port``.
        lake: what it serves, changed where it was ordered to.
        market: what the lake was made of; None for another lake.
        pid: of its process; None where it runs in this one.
    """

    def __init__(self, url: str, lake: Lake, market: Market | None = None) -> None:
        self.url = url
        self.feed = url.removeprefix("http://")
        self.pid: int | None = None
        self.lake = lake
        self.market = market

    # What came.

    @property
    def calls(self) -> Counter[str]:
        """How often each path was asked for, faults included."""
        return Counter(self._ask("GET", "")["calls"])

    @property
    def names(self) -> Counter[str]:
        """How often each kind of call was made: ``grouped``, ``days``, ``minutes``, ``tickers``, ..."""
        return Counter(self._ask("GET", "")["names"])

    @property
    def answers(self) -> Counter[str]:
        """How calls were answered: ``200``, ``429``, ``cut``, ..."""
        return Counter(self._ask("GET", "")["answers"])

    def forget(self) -> None:
        """Count calls from nothing again."""
        self._ask("POST", "forget")

    # What goes wrong.

    def order(self, kind: str, share: float = 1.0, path: str = "*", **told: Any) -> None:
        """Order a fault of calls.

        Args:
            kind: ``429``, ``500``, ``401``, ``403``, ``slow``, ``cut``, ``nonsense``, ``partial``, ``empty``.
            share: with such a part of the calls.
            path: with those of this name (``grouped``, ...), or whose path fits this pattern.
            told: ``times`` at most; ``seconds`` of Retry-After or of a slow answer; ``percent`` of the
                results that a partial one lacks.
        """
        self._ask("POST", "faults", [{"kind": kind, "share": share, "path": path, **told}])

    def faults(self, text: str) -> None:
        """Order faults as the command line names them, such as ``429:0.02,500:0.02:path=grouped``."""
        self._ask("POST", "faults", text)

    def clear(self) -> None:
        """Let calls go well from now on; data that is changed stays so."""
        self._ask("POST", "clear")

    # The feed.

    def play(
        self,
        session: date | None = None,
        *,
        speed: float | None = None,
        rate: float | None = None,
        minutes: bool = True,
        trades: int = 0,
        tape: Path | str | None = None,
        followers: int = 1,
    ) -> None:
        """Play a session to all who follow, from its beginning, once so many do.

        Args:
            session: of the lake; None for the newest that has minutes.
            speed: so many times as fast as it was; without ``rate``, too, as fast as all read it.
            rate: messages a second.
            minutes: play ``AM``.
            trades: play so many ``T`` a minute and symbol.
            tape: play what ``python -m pipelines.replay --save`` wrote.
            followers: how many are waited for.
        """
        order = {"session": session, "speed": speed, "rate": rate, "minutes": minutes, "trades": trades}
        tape = None if tape is None else str(tape)
        self._ask("POST", "play", {**order, "tape": tape, "followers": followers})

    def end(self) -> None:
        """Play no more."""
        self._ask("POST", "end")

    def feed_fault(self, kind: str, at: int, **told: Any) -> None:
        """Order a fault of the feed: ``cut``, ``close``, ``silence`` or ``slow``.

        Args:
            kind: what goes wrong.
            at: after so many messages of what is played.
            told: ``length``, ``seconds``, ``code``, ``rate``: see ``feed.FeedFault``.
        """
        self._ask("POST", "feed", [{"kind": kind, "at": at, **told}])

    @property
    def played(self) -> dict[str, Any]:
        """How far the feed is.

        ``state`` (``idle``, ``waiting``, ``playing``, ``played``), ``position`` of ``total`` messages,
        ``sent`` to all together, ``followers``, by how many frames one is ``behind``, ``connections`` so far.
        """
        told: dict[str, Any] = self._ask("GET", "")["feed"]
        return told

    # What the data is.

    def correct(self, symbol: str, session: date, **values: float) -> int:
        """Give a symbol's day other values (``close=12.5``) and return how many rows that changed."""
        return self._edit("correct", symbol=symbol, session=session, values=values)

    def hide(
        self,
        symbols: Sequence[str] | None = None,
        first: date | None = None,
        last: date | None = None,
        share: float = 1.0,
        seed: int = 0,
    ) -> int:
        """Take days and minutes away, of some symbols and sessions; return how many rows that were.

        Args:
            symbols: whose; None for all.
            first: of the sessions; None for no bound.
            last: likewise.
            share: only of such a part of the symbols, drawn by the seed.
            seed: of the draw.
        """
        return self._edit("hide", symbols=symbols, first=first, last=last, share=share, seed=seed)

    def publish(self, *articles: Mapping[str, Any]) -> int:
        """Let there be articles, the vendor's objects; return how many were new or changed."""
        return self._edit("news", articles=articles)

    def news(self) -> pa.Table:
        """Return all articles that it has now, of ``schemas.ARTICLES``, sorted by time and id."""
        table = self.lake.table(tables.NEWS)
        rows, _ = table.snapshot().read(ARTICLES.names) if table.exists else (ARTICLES.empty_table(), None)
        return rows.sort_by([("published", "ascending"), ("id", "ascending")])

    def heal(self) -> None:
        """Bring back what was hidden, and take corrections back."""
        self._edit("heal")

    def days(self) -> pa.Table:
        """Return all days that it has now, sorted by symbol and session: what who copied all must have."""
        return self._rows(tables.DAILY)

    def minutes(self) -> pa.Table:
        """Return all minutes that it has now, sorted by symbol and time."""
        return self._rows(tables.MINUTES)

    def _rows(self, spec: Any) -> pa.Table:
        table = self.lake.table(spec)
        dropped = ["source", "landed", "period"]
        if not table.exists:
            return spec.schema.empty_table().drop_columns(dropped)
        rows, _ = table.snapshot().read()
        return rows.drop_columns(dropped).sort_by([(name, "ascending") for name in spec.sort_by])

    def _edit(self, what: str, **order: Any) -> int:
        rows: int = self._ask("POST", what, order)["rows"]
        return rows

    def _ask(self, method: str, what: str, order: Any = None) -> dict[str, Any]:
        at = urlsplit(self.url)
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=60)
        try:
            connection.request(method, f"{CONTROL}/{what}", None if order is None else orjson.dumps(order))
            answer = connection.getresponse()
            told: dict[str, Any] = orjson.loads(answer.read())
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise ValueError(str(told.get("error") or told.get("message")))
        return told


class Announced(Server):
    """A server that says when it answers.

    Attributes:
        ready: set once it does.
    """

    def __init__(self, app: StandIn, port: int, host: str = "127.0.0.1") -> None:
        super().__init__(breakable(app, Settings("", host=host, port=port, stop_s=5)))
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def running(wanted: Wanted, port: int = 0) -> Iterator[Vendor]:
    """Yield a stand-in that runs in a thread of this process, until the block ends.

    Raises:
        RuntimeError: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="fibflow-standin-") as folder:
        made = make(wanted, Path(folder))
        server = Announced(made.app, port)
        thread = threading.Thread(target=server.run, name="standin")
        thread.start()
        try:
            while not server.ready.wait(0.1) and thread.is_alive():
                pass
            if not server.servers:
                raise RuntimeError("the stand-in did not start")
            port = server.servers[0].sockets[0].getsockname()[1]
            yield Vendor(f"http://127.0.0.1:{port}", made.lake, made.market)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def started(wanted: Wanted, port: int = 0) -> Iterator[Vendor]:
    """Yield a stand-in in a process of its own, until the block ends. ``clock`` and ``queue`` are its own.

    Raises:
        RuntimeError: it does not start; what it said is on standard error.
    """
    command = [sys.executable, "-P", "-m", "fibflow.serving.standin", "--port", str(port), "--json"]
    process = subprocess.Popen([*command, *_arguments(wanted)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the stand-in did not start")
        told = orjson.loads(line)
        vendor = Vendor(told["url"], Lake(told["lake"]), wanted.market())
        vendor.pid = process.pid
        if wanted.feed_faults:
            vendor._ask("POST", "feed", [dict(fault) for fault in wanted.feed_faults])
        if wanted.play is not None:
            vendor.play(**wanted.play)
        yield vendor
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _arguments(wanted: Wanted) -> list[str]:
    """Return what a command line says of it."""
    found = ["--seed", str(wanted.seed), "--plan", wanted.plan, "--no-play"]
    if wanted.lake is not None:
        found += ["--lake", wanted.lake]
    else:
        found += ["--symbols", str(wanted.symbols), "--minutes", str(wanted.minutes)]
        found += ["--news", str(wanted.news)]
        found += ["--first", wanted.first.isoformat(), "--last", wanted.last.isoformat()]
    if wanted.faults:
        found += ["--faults", wanted.faults]
    if wanted.key is not None:
        found += ["--key", wanted.key]
    return found

"""A real server while what it stands on breaks and changes: clients see one version, and no 5xx."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.maintenance import compact, vacuum
from fibflow.io.readbars import LakeReader
from fibflow.tests.io.barlakes import daily_rows, make_bars
from fibflow.tests.io.livestores import Server
from fibflow.tests.serving.servers import Started, started

CLIENTS = 200
SYMBOLS = tuple(f"S{number:02d}" for number in range(40))
TIMEFRAMES = ("1d", "5d", "8d")
_RETENTION_S = 5.0


class Writer(threading.Thread):
    """Commits version after version until it is told to stop: in version ``k`` every close is ``k``.

    Every third time it also merges small files and deletes what no reader can reach any more.
    """

    def __init__(self, lake: Lake, made: list[pa.Table]) -> None:
        super().__init__()
        self.table = lake.table(tables.BARS)
        self.made = made
        self.version = 0
        self.deleted = self.merged = 0
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self.commit()

    def commit(self) -> None:
        """One version more: all files are replaced, each symbol's rows in files of their own."""
        self.version += 1
        snapshot = self.table.snapshot() if self.table.exists else None
        writer, files = self.table.writer(), []
        for bars in self.made:
            name = bars["timeframe"][0].as_py()
            closes = pa.array([float(self.version)] * len(bars))
            revisions = pa.array([self.version] * len(bars), pa.int32())
            marked = bars.set_column(bars.schema.get_field_index("close"), "close", closes)
            marked = marked.set_column(bars.schema.get_field_index("revision"), "revision", revisions)
            for number, part in enumerate((SYMBOLS[:20], SYMBOLS[20:])):
                rows = marked.filter(pc.is_in(marked["symbol"], value_set=pa.array(part)))
                rows = rows.sort_by([("symbol", "ascending"), ("ts", "ascending")])
                partition = {"timeframe": name, "period": "all"}
                files.append(writer.write(rows, partition, f"v{self.version}-{number}"))
        self.table.commit(
            files,
            [] if snapshot is None else snapshot.select(),
            base_version=-1 if snapshot is None else snapshot.version,
            scope=Scope(),
            run=f"v{self.version}",
            properties={tables.CALENDAR: "XNYS", tables.ANCHOR: "exchange", tables.PRICE_BASIS: "raw"},
        )

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self.stopping.wait(0.2):
                    return
                self.commit()
                if number % 3 == 0:
                    report = compact(self.table, 1_000_000, f"c{number}", keep_apart=timedelta(0))
                    self.merged += report.files_before
                    gone = vacuum(self.table, datetime.now(UTC), _RETENTION_S / 3_600, dry_run=False)
                    self.deleted += len(gone.paths)
        except BaseException as error:
            self.failure = error


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    lake = Lake(str(tmp_path / "lake"))
    rows = daily_rows(dict.fromkeys(SYMBOLS, ("2023-10-12", "2024-01-23")))
    made = Writer(lake, make_bars(rows, ",".join(TIMEFRAMES)))
    yield made
    made.stopping.set()
    if made.is_alive():
        made.join()


@pytest.fixture
def live(server: Server) -> Server:
    server.client.flushall()
    return server


def expected(lake_uri: str) -> dict[tuple[str, str], list[int]]:
    """The instants (ms) of the bars of each (symbol, timeframe): the same in every version."""
    reader = LakeReader(Lake(lake_uri))
    found = {}
    for timeframe in TIMEFRAMES:
        bars = reader.bars(None, timeframe)
        names = np.array(bars["symbol"].to_pylist())
        stamps = bars["ts"].cast(pa.int64()).to_numpy() // 1_000
        for symbol in SYMBOLS:
            found[symbol, timeframe] = stamps[names == symbol].tolist()
    return found


class Clients:
    """Many clients that read at once and look at each answer."""

    def __init__(self, url: str, stamps: dict[tuple[str, str], list[int]]) -> None:
        self.url = url
        self.stamps = stamps
        self.versions: set[float] = set()
        self.answers = 0

    async def read(self, client: httpx2.AsyncClient, randoms: random.Random) -> None:
        """Ask for bars of some symbols, or a price, and check the answer."""
        timeframe = randoms.choice(TIMEFRAMES)
        names = sorted(randoms.sample(SYMBOLS, randoms.choice((1, 1, 5))))
        if randoms.random() < 0.2:
            answer = await client.get(f"{self.url}/v1/prices/{names[0]}")
            assert answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}"
            self.answers += 1
            return
        asked = {"symbols": ",".join(names), "timeframe": timeframe, "limit": "5000"}
        answer = await client.get(f"{self.url}/v1/bars", params=asked)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}"
        bars = answer.json()["bars"]
        closes = {bar["close"] for bar in bars}
        # One version, all of it.
        assert len(closes) == 1, f"an answer of several versions: {sorted(closes)}"
        assert {float(bar["revision"]) for bar in bars} == closes
        whole = [(name, ts) for name in names for ts in self.stamps[name, timeframe]]
        assert [(bar["symbol"], bar["ts"]) for bar in bars] == whole
        self.versions |= closes
        self.answers += 1

    async def run(self, requests: int, until: threading.Event, seed: int) -> None:
        """Let all ask, each so often at least, and on until told to stop; 20 times as often at most."""
        limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        async with httpx2.AsyncClient(limits=limits, timeout=120) as client:

            async def one(number: int) -> None:
                randoms = random.Random(seed * 10_000 + number)
                for asked in range(20 * requests):
                    if asked >= requests and until.is_set():
                        return
                    await self.read(client, randoms)

            await asyncio.gather(*map(one, range(CLIENTS)))


def breaking(writer: Writer, live: Server, done: threading.Event) -> None:
    """Kill Redis and start it, while versions come and files go; done when enough has happened."""
    try:
        pause = threading.Event()
        for _ in range(2):
            live.kill()
            pause.wait(1.0)
            live.start()
            pause.wait(1.0)
        for _ in range(600):
            if writer.deleted and writer.merged and writer.version >= 10:
                return
            pause.wait(0.1)
    finally:
        done.set()


def test_nothing_that_breaks_or_changes_shows_in_an_answer(writer: Writer, live: Server, tmp_path: Path):
    uri = writer.table.storage.uri.removesuffix("/silver.bars")
    options = (
        "--lake",
        uri,
        "--redis",
        live.url,
        "--prefix",
        "test",
        "--open",
        "--refresh",
        "0.05",
        "--workers",
        "2",
    )
    with started(tmp_path / "log", *options, "--quiet") as server:
        clients = Clients(server.url, expected(uri))
        done = threading.Event()
        breaker = threading.Thread(target=breaking, args=(writer, live, done))
        writer.start()
        breaker.start()
        try:
            asyncio.run(clients.run(3, done, seed=1))
        finally:
            breaker.join()
            writer.stopping.set()
            writer.join()
        assert httpx2.get(f"{server.url}/readyz").json()["stores"] == {"lake": "up", "redis": "up"}
    assert writer.failure is None
    assert clients.answers >= 3 * CLIENTS
    assert writer.merged
    assert writer.deleted
    assert len(clients.versions) > 2


def test_answers_that_run_when_the_server_is_told_to_stop_end_whole(writer: Writer, tmp_path: Path):
    uri = writer.table.storage.uri.removesuffix("/silver.bars")
    stamps = expected(uri)
    with started(tmp_path / "log", "--lake", uri, "--open", "--quiet") as server:
        ended = asyncio.run(stopped_in_the_middle(server, stamps))
        assert server.process.wait(30) == 0
    assert ended["whole"]
    assert ended["whole"] + ended["refused"] == 40


async def stopped_in_the_middle(server: Started, stamps: dict[tuple[str, str], list[int]]) -> dict[str, int]:
    """Ask for much, tell the server to stop once it has begun to answer, and count how the answers end."""
    ended = {"whole": 0, "refused": 0, "broken": 0}
    begun = asyncio.Event()
    symbols, timeframe = ",".join(SYMBOLS), "1d"
    whole = sum(len(stamps[symbol, timeframe]) for symbol in SYMBOLS)

    async def one(client: httpx2.AsyncClient) -> None:
        headed = False
        try:
            async with client.stream(
                "GET",
                f"{server.url}/v1/bars",
                params={"symbols": symbols, "timeframe": timeframe, "limit": "50000"},
            ) as answer:
                headed = True
                begun.set()
                assert answer.status_code == 200
                await answer.aread()
        except (httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.ReadError):
            # Turned away before its head came: it came too late. None breaks off in the middle.
            ended["broken" if headed else "refused"] += 1
            return
        assert len(answer.json()["bars"]) == whole
        ended["whole"] += 1

    async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=40)) as client:
        asking = [asyncio.create_task(one(client)) for _ in range(40)]
        await begun.wait()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*asking)
        with pytest.raises(httpx2.ConnectError):
            await client.get(f"{server.url}/healthz")
    return ended

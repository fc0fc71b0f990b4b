"""The whole chain on real servers: a tape, Kinesis, Flink, Redis, and WebSocket clients of a server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from fibflow.io.lake import Lake
from fibflow.io.live import LiveReader
from fibflow.io.livestore import LiveStore
from fibflow.runners.services.stack import Stack
from fibflow.serving.app import create_app
from fibflow.serving.live.fragments import BAR_MEMBERS
from fibflow.serving.settings import Settings
from fibflow.tests.io.kinesis.server import serving
from fibflow.tests.io.livestores import price, prices
from fibflow.tests.pipelines.live import BUCKETS, TIMEFRAMES, LiveRun, Market
from fibflow.tests.serving.live.wires import Wire, listening
from fibflow.tests.serving.servers import running

#: In Stockholm; windows of 3, 5, 8 and 34 sessions end with it.
SESSIONS = ("2024-05-13",)
SYMBOLS, TRADES = 20, 200.0
#: The parts of the tape after which the job is waited for: what comes late to them revises bars.
_WAITED_FOR = (0, 2)
END = "END"
_WITHIN_S = 300.0


def read_all(wire: Wire) -> list[dict[str, Any]]:
    """All bars up to the price of END."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["ev"] != "P":
        found += json.loads(wire.socket.recv(timeout=_WITHIN_S))
    return found[:-1]


def of_lake(lake: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The bars of ``silver.live`` as our own channels show them, by symbol, timeframe and start."""
    reader, found = LiveReader(Lake(str(lake))), {}
    for timeframe in TIMEFRAMES:
        bars = reader.bars(None, timeframe.name)
        columns = [
            bars[name].cast(pa.int64()) if name in ("ts", "end") else bars[name] for name in BAR_MEMBERS
        ]
        for row in zip(*(column.to_pylist() for column in columns), strict=True):
            shown = dict(zip(BAR_MEMBERS, row, strict=True))
            shown |= {name: shown[name] // 1_000 for name in ("ts", "end")}
            key = shown["symbol"], shown["timeframe"], shown["ts"]
            found[key] = {name: value for name, value in shown.items() if value is not None}
    return found


def test_the_closed_bars_that_are_pushed_are_those_of_the_lake(tmp_path: Path) -> None:
    market = Market.of("minutes", SESSIONS, SYMBOLS, "XSTO", TRADES)
    with (
        serving("--quota", "reads") as kinesis,
        Stack(["redis", "moto", "flink", "beam"], slots=2) as stack,
        ThreadPoolExecutor(2) as readers,
    ):
        run = LiveRun(stack, tmp_path, market, "chain", "minutes", kinesis=kinesis)
        run.create_stream()
        run.land(market.history)
        with LiveStore(stack.env["REDIS_URL"], buckets=BUCKETS) as store:
            store.marker()
        settings = Settings(str(run.lake), redis=stack.env["REDIS_URL"], open_access=True, log_requests=False)
        own = [f"B.{timeframe.name}.*" for timeframe in TIMEFRAMES]
        run.submit()
        try:
            with (
                running(create_app(settings)) as url,
                listening(url, *own, f"P.{END}") as bars,
                listening(url, "AM.*", f"P.{END}") as minutes,
            ):
                told, minutes_told = readers.submit(read_all, bars), readers.submit(read_all, minutes)
                for place, segment in enumerate(market.segments()):
                    run.play(segment if place in _WAITED_FOR else replace(segment, clock=None))
                run.wait_for_end()
                # What is pushed comes in order: who has this price has all before it.
                with LiveStore(stack.env["REDIS_URL"], buckets=BUCKETS) as store:
                    store.write_prices(prices(price(END)))
                pushed, aggregates = told.result(), minutes_told.result()
        finally:
            run.cancel()
    expected = of_lake(run.lake)
    assert len(expected) > 1_000
    assert {one["ev"] for one in pushed} == {"B"}
    newest = {
        (one["symbol"], one["timeframe"], one["ts"]): {name: one[name] for name in one if name != "ev"}
        for one in pushed
    }
    assert newest == expected
    assert any(bar["revision"] > 0 for bar in newest.values())
    assert all(bar["final"] for bar in newest.values())
    assert {name for _, name, _ in newest} >= {"1m", "1d", "3d", "5d", "8d", "34d"}
    # The vendor's minutes say the same.
    shown = {(one["sym"], one["s"]): (one["o"], one["h"], one["l"], one["c"], one["v"]) for one in aggregates}
    assert shown == {
        (symbol, start): (bar["open"], bar["high"], bar["low"], bar["close"], bar["volume"])
        for (symbol, timeframe, start), bar in expected.items()
        if timeframe == "1m"
    }

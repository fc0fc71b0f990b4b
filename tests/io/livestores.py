"""What the tests of the live store share: a server of Redis, and bars and prices written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import redis

from fibflow.io.liverecords import PRICES
from fibflow.io.liveredis import Patience
from fibflow.io.livestore import LiveStore
from fibflow.runners.services.process import Leash, Process, free_ports
from fibflow.runners.services.redis import Redis
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import TIMESTAMP

MINUTE = 60_000_000
#: A minute's start; instants of the tests are counted from it.
T0 = 1_700_000_040_000_000
_STOPS_WITHIN = 10.0
NO_PATIENCE = Patience(bound_s=0)


class Server:
    """A Redis that can be killed and started again, empty."""

    def __init__(self, folder: Path, leash: Leash) -> None:
        self._service = Redis(folder, free_ports(["redis"])["redis"], memory_mb=256)
        self._process = Process("redis", folder, leash)
        self._service.prepare()
        self.start()
        self.client = redis.Redis(port=self._service.port)

    @property
    def url(self) -> str:
        return self._service.exports()["REDIS_URL"]

    def start(self) -> None:
        start = self._process.starts + 1
        self._process.start(self._service.command(start), {})
        self._process.wait_until(lambda: self._service.answers(start), self._service.start_seconds)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self.client.close()
        self._process.stop(_STOPS_WITHIN)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    leash = Leash()
    try:
        server = Server(folder, leash)
        try:
            yield server
        finally:
            server.stop()
    finally:
        leash.close()


def fresh(server: Server, **options: Any) -> LiveStore:
    """An empty store."""
    server.client.flushall()
    return LiveStore(server.url, "test", **{"patience": NO_PATIENCE, **options})


def again(store: LiveStore) -> LiveStore:
    """Another process's view of a store."""
    return replace(store)


def bar(
    symbol: str, timeframe: str = "1m", ts: int = T0, close: float = 1.0, **values: Any
) -> dict[str, Any]:
    """A row of BAR_BATCH: an open bar, where nothing else is said."""
    row = {
        "symbol": symbol,
        "timeframe": timeframe,
        "ts": ts,
        "end": ts + MINUTE,
        "open": 1.5,
        "high": 9.25,
        "low": 0.5,
        "close": close,
        "volume": 100.0,
        "vwap": 1.25,
        "trade_count": 7,
        "sessions": 1,
        "complete": False,
        "final": False,
        "revision": 0,
    }
    return {**row, **values}


def closed(
    symbol: str, timeframe: str = "1m", ts: int = T0, close: float = 1.0, **values: Any
) -> dict[str, Any]:
    return bar(symbol, timeframe, ts, close, **{"complete": True, **values})


def table(*rows: dict[str, Any]) -> pa.Table:
    """A table of BAR_BATCH."""
    columns = []
    for field in BAR_BATCH:
        values = [row[field.name] for row in rows]
        plain: Any = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        columns.append(pa.array(values, pa.int64() if field.type == TIMESTAMP else plain).cast(field.type))
    return pa.table(columns, schema=BAR_BATCH)


def price(
    symbol: str, value: float = 1.0, ts: int = T0, seq: int = 0, source: str = "trade"
) -> dict[str, Any]:
    return {"symbol": symbol, "price": value, "size": 100.0, "ts": ts, "seq": seq, "source": source}


def prices(*rows: dict[str, Any]) -> pa.Table:
    """A table of PRICES."""
    columns = []
    for field in PRICES:
        values = [row[field.name] for row in rows]
        columns.append(pa.array(values, pa.int64() if field.name == "ts" else field.type).cast(field.type))
    return pa.table(columns, schema=PRICES)


def rows(bars: pa.Table, *names: str) -> list[tuple]:
    """Columns of a table as tuples, instants as microseconds."""
    chosen: Sequence[str] = names or bars.column_names
    columns = [
        bars[name].cast(pa.int64()) if bars.schema.field(name).type == TIMESTAMP else bars[name]
        for name in chosen
    ]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))

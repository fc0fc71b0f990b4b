"""A tick of a symbol that nobody trades, put into the stream and looked for where prices come out.

It is an aggregate of a second, not a trade: these move the last price and make no bar, whatever a job's bars
are made of. Its time is that of a message that the same shard has already given, so that it moves no
watermark: not that of a replay, nor that of a feed which has fallen behind. ``docs/doctor.md`` says what it
leaves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from fibflow.io.checkup.findings import Finding, Wrong, failed, ok
from fibflow.io.checkup.served import Api
from fibflow.io.checkup.site import CONNECT_S, Site, patience
from fibflow.io.kinesis.errors import KinesisError, explain, kinesis_client
from fibflow.io.kinesis.packing import hash_of, key_of, shard_of
from fibflow.io.kinesis.positions import Lane, LaneState, Position
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.io.kinesis.shards import Shard, list_shards_once
from fibflow.io.liveredis import Patience
from fibflow.io.livestore import LiveStore
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.schemas import TIMESTAMP

_SECOND_US = 1_000_000
# How far back a message is looked for: from the end backwards, so that little is read of a busy shard.
_BACK_S = (2, 10, 60, 600, 3_600, 6 * 3_600)
#: A price of the last canary may be so much later than what is found in the stream now.
_SLACK_US = 60 * _SECOND_US
_POLL_S = 0.1
# Of the whole look's time, for saying what was found.
_RESERVE_S = 1.0


@dataclass(frozen=True)
class _Canary:
    """A tick.

    Attributes:
        symbol: its symbol.
        start: of its second, UTC microseconds.
        version: tells it from all earlier ones, UTC microseconds in whole milliseconds.
    """

    symbol: str
    start: int
    version: int

    @property
    def price(self) -> float:
        """Its price, which the next one does not share."""
        return 1 + self.version // 1000 % 10_000 / 10_000

    def message(self) -> bytes:
        """Return it as the feed would send it."""
        prices = dict.fromkeys(("o", "h", "l", "c", "vw"), self.price)
        start = self.start // 1000
        told = {"ev": "A", "sym": self.symbol, "v": 0, **prices, "s": start, "e": start + 1000}
        return json.dumps({**told, "ver": self.version // 1000}, separators=(",", ":")).encode()


def canary(site: Site) -> Iterator[Finding]:
    """Put a tick, and look for it in Redis and in the API."""
    assert site.source is not None
    assert site.canary is not None
    stream, name = site.source.stream, "canary"
    client = kinesis_client(site.aws_of(), patience())
    try:
        shards = sorted(
            (shard for shard in list_shards_once(client, stream) if shard.is_open),
            key=lambda shard: shard.first,
        )
    except Exception as error:
        raise KinesisError(explain(error, stream)) from error
    shard = shard_of(hash_of(key_of(bucket_of(site.canary))), shards)
    with _store(site) as store:
        made = _Canary(site.canary, _start(site, client, shard, store), int(site.now() * 1000) * 1000)
        began = site.clock()
        _put(site, client, made)
        yield ok(
            f"{name}: kinesis",
            f"{made.symbol} at {made.price:g} is in {stream}, {shard.id}, after {_ms(site, began)}",
        )
        waits: dict[str, Any] = {}
        if store.url:
            waits["redis"] = lambda: _in_redis(store, made)
        if site.server is not None:
            api = Api(site)
            waits["api"] = lambda: _in_api(api, made)
        while waits and site.left_s > _RESERVE_S:
            for place in [place for place, is_there in waits.items() if is_there()]:
                del waits[place]
                yield ok(f"{name}: {place}", f"its price is there after {_ms(site, began)}")
            site.sleep(_POLL_S if waits else 0.0)
        for place in waits:
            yield failed(
                f"{name}: {place}",
                f"its price is not there after {_ms(site, began)}",
                "see whether the job runs, reads this stream and has caught up (pipelines.jobs list), and "
                "whether it writes where is read; or give more --timeout",
            )


def _store(site: Site) -> LiveStore:
    return LiveStore(site.redis or "", site.prefix, timeout_s=CONNECT_S, patience=Patience(bound_s=0.0))


def _ms(site: Site, began: float) -> str:
    return f"{(site.clock() - began) * 1000:,.0f} ms"


def _start(site: Site, client: Any, shard: Shard, store: LiveStore) -> int:
    """Return the second that the canary is timed at, UTC microseconds.

    Raises:
        Wrong: the stream tells no time yet, or one that lies before the last canary's.
    """
    assert site.source is not None
    assert site.canary is not None
    told = _time_of(site, client, shard)
    if told is None:
        raise Wrong(
            f"nothing was put: {shard.id} of {site.source.stream} has no message whose time it could take",
            "start pipelines.ingest or pipelines.replay first: on its own it would set the stream's clock",
        )
    start = told - told % _SECOND_US
    if not store.url:
        return start
    before = store.last_prices([site.canary])
    if not len(before):
        return start
    # A second's price is that of its last microsecond.
    earlier = int(before["ts"].cast(pa.int64())[0].as_py()) + 1 - _SECOND_US
    if earlier > start + _SLACK_US:
        raise Wrong(
            "nothing was put: the live store has a canary of a later time than the stream's messages",
            "the stream is played from an earlier day than before: use another --prefix, or another "
            "--canary-symbol",
        )
    return max(start, earlier)


def _time_of(site: Site, client: Any, shard: Shard) -> int | None:
    """Return the time of some message near the end of a shard, UTC microseconds; None where there is none."""
    # They import Beam.
    from fibflow.io.kinesis.peek import earliest
    from fibflow.io.ticks import DecodeTicks

    assert site.source is not None
    now = int(site.now() * _SECOND_US)
    for begin in (*(now - back * _SECOND_US for back in _BACK_S), None):
        lane = Lane(site.source.stream, 0, LaneState({shard.id: Position(at=begin)}))
        told = earliest(client, [lane], DecodeTicks(), site.now, site.sleep, site.dice.random)
        if told is not None:
            return told
    return None


def _put(site: Site, client: Any, made: _Canary) -> None:
    assert site.source is not None
    options = PutOptions(patience=CONNECT_S)
    put = PutTicks(client, site.source.stream, site.clock, site.sleep, site.dice.random, options)
    put.put(
        pa.table(
            {
                "symbol": pa.array([made.symbol]),
                "message": pa.array([made.message()]),
                "ts": pa.array([made.start]).cast(TIMESTAMP),
            }
        )
    )
    put.flush()


def _in_redis(store: LiveStore, made: _Canary) -> bool:
    found = store.last_prices([made.symbol])
    return bool(len(found)) and found["seq"][0].as_py() == made.version


def _in_api(api: Api, made: _Canary) -> bool:
    status, told = api.get(f"/v1/prices/{quote(made.symbol)}")
    if status == 404:
        return False
    if status != 200:
        told = api.wanted(f"/v1/prices/{quote(made.symbol)}")
    return told.get("seq") == made.version

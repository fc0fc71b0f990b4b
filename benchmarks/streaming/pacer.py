"""A feed in real time: ``python -m benchmarks.streaming.pacer``, a process of its own.

Puts trades into a stream at a steady rate, a record of ``--messages`` at a time, in turns a shard. A trade's
``ts`` is the clock when its record is put, in microseconds. What was sent is written to a file at the end.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.aws import AwsConfig
from fibflow.io.kinesis.errors import kinesis_client
from fibflow.io.kinesis.shards import list_shards

_FIELDS: list[Any] = [("ts", pa.int64()), ("symbol", pa.int32()), ("put", pa.float64())]
#: What was sent: when by the trade's own time, UTC microseconds; the symbol's number; when its put was over.
SENT = pa.schema(_FIELDS)
_PAD = 5


def name_of(symbol: int) -> str:
    """Return the name of a symbol by its number."""
    return f"S{symbol:0{_PAD}d}"


class Feed:
    """Trades of ``symbols`` symbols, drawn evenly; each symbol has its shard.

    Args:
        symbols, shards: how many.
        seed: of what is drawn.
    """

    def __init__(self, symbols: int, shards: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._of_shard = [np.arange(shard, symbols, shards) for shard in range(shards)]
        self._heads = pa.array(
            [f'{{"ev":"T","sym":"{name_of(number)}","x":4,"i":"' for number in range(symbols)]
        )
        self._sent = 0

    def record(self, shard: int, messages: int, micros: int) -> tuple[bytes, Any]:
        """Return a record of trades at an instant, and their symbols, shape (messages,)."""
        symbol = self._rng.choice(self._of_shard[shard], messages)
        number = pa.array(self._sent + np.arange(messages)).cast(pa.string())
        self._sent += messages
        cents = self._rng.integers(1_000, 50_000, messages)
        lines = pc.binary_join_element_wise(
            self._heads.take(pa.array(symbol)),
            number,
            '","z":1,"p":',
            pa.array(cents / 100).cast(pa.string()),
            ',"s":100,"t":',
            str(micros),
            ',"q":',
            number,
            "}",
            "",
        )
        return "\n".join(lines.to_pylist()).encode(), symbol.astype(np.int32)


def pace(
    put: Callable[[int, bytes], None],
    feed: Feed,
    shards: int,
    rate: float,
    seconds: float,
    messages: int,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> pa.Table:
    """Put records at a rate for some seconds; return what was sent, a table of ``SENT``.

    Args:
        put: takes a shard and a record.
        feed: makes records.
        shards: how many take turns.
        rate: trades a second.
        seconds: for how long.
        messages: in a record.
        clock: seconds since 1970.
        sleep: waits.
    """
    began = clock()
    parts = []
    for number in range(round(rate * seconds / messages)):
        wait = began + number * messages / rate - clock()
        if wait > 0:
            sleep(wait)
        shard, now = number % shards, clock()
        record, symbol = feed.record(shard, messages, int(now * 1e6))
        put(shard, record)
        parts.append((np.full(messages, int(now * 1e6)), symbol, np.full(messages, clock())))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return pa.table([pa.array(column) for column in columns], schema=SENT)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: put, then write what was sent."""
    parser = argparse.ArgumentParser(prog="benchmarks.streaming.pacer")
    parser.add_argument("--stream", required=True)
    parser.add_argument("--endpoint-url", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--symbols", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--sent", type=Path, required=True, help="the file for what was sent")
    args = parser.parse_args(argv)
    environment = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    aws = AwsConfig.resolve(environment, endpoint_url=args.endpoint_url, region=args.region)
    client = kinesis_client(aws)
    shards = sorted(list_shards(client, args.stream, time.sleep, random.Random(0).random))

    def put(shard: int, record: bytes) -> None:
        client.put_record(
            StreamName=args.stream,
            Data=record,
            PartitionKey=f"shard-{shard}",
            ExplicitHashKey=str(shards[shard].first),
        )

    sent = pace(
        put,
        Feed(args.symbols, len(shards), 1),
        len(shards),
        args.rate,
        args.seconds,
        args.messages,
        time.time,
        time.sleep,
    )
    # Past the last minute, so that its windows close.
    beat = b'{"ev":"HB","t":%d}' % int(time.time() * 1000)
    for shard in range(len(shards)):
        put(shard, beat)
    part = args.sent.with_suffix(".part")
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, SENT) as writer:
        writer.write_table(sent)
    part.rename(args.sent)
    return 0


if __name__ == "__main__":
    sys.exit(main())

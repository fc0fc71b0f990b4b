"""Parsing of the feed's messages: Fibflow's decoder beside parsers that one would take off the shelf.

Every contestant gets the same block of records, each with many trades, one a line. The others only parse:
they leave out what the decoder also does (places, conditions, validation, dead letters, good messages beside
broken ones). Best of some rounds each; Polars takes all cores, the others one.

Run as ``python -P -m fibflow.benchmarks.parsing``.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.json as pj

from fibflow.io.ticks import DecodeTicks
from fibflow.transforms.schemas import RECORDS, TIMESTAMP

START_MS = 1_732_890_600_000
CONDITIONS: tuple[list[int], ...] = ([], [14], [14, 41], [37], [12, 37], [14, 37, 41], [12], [10, 41], [53])
TYPES: dict[str, Any] = {
    "ev": pa.string(),
    "sym": pa.string(),
    "x": pa.int64(),
    "i": pa.string(),
    "z": pa.int64(),
    "p": pa.float64(),
    "s": pa.float64(),
    "c": pa.list_(pa.int64()),
    "t": pa.int64(),
    "q": pa.int64(),
}


def trades(count: int, seed: int = 0) -> list[bytes]:
    """Trades as on the vendor's socket, of 5,000 symbols."""
    chance = random.Random(seed)
    symbols = ["".join(chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=1 + n % 5)) for n in range(5000)]
    found, now = [], START_MS
    for n in range(count):
        now += chance.random() < 0.05
        message: dict[str, Any] = {
            "ev": "T",
            "sym": chance.choice(symbols),
            "x": chance.randint(1, 21),
            "i": str(chance.randint(1, 200_000)),
            "z": chance.randint(1, 3),
            "p": round(chance.uniform(1, 500), chance.choice([2, 2, 2, 4])),
            "s": chance.choice([1, 10, 37, 100, 100, 250]),
            "c": chance.choice(CONDITIONS),
            "t": now,
            "q": 1_000_000 + n,
        }
        if not message["c"]:
            del message["c"]
        if message["x"] == 4:
            message |= {"trfi": 201, "trft": now - 2}
        found.append(json.dumps(message, separators=(",", ":")).encode())
    return found


def records(payloads: Sequence[bytes]) -> pa.Table:
    """The payloads as records of two shards."""
    n = len(payloads)
    columns = [
        pa.array([f"shardId-{k % 2:012d}" for k in range(n)]).dictionary_encode(),
        pa.array([str(10**55 + k) for k in range(n)]),
        pa.array(np.zeros(n, np.int32)),
        pa.array(np.full(n, (START_MS + 100_000) * 1000)).view(TIMESTAMP),
        pa.nulls(n, pa.string()),
        pa.array(payloads, pa.binary()),
    ]
    return pa.table(columns, schema=RECORDS)


def contestants(payloads: Sequence[bytes]) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    block = records(payloads)
    joined = b"\n".join(payloads)
    fast, slow = DecodeTicks(), DecodeTicks(few_bytes=1 << 40)
    reading = pj.ReadOptions(use_threads=False, block_size=1 << 20)
    parsing = pj.ParseOptions(pa.schema(list(TYPES.items())), unexpected_field_behavior="ignore")
    schema = pl.DataFrame(pa.schema(list(TYPES.items())).empty_table()).schema
    lines = pa.table({"line": pa.array(joined.split(b"\n"), pa.string())})
    structure = json.dumps({key: duckdb_type(kind) for key, kind in TYPES.items()})
    connection = duckdb.connect(config={"threads": 1})
    connection.register("lines", lines)
    query = f"SELECT unnest(from_json(line, '{structure}')) FROM lines"
    return {
        "fibflow": lambda: fast(block),
        "pyarrow.json": lambda: pj.read_json(io.BytesIO(joined), reading, parsing),
        "polars": lambda: pl.read_ndjson(joined, schema=schema),
        "duckdb": lambda: connection.sql(query).to_arrow_table(),
        "json.loads": lambda: [json.loads(line) for line in joined.split(b"\n")],
        "fibflow, one by one": lambda: slow(block),
    }


def duckdb_type(kind: Any) -> object:
    """The name that DuckDB's ``from_json`` has for a type."""
    if pa.types.is_list(kind):
        return [duckdb_type(kind.value_type)]
    return {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}[kind]


def best_of(rounds: int, work: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The shortest time of each, seconds; taken in turns, so that a busy machine slows all."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: print microseconds a trade and the ratio to the decoder."""
    parser = argparse.ArgumentParser(prog="benchmarks.parsing", description="Parse the feed's messages.")
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--trades", type=int, default=500, help="in each record")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    count = args.records * args.trades
    messages = trades(count)
    payloads = [b"\n".join(messages[at : at + args.trades]) for at in range(0, count, args.trades)]
    best = best_of(args.rounds, contestants(payloads))
    own = best["fibflow"]
    print(f"{count:,} trades, {sum(map(len, payloads)) / 1e6:.1f} MB, best of {args.rounds}")
    for name, seconds in best.items():
        print(f"{name:22s} {seconds * 1e6 / count:7.3f} us/trade {seconds / own:6.2f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())

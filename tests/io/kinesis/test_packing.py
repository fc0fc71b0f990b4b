"""Ticks to records."""

from __future__ import annotations

import json
from collections import defaultdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.kinesis.packing import (
    MOST_RECORD,
    Packer,
    aggregates_of,
    hash_of,
    key_of,
    records_of,
    shard_of,
)
from fibflow.io.kinesis.records import user_records
from fibflow.io.kinesis.shards import HASH_KEYS, Shard
from fibflow.transforms.buckets import bucket_of


def ticks(rows, kind=None):
    symbols, messages = zip(*rows, strict=True) if rows else ((), ())
    return pa.table(
        {"symbol": pa.array(symbols, pa.string()), "message": pa.array(messages, kind or pa.binary())}
    )


SYMBOLS = st.sampled_from([f"S{n}" for n in range(40)])
TABLES = st.lists(
    st.lists(st.tuples(SYMBOLS, st.integers(0, 9).map(lambda n: b'{"x":"%s"}' % (b"y" * n))), max_size=30),
    max_size=6,
)


@settings(deadline=None)
@given(TABLES, st.integers(1, 7), st.sampled_from(["none", "gzip", "zstd"]), st.booleans(), st.integers(1, 4))
def test_messages_come_out_by_bucket_in_order(tables, most, codec, aggregated, shards):
    spans = [
        Shard(f"s{n}", n * HASH_KEYS // shards, (n + 1) * HASH_KEYS // shards - 1) for n in range(shards)
    ]
    packer = Packer(most, codec)
    found: dict[str, list[bytes]] = defaultdict(list)
    expected: dict[str, list[bytes]] = defaultdict(list)
    for table in [*tables, None]:
        if table is not None:
            packer.add(ticks(table))
        for symbol, message in table or ():
            expected[key_of(bucket_of(symbol))].append(message)
        payloads = packer.payloads(rest=table is None)
        for record in aggregates_of(payloads, spans) if aggregated else records_of(payloads):
            users = user_records(record.key, record.data)
            lines = [data.split(b"\n") for _, data in users]
            assert sum(map(len, lines)) == record.messages
            for (key, _), own in zip(users, lines, strict=True):
                assert 1 <= len(own) <= most
                found[key] += own
                if aggregated:
                    assert shard_of(hash_of(key), spans).id == record.key
            if aggregated:
                assert any(record.key == s.id and int(record.hash_key) == s.first for s in spans)
        waiting = {key: len(lines) - len(found[key]) for key, lines in expected.items()}
        assert len(packer) == sum(waiting.values())
        assert all(count < most for count in waiting.values())
    assert found == expected
    assert len(packer) == 0


def test_a_table_of_strings_in_chunks_will_do():
    table = pa.concat_tables([ticks([("A", "1"), ("B", "2")], pa.string()), ticks([("A", "3")], pa.string())])
    packer = Packer()
    packer.add(table.slice(1))
    assert sorted(data for _, data, _ in packer.payloads(rest=True)) == [b"2", b"3"]


def test_records_stay_below_what_the_service_takes():
    packer = Packer(messages=1000)
    packer.add(ticks([("A", b"x" * 300_000)] * 8))
    full = list(records_of(packer.payloads(rest=False)))
    rest = list(records_of(packer.payloads(rest=True)))
    assert [record.messages for record in full + rest] == [3, 3, 2]
    assert max(record.size for record in full) <= MOST_RECORD


@pytest.mark.parametrize("message", [b"x" * (MOST_RECORD - 4096), None])
def test_a_message_that_fits_no_record_is_refused(message):
    packer = Packer()
    with pytest.raises(KinesisError, match="leave it out"):
        packer.add(ticks([("A", b"1"), ("A", message)]))
    assert len(packer) == 0


def test_the_largest_message_that_fits_goes_through_every_way():
    message = b"x" * (MOST_RECORD - 4097)
    span = [Shard("s0", 0, HASH_KEYS - 1)]
    for codec in ("none", "gzip", "zstd"):
        packer = Packer(codec=codec)
        packer.add(ticks([("A", message)]))
        (record,) = aggregates_of(packer.payloads(rest=True), span)
        assert record.size <= MOST_RECORD
        assert user_records("", record.data) == [(key_of(bucket_of("A")), message)]


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at least one message"):
        Packer(0)
    with pytest.raises(ValueError, match="unknown compression"):
        Packer(codec="lz4")


def test_messages_of_one_payload_are_lines_of_json():
    packer = Packer()
    packer.add(ticks([("A", json.dumps({"n": n}).encode()) for n in range(3)]))
    ((_, data, count),) = packer.payloads(rest=True)
    assert [json.loads(line)["n"] for line in data.split(b"\n")] == [0, 1, 2]
    assert count == 3

"""Records as the service gives them to user records: aggregates taken apart, payloads decompressed."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

# Protobuf ships no types.
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fibflow.transforms.schemas import RECORDS

#: The first bytes of a record that the Kinesis Producer Library aggregated, and the length of its checksum.
KPL_MAGIC = b"\xf3\x89\x9a\xc2"
_KPL_CHECKSUM = 16
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: A payload that decompresses to more is passed on as it is.
MOST_PAYLOAD = 64 << 20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: A user record: its partition key and its payload.
UserRecord = tuple[str, bytes]


def user_records(key: str, data: bytes) -> list[UserRecord]:
    """Return the user records of one record, decompressed.

    What cannot be taken apart or decompressed comes as it is, so that a decoder sees its bytes.

    Args:
        key: the record's partition key.
        data: its payload.
    """
    if data.startswith(KPL_MAGIC):
        parts = disaggregate(data)
        if parts is not None:
            return [(each, decompress(payload)) for each, payload in parts]
    return [(key, decompress(data))]


def decompress(data: bytes) -> bytes:
    """Return what gzip or zstd packed, by the first bytes; anything else, or what is broken, as it is."""
    if data.startswith(_GZIP_MAGIC):
        return _gunzip(data)
    if data.startswith(_ZSTD_MAGIC):
        try:
            with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
                plain = stream.read(MOST_PAYLOAD + 1)
        except (OSError, pa.ArrowInvalid):
            return data
        return plain if len(plain) <= MOST_PAYLOAD else data
    return data


def _gunzip(data: bytes) -> bytes:
    parts: list[bytes] = []
    rest, room = data, MOST_PAYLOAD
    while rest:  # a file of several members is one payload
        inflate = zlib.decompressobj(wbits=31)
        try:
            parts.append(inflate.decompress(rest, room + 1))
        except zlib.error:
            return data
        room -= len(parts[-1])
        if not inflate.eof or room < 0:
            return data
        rest = inflate.unused_data
    return b"".join(parts)


def compress(data: bytes, codec: str) -> bytes:
    """Return ``data`` packed by ``none``, ``gzip`` or ``zstd``; the same bytes for the same data."""
    if codec == "gzip":
        deflate = zlib.compressobj(level=6, wbits=31)
        return deflate.compress(data) + deflate.flush()
    if codec == "zstd":
        return bytes(pa.compress(data, codec="zstd", asbytes=True))
    if codec == "none":
        return data
    raise ValueError(f"unknown compression {codec!r}: choose of none, gzip, zstd")


@functools.cache
def _aggregated() -> Any:
    """Return the message class of an aggregated record, by the library's published format."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="fibflow/kpl.proto", package="fibflow.kpl")
    tag, record, whole = file.message_type.add(), file.message_type.add(), file.message_type.add()
    tag.name, record.name, whole.name = "Tag", "Record", "AggregatedRecord"
    one, many, must = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED, kinds.LABEL_REQUIRED
    for message, name, number, label, kind, of in (
        (tag, "key", 1, must, kinds.TYPE_STRING, ""),
        (tag, "value", 2, one, kinds.TYPE_STRING, ""),
        (record, "partition_key_index", 1, must, kinds.TYPE_UINT64, ""),
        (record, "explicit_hash_key_index", 2, one, kinds.TYPE_UINT64, ""),
        (record, "data", 3, must, kinds.TYPE_BYTES, ""),
        (record, "tags", 4, many, kinds.TYPE_MESSAGE, ".fibflow.kpl.Tag"),
        (whole, "partition_key_table", 1, many, kinds.TYPE_STRING, ""),
        (whole, "explicit_hash_key_table", 2, many, kinds.TYPE_STRING, ""),
        (whole, "records", 3, many, kinds.TYPE_MESSAGE, ".fibflow.kpl.Record"),
    ):
        message.field.add(name=name, number=number, label=label, type=kind, type_name=of or None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("fibflow.kpl.AggregatedRecord"))


def disaggregate(data: bytes) -> list[UserRecord] | None:
    """Return the user records of an aggregated record, in order; None where it is none, or broken.

    All of them come, whatever shard their keys hash to: what a producer sent to a stale shard is here once.
    """
    body, checksum = data[len(KPL_MAGIC) : -_KPL_CHECKSUM], data[-_KPL_CHECKSUM:]
    if len(data) < len(KPL_MAGIC) + _KPL_CHECKSUM or not data.startswith(KPL_MAGIC):
        return None
    if hashlib.md5(body, usedforsecurity=False).digest() != checksum:
        return None
    try:
        whole = _aggregated().FromString(body)
        keys = list(whole.partition_key_table)
        return [(keys[record.partition_key_index], record.data) for record in whole.records]
    except (DecodeError, IndexError):
        return None


def aggregate(users: Iterable[UserRecord]) -> bytes:
    """Return user records as one aggregated record, in order."""
    whole = _aggregated()()
    numbers: dict[str, int] = {}
    for key, data in users:
        whole.records.add(partition_key_index=numbers.setdefault(key, len(numbers)), data=data)
    whole.partition_key_table.extend(numbers)
    body = whole.SerializeToString(deterministic=True)
    return KPL_MAGIC + body + hashlib.md5(body, usedforsecurity=False).digest()


def to_table(
    shard: str, records: Sequence[Mapping[str, Any]], users: Sequence[Sequence[UserRecord]]
) -> pa.Table:
    """Return a table of ``schemas.RECORDS``, a row a user record, in order.

    Args:
        shard: their shard.
        records: as ``GetRecords`` gives them.
        users: the user records of each.
    """
    counts = np.array([len(part) for part in users], np.int64)
    rows = int(counts.sum())
    of_row = np.repeat(np.arange(len(records)), counts)
    # A user record's place in its record: the row, less the row that its record begins at.
    sub = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
    arrived = [record.get("ApproximateArrivalTimestamp") for record in records]
    micros = [None if moment is None else (moment - _EPOCH) // _MICROSECOND for moment in arrived]
    index: Any = pa.array(of_row)
    only: Any = pa.array(np.zeros(rows, np.int32))
    columns: list[Any] = [
        pa.DictionaryArray.from_arrays(only, pa.array([shard])),
        pa.array([record["SequenceNumber"] for record in records], pa.string()).take(index),
        pa.array(sub.astype(np.int32)),
        pa.array(micros, pa.int64()).take(index).cast(RECORDS.field("arrived").type),
        pa.array([key for part in users for key, _ in part], pa.string()),
        pa.array([data for part in users for _, data in part], pa.binary()),
    ]
    return pa.Table.from_arrays(columns, schema=RECORDS)

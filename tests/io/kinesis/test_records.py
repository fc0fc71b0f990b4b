"""Records to user records."""

from __future__ import annotations

import gzip
import hashlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.kinesis import records
from fibflow.io.kinesis.records import (
    KPL_MAGIC,
    aggregate,
    compress,
    decompress,
    disaggregate,
    to_table,
    user_records,
)
from fibflow.transforms.schemas import RECORDS

USERS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=40)), max_size=8)


def sealed(body: bytes) -> bytes:
    return KPL_MAGIC + body + hashlib.md5(body).digest()


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


@given(USERS)
def test_aggregates_come_apart(users):
    assert disaggregate(aggregate(users)) == users


@given(USERS)
def test_the_format_is_the_librarys(users):
    """Written by hand: keys in field 1, records in field 3 with the key's index in 1 and data in 3."""
    body = b"".join(field(1, key.encode()) for key, _ in users)
    for number, (_, data) in enumerate(users):
        # An explicit hash key, a tag and an unknown field are passed over.
        body += field(
            3, bytes([1 << 3, number]) + bytes([2 << 3, 0]) + field(3, data) + field(4, field(1, b"t"))
        )
    body += field(2, b"123") + field(9, b"new")
    assert disaggregate(sealed(body)) == users


@pytest.mark.parametrize(
    "data",
    [
        KPL_MAGIC,
        KPL_MAGIC + b"x" * 20,
        aggregate([("a", b"1")])[:-1],
        aggregate([("a", b"1")]).replace(b"1", b"2"),
        sealed(b"\xff\xff\xff"),
        sealed(field(3, bytes([1 << 3, 4]) + field(3, b"no such key"))),
        sealed(field(3, field(3, b"no index"))),
    ],
)
def test_a_broken_aggregate_comes_as_it_is(data):
    assert disaggregate(data) is None
    assert user_records("k", data) == [("k", data)]


@given(st.binary(max_size=300), st.sampled_from(["none", "gzip", "zstd"]))
def test_payloads_come_decompressed(data, codec):
    packed = compress(data, codec)
    assert compress(data, codec) == packed
    plain = data if codec == "none" else decompress(packed)
    assert plain == data
    if codec != "none":
        assert user_records("k", aggregate([("u", packed), ("v", b"[]")])) == [("u", data), ("v", b"[]")]


def test_several_members_are_one_payload():
    assert decompress(gzip.compress(b"one\n") + gzip.compress(b"two\n")) == b"one\ntwo\n"
    assert decompress(compress(b"one\n", "zstd") + compress(b"two\n", "zstd")) == b"one\ntwo\n"


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize(
    "spoil", [lambda d: d[:-3], lambda d: d[:6], lambda d: d + b"more", lambda d: d[:8] + b"\0" * 20]
)
def test_what_cannot_be_decompressed_comes_as_it_is(codec, spoil):
    data = spoil(compress(b'{"ev":"T"}\n' * 30, codec))
    assert user_records("k", data) == [("k", data)]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_payload_that_grows_too_large_comes_as_it_is(codec, monkeypatch):
    monkeypatch.setattr(records, "MOST_PAYLOAD", 1000)
    assert len(decompress(compress(b" " * 1000, codec))) == 1000
    large = compress(b" " * 1001, codec)
    assert decompress(large) == large


def test_an_unknown_codec_is_refused():
    with pytest.raises(ValueError, match="unknown compression 'lz4': choose of none, gzip, zstd"):
        compress(b"", "lz4")


def test_no_records_are_a_table_too():
    table = to_table("s", [], [])
    assert table.schema.equals(RECORDS)
    assert len(table) == 0
    assert pa.concat_tables([table, table]).unify_dictionaries().schema.equals(RECORDS)

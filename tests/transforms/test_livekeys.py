from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.transforms.livecells import StateError
from fibflow.transforms.livekeys import decode_keys, encode_keys, join_keys, seen
from fibflow.transforms.livestate import minute_of_part

SEQ = st.one_of(st.integers(0, 30), st.integers(0, 2**62))
KEYS = st.sets(st.tuples(st.integers(0, 5), SEQ), min_size=1, max_size=30)
MINUTE = 60_000_000


def part(minute: int, keys: set[tuple[int, int]]) -> bytes:
    ordered = sorted(keys)
    symbols = sorted({symbol for symbol, _ in ordered})
    counts = [sum(symbol == own for own, _ in ordered) for symbol in symbols]
    least = [min(seq for own, seq in ordered if own == symbol) for symbol in symbols]
    columns = (symbols, counts, least, [seq for _, seq in ordered])
    return encode_keys(minute, *(np.array(column, np.int64) for column in columns))


def keys_of(encoded: bytes) -> tuple[int, set[tuple[int, int]]]:
    minute, symbol, counts, _, seq = decode_keys(encoded)
    return minute, set(zip(np.repeat(symbol, counts).tolist(), seq.tolist(), strict=True))


@given(KEYS, st.integers(-(2**40), 2**40))
def test_keys_come_back(keys, minute):
    assert keys_of(part(minute, keys)) == (minute, keys)
    assert minute_of_part(part(minute, keys)) == minute


@given(st.lists(st.tuples(st.integers(0, 3), KEYS), max_size=6), KEYS, st.sets(st.integers(0, 3)))
def test_a_key_is_seen_or_not(held, asked, minutes):
    # A bag holds a key once.
    fresh: set = set()
    parts = []
    for minute, keys in held:
        keys = keys - fresh
        fresh |= keys
        if keys:
            parts.append((minute, keys))
    every = {key for minute, keys in parts if minute in minutes for key in keys}
    ordered = sorted(asked)
    symbol, seq = (np.array(column, np.int64) for column in zip(*ordered, strict=True))
    encoded = [part(minute, keys) for minute, keys in parts]
    for bag in (encoded, join_keys(encoded)):
        assert seen(bag, minutes, symbol, seq).tolist() == [key in every for key in ordered]


def test_joined_keys_are_one_part_a_minute():
    joined = join_keys([part(0, {(1, 5)}), part(MINUTE, {(1, 7)}), part(0, {(0, 2**40), (1, 1)})])
    assert [keys_of(each) for each in joined] == [(0, {(0, 2**40), (1, 1), (1, 5)}), (MINUTE, {(1, 7)})]


def test_near_keys_take_four_bytes_each():
    keys = {(0, 2**50 + n) for n in range(1000)}
    assert len(part(0, keys)) < 1000 * 4 + 50


def test_another_format_is_refused():
    with pytest.raises(StateError, match="state cell seen has format 3"):
        decode_keys(b"\x03" + part(0, {(0, 1)})[1:])

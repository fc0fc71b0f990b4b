from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.transforms.livecells import StateError
from fibflow.transforms.livestate import (
    CLOSE,
    HIGH,
    LOW,
    N0,
    NO_COUNT,
    OPEN,
    REGISTERS,
    TRADES,
    VOLUME,
    Base,
    Entries,
    Feed,
    Ring,
    add_up,
    decode_entries,
    encode_entries,
)

MINUTE = 60_000_000


def entries(feed: Feed, minute: int, symbols: list[int], seed: int) -> Entries:
    numbers = np.random.default_rng(seed)
    n = len(symbols)
    prices = numbers.uniform(1, 9, (4, n))
    sums = numbers.integers(0, 100, (7, n))
    sums[feed.sums :] = 0
    extra = numbers.integers(0, 4, (len(feed.empty), n))
    if feed is TRADES:
        # Times are all different, as keys of (time, seq) are.
        extra[0], extra[2] = numbers.permutation(n) + 1000 * seed, numbers.permutation(n) + 1000 * seed
    else:
        extra[5] = seed
    return Entries(minute, np.array(symbols), prices, sums, extra)


PARTS = st.lists(
    st.tuples(st.integers(0, 3), st.sets(st.integers(0, 70), min_size=1)), min_size=1, max_size=6
)


def ring_of(feed: Feed, parts: list[Entries]) -> Ring:
    ring = Ring(feed)
    ring.widen(71)
    ring.insert(np.unique([part.minute for part in parts]))
    for part in parts:
        ring.add(part)
    return ring


def same(one: Ring, two: Ring) -> None:
    assert one.minutes.tolist() == two.minutes.tolist()
    for name in ("prices", "sums", "extra"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("feed", [TRADES, REGISTERS], ids=lambda feed: feed.name)
@given(PARTS, st.randoms(use_true_random=False))
def test_a_ring_does_not_depend_on_the_order_of_parts(feed, told, numbers):
    parts = [
        entries(feed, minute * MINUTE, sorted(symbols), seed) for seed, (minute, symbols) in enumerate(told)
    ]
    ring = ring_of(feed, parts)
    same(ring_of(feed, numbers.sample(parts, len(parts))), ring)
    # Nor on whether parts lie in cells as they came, or put together.
    same(ring_of(feed, [decode_entries(encode_entries(part, feed), feed) for part in parts]), ring)
    whole = [ring.entries(row) for row in range(len(ring.minutes))]
    same(ring_of(feed, [decode_entries(encode_entries(part, feed), feed) for part in whole]), ring)


def test_a_ring_grows_and_shrinks():
    ring = Ring(TRADES)
    assert ring.insert(np.array([5 * MINUTE]))
    ring.widen(3)
    assert ring.width == 64
    ring.add(entries(TRADES, 5 * MINUTE, [2], 1))
    held = ring.at(0, np.array([2]))
    assert ring.insert(np.array([MINUTE, 5 * MINUTE, 7 * MINUTE]))
    assert not ring.insert(np.array([MINUTE]))
    ring.widen(65)
    assert ring.minutes.tolist() == [MINUTE, 5 * MINUTE, 7 * MINUTE]
    assert ring.row(5 * MINUTE) == 1
    assert ring.prices[1][:, 2].tolist() == held.prices[:, 0].tolist()
    assert np.isnan(ring.prices[0, OPEN]).all()
    assert np.isnan(ring.prices[1, CLOSE, 64])
    ring.keep(ring.minutes == 5 * MINUTE)
    assert ring.entries(0).index.tolist() == [2]


@pytest.mark.parametrize(
    ("symbols", "most"), [([], None), ([1], None), ([1, 1], 0), ([9, 1], 0), ([8, 2], 1), ([1, 97, 2], 1)]
)
def test_the_minute_by_which_most_lies(symbols, most):
    parts = [entries(TRADES, row * MINUTE, list(range(count)), row) for row, count in enumerate(symbols)]
    ring = Ring(TRADES)
    ring.widen(100)
    ring.insert(np.arange(len(symbols)) * MINUTE)
    for part in parts:
        ring.add(part)
    assert ring.minute_of_most() == (None if most is None else most * MINUTE)


def test_parts_add_up_in_order_of_time():
    nan, inf = float("nan"), float("inf")
    parts = [(nan, 9.0, 2.0, nan), (5.0, 6.0, 4.0, 5.5), (nan, -inf, inf, nan), (7.0, 8.0, 1.0, 3.0)]
    prices = np.array([[[value] for value in part] for part in parts])
    sums = np.ones((4, 7, 1), np.int64)
    found, total = add_up(prices, sums)
    assert [found[row, 0] for row in (OPEN, HIGH, LOW, CLOSE)] == [5.0, 9.0, 1.0, 3.0]
    assert total[:, 0].tolist() == [4] * 7
    alone, _ = add_up(prices[1:2], sums[1:2])
    assert alone[:, 0].tolist() == list(parts[1])


def test_a_volume_that_does_not_fit_is_refused():
    sums = np.zeros((2, 7, 2), np.int64)
    prices = np.ones((2, 4, 2))
    sums[0, VOLUME] = 2**62
    sums[1, VOLUME, 1] = 2**62 - 1
    assert add_up(prices, sums)[1][VOLUME].tolist() == [2**62, 2**63 - 1]
    for many in (2, 3, 5):
        sums = np.zeros((many, 7, 1), np.int64)
        sums[:, VOLUME] = 2**62
        with pytest.raises(OverflowError, match=r"volume reaches 9\.2e12 shares"):
            add_up(np.ones((many, 4, 1)), sums)


def test_a_base_comes_back():
    base = Base.empty(3).widened(64)
    assert Base.decode(base.encode(0)).starts.tolist() == [0, 0, 0]
    base.starts[1], base.ends[1] = MINUTE, 6 * MINUTE
    base.prices[1, :, :5] = 3.5
    base.sums[1, N0, :5] = 7
    again = Base.decode(base.encode(5)).widened(64)
    for name in ("starts", "ends", "prices", "sums"):
        np.testing.assert_array_equal(getattr(again, name), getattr(base, name))
    again.reset(1)
    assert not again.starts.any()
    assert np.isnan(again.prices[:, OPEN]).all()
    assert not again.sums[:, NO_COUNT].any()


def test_another_format_is_refused():
    part = encode_entries(entries(TRADES, 0, [1], 1), TRADES)
    with pytest.raises(StateError, match="state cell minutes has format 2"):
        decode_entries(b"\x02" + part[1:], TRADES)
    with pytest.raises(StateError, match="state cell base has format 2"):
        Base.decode(b"\x02" + Base.empty(1).encode(0)[1:])

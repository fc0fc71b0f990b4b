from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fibflow.tests.transforms import oracle
from fibflow.transforms import accumulators as acc

BIG = 2**63 - 1
# The most that a row may add: 1e11 shares at a price of 1e12, both in millionths.
VOLUME = int(1e11) * acc.MICRO
PRICE = int(1e12) * acc.MICRO


def value(hi: int, lo: int) -> int:
    return (int(hi) << 64) + int(lo)


def pair(total: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([total >> 64], np.int64), np.array([total & (2**64 - 1)], np.uint64)


@pytest.mark.parametrize(
    ("shares", "micro"),
    [
        (0.0, 0),
        (1.0, 1_000_000),
        (5e-7, 0),
        (1.5e-6, 2),
        (2.5e-6, 2),
        (0.1234567, 123_457),
        (1e11, 10**17),
    ],
)
def test_to_micro_rounds_half_to_even(shares, micro):
    assert acc.to_micro(np.array([shares])).tolist() == [micro]


def test_to_micro_leaves_its_input_alone():
    values = np.array([1.0, 2.0])
    acc.to_micro(values)
    assert values.tolist() == [1.0, 2.0]


@given(st.lists(st.tuples(st.integers(0, BIG), st.integers(0, BIG)), max_size=20))
@example([(BIG, BIG), (2**32, 2**32), (2**32 - 1, 2**32 - 1), (0, BIG), (1, 1)])
def test_multiply_equals_pythons(pairs):
    a, b = (np.array(column, np.int64) for column in (zip(*pairs, strict=True) if pairs else ([], [])))
    hi, lo = acc.multiply(a, b)
    assert [value(*parts) for parts in zip(hi, lo, strict=True)] == [x * y for x, y in pairs]


@given(
    values=st.lists(st.integers(0, PRICE * VOLUME) | st.just(2**64 - 1), min_size=1, max_size=50),
    cuts=st.sets(st.integers(1, 49)),
)
@example(values=[2**64 - 1] * 50, cuts={25})
def test_sum_runs_equals_pythons(values, cuts):
    starts = [0, *sorted(cut for cut in cuts if cut < len(values))]
    hi = np.array([total >> 64 for total in values], np.int64)
    lo = np.array([total & (2**64 - 1) for total in values], np.uint64)
    sums = acc.sum_runs(hi, lo, np.array(starts))
    ends = [*starts[1:], len(values)]
    expected = [sum(values[start:end]) for start, end in zip(starts, ends, strict=True)]
    assert [value(*parts) for parts in zip(*sums, strict=True)] == expected


@given(
    values=st.lists(st.integers(0, 10**18) | st.integers(0, VOLUME), min_size=1, max_size=100),
    cuts=st.sets(st.integers(1, 99)),
)
@example(values=[VOLUME] * 64, cuts=set())
@example(values=[VOLUME] * 92, cuts=set())
@example(values=[VOLUME] * 93, cuts=set())
@example(values=[10**18] * 10, cuts=set())
@example(values=[10**18, *[1] * 20], cuts=set())
@example(values=[10**18] * 19, cuts=set())
@example(values=[10**18] * 100, cuts=set())
@example(values=[10**18] * 100, cuts=set(range(1, 100)))
def test_sum_volume_is_exact_or_says_that_it_cannot_be(values, cuts):
    starts = [0, *sorted(cut for cut in cuts if cut < len(values))]
    ends = [*starts[1:], len(values)]
    expected = [sum(values[start:end]) for start, end in zip(starts, ends, strict=True)]
    column = np.array(values, np.int64)
    if max(expected) < acc.VOLUME_LIMIT:
        assert acc.sum_volume(column, np.array(starts)).tolist() == expected
    else:
        with pytest.raises(OverflowError, match=r"^a window's volume reaches 9\.2e\+12 shares, the most"):
            acc.sum_volume(column, np.array(starts))


def test_a_window_of_64_rows_of_the_most_volume_fits():
    assert acc.sum_volume(np.full(64, VOLUME), np.zeros(1, np.intp)).tolist() == [64 * VOLUME]


notionals = st.integers(0, 2**40) | st.integers(0, 90 * PRICE * VOLUME)
volumes = st.integers(1, 2**20) | st.integers(1, BIG)


@given(notional=notionals, volume=volumes)
@example(notional=0, volume=1)
@example(notional=2**64, volume=1)
@example(notional=90 * PRICE * VOLUME, volume=BIG)
@example(notional=PRICE * VOLUME, volume=VOLUME)
@example(notional=(2**50) * 2**61 - 1, volume=2**61)
@example(notional=(2**50) * (2**61 - 1) - 1, volume=2**61 - 1)
@example(notional=10**30 - 1, volume=10**17)
def test_vwap_equals_exact_division(notional, volume):
    hi, lo = pair(notional)
    if notional // volume > PRICE:
        volume = -(-notional // PRICE)
    got = float(acc.vwap(hi, lo, np.array([volume]))[0])
    assert got == oracle.divide(notional, volume)
    exact = Fraction(notional, volume) / acc.MICRO
    assert abs(Fraction(got) - exact) <= 2 * Fraction(math.ulp(float(exact)))


@given(
    trades=st.lists(
        st.tuples(st.floats(1e-4, 1e6), st.floats(1e-6, 1e8)),
        min_size=1,
        max_size=30,
    )
)
def test_vwap_of_trades_is_their_weighted_mean_in_millionths(trades):
    price, volume = (acc.to_micro(np.array(column)) for column in zip(*trades, strict=True))
    starts = np.zeros(1, np.intp)
    total = acc.sum_volume(volume, starts)
    got = acc.vwap(*acc.sum_runs(*acc.multiply(price, volume), starts), total)
    weights = [round(v * 1e6) for _, v in trades]
    exact = Fraction(
        sum(round(p * 1e6) * w for (p, _), w in zip(trades, weights, strict=True)), sum(weights) * 10**6
    )
    assert abs(Fraction(float(got[0])) - exact) <= 2 * Fraction(math.ulp(float(exact)))


def test_vwap_of_no_volume_is_nan_and_disturbs_no_other():
    lo = np.array([0, 12_000_000, 0], np.uint64)
    got = acc.vwap(np.zeros(3, np.int64), lo, np.array([0, 3, 5]))
    assert math.isnan(got[0])
    assert got[1:].tolist() == [4.0, 0.0]


def test_vwap_of_one_price_is_that_price():
    price = acc.to_micro(np.array([0.01, 12.34, 700_000.0, 1e11]))
    for volume in (1, 3, 10**9, VOLUME):
        shares = np.full(4, volume)
        assert acc.vwap(*acc.multiply(price, shares), shares).tolist() == [0.01, 12.34, 700_000.0, 1e11]


def test_nothing_to_sum():
    none, no_runs = np.zeros(0, np.int64), np.zeros(0, np.intp)
    assert len(acc.vwap(none, none.astype(np.uint64), none)) == 0
    assert len(acc.sum_volume(none, no_runs)) == 0

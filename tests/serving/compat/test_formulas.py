"""Indicators against plain loops over prices."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.compat import formulas

PRICES = st.lists(st.floats(1, 1000), min_size=0, max_size=120)
WINDOWS = st.integers(1, 30)


def smoothed(values, window, alpha):
    found = [math.nan] * len(values)
    if len(values) >= window:
        found[window - 1] = sum(values[:window]) / window
        for at in range(window, len(values)):
            found[at] = alpha * values[at] + (1 - alpha) * found[at - 1]
    return found


def ema(values, window):
    return smoothed(values, window, 2 / (window + 1))


def rsi(values, window):
    changes = [b - a for a, b in pairwise(values)]
    gains = smoothed([max(c, 0) for c in changes], window, 1 / window)
    losses = smoothed([max(-c, 0) for c in changes], window, 1 / window)
    found = [math.nan] * min(1, len(values))
    for gain, loss in zip(gains, losses, strict=True):
        found.append(50.0 if gain == loss == 0 else 100.0 if loss == 0 else 100 - 100 / (1 + gain / loss))
    return found


def same(found, expected):
    np.testing.assert_allclose(found, np.array(expected, np.float64), rtol=1e-9, atol=1e-7)


@given(PRICES, WINDOWS)
def test_sma(prices, window):
    expected = [
        math.nan if at + 1 < window else sum(prices[at + 1 - window : at + 1]) / window
        for at in range(len(prices))
    ]
    same(formulas.sma(np.array(prices), window), expected)


@given(PRICES, WINDOWS)
def test_ema(prices, window):
    same(formulas.ema(np.array(prices), window), ema(prices, window))


@given(PRICES, WINDOWS)
def test_rsi(prices, window):
    same(formulas.rsi(np.array(prices), window), rsi(prices, window))


@given(PRICES, st.integers(1, 10), st.integers(1, 10), st.integers(1, 10))
def test_macd(prices, short, more, signal):
    value = [a - b for a, b in zip(ema(prices, short), ema(prices, short + more), strict=True)]
    begin = sum(map(math.isnan, value))
    told = [math.nan] * begin + ema(value[begin:], signal)
    found = formulas.macd(np.array(prices), short, short + more, signal)
    same(found.value, value)
    same(found.signal, told)
    same(found.histogram, [a - b for a, b in zip(value, told, strict=True)])


def test_rsi_of_a_worked_example():
    # Wilder's smoothing by hand, window 2: changes 1, -1, 2: gains .5 then 1.25, losses .5 then .25.
    assert formulas.rsi(np.array([10.0, 11.0, 10.0, 12.0]), 2)[2:] == pytest.approx([50.0, 100 - 100 / 6])


def test_prices_that_only_rise_or_stand_still():
    assert formulas.rsi(np.cumsum(np.ones(20)), 14)[-1] == 100
    assert formulas.rsi(np.ones(20), 14)[-1] == 50


@pytest.mark.parametrize("window", [1, 2, 14, 50, 500])
def test_what_is_further_back_than_needed_does_not_show(window):
    prices = np.random.default_rng(3).uniform(10, 20, 2 * formulas.needed(window) + 500)
    for indicator in (formulas.ema, formulas.rsi):
        whole = indicator(prices, window)[-100:]
        part = indicator(prices[-formulas.needed(window) - 100 :], window)[-100:]
        np.testing.assert_allclose(part, whole, rtol=1e-12)

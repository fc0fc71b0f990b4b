"""Technical indicators over columns of prices: the standard formulas, without a loop over rows.

- SMA: the mean of the last N prices.
- EMA: alpha = 2 / (N + 1); the first value is the SMA of the first N prices, then alpha * price +
  (1 - alpha) * the value before (J. Murphy, Technical Analysis of the Financial Markets, 1999, chapter 9).
- RSI: 100 - 100 / (1 + average gain / average loss); the first averages are the means of the first N changes,
  then (average before * (N - 1) + change) / N (J. W. Wilder, New Concepts in Technical Trading Systems, 1978,
  section VI). Without a loss it is 100; without a change at all 50.
- MACD: the EMA of the short window minus that of the long one; its signal is the EMA of these values, its
  histogram their difference (G. Appel, The Moving Average Convergence-Divergence Trading Method, 1985).

All take shape (n,) and give shape (n,), NaN where there are too few prices before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Macd:
    """Arrays of shape (n,)."""

    value: Float64
    signal: Float64
    histogram: Float64


def sma(prices: Float64, window: int) -> Float64:
    """Return the mean of each price and those before it."""
    found = np.full(len(prices), np.nan)
    if len(prices) >= window:
        # Views, not a running sum: its rounding would depend on where the prices begin.
        found[window - 1 :] = np.lib.stride_tricks.sliding_window_view(prices, window).mean(axis=1)
    return found


def ema(prices: Float64, window: int) -> Float64:
    """Return the exponential average, seeded by the mean of the first ``window`` prices."""
    return _smoothed(prices, window, 2.0 / (window + 1))


def rsi(prices: Float64, window: int) -> Float64:
    """Return the relative strength index, 0 to 100."""
    found = np.full(len(prices), np.nan)
    changes = np.diff(prices)
    gains = _smoothed(np.maximum(changes, 0.0), window, 1.0 / window)
    losses = _smoothed(np.maximum(-changes, 0.0), window, 1.0 / window)
    total = gains + losses
    share = np.divide(gains, total, out=np.full(len(total), 0.5), where=total > 0)
    found[1:] = np.where(np.isnan(total), np.nan, 100.0 * share)
    return found


def macd(prices: Float64, short: int, long: int, signal: int) -> Macd:
    """Return the difference of two exponential averages, its own average, and how far they are apart."""
    value = ema(prices, short) - ema(prices, long)
    begin = int(np.isnan(value).sum())
    told = np.full(len(prices), np.nan)
    told[begin:] = ema(value[begin:], signal)
    return Macd(value, told, value - told)


def needed(window: int) -> int:
    """Return how many prices before make an average, Wilder's too, that does not tell where it began.

    What came before them weighs less than the rounding of a double: (1 - 1 / N) ** (40 N) < 1e-17.
    """
    return 40 * window


def _smoothed(values: Float64, window: int, alpha: float) -> Float64:
    """Return y[t] = alpha * x[t] + (1 - alpha) * y[t - 1] from the mean of the first ``window`` values on."""
    found = np.full(len(values), np.nan)
    if len(values) < window:
        return found
    y = alpha * values[window - 1 :]
    y[0] = values[:window].mean()
    # Each round doubles how many values before are in: y holds those of the last `step`.
    step, weight = 1, 1.0 - alpha
    while step < len(y) and weight > 0.0:
        y[step:] = y[step:] + weight * y[:-step]
        step, weight = 2 * step, weight * weight
    found[window - 1 :] = y
    return found

"""Exact sums: fixed-point volume in 64 bits, notional in 128 bits, and the division that ends them.

A 128-bit sum is a pair ``(hi, lo)`` of arrays, ``int64`` and ``uint64``, worth ``hi * 2**64 + lo``. All
values here are non-negative.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

MICRO = 1_000_000
#: Sums of volume stay below this (1e-6 share).
VOLUME_LIMIT = 1 << 63
#: Below these a double estimates a quotient closely enough for its remainder's sign to be read in 64 bits.
_SURE_VOLUME = 1 << 61
_SURE_QUOTIENT = 2.0**50

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def to_micro(values: Float64) -> Int64:
    """Round values to integers of 1e-6, half to even. Shape (n,) to (n,)."""
    scaled: Float64 = values * np.float64(MICRO)
    return np.rint(scaled, out=scaled).astype(np.int64)


def multiply(a: Int64, b: Int64) -> tuple[Int64, UInt64]:
    """Return the exact 128-bit products of two non-negative arrays of shape (n,)."""
    ua, ub = a.astype(np.uint64), b.astype(np.uint64)
    a0, a1, b0, b1 = ua & _LOW, ua >> _32, ub & _LOW, ub >> _32
    low = a0 * b0
    middle = a0 * b1 + a1 * b0
    carry = (low >> _32) + (middle & _LOW)
    hi = a1 * b1 + (middle >> _32) + (carry >> _32)
    lo = (carry << _32) | (low & _LOW)
    return hi.astype(np.int64), lo


def sum_runs(hi: Int64, lo: UInt64, starts: Index) -> tuple[Int64, UInt64]:
    """Add up each run that begins at ``starts`` (shape (k,)) and ends where the next begins; shape (k,)."""
    low = np.add.reduceat(lo & _LOW, starts)
    high = np.add.reduceat(lo >> _32, starts) + (low >> _32)
    total_lo = (high << _32) | (low & _LOW)
    total_hi = np.add.reduceat(hi, starts) + (high >> _32).astype(np.int64)
    return total_hi, total_lo


def sum_volume(volume: Int64, starts: Index) -> Int64:
    """Add up volume by runs.

    Raises:
        OverflowError: where a run's sum reaches ``VOLUME_LIMIT``.
    """
    total = np.add.reduceat(volume, starts)
    longest = int(np.diff(starts, append=len(volume)).max(initial=0))
    if int(volume.max(initial=0)) * longest >= VOLUME_LIMIT:
        # A sum of up to twice the limit wraps to below 0; the estimate tells of those beyond.
        estimate = np.add.reduceat(volume.astype(np.float64), starts)
        if ((total < 0) | (estimate >= 1.5 * VOLUME_LIMIT)).any():
            raise OverflowError(
                f"a window's volume reaches {VOLUME_LIMIT // MICRO:.1e} shares, the most that a bar can hold"
            )
    return total


def vwap(hi: Int64, lo: UInt64, volume: Int64) -> Float64:
    """Return notional / volume in currency, NaN where volume is 0.

    Quotient Q (1e-6 currency) and remainder R are exact; the result is ``(Q + R / volume) / 1e6`` in IEEE
    doubles, the same on every machine.
    """
    divisor = volume.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        approximate = (hi.astype(np.float64) * 2.0**64 + lo.astype(np.float64)) / divisor
        traded = volume > 0
        sure = traded & (approximate < _SURE_QUOTIENT) & (volume < _SURE_VOLUME)
        quotient = np.where(sure, np.floor(approximate), 0.0).astype(np.int64)
        # The estimate is off by one at most, so the remainder fits in 64 bits and wraps right.
        remainder = (lo - quotient.astype(np.uint64) * volume.astype(np.uint64)).astype(np.int64)
        shift = np.floor_divide(remainder, volume, where=sure, out=np.zeros_like(volume))
        quotient += shift
        remainder -= shift * volume
        value: Float64 = (quotient.astype(np.float64) + remainder.astype(np.float64) / divisor) / MICRO
    for row in np.flatnonzero(traded & ~sure).tolist():
        whole, rest = divmod((int(hi[row]) << 64) + int(lo[row]), int(volume[row]))
        value[row] = (float(whole) + float(rest) / float(volume[row])) / MICRO
    return value

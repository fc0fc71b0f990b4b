"""Names of a market that never was: tickers, companies, FIGIs."""

from __future__ import annotations

import numpy as np

_FIRST_WORDS = """
Alder Amber Arbor Argent Aspen Beacon Birch Brook Cedar Cinder Cobalt Coral Crown Delta Drift Ember Fern Flint
Garnet Glacier Granite Harbor Hazel Heron Indigo Juniper Kestrel Lark Linden Lumen Maple Marble Meadow Mesa
Nimbus North Oak Onyx Opal Osprey Pine Quartz Raven Ridge Rowan Sable Slate Sparrow Summit Thistle Timber
Umber Vale Willow Wren Zephyr
"""
_SECOND_WORDS = """
Analytics Bancorp Dynamics Energy Foods Freight Health Labs Logistics Materials Mining Motors Networks Optics
Partners Pharma Power Properties Retail Robotics Semiconductor Software Steel Systems Water
"""
_FIRST, _SECOND = _FIRST_WORDS.split(), _SECOND_WORDS.split()
_ENDINGS = ("Inc.", "Corp.", "Ltd.", "Holdings", "Group")
_EXCHANGES = ("XNYS", "XNAS")
_LENGTHS, _SHARES = (1, 2, 3, 4), (0.01, 0.06, 0.45, 0.48)
_FIGI = np.array(list("BCDFGHJKLMNPQRSTVWXYZ0123456789"))


def tickers(rng: np.random.Generator, count: int) -> list[str]:
    """Return distinct tickers of one to four capitals; one in fifty is a class of shares, like ``ABC.B``."""
    names: list[str] = []
    seen: set[str] = set()
    while len(names) < count:
        length = int(rng.choice(_LENGTHS, p=_SHARES))
        name = bytes(rng.integers(65, 91, length, dtype=np.uint8)).decode()
        if len(names) % 50 == 7 and length < 4:
            name += ".B"
        if name not in seen:
            seen.add(name)
            names.append(name)
    return names


def companies(rng: np.random.Generator, count: int) -> list[tuple[str, str, str]]:
    """Return names, the vendor's types and exchanges (ISO 10383); one in ten is a fund."""
    found = []
    for _ in range(count):
        first, second = rng.choice(_FIRST), rng.choice(_SECOND)
        if rng.random() < 0.1:
            found.append((f"{first} {second} ETF", "ETF", "ARCX"))
        else:
            found.append((f"{first} {second} {rng.choice(_ENDINGS)}", "CS", str(rng.choice(_EXCHANGES))))
    return found


def figis(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Return two distinct numbers each, which look like FIGIs."""
    letters = rng.choice(_FIGI, (count, 2, 8))
    return [
        (f"BBG{''.join(a)}{place % 10}", f"BBG{''.join(b)}{place % 10}")
        for place, (a, b) in enumerate(letters)
    ]

"""Open bars into a live store, as the stream writes them."""

from __future__ import annotations

from typing import Any

from fibflow.io.livestore import LiveStore
from fibflow.tests.io.livestores import table
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.openbars import Flush

STAMP = 1_800_000_000_000_000


def write_open(store: LiveStore, *bars: dict[str, Any], stamp: int = STAMP) -> None:
    """Write open bars, all that a symbol has of a kind in one flush."""
    parts: dict[tuple[int, bool], list[dict[str, Any]]] = {}
    for bar in bars:
        key = bucket_of(bar["symbol"], store.buckets), bar["timeframe"].endswith("d")
        parts.setdefault(key, []).append(bar)
    for (bucket, of_days), found in parts.items():
        store.write_open([Flush(bucket, stamp, of_days, False, table(*found))])

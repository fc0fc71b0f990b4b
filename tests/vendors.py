"""The vendor stand-in for tests: ``standin(...)`` runs one in a thread.

with standin(symbols=10, faults="429:0.05:seconds=0") as vendor:
    client = massive.RESTClient("any", base=vendor.url)
    vendor.order("500", path="grouped", times=2)
    vendor.correct("ABC", date(2024, 3, 4), close=12.5)
    assert vendor.names["grouped"] == 3
    vendor.days()       # what it has now
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from fibflow.serving.standin.handle import Vendor, running
from fibflow.serving.standin.make import Wanted

__all__ = ["Vendor", "Wanted", "standin"]


def standin(**wanted: Any) -> AbstractContextManager[Vendor]:
    """Return a context in which a stand-in runs; the arguments are those of ``Wanted``."""
    return running(Wanted(**wanted))

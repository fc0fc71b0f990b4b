"""A stand-in for a module's tests, and both of the vendor's clients."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import massive
import polygon
import pytest

from fibflow.serving.standin.market import Market
from fibflow.tests.vendors import Vendor, standin

FIRST, LAST = date(2024, 2, 1), date(2024, 4, 30)
#: The evening of the market's last session.
NOW = datetime(2024, 4, 30, 22, tzinfo=UTC)
PACKAGES = {"massive": massive, "polygon": polygon}


def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def market() -> Market:
    """Do not change it: nothing can."""
    return Market.make(12, FIRST, LAST, seed=3)


@pytest.fixture(scope="module")
def served() -> Iterator[Vendor]:
    with standin(symbols=12, first=FIRST, last=LAST, minutes=2, seed=3, clock=now) as vendor:
        yield vendor


@pytest.fixture
def vendor(served: Vendor) -> Iterator[Vendor]:
    """A stand-in with which all is well, and which nobody has asked yet."""
    served.forget()
    yield served
    served.clear()
    served.end()
    served.heal()


@pytest.fixture(params=sorted(PACKAGES))
def package(request: pytest.FixtureRequest) -> Any:
    return PACKAGES[request.param]


@pytest.fixture
def client(package: Any, vendor: Vendor) -> Any:
    return package.RESTClient("any", base=vendor.url)

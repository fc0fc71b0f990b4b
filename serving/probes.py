"""What asks the stores whether they answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fibflow.io.lake import Lake
from fibflow.io.readbars import LakeReader
from fibflow.serving import metrics
from fibflow.serving.health import LAKE, Probe
from fibflow.serving.live.prices import Prices
from fibflow.serving.settings import Settings

if TYPE_CHECKING:
    from fibflow.io.alerts.store import AlertStore

ALERTS = "alerts"


def of(settings: Settings, lake: Lake, prices: Prices, alerts: AlertStore | None) -> list[Probe]:
    """Return what asks the stores that the server was given."""
    found = [Probe((LAKE,), lambda: see(lake))]
    given = {"redis": settings.redis, "dynamodb": settings.dynamodb, "postgres": settings.postgres}
    if names := tuple(name for name, place in given.items() if place):
        found.append(Probe(names, lambda: {name: wrong is None for name, wrong in prices.stores().items()}))
    if alerts is not None:
        # PostgreSQL may answer and have no tables of alerts.
        found.append(Probe((ALERTS,), lambda: reachable(alerts)))
    return found


def reachable(alerts: AlertStore) -> dict[str, bool]:
    """Look at the store of alerts.

    Raises:
        PostgresError: it does not answer, or is not migrated.
    """
    alerts.check()
    return {ALERTS: True}


def see(lake: Lake) -> dict[str, bool]:
    """Look at the lake's tables of bars, and tell the metrics of them.

    Raises:
        LakeError: there are no bars that could be served.
    """
    now = datetime.now(UTC).timestamp()
    for table in LakeReader(lake).view().tables:
        metrics.LAKE_VERSION.labels(table.spec.name).set(table.version)
        metrics.LAKE_AGE.labels(table.spec.name).set(max(0.0, now - table.newest / 1_000))
    return {LAKE: True}

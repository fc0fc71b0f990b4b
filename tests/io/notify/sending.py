"""What tests send to webhooks, and when."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from fibflow.io.alerts.claims import End
from fibflow.io.alerts.model import Event
from fibflow.io.notify.addresses import Lookup
from fibflow.io.notify.webhook import Webhooks
from fibflow.tests.io.notify.hooks import Authority, Routed

AT = 1_704_214_800.75
WORLD = ["93.184.215.14"]
EVENT = Event(
    id="7-1-0",
    position=1,
    alert=7,
    owner="ann",
    version=1,
    symbol="BRK.B",
    ts=datetime(2024, 1, 2, 17, 0, 0, 250_000, UTC),
    seq=5,
    price=361.5,
    previous=None,
    level=float("nan"),
    operator="crosses_up",
    note="résumé ✓",
    test=False,
    created=datetime(2024, 1, 2, 17, 0, 1, tzinfo=UTC),
)


@contextmanager
def world(
    authority: Authority, lookup: Lookup = lambda host, limit_s: WORLD
) -> Iterator[tuple[Webhooks, Routed]]:
    """Webhooks anywhere, and the way there."""
    lines = Routed(itertools.repeat(0.0).__next__, authority.client())
    with closing(Webhooks(lookup=lookup, lines=lines, wall=lambda: AT)) as made:
        yield made, lines


def send(
    webhooks: Webhooks, url: str, secret: str | None = None, event: Event = EVENT
) -> tuple[End, str | None]:
    """Send an event: what became of it, and why."""
    outcome = webhooks.send(url, secret, event)
    return outcome.end, outcome.error

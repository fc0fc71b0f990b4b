"""A stand-in made of what it was asked for: its lake, its application."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from fibflow.io.lake import Lake
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.serving.standin.app import StandIn
from fibflow.serving.standin.faults import Orders, parse
from fibflow.serving.standin.feed import Feed
from fibflow.serving.standin.lakes import Editor, publish, seen_through, write_market
from fibflow.serving.standin.market import Market
from fibflow.serving.standin.news import make_news
from fibflow.serving.standin.paces import FeedFault
from fibflow.serving.standin.plans import PLANS


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Wanted:
    """What a stand-in is to be.

    Attributes:
        lake: URI of the lake that it serves, in a folder, which stays as it is; None for a market.
        symbols: companies of the market.
        first, last: its sessions.
        minutes: so many of the last sessions have minutes.
        news: so many articles has each session.
        seed: of the market, and of what goes wrong.
        faults: as ``faults.parse`` reads them.
        key: the only one that it knows; None lets everybody in.
        plan: what the key may ask for: one of ``plans.PLANS``.
        clock: now, UTC.
        play: what the feed plays from the beginning on, as ``Vendor.play`` takes it; None for nothing.
        feed_faults: of it, as ``Vendor.feed_fault`` takes them.
        queue: frames that a client of the feed may be behind.
    """

    lake: str | None = None
    symbols: int = 20
    first: date = date(2024, 1, 2)
    last: date = date(2024, 6, 28)
    minutes: int = 2
    news: int = 0
    seed: int = 0
    faults: str = ""
    key: str | None = field(default=None, repr=False)
    plan: str = "all"
    clock: Callable[[], datetime] = _utc_now
    play: Mapping[str, Any] | None = None
    feed_faults: tuple[Mapping[str, Any], ...] = ()
    queue: int = 1_000

    def market(self) -> Market | None:
        """Return the market that is served; None for a lake.

        Raises:
            ValueError: there is none of so few sessions or companies.
        """
        if self.lake is not None:
            return None
        return Market.make(self.symbols, self.first, self.last, self.seed)


@dataclass(frozen=True)
class Made:
    """A stand-in: its application, its lake, and the market that the lake was made of."""

    app: StandIn
    lake: Lake
    market: Market | None


def make(wanted: Wanted, folder: Path) -> Made:
    """Return a stand-in, whose data lies in a folder.

    Raises:
        FaultError: a fault cannot be ordered.
        LakeError: there is no such lake in a folder.
        ValueError: there is no such market, or no such plan.
    """
    faults = parse(wanted.faults)
    if wanted.plan not in PLANS:
        raise ValueError(f"there is no plan {wanted.plan}: name one of {', '.join(PLANS)}")
    market = wanted.market()
    if market is not None:
        with_minutes = market.sessions[max(0, len(market.sessions) - wanted.minutes) :]
        lake = write_market(market, str(folder / "lake"), with_minutes)
        publish(lake, make_news(market, wanted.news))
    else:
        lake = seen_through(str(wanted.lake), folder / "lake")
    settings = Settings(
        lake.uri, open_access=True, refresh_s=0.0, queue=wanted.queue, log_requests=False, stop_s=5
    )
    feed = Feed()
    feed.order(*(FeedFault.of(dict(told)) for told in wanted.feed_faults))
    app = StandIn(
        create_app(settings, wanted.clock),
        lake,
        Orders(wanted.seed, faults),
        feed,
        Editor(lake),
        wanted.key,
        PLANS[wanted.plan],
        today=lambda: wanted.clock().date(),
        played=wanted.play,
        facts={"lake": lake.uri},
    )
    return Made(app, lake, market)

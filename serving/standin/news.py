"""News of a market that never was: articles by a seed, as the vendor writes them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from fibflow.serving.standin.market import Market

_PUBLISHERS = ("Meridian Wire", "The Ledger Post", "Harbor Markets", "Foundry Daily")
_WHAT = (
    "raises its outlook for the year",
    "names a new head of finance",
    "reports a quarter above what was expected",
    "reports a quarter below what was expected",
    "buys back a part of its shares",
    "opens a plant in the north",
    "recalls a product",
    "signs a supply contract for five years",
)
_FEELINGS = ("positive", "neutral", "negative")
_WORDS = ("earnings", "guidance", "management", "buyback", "supply", "product", "markets", "contract")
#: So many tickers an article has, one of these.
_SIZES = (0, 1, 1, 1, 1, 2, 2, 3, 5)
_NEWS = 4
_DAY_S = 86_400


def make_news(market: Market, a_day: int) -> list[dict[str, Any]]:
    """Return articles, so many on each session's date, by time; the same arguments give the same ones.

    Args:
        market: whose companies they are about, by the names that these have then.
        a_day: how many a session.
    """
    rng = np.random.default_rng([market.seed, _NEWS])
    found: list[dict[str, Any]] = []
    for at, session in enumerate(market.sessions):
        listed = np.flatnonzero((market.listed <= at) & (market.delisted > at))
        midnight = datetime(session.year, session.month, session.day, tzinfo=UTC)
        for second in np.sort(rng.integers(0, _DAY_S, a_day)).tolist():
            size = min(int(rng.choice(_SIZES)), len(listed))
            companies = rng.choice(listed, size, replace=False).tolist()
            names = [market.name_of(company, at) for company in companies]
            when = midnight + timedelta(seconds=second)
            found.append(_article(rng, market.seed, len(found), names, f"{when:%Y-%m-%dT%H:%M:%SZ}"))
    return found


def _article(
    rng: np.random.Generator, seed: int, number: int, tickers: list[str], published: str
) -> dict[str, Any]:
    publisher = str(rng.choice(_PUBLISHERS))
    site = f"https://{publisher.replace(' ', '-').lower()}.example.com"
    what = str(rng.choice(_WHAT))
    title = f"{' and '.join(tickers) or 'The market'} {what}"
    made: dict[str, Any] = {
        "id": hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=32).hexdigest(),
        "publisher": {
            "name": publisher,
            "homepage_url": f"{site}/",
            "logo_url": f"{site}/logo.svg",
            "favicon_url": f"{site}/favicon.ico",
        },
        "title": title,
        "author": f"Reporter {rng.integers(1, 90)}",
        "published_utc": published,
        "article_url": f"{site}/{number}",
        "tickers": tickers,
        "image_url": f"{site}/{number}.jpg",
        "description": f"{title}, said {publisher}. A market that a seed made has no more to tell.",
        "keywords": [str(word) for word in rng.choice(_WORDS, int(rng.integers(0, 4)), replace=False)],
    }
    if rng.random() < 0.7:
        made["insights"] = [
            {
                "ticker": ticker,
                "sentiment": str(rng.choice(_FEELINGS)),
                "sentiment_reasoning": f"{ticker} {what}.",
            }
            for ticker in tickers
        ]
    for member in ("author", "image_url"):
        # The vendor does not know all of all of them.
        if rng.random() < 0.1:
            del made[member]
    return made

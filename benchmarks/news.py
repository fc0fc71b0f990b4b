"""News: how long it takes to poll a day, and to read a page of a million: ``python -m benchmarks.news``.

The lake of the reads is written month by month as the poller writes it, with made-up texts of the length of
real ones; symbols are mentioned as often as they are in the news: few of them very often, most hardly ever.
Pages are read cold (nothing kept but the index), and again from what a server keeps.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import massive
import numpy as np
import pyarrow as pa

from fibflow.io.lake import Lake
from fibflow.io.news.articles import json_of, rows_of
from fibflow.io.news.reading import NewsReader, Wanted
from fibflow.io.news.table import NewsTable
from fibflow.pipelines import cli, news
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.serving.standin.handle import Vendor, started
from fibflow.serving.standin.make import Wanted as Standin
from fibflow.tests.serving.servers import running

_FIRST = np.datetime64("2023-01-01T00:00:00", "us")
_MONTH_US = 30 * 86_400_000_000
_EXTRA = (0, 0, 1, 1, 2, 4, 8)


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--articles", type=int, default=1_000_000)
    parser.add_argument("--symbols", type=int, default=20_000)
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--a-day", type=int, default=2_000, help="of the day that is polled")
    parser.add_argument("--keep", type=Path, help="the lake's folder: is used again where it is there")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fibflow-news-"))
    try:
        cli.print_table("polling", polled(args, folder))
        cli.print_table("reading", read(args, args.keep or folder / "reads"))
    finally:
        shutil.rmtree(folder)


def symbols_of(count: int) -> list[str]:
    letters = [chr(65 + place) for place in range(26)]
    return ["".join(letters[number // 26**place % 26] for place in range(4)) for number in range(count)]


def texts_of(rng: np.random.Generator, count: int, words: int, known: Any) -> Any:
    """Texts of so many words, which come as often as words do."""
    weights = 1 / (np.arange(len(known)) + 20)
    flat = known[rng.choice(len(known), count * words, p=weights / weights.sum())].reshape(count, words)
    return [" ".join(row) for row in flat.tolist()]


def articles(count: int, symbols: int, seed: int, start_us: int, length_us: int) -> pa.Table:
    """Articles of ``schemas.ARTICLES`` whose times are spread over a stretch."""
    rng = np.random.default_rng(seed)
    known = np.array(
        ["".join(rng.choice(list("etaoinshrdlucmfw"), rng.integers(2, 10))) for _ in range(8_000)]
    )
    names = symbols_of(symbols)
    published = np.sort(start_us + rng.integers(0, length_us // 1_000_000, count) * 1_000_000)
    weights = 1 / (np.arange(symbols) + 10)
    drawn = rng.choice(symbols, (count, 9), p=weights / weights.sum())
    sizes = 1 + np.array(_EXTRA)[rng.integers(0, len(_EXTRA), count)]
    tickers = [
        list(dict.fromkeys(names[place] for place in row[:size]))
        for row, size in zip(drawn.tolist(), sizes.tolist(), strict=True)
    ]
    texts = {
        name: texts_of(rng, count, words, known)
        for name, words in (("title", 11), ("author", 2), ("description", 55), ("keywords", 4))
    }
    publishers = rng.integers(0, 40, count).tolist()
    found = [
        {
            "id": f"{a:016x}{b:016x}{c:016x}{d:016x}",
            "publisher": {
                "name": f"Publisher {by}",
                "homepage_url": f"https://p{by}.example.com/",
                "logo_url": f"https://p{by}.example.com/logo.svg",
                "favicon_url": f"https://p{by}.example.com/favicon.ico",
            },
            "title": title,
            "author": author,
            "published_utc": f"{when}Z",
            "article_url": f"https://p{by}.example.com/{title.replace(' ', '-')}",
            "image_url": f"https://p{by}.example.com/{d:x}.jpg",
            "tickers": own,
            "description": description,
            "keywords": words.split(),
            "insights": [
                {"ticker": one, "sentiment": "neutral", "sentiment_reasoning": why} for one in own[:3]
            ],
        }
        for (a, b, c, d), by, title, author, description, words, own, why, when in zip(
            rng.integers(0, 1 << 62, (count, 4)).tolist(),
            publishers,
            *texts.values(),
            tickers,
            texts_of(rng, count, 22, known),
            np.datetime_as_string(published.astype("datetime64[us]"), unit="s").tolist(),
            strict=True,
        )
    ]
    return rows_of(found, datetime(2100, 1, 1, tzinfo=UTC))[0]


# Reading ----------------------------------------------------------------------------------------------------


def read(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what reads of a lake take."""
    lake = Lake(str(folder))
    if not folder.exists():
        began = time.monotonic()
        months = max(1, args.articles // 30_000)
        writer = NewsTable(lake)
        for month in range(months):
            start = int(_FIRST.astype(np.int64)) + month * _MONTH_US
            count = args.articles // months
            writer.write(articles(count, args.symbols, month, start, _MONTH_US), f"month-{month}")
        yield "seconds to make and write them", f"{time.monotonic() - began:.0f}"
    snapshot = NewsTable(lake).table.snapshot()
    yield "articles", f"{snapshot.rows:,}"
    yield "files", f"{len(snapshot):,}"
    yield "bytes an article", f"{snapshot.bytes / snapshot.rows:,.0f}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader = NewsReader(lake, 60.0)
    began = time.monotonic()
    reader.known()
    yield "seconds to the index", f"{time.monotonic() - began:.2f}"
    yield "MB more with it", f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:,.0f}"
    names = symbols_of(args.symbols)
    rng = np.random.default_rng(7)
    some = rng.choice(args.symbols, args.pages, replace=False).tolist()
    kinds: dict[str, Callable[[int], Wanted]] = {
        "10 newest of one of the 100 in the news": lambda place: _of(names[place % 100], 10),
        "10 newest of any symbol": lambda place: _of(names[some[place]], 10),
        "100 newest of any symbol": lambda place: _of(names[some[place]], 100),
        "10 newest of all": lambda place: Wanted(limit=10, end=_end(args, place)),
        "1,000 of all": lambda place: Wanted(limit=1_000, end=_end(args, place)),
    }
    for told, question in kinds.items():
        took, busy = [], []
        for place in range(args.pages):
            began, used = time.perf_counter(), time.process_time()
            rows, _ = reader.read(reader.find(question(place)))
            json_of(rows)
            took.append(1_000 * (time.perf_counter() - began))
            busy.append(1_000 * (time.process_time() - used))
        yield f"{told}: ms, median, 99 %", _quantiles(took)
        yield f"{told}: ms of CPU", _quantiles(busy)
    yield from served(args, lake, [names[place] for place in some])


def _of(name: str, limit: int) -> Wanted:
    return Wanted(lambda text: text == name, name, limit=limit)


def _end(args: argparse.Namespace, place: int) -> int:
    first = int(_FIRST.astype(np.int64))
    return (
        first + _MONTH_US + (place * 7_919_000_000_000) % max(_MONTH_US, args.articles // 30_000 * _MONTH_US)
    )


def _quantiles(took: list[float]) -> str:
    return f"{np.median(took):.1f}, {np.quantile(took, 0.99):.1f}"


def served(args: argparse.Namespace, lake: Lake, names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what a client of a server sees, which shares this process."""
    settings = Settings(lake.uri, open_access=True, log_requests=False)
    with running(create_app(settings)) as url:
        client = massive.RESTClient("none", base=url)
        next(iter(client.list_ticker_news(limit=1)))
        for told in ("first", "again"):
            took = []
            for name in names:
                began = time.perf_counter()
                client.list_ticker_news(name, limit=10, raw=True)
                took.append(1_000 * (time.perf_counter() - began))
            yield f"10 newest of any symbol over HTTP, {told}: ms", _quantiles(took)


# Polling ----------------------------------------------------------------------------------------------------


def polled(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what it takes to poll a day of the stand-in, and to poll it again."""
    wanted = Standin(symbols=500, first=date(2024, 1, 2), last=date(2024, 1, 31), minutes=0, news=args.a_day)
    os.environ["MASSIVE_API_KEY"] = "benchmark-key"
    with started(wanted) as vendor:
        place = folder / "polled"
        yield from _polled(vendor, place, f"a day of {args.a_day:,} into an empty lake")
        # It looks three days back: twice, so that the second finds nothing new.
        list(_polled(vendor, place, ""))
        yield from _polled(vendor, place, f"three days of {args.a_day:,} that are known")


def _polled(vendor: Vendor, folder: Path, told: str) -> Iterator[tuple[str, str]]:
    vendor.forget()
    now = datetime(2024, 2, 1, tzinfo=UTC)
    began = time.monotonic()
    options = ["--lake", str(folder), "--vendor-url", vendor.url, "--from", "2024-01-31", "--rate", "1000"]
    sys.stdout.flush()
    news.run(options, now=lambda: now)
    yield f"{told}: seconds", f"{time.monotonic() - began:.2f}"
    yield f"{told}: calls", f"{vendor.names['news']}"


if __name__ == "__main__":
    main()

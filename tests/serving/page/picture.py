"""Makes the docs' picture of the page.

python -m fibflow.tests.serving.page.picture docs/images/page.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.io.livestores import bar, fresh, price, prices, serving, table
from fibflow.tests.serving.page.browsers import DESKTOP, Site, Watch, chromium, opened, wait_detail, wait_feed
from fibflow.tests.serving.page.lakes import NOW, now, page_lake
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.openbars import Flush

#: The window of 13 sessions that holds ``NOW``, UTC microseconds.
WINDOW = {"ts": 1_361_336_400_000_000, "end": 1_362_805_200_000_000}


def main(target: str, query: str = "symbol=AAPL&tf=13d&adjusted=1", theme: str = "light") -> None:
    """Make a lake and a live store, open the page, and save what it shows."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server, fresh(server) as store:
        lake = page_lake(Path(folder) / "lake")
        moment = round(NOW.timestamp() * 1_000_000)
        # The window's first eight days are the lake's; this is the ninth.
        so_far: dict[str, Any] = {"open": 457.69, "high": 457.69, "low": 425.20, "close": 427.31}
        unknown: dict[str, Any] = {"vwap": None, "trade_count": None}
        row = bar("AAPL", "13d", **WINDOW, **so_far, **unknown, volume=138_412_300.0, sessions=9)
        store.write_open([Flush(bucket_of("AAPL", store.buckets), moment, True, False, table(row))])
        store.write_prices(prices(price("AAPL", 427.31, moment)))
        told = Settings(lake.uri, redis=server.url, prefix=store.prefix, open_access=True, log_requests=False)
        with Site(lambda: create_app(told, now)) as site, chromium() as browser:
            context = browser.new_context(viewport=DESKTOP, color_scheme=theme)  # type: ignore[arg-type]
            watch = Watch()
            page = opened(context, watch)
            page.goto(f"{site.url}/?{query}")
            wait_feed(page, "live")
            if "tf=13d" in query:
                wait_detail(page, "Sessions", "9")
            page.evaluate("document.fonts.ready")
            page.screenshot(path=target)
            context.close()
            watch.check()


if __name__ == "__main__":
    main(*sys.argv[1:])

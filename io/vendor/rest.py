"""The vendor's REST interface: raw bars, reference data and news as Arrow tables and objects."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute

from fibflow.io.vendor import answers
from fibflow.io.vendor.calls import Calls, Connection
from fibflow.io.vendor.errors import NotFound, Passing, VendorError
from fibflow.io.vendor.pace import Rate

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

#: Bars a page, and rows of reference data: the most that the vendor gives.
BARS_A_PAGE = 50_000
ROWS_A_PAGE = 1_000
#: So often in a row a page of news that lacks some is asked for again.
_SHORT_PAGES = 2


class Vendor:
    """Asks the vendor, always for prices as they were traded. Safe to use from several threads.

    All methods raise ``WrongKey``, ``NoAccess`` or ``VendorAway``, and ``VendorError`` for other refusals.

    Args:
        url: as ``access.vendor_url`` gives it.
        key: as ``access.vendor_key`` gives it.
        rate: calls a second, all threads together.
        clock: seconds, never back.
        sleep: waits for some seconds; by default until ``close``, at the latest.
        now: the time of day.
        dice: parts callers that failed together.
        connections: kept open; one a thread.
        timeout: seconds without a byte after which an attempt has failed.
    """

    def __init__(
        self,
        url: str,
        key: str,
        rate: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        dice: random.Random | None = None,
        connections: int = 8,
        timeout: float = 20.0,
    ) -> None:
        # It imports much, and not every command line gets as far.
        from massive import RESTClient

        self.url = url
        self._closed = threading.Event()
        sleep = sleep or self._wait
        client = RESTClient(
            api_key=key,
            base=url,
            retries=0,
            connect_timeout=timeout,
            read_timeout=timeout,
            maxsize=connections,
            # It would ask again by itself, past the rate and the count, and follow to other servers.
            connection_pool_kw={"retries": False},
        )
        connection = Connection(client.client, Rate(rate, clock, sleep), now)
        client.client = connection
        self._client = client
        self._calls = Calls(connection, url, key, client.headers, sleep, dice or random.Random())

    def __repr__(self) -> str:
        return f"Vendor({self.url!r})"

    def close(self) -> None:
        """End the calls that wait: each raises ``VendorError``."""
        self._closed.set()

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise VendorError("was not asked: the run is stopped")

    @property
    def calls(self) -> int:
        """How many requests were made, failed attempts included."""
        return self._calls.made

    def grouped_daily(self, day: date) -> pa.Table:
        """Return the daily bars of all symbols on a date, BARS; none where the vendor has none (yet)."""
        return self._calls.ask(
            f"daily bars of {day}",
            lambda: self._client.get_grouped_daily_aggs(day.isoformat(), adjusted=False, raw=True),
            lambda body: answers.bars(body, None),
        )

    def daily(self, symbol: str, first: date, last: date) -> pa.Table:
        """Return a symbol's daily bars from one date to another, both included, BARS, oldest first."""
        return self._range(
            f"daily bars of {symbol}", symbol, "day", first.isoformat(), last.isoformat()
        ).sort_by("ts")

    def minutes(self, symbol: str, start_us: int, end_us: int) -> pa.Table:
        """Return a symbol's minutes that begin in ``[start_us, end_us)``, BARS, oldest first.

        Args:
            symbol: the vendor's name of it.
            start_us: UTC microseconds since 1970.
            end_us: likewise.
        """
        if end_us <= start_us:
            return answers.BARS.empty_table()
        first, last = start_us // 1000, (end_us - 1) // 1000
        rows = self._range(f"minutes of {symbol}", symbol, "minute", first, last)
        stamps: Any = rows["ts"].cast(pa.int64())
        inside = pc.and_(pc.greater_equal(stamps, start_us), pc.less(stamps, end_us))
        return rows.filter(inside).sort_by("ts")

    def trades(self, symbol: str, start_us: int, end_us: int) -> pa.Table:
        """Return a symbol's trades of ``[start_us, end_us)``, TRADES, oldest first; as of ``minutes``."""

        def page() -> Any:
            return self._client.list_trades(
                quote(symbol, safe=""),
                timestamp_gte=start_us * 1000,
                timestamp_lt=end_us * 1000,
                limit=BARS_A_PAGE,
                sort="timestamp",
                order="asc",
                raw=True,
            )

        def read(body: Any) -> pa.Table:
            return answers.trades(body, symbol)

        return pa.concat_tables(self._pages(f"trades of {symbol}", page, read))

    def tickers(self, active: bool = True, day: date | None = None) -> pa.Table:
        """Return the stocks that are listed, or those that were delisted, TICKERS.

        Args:
            active: False for the delisted ones.
            day: as of this date; today by default.
        """
        return self._list(
            "tickers",
            lambda: self._client.list_tickers(
                market="stocks",
                active=active,
                date=day and day.isoformat(),
                limit=ROWS_A_PAGE,
                raw=True,
            ),
            answers.TICKERS,
            answers.TICKER_NAMES,
        )

    def ticker(self, symbol: str, day: date | None = None) -> pa.Table:
        """Return what is known of a symbol, TICKERS, one row; none where the vendor does not know it."""

        def read(body: Any) -> pa.Table:
            found = body.get("results") if isinstance(body, dict) else None
            if not isinstance(found, dict):
                raise Passing("answered with JSON of another form", reached=True)
            return answers.table([found], answers.TICKERS, answers.TICKER_NAMES)

        try:
            return self._calls.ask(
                f"details of {symbol}",
                lambda: self._client.get_ticker_details(
                    quote(symbol, safe=""), date=day and day.isoformat(), raw=True
                ),
                read,
            )
        except NotFound:
            return answers.TICKERS.empty_table()

    def events(self, symbol: str) -> pa.Table:
        """Return the names that a symbol's share had, EVENTS; none where the vendor knows of no change."""

        def read(body: Any) -> pa.Table:
            found = body.get("results") if isinstance(body, dict) else None
            changes = found.get("events", []) if isinstance(found, dict) else None
            if not isinstance(changes, list) or not all(isinstance(item, dict) for item in changes):
                raise Passing("answered with JSON of another form", reached=True)
            renames = [item for item in changes if item.get("type") == "ticker_change"]
            names = [item.get("ticker_change") or {} for item in renames]
            if not all(isinstance(name, dict) for name in names):
                raise Passing("answered with JSON of another form", reached=True)
            pairs = zip(renames, names, strict=True)
            flat = [{"date": item.get("date"), "symbol": name.get("ticker")} for item, name in pairs]
            return answers.table(flat, answers.EVENTS, {})

        try:
            return self._calls.ask(
                f"events of {symbol}",
                lambda: self._client.get_ticker_events(
                    quote(symbol, safe=""), types="ticker_change", raw=True
                ),
                read,
            )
        except NotFound:
            return answers.EVENTS.empty_table()

    def splits(self, since: date | None = None, symbol: str | None = None) -> pa.Table:
        """Return splits, SPLITS: all, those from a date on, or a symbol's."""
        return self._list(
            "splits",
            lambda: self._client.list_splits(
                ticker=symbol,
                execution_date_gte=since and since.isoformat(),
                limit=ROWS_A_PAGE,
                raw=True,
            ),
            answers.SPLITS,
            answers.OTHER_NAMES,
        )

    def dividends(self, since: date | None = None, symbol: str | None = None) -> pa.Table:
        """Return dividends, DIVIDENDS: all, those with an ex-date from a date on, or a symbol's."""
        return self._list(
            "dividends",
            lambda: self._client.list_dividends(
                ticker=symbol,
                ex_dividend_date_gte=since and since.isoformat(),
                limit=ROWS_A_PAGE,
                raw=True,
            ),
            answers.DIVIDENDS,
            answers.OTHER_NAMES,
        )

    def news(self, since: datetime) -> Iterator[list[Any]]:
        """Yield pages of what was published at an instant or later, the oldest first: the vendor's objects.

        What goes wrong with a page is raised when it comes to it: those before it count.
        """
        short = 0

        def page() -> Any:
            return self._client.list_ticker_news(
                published_utc_gte=since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                limit=ROWS_A_PAGE,
                sort="published_utc",
                order="asc",
                raw=True,
            )

        def read(body: Any) -> list[Any]:
            nonlocal short
            found = answers.results(body)
            # Pages before the last are full: of one that is not, some was lost on the way.
            if body.get("next_url") is not None and len(found) < ROWS_A_PAGE and short < _SHORT_PAGES:
                short += 1
                raise Passing(f"answered with {len(found)} of {ROWS_A_PAGE} articles", reached=True)
            short = 0
            return found

        return self._calls.pages("news", page, read)

    def _range(self, what: str, symbol: str, span: str, first: str | int, last: str | int) -> pa.Table:
        def page() -> Any:
            return self._client.list_aggs(
                quote(symbol, safe=""),
                1,
                span,
                first,
                last,
                adjusted=False,
                sort="asc",
                limit=BARS_A_PAGE,
                raw=True,
            )

        return pa.concat_tables(self._pages(what, page, lambda body: answers.bars(body, symbol)))

    def _list(self, what: str, page: Callable[[], Any], schema: pa.Schema, names: dict[str, str]) -> pa.Table:
        def read(body: Any) -> pa.Table:
            return answers.table(answers.results(body), schema, names)

        return pa.concat_tables(self._pages(what, page, read))

    def _pages(self, what: str, page: Callable[[], Any], read: Callable[[Any], pa.Table]) -> list[pa.Table]:
        """Return what each page of an answer holds."""
        return list(self._calls.pages(what, page, read))

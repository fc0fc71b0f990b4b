"""The vendor's REST interface: raw bars and reference data as Arrow tables, paced, and asked again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.compute
import urllib3

from fibflow.io.vendor import answers
from fibflow.io.vendor.answers import parsed, told
from fibflow.io.vendor.errors import (
    NoAccess,
    NotFound,
    Passing,
    Unreachable,
    VendorAway,
    VendorError,
    WrongKey,
)
from fibflow.io.vendor.pace import Rate, backoff, retry_after

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

T = TypeVar("T")

#: Bars a page, and rows of reference data: the most that the vendor gives.
BARS_A_PAGE = 50_000
ROWS_A_PAGE = 1_000
#: A wait that the vendor asks for beyond this is not waited for, seconds.
LONGEST_PATIENCE_S = 300.0
#: Attempts at one answer; fewer where the vendor was never reached.
ATTEMPTS, ATTEMPTS_TO_REACH = 8, 3

_MOST_PAGES = 100_000
#: So often in a row a page of news that lacks some is asked for again.
_SHORT_PAGES = 2
_LONGEST_SAID = 240
_LATER = "run again later"
# Other answers than these come again however often one asks.
_PASSING = frozenset({408, 413, 425, 429, 499, 500, 502, 503, 504})


class _Answer(NamedTuple):
    """A good answer, as the official client hands it on."""

    status: int
    data: bytes


class _Connection:
    """The official client's connection pool, in which each request waits its turn and is one attempt."""

    def __init__(self, pool: Any, rate: Rate, now: Callable[[], datetime]) -> None:
        self._pool, self._rate, self._now = pool, rate, now
        self._lock = threading.Lock()
        self.calls = 0
        self.reached = False

    def request(self, method: str, url: str, fields: Any = None, headers: Any = None) -> _Answer:
        self._rate.take()
        with self._lock:
            self.calls += 1
        try:
            found = self._pool.request(method, url, fields=fields, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise Passing(_reason(error), reached=False) from None
        self.reached = True
        if found.status == 200:
            return _Answer(200, found.data)
        said = told(found.data)
        if found.status == 401:
            raise WrongKey(said)
        if found.status == 403:
            raise NoAccess(said)
        if found.status == 404:
            raise NotFound(said)
        if found.status not in _PASSING:
            raise VendorError(f"answered {found.status}{f' ({said})' if said else ''}")
        wait = retry_after(found.headers.get("Retry-After"), self._now)
        if wait is not None and wait <= LONGEST_PATIENCE_S:
            # It holds for the key, so for all threads.
            self._rate.pause(wait)
        raise Passing(f"answered {found.status}{f' ({said})' if said else ''}", reached=True, wait=wait)


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
        self._secret = key
        self._closed = threading.Event()
        self._sleep, self._dice = sleep or self._wait, dice or random.Random()
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
        self._connection = _Connection(client.client, Rate(rate, clock, self._sleep), now)
        client.client = self._connection
        self._client = client

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
        return self._connection.calls

    def grouped_daily(self, day: date) -> pa.Table:
        """Return the daily bars of all symbols on a date, BARS; none where the vendor has none (yet)."""
        return self._ask(
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
            return self._ask(
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
            return self._ask(
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

        return self._each_page("news", page, read)

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
        return list(self._each_page(what, page, read))

    def _each_page(self, what: str, page: Callable[[], Any], read: Callable[[Any], T]) -> Iterator[T]:
        """Yield what each page of an answer holds; a page that fails is asked for again, alone."""
        seen: set[str] = set()
        ask = page
        while True:
            found, following = self._ask(what, ask, lambda body: (read(body), _following(body)))
            yield found
            if following is None:
                return
            if following in seen or len(seen) >= _MOST_PAGES:
                raise VendorError(f"{what}: the vendor's pages lead in a circle: {_LATER}")
            seen.add(following)

            def ask(path: str = following) -> Any:
                return self._connection.request("GET", self.url + path, headers=self._client.headers)

    def _ask(self, what: str, call: Callable[[], Any], read: Callable[[Any], T]) -> T:
        """Return what an answer reads as, asking until there is a good one.

        Raises:
            WrongKey, NoAccess, NotFound, VendorError: the vendor refuses.
            VendorAway: it never gave a good answer.
        """
        failed = 0
        while True:
            try:
                return read(parsed(call().data))
            except Passing as error:
                failed += 1
                patience = ATTEMPTS if self._connection.reached else ATTEMPTS_TO_REACH
                if failed >= patience or (error.wait or 0.0) > LONGEST_PATIENCE_S:
                    raise self._final(what, error, failed) from None
                self._sleep(backoff(failed, self._dice))
            except WrongKey as error:
                said = self._scrubbed(str(error))
                raise WrongKey(
                    f"{self.url} refuses the key{f' ({said})' if said else ''}: "
                    "set MASSIVE_API_KEY, POLYGON_API_KEY or --key-file to one that is valid"
                ) from None
            except NoAccess as error:
                said = self._scrubbed(str(error))
                raise NoAccess(
                    f"{what}: the key's plan does not include them{f' ({said})' if said else ''}: "
                    "ask for less (--from), or change the plan"
                ) from None
            except NotFound as error:
                raise NotFound(f"{what}: {self.url} knows none ({self._scrubbed(str(error))})") from None
            except VendorError as error:
                raise VendorError(f"{what}: {self.url} {self._scrubbed(str(error))}") from None

    def _final(self, what: str, error: Passing, failed: int) -> VendorAway:
        if not self._connection.reached:
            return Unreachable(
                f"{self.url} cannot be reached: it {error}, {failed} times: "
                "check the network, and the address (--vendor-url)"
            )
        why = self._scrubbed(str(error))
        if error.wait is not None and error.wait > LONGEST_PATIENCE_S:
            return VendorAway(f"{what}: {self.url} {why} and asks to wait {error.wait:.0f} s: {_LATER}")
        return VendorAway(f"{what}: {self.url} {why}, the last of {failed} attempts: {_LATER}")

    def _scrubbed(self, text: str) -> str:
        """Return what somebody else said, without the key, and then no longer than a line is read."""
        said = " ".join(text.replace(self._secret, "***").split())
        return said if len(said) <= _LONGEST_SAID else f"{said[:_LONGEST_SAID]}..."


def _following(body: Any) -> str | None:
    """Return path and query of the next page, None after the last one."""
    given = body.get("next_url")
    if given is None:
        return None
    try:
        parts = urlsplit(given) if isinstance(given, str) else None
    except ValueError:
        parts = None
    # Behind our address another path could name another server, which would get the key.
    if parts is None or not parts.path.startswith("/"):
        raise Passing("answered with a next page that is no address", reached=True)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _reason(error: Exception) -> str:
    """Return why there was no answer, without addresses."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "has a name that is not known here"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "takes no connection"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "did not answer in time"
    if isinstance(error, urllib3.exceptions.SSLError):
        return "has no certificate that is trusted here"
    if isinstance(error, urllib3.exceptions.DecodeError):
        return "sent an answer that cannot be decompressed"
    return "cut the connection"

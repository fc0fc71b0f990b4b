"""The API as a client sees it, and the vendor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

import urllib3

import fibflow
from fibflow.io.checkup.findings import Finding, Wrong, attempt, ok, warning
from fibflow.io.checkup.site import ANSWER_S, CONNECT_S, Site
from fibflow.io.vendor.access import vendor_key
from fibflow.io.vendor.errors import Passing

KEY_VARIABLE = "FIBFLOW_API_KEY"
_OK = 200
_PATIENCE_S = 3.0
#: Any that every vendor of US stocks knows; whether it does matters not.
_SYMBOL = "AAPL"


class Api:
    """Asks the server.

    Args:
        site: names it.
    """

    def __init__(self, site: Site) -> None:
        self._base = str(site.server).rstrip("/")
        self._headers = {"Authorization": f"Bearer {site.key}"} if site.key else {}
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_S, read=ANSWER_S), retries=False
        )

    def get(self, path: str, **query: Any) -> tuple[int, Any]:
        """Return the status and the document of an answer.

        Raises:
            Wrong: there is none.
        """
        url = f"{self._base}{path}{f'?{urlencode(query)}' if query else ''}"
        try:
            found = self._pool.request("GET", url, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise Wrong(
                f"{self._base} does not answer ({type(error).__name__})",
                "start python -m serving there, or correct --server",
            ) from None
        try:
            return found.status, json.loads(found.data)
        except ValueError:
            raise Wrong(
                f"{self._base}{path} answers {found.status}, and not as Fibflow does", "correct --server"
            ) from None

    def wanted(self, path: str, **query: Any) -> Any:
        """Return the document of a good answer.

        Raises:
            Wrong: it is none.
        """
        status, told = self.get(path, **query)
        if status == _OK:
            return told
        said = told.get("detail", "") if isinstance(told, dict) else ""
        advice = (
            f"give a key with the scopes history and live in {KEY_VARIABLE}" if status in (401, 403) else ""
        )
        raise Wrong(f"{path} answers {status}: {said}", advice)


def server(site: Site) -> Iterator[Finding]:
    """Look at the API: whether it lives and can serve, bars, and the WebSocket."""
    api = Api(site)
    api.wanted("/healthz")
    status, ready = api.get("/readyz")
    stores = ready.get("stores", {}) if isinstance(ready, dict) else {}
    down = [name for name, state in stores.items() if state != "up"]
    told = f"{site.server} is {ready.get('status')}"
    if status != _OK:
        raise Wrong(
            f"{told}, {', '.join(down) or 'no store'} down", "see its log, and the store's own lines here"
        )
    if down:
        yield warning("server", f"{told}, {', '.join(down)} down", "see that store's own lines here")
    else:
        yield ok("server", f"{told}: {', '.join(stores)}")
    yield attempt("server version", partial(_version, api))
    yield attempt("server bars", partial(_bars, api))
    yield attempt("server socket", partial(_socket, site))


def _version(api: Api) -> Finding:
    version = api.wanted("/openapi.json").get("info", {}).get("version")
    if version != fibflow.__version__:
        return warning(
            "server version",
            f"it is {version}, this is {fibflow.__version__}",
            "run one release everywhere: the lake and the live store are shared",
        )
    return ok("server version", f"{version}, as here")


def _bars(api: Api) -> Finding:
    listed = api.wanted("/v1/symbols", limit=100).get("symbols", [])
    symbol = next((each["symbol"] for each in listed if each.get("has_bars")), None)
    if symbol is None:
        return warning("server bars", "it knows no symbol with bars", "make some: pipelines.batch")
    told = api.wanted("/v1/bars", symbols=symbol, timeframe="1d", limit=1, order="desc")
    count = told.get("count", 0) if isinstance(told, dict) else 0
    return ok("server bars", f"the last 1d bar of {symbol} was asked for, {count} came")


def _socket(site: Site) -> Finding:
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    url = f"{str(site.server).rstrip('/').replace('http', 'ws', 1)}/stocks"
    try:
        with connect(url, open_timeout=CONNECT_S, close_timeout=1.0) as wire:
            wire.recv(timeout=ANSWER_S)
            wire.send(json.dumps({"action": "auth", "params": site.key or "none"}))
            (told,) = json.loads(wire.recv(timeout=ANSWER_S))
    except (OSError, ValueError, WebSocketException) as error:
        raise Wrong(
            f"the WebSocket {url} does not answer as ours ({type(error).__name__})",
            "let the proxies before the server pass WebSockets on (Upgrade, and no short idle time)",
        ) from None
    if told.get("status") != "auth_success":
        raise Wrong(
            f"the WebSocket answers {told.get('status')}: {told.get('message')}",
            f"give a key with the scope live in {KEY_VARIABLE}",
        )
    return ok("server socket", "it lets the key in")


class _Enough(Exception):
    """The vendor has had its time."""


def vendor(site: Site) -> Iterator[Finding]:
    """Ask the vendor one small thing."""
    from fibflow.io.vendor.rest import Vendor

    assert site.vendor is not None
    key = vendor_key(site.env, site.key_file)
    slept, why = 0.0, "asks to wait"

    def sleep(seconds: float) -> None:
        nonlocal slept, why
        # It may be called where an attempt failed.
        error = sys.exception()
        why = str(error) if isinstance(error, Passing) else why
        slept += seconds
        if slept > _PATIENCE_S:
            raise _Enough
        site.sleep(seconds)

    asked = Vendor(
        site.vendor, key, clock=site.clock, sleep=sleep, dice=site.dice, connections=1, timeout=CONNECT_S
    )
    try:
        asked.ticker(_SYMBOL)
    except _Enough:
        raise Wrong(f"{site.vendor} {why}", "run again later, or see the vendor's own status") from None
    finally:
        asked.close()
    yield ok("vendor", f"{site.vendor} takes the key")

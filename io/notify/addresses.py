"""Where webhooks may go: no address inside a network, whichever way it is written or reached.

What a name leads to may change between a check and a connection. So ``resolved`` gives addresses that were
checked, and whoever connects does so to one of these, not to the name.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import idna

#: Gives the addresses of a name within some seconds, or raises ``OSError``.
Lookup = Callable[[str, float], Sequence[str]]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LONGEST_URL = 2_048
LOOKUP_S = 3.0
_LONGEST_NAME = 253
_HTTPS = 443
_LEAST_PORT = 1_024
# Of services that are no web servers and may answer to whatever comes.
_OTHER_PORTS = frozenset(
    {1433, 1521, 2049, 2375, 2376, 2379, 2380, 3306, 3389, 4444, 5432, 5672, 5900, 6379, 6443, 9042, 9092}
    | {9200, 9300, 10250, 11211, 27017}
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Names that belong to no one on the internet (RFC 6761, 6762, 8375, and what ICANN keeps for the inside).
_INSIDE_NAMES = ("localhost", "local", "internal", "home.arpa", "localdomain", "onion")
_INSIDE_4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # of Azure's hosts: metadata, on an address that looks like any other
        ),
    )
)
# All that is handed out so far; the exceptions hold documentation, benchmarks, and tunnels (Teredo, 6to4), in
# which an IPv4 address hides.
_WORLD_6 = ipaddress.IPv6Network("2000::/3")
_INSIDE_6 = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "3ffe::/16"))
)
# A network without IPv4 reaches it through these, so what counts is the address within.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Refused(ValueError):
    """A URL that no webhook may have. One line that says why, and nothing about the inside.

    Attributes:
        final: it is the URL itself, so that it will never do; else what its name leads to now.
    """

    def __init__(self, reason: str, final: bool = True) -> None:
        super().__init__(reason)
        self.final = final


class Place(NamedTuple):
    """The parts of a URL that may be a webhook's.

    Attributes:
        scheme: ``https``, or ``http``.
        host: a name in ASCII, or an address.
        port: to connect to.
        path: with the query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Return what the header ``Host`` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (_HTTPS if self.scheme == "https" else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the URL."""
        return f"{self.scheme}://{self.authority}{self.path}"


def check_url(
    url: str, *, allow_http_loopback: bool = False, lookup: Lookup | None = None, limit_s: float = LOOKUP_S
) -> None:
    """Refuse a URL that no webhook may have: what it says, and where its name leads to now.

    It may wait for the name's servers: not from an event loop.

    Args:
        url: as its owner wrote it.
        allow_http_loopback: this machine itself may be named too, also with ``http``; for tests.
        lookup: of names; the system's by default.
        limit_s: seconds that it may take.

    Raises:
        Refused: it may not be; one line that says what to write instead.
    """
    resolved(
        parsed(url, allow_http_loopback=allow_http_loopback),
        allow_http_loopback=allow_http_loopback,
        lookup=lookup,
        limit_s=limit_s,
    )


def parsed(url: str, *, allow_http_loopback: bool = False) -> Place:
    """Return the parts of a URL, if it may be a webhook's as far as it can be seen without asking anyone.

    Raises:
        Refused: it may not.
    """
    if len(url) > LONGEST_URL:
        raise Refused(f"the URL is longer than {LONGEST_URL:,} characters")
    # Parsers differ in what they make of these, and some leave them out.
    if not url.isprintable() or any(mark.isspace() for mark in url) or "\\" in url:
        raise Refused("the URL holds white space, a backslash or control characters: leave them out")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("that is no URL: write https://host/path") from None
    scheme = parts.scheme.lower()
    if scheme not in ("https", "http") or not parts.netloc:
        raise Refused("the URL must begin with https://")
    if "@" in parts.netloc:
        raise Refused("the URL holds a user or a password: leave them out, and check the signature instead")
    if "#" in url:
        raise Refused("the URL holds '#', which is never sent: leave it out")
    host = _host(parts.netloc, parts.hostname or "")
    is_loopback = allow_http_loopback and _is_loopback(host)
    if scheme == "http" and not is_loopback:
        raise Refused("the URL must begin with https://")
    if port is None:
        port = _HTTPS if scheme == "https" else 80
    if not is_loopback:
        _check_host(host)
        if port != _HTTPS and (port < _LEAST_PORT or port in _OTHER_PORTS):
            raise Refused(f"port {port} is not for webhooks: take 443, or another web server's above 1023")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
    return Place(scheme, host, port, f"{path}?{query}" if query else path)


def resolved(
    place: Place,
    *,
    allow_http_loopback: bool = False,
    lookup: Lookup | None = None,
    limit_s: float = LOOKUP_S,
) -> list[str]:
    """Return the addresses of a place. All of them may be connected to.

    Raises:
        Refused: the name leads to none, or to one that is inside. These are told alike, as the difference
            would tell which names there are inside.
    """
    if allow_http_loopback and _is_loopback(place.host):
        return ["127.0.0.1"] if place.host == "localhost" else [place.host]
    if _address(place.host) is not None:
        _check_host(place.host)
        return [place.host]
    try:
        found = (lookup or look_up)(place.host, limit_s)
    except (OSError, UnicodeError):
        found = []
    addresses = [_address(each) for each in found]
    if not addresses or not all(each is not None and _is_outside(each) for each in addresses):
        raise Refused("the host's name does not lead to an address on the internet", final=False)
    return list(dict.fromkeys(found))


def look_up(host: str, limit_s: float) -> list[str]:
    """Return the addresses of a name as the system knows them.

    Raises:
        OSError: there are none, or not in time.
    """
    if limit_s <= 0:
        raise TimeoutError("there is no time left to ask")
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            # With its last dot the name is whole: no search list of this network's is tried.
            found = socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM)
            answers.put([str(each[4][0]) for each in found])
        except OSError as error:
            answers.put(error)
        except UnicodeError:
            answers.put(OSError("no name"))

    # Nothing can end a lookup that waits for a server; it must not hold up the process's end either.
    threading.Thread(target=ask, daemon=True, name="lookup").start()
    try:
        answer = answers.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError("the name's servers do not answer") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _host(netloc: str, host: str) -> str:
    """Return a host in one form: a name in lower case and ASCII, without its last dot, or an address."""
    if not host or "%" in netloc:
        raise Refused("the URL has no host that can be: write https://host/path")
    if netloc.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise Refused("what stands in [] is no IPv6 address") from None
    try:
        name = idna.encode(host, uts46=True).decode() if not host.isascii() else host
    except (idna.IDNAError, UnicodeError):
        raise Refused("the host's name cannot be: write it in ASCII (xn--...)") from None
    return name.lower().removesuffix(".")


def _check_host(host: str) -> None:
    address = _address(host)
    if address is not None:
        if not _is_outside(address):
            raise Refused("the host is not an address on the internet: give one that is, or a name")
        return
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # A system's resolver takes many other forms: 2130706433, 0x7f.1, 0177.0.0.1.
        raise Refused("the host is a number: write an address as four of them, or a name")
    if len(host) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise Refused("the host's name cannot be: write https://host/path")
    if len(labels) == 1 or any(host == name or host.endswith(f".{name}") for name in _INSIDE_NAMES):
        raise Refused("the host's name is one of an inside network: give one that the internet knows")


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return address == ipaddress.IPv6Address("::1")
    return host == "localhost" or (address is not None and address.is_loopback)


def _is_outside(address: _Address) -> bool:
    """Return whether an address is one of the internet's."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return _is_outside(ipaddress.IPv4Address(address.packed[-4:]))
        return address in _WORLD_6 and not any(address in network for network in _INSIDE_6)
    return not any(address in network for network in _INSIDE_4)

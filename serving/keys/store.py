"""What an API key is, and what a store of keys can do.

A key is ``fib_<id>_<secret>``: 8 and 32 random bytes. The id may be shown; the whole is shown once, when it
is made. What is kept is its HMAC-SHA-256 under the server's pepper. A slow hash as for passwords would win
nothing: nobody can try 2**256 secrets, however fast each try is. The pepper keeps whoever can write to the
store, but does not run the server, from putting in keys of his own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from fibflow.serving.keys.scope import Scope

PREFIX = "fib_"
_ID_BYTES, _SECRET_BYTES = 8, 32
_KEY = re.compile(r"fib_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
#: What a key may ask for where nothing else is said: requests a second, and at once.
RATE, BURST = 50.0, 200


class KeysDown(Exception):
    """The store of keys does not answer; one line."""


class KeysError(ValueError):
    """A key cannot be as asked for, or is not there; one line that says what to do."""


@dataclass(frozen=True)
class KeyRecord:
    """What is kept of a key.

    Attributes:
        id: names it; may be shown.
        digest: HMAC-SHA-256 of the key, 32 bytes.
        owner: whose it is.
        scopes: what it may be used for.
        rate, burst: how many requests a second, and how many at once.
        created: when, UTC.
        expires: until when it may be used; None for ever.
        revoked: from when on it may not be used any more; may lie ahead.
        last_used: about when it was used last; written now and then.
    """

    id: str
    digest: bytes = field(repr=False)
    owner: str
    scopes: frozenset[Scope]
    rate: float
    burst: int
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None

    def state(self, now: datetime) -> str:
        """Return ``active``, ``revoked`` or ``expired``."""
        if self.revoked is not None and self.revoked <= now:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


@dataclass(frozen=True)
class NewKey:
    """A key that was just made: ``text`` is shown once and kept nowhere."""

    text: str = field(repr=False)
    record: KeyRecord


class KeyStore(Protocol):
    """Where keys are kept. Every method raises ``KeysDown`` where it does not answer. Safe for threads."""

    def version(self) -> int:
        """Return a number that changes when a key comes or changes; not when one is used."""
        ...

    def all(self) -> list[KeyRecord]:
        """Return all keys, the oldest first."""
        ...

    def add(self, record: KeyRecord) -> None:
        """Keep a key; makes the tables where there are none."""
        ...

    def revoke(self, key_id: str, at: datetime) -> bool:
        """Let a key be used no more from an instant on; False where there is none that could be then."""
        ...

    def touch(self, used: Mapping[str, datetime]) -> None:
        """Note when keys were used last."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


def issue(
    owner: str,
    scopes: Iterable[Scope],
    now: datetime,
    randbytes: Callable[[int], bytes],
    rate: float = RATE,
    burst: int = BURST,
    expires: datetime | None = None,
    pepper: str = "",
) -> NewKey:
    """Make a key; nothing keeps it yet.

    Args:
        owner: whose it is, a name of up to 200 printable characters.
        scopes: what it may be used for, one at least.
        now: UTC.
        randbytes: so many bytes that nobody can foretell.
        rate: requests a second, above 0 and up to 100,000.
        burst: requests at once, 1 to 1,000,000.
        expires: until when, UTC.
        pepper: of the server.

    Raises:
        KeysError: one of them is out of its range.
    """
    granted = frozenset(scopes)
    if not granted:
        raise KeysError(f"a key needs a scope: {', '.join(Scope)}")
    if not owner.strip() or len(owner) > 200 or not owner.isprintable():
        raise KeysError("an owner is a name of 1 to 200 printable characters")
    if not (math.isfinite(rate) and 0 < rate <= 100_000):
        raise KeysError(f"a rate of {rate:g} requests a second: give one above 0, 100000 at most")
    if not 1 <= burst <= 1_000_000:
        raise KeysError(f"a burst of {burst} requests: give 1 to 1000000")
    key_id = randbytes(_ID_BYTES).hex()
    secret = base64.urlsafe_b64encode(randbytes(_SECRET_BYTES)).rstrip(b"=").decode()
    text = f"{PREFIX}{key_id}_{secret}"
    record = KeyRecord(key_id, digest(text, pepper), owner.strip(), granted, rate, burst, now, expires)
    return NewKey(text, record)


def id_of(text: str) -> str | None:
    """Return the id within a key; None where it is none."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def digest(text: str, pepper: str) -> bytes:
    """Return what is kept of a key."""
    return hmac.digest(pepper.encode(), text.encode(), hashlib.sha256)


def scopes_text(scopes: Iterable[Scope]) -> str:
    """Return scopes as a store keeps them."""
    return ",".join(sorted(scopes))


def scopes_of(text: str) -> frozenset[Scope]:
    """Return the scopes that a store kept; one that this release does not know grants nothing."""
    return frozenset(Scope(name) for name in text.split(",") if name in set(Scope))


def seconds_of(instant: datetime | None) -> float | None:
    """Return an instant as a store keeps it: seconds since 1970."""
    return None if instant is None else instant.timestamp()


def instant_of(seconds: float | None) -> datetime | None:
    """Return the instant that a store kept."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

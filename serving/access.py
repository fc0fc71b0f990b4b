"""Who asks, and what they may: API keys, scopes, rate limits.

A key comes as ``Authorization: Bearer KEY`` or as the query's ``apiKey``; the header wins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from fastapi import Request

from fibflow.serving.keys.book import KeyBook
from fibflow.serving.keys.scope import Scope
from fibflow.serving.keys.store import KeysDown, id_of
from fibflow.serving.problems import Problem
from fibflow.serving.rates import Rates, Standing

__all__ = ["OPEN", "Admission", "Gate", "Principal", "Scope", "key_of", "require", "scope_of"]

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="fibflow"'}
_SEND = "send Authorization: Bearer KEY, or apiKey=KEY in the query"


@dataclass(frozen=True)
class Principal:
    """Who asks.

    Attributes:
        id: of the key, never the key itself; ``local`` where access is open.
        scopes: what it may be used for.
        owner: of the key; alerts are the owner's, whichever of his keys they were made with.
    """

    id: str
    scopes: frozenset[Scope]
    owner: str


OPEN = Principal("local", frozenset(Scope), "local")


@dataclass(frozen=True)
class Admission:
    """A request that was let in: whose it is, and how the key stands; None where nobody counts."""

    principal: Principal
    standing: Standing | None = None


class Gate:
    """Lets requests in. For one event loop.

    Args:
        open_access: let everybody in.
        book: the keys; None lets nobody in where access is not open.
        rates: the buckets of the keys.
        clock: now, UTC.
    """

    def __init__(
        self,
        open_access: bool,
        book: KeyBook | None = None,
        rates: Rates | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._open = open_access
        self.book = book
        self._rates = rates or Rates()
        self._clock = clock

    async def admit(self, key: str | None, scope: Scope) -> Principal:
        """Return who holds a key, and count the request.

        Raises:
            Problem: 401 without a key that is known, 403 where it lacks the scope, 429 where it asks too
                often, 503 where nobody can say whether it is known.
        """
        return (await self.ask(key, scope)).principal

    async def ask(self, key: str | None, scope: Scope) -> Admission:
        """Return who holds a key, and how it stands. Raises as ``admit`` does."""
        if self._open:
            return Admission(OPEN)
        if not key:
            raise Problem(401, f"this needs an API key: {_SEND}", "no_key", _CHALLENGE)
        if self.book is None:
            raise Problem(503, "this server has no store of API keys", "keys_unavailable")
        try:
            record = await self.book.find(key)
        except KeysDown:
            raise Problem(
                503,
                "the store of API keys does not answer, so this key cannot be checked: try again",
                "keys_unavailable",
                {"Retry-After": "2"},
            ) from None
        if record is None:
            raise Problem(401, f"this API key is not known: {_SEND}", "unknown_key", _CHALLENGE)
        if (state := record.state(self._clock())) != "active":
            raise Problem(401, f"this API key is {state}: ask for another", f"{state}_key", _CHALLENGE)
        if scope not in record.scopes:
            raise Problem(
                403, f"this API key lacks the scope {scope}: ask for one that has it", "missing_scope"
            )
        standing = self._rates.take(record.id, record.rate, record.burst)
        if not standing.allowed:
            raise Problem(
                429,
                f"this API key asks more often than {record.rate:g} times a second ({record.burst} at once): "
                "wait as long as Retry-After says",
                "too_many_requests",
                standing.headers(),
            )
        return Admission(Principal(record.id, record.scopes, record.owner), standing)

    async def holds(self, principal: Principal) -> bool:
        """Return whether who was let in before still would be: for connections that stay. Counts nothing."""
        if principal == OPEN or self.book is None:
            return principal == OPEN and self._open
        try:
            record = await self.book.record(principal.id)
        except KeysDown:
            return False
        return record is not None and record.state(self._clock()) == "active"

    async def close(self) -> None:
        """Close the store of keys."""
        if self.book is not None:
            await self.book.close()
        self._rates.close()


@cache
def require(scope: Scope) -> Callable[[Request], Awaitable[Principal]]:
    """Return a dependency that lets in who may use a scope."""

    async def admitted(request: Request) -> Principal:
        gate: Gate = request.app.state.services.gate
        key = key_of(request)
        # For the log: also of a request that is turned away.
        request.state.key_id = id_of(key) if key else None
        found = await gate.ask(key, scope)
        request.state.key_id = found.principal.id
        if found.standing is not None:
            request.state.headers = found.standing.headers()
        return found.principal

    return admitted


def scope_of(dependency: Callable[..., Any] | None) -> Scope | None:
    """Return the scope that a dependency of ``require`` asks for; None for any other."""
    return next((scope for scope in Scope if require(scope) is dependency), None)


def key_of(request: Request) -> str | None:
    """Return the key that a request carries."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and key.strip():
        return key.strip()
    return request.query_params.get("apiKey")

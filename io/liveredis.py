"""A connection to Redis that waits while Redis is away, and the calls of scripts on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.retry import Retry

from fibflow.io.livestore_scripts import Script
from fibflow.io.redisaddress import NO_ADDRESS, PASSWORD

#: What passes by itself: a restart, a failover, a network.
_PASSING = (
    redis.ConnectionError,
    redis.TimeoutError,
    BusyLoadingError,
    MasterDownError,
    ReadOnlyError,
    TryAgainError,
)
_REFUSED = (AuthenticationError, AuthorizationError)

T = TypeVar("T")
#: A call of a script: its keys and its arguments.
Call = tuple[Sequence[str], Sequence[bytes | int | str]]


class LiveStoreError(RuntimeError):
    """Redis cannot be reached or holds something else; one line that says what to do."""


@dataclass(frozen=True)
class Patience:
    """How long to try again while Redis is away.

    Attributes:
        bound_s: for how long; 0 to try once.
        first_s, most_s: the first wait, which doubles, and the longest.
        sleep, clock: ``time.sleep`` and ``time.monotonic``.
    """

    bound_s: float = 30.0
    first_s: float = 0.05
    most_s: float = 2.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass
class Connection:
    """Asks Redis, and again while it is away. Opens at the first question.

    Attributes:
        url: ``redis://``, ``rediss://`` or ``unix://``; without a password in it, ``REDIS_PASSWORD`` of the
            process that asks is one.
        timeout_s: of one answer.
        errors: how often Redis was away; it only grows.
    """

    url: str = field(repr=False)
    timeout_s: float
    patience: Patience
    errors: int = 0
    _client: redis.Redis | None = None

    def close(self) -> None:
        """Close what is open; a later question opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def ask(self, question: Callable[[redis.Redis], T]) -> T:
        """Return the answer to a question that may be asked twice.

        Raises:
            LiveStoreError: Redis was away for too long, or refuses.
        """
        patience, wait = self.patience, self.patience.first_s
        start = patience.clock()
        while True:
            try:
                return question(self._open())
            except _REFUSED as error:
                raise LiveStoreError(
                    f"Redis refuses the user or password of REDIS_URL and {PASSWORD}: {line(error)}"
                ) from error
            except _PASSING as error:
                # The name of a failed-over server points elsewhere now.
                self.close()
                self.errors += 1
                if patience.clock() - start + wait > patience.bound_s:
                    raise LiveStoreError(
                        f"Redis does not answer ({line(error)}): start it, or set REDIS_URL to where it is"
                    ) from error
                patience.sleep(wait)
                wait = min(2 * wait, patience.most_s)
            except RedisError as error:
                raise _explain(error) from error

    def call(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Call a script several times, in order and in one round trip; its answers, in order.

        Raises:
            LiveStoreError: as ``ask``.
        """

        def send(client: redis.Redis) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            for keys, arguments in calls:
                pipe.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
            return pipe.execute(raise_on_error=False)

        def question(client: redis.Redis) -> list[Any]:
            answers = send(client)
            if any(isinstance(answer, NoScriptError) for answer in answers):
                client.script_load(script.text)
                answers = send(client)
            if failed := next((answer for answer in answers if isinstance(answer, Exception)), None):
                raise failed
            return answers

        return self.ask(question)

    def _open(self) -> redis.Redis:
        if self._client is None:
            try:
                self._client = redis.Redis.from_url(
                    self.url,
                    # One in the address comes before it.
                    password=os.environ.get(PASSWORD) or None,
                    socket_timeout=self.timeout_s,
                    socket_connect_timeout=self.timeout_s,
                    retry=Retry(NoBackoff(), 0),
                    protocol=2,
                )
            except ValueError:
                # What Python says of it may show a part of the password.
                raise LiveStoreError(NO_ADDRESS) from None
        return self._client


def line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def another_store(layout: str | None, buckets: str | None) -> LiveStoreError:
    """Return the error of a prefix under which a store lies that is not ours."""
    return LiveStoreError(
        f"the live store here has layout {layout} and {buckets} buckets, which are not ours: "
        "use another prefix, or empty it"
    )


def _explain(error: RedisError) -> LiveStoreError:
    text = line(error)
    if "OTHERSTORE" in text:
        return another_store(*text.split("OTHERSTORE ")[1].split()[:2])
    if "maxmemory" in text:
        return LiveStoreError("Redis is full: raise its maxmemory, or keep fewer closed bars")
    return LiveStoreError(f"Redis refuses: {text}")

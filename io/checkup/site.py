"""An installation as it was named, with the clocks and dice that looks at it use."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from fibflow.io.aws import AwsConfig
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.vendor.access import KEY_VARIABLES

#: A symbol that no exchange lists: longer than any ticker, and its end says what it is.
CANARY = "FIBFLOWCANARY"
_CANARY = re.compile(r"[A-Z0-9.]{0,57}CANARY")
_PASSWORD = re.compile(r"://[^/@\s]*?:([^/\s]*)@")
_SECRETS = (*KEY_VARIABLES, "PGPASSWORD", "REDIS_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# A shorter one would be found in words that are none.
_LEAST_SECRET = 4
#: Of boto3's clients: a service that does not answer is to be told before time is up.
CONNECT_S, ANSWER_S = 4.0, 8.0


def is_canary(symbol: str) -> bool:
    """Return whether a symbol can be no real one's."""
    return _CANARY.fullmatch(symbol) is not None


@dataclass(frozen=True)
class Site:
    """What there is, and how it is looked at. What is None was not named.

    Attributes:
        lake: a folder, or ``s3://bucket/prefix``.
        source: the stream.
        redis, prefix: the live store.
        postgres: the database.
        dynamodb, dynamodb_ticks: tables.
        flink: address of Flink's REST API.
        job: our name of the live job; empty for none.
        worker_pool: host and port.
        server: base URL of the API.
        key: the API's key; empty for none.
        vendor: base URL of the vendor; None: not to be asked.
        key_file: a file with the vendor's key.
        sns: ARN of a topic.
        canary: the symbol of the tick to be put; None for none.
        aws_of: gives credentials, region and endpoints; raises ``AwsError``.
        env: variables of the environment.
        now: seconds since 1970.
        clock: seconds that only grow.
        sleep: waits.
        dice: for backing off.
        disk: gives total, used and free bytes of a folder's disk.
        new_token: gives a word that nobody had before.
        ends: when the whole look has to be over, by ``clock``.
    """

    lake: str | None = None
    source: KinesisAddress | None = None
    redis: str | None = field(default=None, repr=False)
    prefix: str = "fibflow"
    postgres: str | None = field(default=None, repr=False)
    dynamodb: str | None = None
    dynamodb_ticks: str | None = None
    flink: str | None = None
    job: str = "live"
    worker_pool: tuple[str, int] | None = None
    server: str | None = None
    key: str = field(default="", repr=False)
    vendor: str | None = None
    key_file: str | None = None
    sns: str | None = None
    canary: str | None = None
    aws_of: Callable[[], AwsConfig] = AwsConfig.resolve
    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    dice: random.Random = field(default_factory=random.Random, repr=False)
    disk: Callable[[str], Any] = shutil.disk_usage
    new_token: Callable[[], str] = lambda: uuid.uuid4().hex
    ends: float = float("inf")

    @property
    def is_on_s3(self) -> bool:
        """Whether the lake is in a bucket."""
        return self.lake is not None and self.lake.startswith(("s3://", "s3a://"))

    @property
    def uses_aws(self) -> bool:
        """Whether anything that was named is AWS'."""
        return self.is_on_s3 or any((self.source, self.dynamodb, self.dynamodb_ticks, self.sns))

    @property
    def left_s(self) -> float:
        """Seconds until the whole look has to be over."""
        return self.ends - self.clock()

    def lake_aws(self) -> AwsConfig | None:
        """Return what the lake needs of AWS.

        Raises:
            AwsError: AWS cannot be used as it is set up.
        """
        return self.aws_of() if self.is_on_s3 else None

    def client(self, service: str, region: str | None = None) -> Any:
        """Return a boto3 client that does not wait for long.

        Raises:
            AwsError: no credentials, or no region.
        """
        from dataclasses import replace

        aws = self.aws_of()
        return (aws if region is None else replace(aws, region=region)).boto3_client(service, patience())

    def scrubbed(self, text: str) -> str:
        """Return a text on one line, without any secret that this installation was given."""
        line = " ".join(text.split())
        for secret in sorted(self._secrets(), key=len, reverse=True):
            line = line.replace(secret, "***")
        return line

    def _secrets(self) -> set[str]:
        found = {self.key, *(self.env.get(name, "") for name in _SECRETS)}
        for url in (self.redis, self.postgres, self.server):
            for password in _PASSWORD.findall(url or ""):
                found |= {password, unquote(password)}
        return {secret for secret in found if len(secret) >= _LEAST_SECRET}


def patience() -> Any:
    """Return boto3's settings for a service that has to answer soon."""
    from botocore.config import Config

    return Config(
        connect_timeout=CONNECT_S,
        read_timeout=ANSWER_S,
        retries={"total_max_attempts": 2, "mode": "standard"},
    )

"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from fibflow.io.aws import AwsConfig


@dataclass(frozen=True)
class Settings:
    """What ``python -m serving`` was given. Picklable; no secret shows in ``repr``.

    Attributes:
        lake: URI of the lake, a folder or ``s3://bucket/prefix``.
        aws: for a lake on S3, and for DynamoDB.
        redis: URL of the live store; None for a server of history only.
        prefix: of the live store's keys.
        buckets: of the live store's symbols: the job's.
        dynamodb: name of the table of last prices; None for none.
        postgres: where keys, alerts and the last rows of ``raw_ohlcv`` are; None: keys lie in a file, and
            there are no alerts.
        keys: path of the SQLite file of API keys; goes before ``postgres``. None without ``postgres``:
            beside the lake, where that is a folder.
        pepper: secret that is hashed with each key; empty for none.
        open_access: answer without a key. Only on a loopback address.
        host, port: where to listen; port 0 takes a free one.
        hosts: names under which a browser may know the server; empty for any. Set where access is open, so
            that no page of another site reads it under a name of its own.
        origins: of other sites whose pages may ask, such as ``https://example.org``; ``*`` for all.
        workers: server processes.
        refresh_s: how old what is known of the lake may be, seconds.
        cache_mb: how much memory a process keeps answers in, MB.
        threads: how many reads a process does at once.
        queue: how many messages a WebSocket client may be behind.
        exports_at_once: of a process; more are told to come again.
        most_alerts: how many an owner may have.
        stop_s: how long running answers may take to end when the server is stopped, seconds.
        log_requests: write a line a request.
        shared: path of the file in which the workers count requests together; None where there is one.
    """

    lake: str
    aws: AwsConfig | None = None
    redis: str | None = field(default=None, repr=False)
    prefix: str = "fibflow"
    buckets: int = 256
    dynamodb: str | None = None
    postgres: str | None = field(default=None, repr=False)
    keys: str | None = None
    pepper: str = field(default="", repr=False)
    open_access: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    workers: int = 1
    refresh_s: float = 1.0
    cache_mb: int = 32
    threads: int = 4
    queue: int = 1_000
    exports_at_once: int = 2
    most_alerts: int = 10_000
    stop_s: float = 20.0
    log_requests: bool = True
    shared: str | None = None

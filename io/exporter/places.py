"""The lake, the stream's shards, and the outbox of alerts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.checkup import stores
from fibflow.io.checkup.site import patience
from fibflow.io.dailyend import DailyEnd
from fibflow.io.exporter import metrics
from fibflow.io.exporter.metrics import Sample
from fibflow.io.kinesis.errors import KinesisError, explain, kinesis_client
from fibflow.io.kinesis.shards import list_shards_once
from fibflow.io.lake import Lake
from fibflow.io.logtail import LogTail, Tip
from fibflow.io.postgresql.session import session
from fibflow.io.quality import FOLDER, LATEST
from fibflow.io.storage import LakeError, Storage

#: Where the newest data quality report is, in the lake.
QUALITY = f"{FOLDER}/{LATEST}"
_AT_ONCE = 4


class Tables:
    """The lake's tables.

    Args:
        lake: where.
    """

    def __init__(self, lake: Lake) -> None:
        # Followed by their logs: opening a large one each time would take seconds.
        self._tails = {
            name: LogTail(lake.table(spec), "exporter", lambda: "exporter")
            for name, spec in tables.TABLES.items()
        }

    def look(self) -> Iterator[Sample]:
        """Yield the age of each table that there is.

        Raises:
            LakeError: it cannot be read.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tips = dict(zip(self._tails, pool.map(LogTail.follow, self._tails.values()), strict=True))
        yield from (_age(name, tip) for name, tip in tips.items() if tip is not None)


def _age(name: str, tip: Tip) -> Sample:
    return Sample(metrics.LAKE_AGE, tip.stamp / 1000, (name,))


class Reports:
    """What runs left in the lake for who watches: the daily run, and the data quality report.

    Args:
        lake: where.
    """

    def __init__(self, lake: Lake) -> None:
        self._storage = Storage(lake.uri, lake.aws)

    def look(self) -> Iterator[Sample]:
        """Yield what the last ones say; of a report that was never made nothing.

        Raises:
            LakeError: one cannot be read.
        """
        end = DailyEnd.read(self._storage)
        if end.succeeded is not None:
            yield Sample(metrics.DAILY_SUCCESS, end.succeeded.timestamp())
        if end.differences is not None:
            yield Sample(metrics.DAILY_DIFFERENCES, end.differences)
        report = self._storage.read(QUALITY)
        if report is not None:
            yield from quality(report)


def quality(report: bytes) -> list[Sample]:
    """Return what a quality report says, in samples.

    Raises:
        LakeError: it cannot be read.
    """
    try:
        told: dict[str, Any] = json.loads(report)
        made = datetime.fromisoformat(told["made_at"])
        found = [
            Sample(metrics.QUALITY_TIME, (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()),
            Sample(metrics.QUALITY_QUIET, len(told["quiet_symbols"])),
        ]
        gaps = [(str(timeframe), int(count)) for timeframe, count in told["gaps"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LakeError(f"{QUALITY} of the lake cannot be read: run pipelines.quality") from error
    return found + [Sample(metrics.QUALITY_GAPS, count, (timeframe,)) for timeframe, count in gaps]


class Shards:
    """A stream's shards.

    Args:
        stream: its name.
        aws_of: gives credentials, region and endpoint.
    """

    def __init__(self, stream: str, aws_of: Callable[[], AwsConfig]) -> None:
        self._stream, self._aws_of = stream, aws_of
        self._client: Any = None

    def look(self) -> Iterator[Sample]:
        """Yield how many take records.

        Raises:
            AwsError: there are no credentials, or no region.
            KinesisError: Kinesis does not answer, or has no such stream.
        """
        if self._client is None:
            self._client = kinesis_client(self._aws_of(), patience())
        try:
            shards = list_shards_once(self._client, self._stream)
        except Exception as error:
            raise KinesisError(explain(error, self._stream)) from error
        yield Sample(metrics.KINESIS_SHARDS, sum(shard.is_open for shard in shards))


class Outbox:
    """The outbox of alerts in PostgreSQL: also where nobody delivers, and so nobody tells.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def look(self) -> Iterator[Sample]:
        """Yield what waits.

        Raises:
            PostgresError: PostgreSQL does not answer, or has no such tables.
        """
        with session(self._url, program="fibflow exporter") as connection:
            count, overdue = stores.one(connection, stores.WAITING)
        yield Sample(metrics.OUTBOX_WAITING, count)
        yield Sample(metrics.OUTBOX_OVERDUE, max(0.0, overdue))

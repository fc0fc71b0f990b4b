"""The stream: whether it is there, fits the lanes, and can be read at its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from fibflow.io.checkup import machine
from fibflow.io.checkup.findings import Finding, Wrong, failed, ok, warning
from fibflow.io.checkup.laketables import DEFAULT_CALENDAR
from fibflow.io.checkup.site import Site, patience
from fibflow.io.kinesis.errors import KinesisError, explain, kinesis_client
from fibflow.io.kinesis.shards import Shard, list_shards_once

#: While the exchange is open something has to come within so many seconds.
QUIET_S = 60.0
_LOOKED_AT = 8


def kinesis(site: Site) -> Iterator[Finding]:
    """Look at the stream."""
    assert site.source is not None
    name = site.source.stream
    client = kinesis_client(site.aws_of(), patience())
    try:
        told = client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
        shards = [shard for shard in list_shards_once(client, name) if shard.is_open]
    except Exception as error:
        raise KinesisError(explain(error, name)) from error
    if told["StreamStatus"] not in ("ACTIVE", "UPDATING"):
        raise Wrong(f"{name} is {told['StreamStatus']}", "wait until it is active")
    yield _shape(site, told, len(shards))
    yield _tip(site, client, shards)


def _shape(site: Site, told: dict[str, Any], shards: int) -> Finding:
    assert site.source is not None
    name, lanes = site.source.stream, site.source.lanes
    kept = f"{told['RetentionPeriodHours']} h kept"
    reason = f"{name} is {told['StreamStatus']}, {shards} open shards for {lanes} lanes, {kept}"
    if lanes > shards:
        return warning(
            "kinesis",
            reason,
            f"lanes beyond the shards read nothing: say lanes={shards} in --source, or split shards",
        )
    return ok("kinesis", reason)


def _tip(site: Site, client: Any, shards: list[Shard]) -> Finding:
    """Read what came last, of some shards."""
    assert site.source is not None
    stream = site.source.stream
    since = datetime.fromtimestamp(site.now() - QUIET_S, UTC)
    heard = 0
    for shard in shards[:_LOOKED_AT]:
        try:
            begin = client.get_shard_iterator(
                StreamName=stream, ShardId=shard.id, ShardIteratorType="AT_TIMESTAMP", Timestamp=since
            )["ShardIterator"]
            heard += len(client.get_records(ShardIterator=begin, Limit=1)["Records"])
        except Exception as error:
            return failed("kinesis read", explain(error, stream, shard.id))
    if heard:
        return ok("kinesis read", f"records came within the last {QUIET_S:g} s")
    calendar = machine.calendar_of(DEFAULT_CALENDAR, site.now())
    if machine.is_open(calendar, site.now(), after_s=QUIET_S):
        return warning(
            "kinesis read",
            f"nothing came for {QUIET_S:g} s, and {calendar.name} is open",
            "see whether pipelines.ingest runs and is healthy (docs/ingest.md)",
        )
    return ok(
        "kinesis read", f"it can be read; nothing came for {QUIET_S:g} s, and {calendar.name} is closed"
    )


def ago(seconds: float) -> str:
    """Return a stretch of time for people."""
    return str(timedelta(seconds=round(seconds)))

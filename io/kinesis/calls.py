"""One call for the records of a shard, and what it brought. Keeps nothing: any thread may make it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from fibflow.io.kinesis import shards
from fibflow.io.kinesis.errors import Clock
from fibflow.io.kinesis.positions import Position

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Answer(NamedTuple):
    """What a call brought.

    Attributes:
        called, at: when it was made and when it came back.
        iterator: the next one; None where one has to be asked for.
        records: as the service gives them.
        size: their bytes.
        behind: milliseconds behind the shard's end.
        children: of a shard that ended here, the shards to be read next; None of one that goes on.
        error: what failed; the records are to be asked for again, then.
    """

    called: float
    at: float
    iterator: str | None
    records: list[dict[str, Any]]
    size: int = 0
    behind: int = 0
    children: tuple[str, ...] | None = None
    error: Exception | None = None


def fetch(
    client: Any, stream: str, shard: str, position: Position, iterator: str | None, limit: int, clock: Clock
) -> Answer:
    """Ask for the records of a shard after a position.

    Args:
        client: boto3's client of Kinesis, or one like it.
        stream: name of the stream.
        shard: the shard.
        position: where to begin where there is no iterator.
        iterator: the one that the call before gave.
        limit: the most records.
        clock: the time.
    """
    called, size = clock(), 0
    try:
        if iterator is None:
            iterator = client.get_shard_iterator(StreamName=stream, ShardId=shard, **_iterator_of(position))[
                "ShardIterator"
            ]
        called = clock()
        answer = client.get_records(ShardIterator=iterator, Limit=limit)
        found = answer["Records"]
        size = sum(len(record["Data"]) + len(record["PartitionKey"]) for record in found)
        following = answer.get("NextShardIterator")
        children = None if following else _children(client, stream, shard, answer)
        behind = int(answer.get("MillisBehindLatest") or 0)
        return Answer(called, clock(), following, found, size, behind, children)
    except Exception as error:  # the thread that polls decides what to make of it
        return Answer(called, clock(), iterator, [], size, error=error)


def _children(client: Any, stream: str, ended: str, answer: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which shards this lane reads after one that ended."""
    listed = shards.list_shards_once(client, stream)
    found = {each.id for each in listed if ended in (each.parent, each.adjacent)}
    # The answer names the children, but not which of two parents is the first: that is in the list. A shard
    # ends by being split or merged, so a list without children is behind. What is not in it would be lost.
    if not found or not found.issuperset(child["ShardId"] for child in answer.get("ChildShards") or ()):
        raise ConnectionError(f"the list of shards has no child of {ended} yet")
    return shards.children(listed, ended)


def _iterator_of(position: Position) -> dict[str, Any]:
    if position.sequence is not None:
        return {
            "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
            "StartingSequenceNumber": position.sequence,
        }
    if position.at is not None:
        # The client cuts it to a whole second.
        return {
            "ShardIteratorType": "AT_TIMESTAMP",
            "Timestamp": _EPOCH + timedelta(microseconds=position.at),
        }
    return {"ShardIteratorType": "TRIM_HORIZON"}

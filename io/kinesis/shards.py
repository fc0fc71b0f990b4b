"""The shards of a stream: listing them, dealing them out to lanes, and which come after which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fibflow.io.kinesis.address import LATEST, TRIM_HORIZON, KinesisAddress
from fibflow.io.kinesis.errors import Backoff, Fault, KinesisError, Random, Sleep, explain, fault_of
from fibflow.io.kinesis.positions import Lane, LaneState, Position

#: How many hash keys there are.
HASH_KEYS = 1 << 128
_PAGE = 1000
_TRIES = 8


class Shard(NamedTuple):
    """A shard.

    Attributes:
        id: its name.
        first, last: the hash keys that it takes, both inclusive.
        parent: the shard it was split from, or the first of the two it was merged from; empty for none.
        adjacent: the second of those two; empty for none.
        is_open: whether it still takes records.
    """

    id: str
    first: int
    last: int
    parent: str = ""
    adjacent: str = ""
    is_open: bool = True


def list_shards_once(client: Any, stream: str) -> list[Shard]:
    """Return the shards whose records are kept, page by page. Errors of the client pass as they are."""
    found: dict[str, Shard] = {}
    arguments: dict[str, Any] = {"StreamName": stream, "MaxResults": _PAGE}
    while True:
        answer = client.list_shards(**arguments)
        for plain in answer.get("Shards", ()):
            span, numbers = plain["HashKeyRange"], plain.get("SequenceNumberRange", {})
            found[plain["ShardId"]] = Shard(
                id=plain["ShardId"],
                first=int(span["StartingHashKey"]),
                last=int(span["EndingHashKey"]),
                parent=plain.get("ParentShardId") or "",
                adjacent=plain.get("AdjacentParentShardId") or "",
                is_open=numbers.get("EndingSequenceNumber") is None,
            )
        token = answer.get("NextToken")
        if not token:
            return list(found.values())
        # The token stands for the stream too: the service refuses both together.
        arguments = {"NextToken": token, "MaxResults": _PAGE}


def list_shards(
    client: Any, stream: str, sleep: Sleep, random: Random, backoff: Backoff | None = None
) -> list[Shard]:
    """Return the shards whose records are kept; wait and try again where the service is busy.

    Raises:
        KinesisError: The stream does not exist, may not be read, or cannot be reached for long.
    """
    backoff = backoff or Backoff()
    for failures in range(1, _TRIES + 1):
        try:
            return list_shards_once(client, stream)
        except Exception as error:
            if fault_of(error) is Fault.FATAL or failures == _TRIES:
                raise KinesisError(explain(error, stream)) from error
            sleep(backoff.delay(failures, random))
    raise AssertionError


def kept_us(client: Any, stream: str) -> int:
    """Return for how long a stream keeps a record, microseconds.

    Raises:
        KinesisError: The stream does not exist, or may not be looked at.
    """
    try:
        told = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    except Exception as error:
        raise KinesisError(explain(error, stream)) from error
    return int(told["RetentionPeriodHours"]) * 3_600_000_000


def children(shards: Iterable[Shard], ended: str) -> tuple[str, ...]:
    """Return the shards that the lane of ``ended`` reads after it.

    The child of a merge has two parents: it belongs to the lane that read ``ParentShardId``, whatever became
    of the other. So each shard is read by one lane, and no lane needs to know of another.
    """
    return tuple(sorted(shard.id for shard in shards if shard.parent == ended))


def roots(
    shards: Sequence[Shard], start: str | int, now: int, after: Mapping[str, str] | None = None
) -> dict[str, Position]:
    """Return the shards that lanes begin with, and where; all others follow as children.

    Args:
        shards: those listed.
        start: ``TRIM_HORIZON``, ``LATEST`` or an arrival time, UTC microseconds.
        now: what ``LATEST`` means, UTC microseconds. The service's client cuts it to a whole second, so that
            records of up to a second before come too.
        after: by shard, the number of a record that was the last one read: they begin after it. What came
            before these shards counts as read.

    Raises:
        KinesisError: A shard in ``after`` is not listed.
    """
    after = after or {}
    for shard in after:
        if shard not in {each.id for each in shards}:
            raise KinesisError(
                f"there is no shard {shard} to begin in: its records are no longer kept, or it is of "
                "another stream"
            )
    if start == LATEST and not after:
        # Closed shards hold nothing new. Their children are roots, then.
        shards = [shard for shard in shards if shard.is_open]
    first = Position(at=None if start == TRIM_HORIZON else now if start == LATEST else int(start))
    listed = {shard.id: shard for shard in shards}
    passed = set()
    for shard in after:
        parent = listed[shard].parent
        while parent in listed and parent not in passed:
            passed.add(parent)
            parent = listed[parent].parent
    found = {}
    waiting = [shard.id for shard in shards if shard.parent not in listed]
    while waiting:
        shard = waiting.pop()
        if shard in after:
            found[shard] = Position(sequence=after[shard])
        elif shard in passed:
            waiting += children(shards, shard)
        else:
            found[shard] = first
    return found


def deal(stream: str, shards: Sequence[Shard], begin: Mapping[str, Position], lanes: int) -> list[Lane]:
    """Return ``lanes`` lanes, each with the shards whose middle is in its part of the hash keys.

    Keys are hashed evenly, so that equal parts carry equal loads. A lane may get none.
    """
    dealt: list[dict[str, Position]] = [{} for _ in range(lanes)]
    for shard in sorted(shards):
        if shard.id in begin:
            middle = (shard.first + shard.last) // 2
            dealt[middle * lanes // HASH_KEYS][shard.id] = begin[shard.id]
    return [Lane(stream, number, LaneState(part)) for number, part in enumerate(dealt)]


def plan(
    client: Any,
    address: KinesisAddress,
    now: int,
    sleep: Sleep,
    random: Random,
    after: Mapping[str, str] | None = None,
) -> list[Lane]:
    """List the shards of a stream once and return its lanes.

    Args:
        client: boto3's client of Kinesis, or one like it.
        address: the stream, where to start, and how many lanes.
        now: UTC microseconds; what ``LATEST`` means.
        sleep: waits.
        random: for backing off.
        after: by shard, the number of a record to begin after.

    Raises:
        KinesisError: The stream cannot be listed, or has not the shards in ``after``.
    """
    found = list_shards(client, address.stream, sleep, random)
    return deal(address.stream, found, roots(found, address.start, now, after), address.lanes)

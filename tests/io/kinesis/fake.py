"""A Kinesis in memory, on a clock of its own, that holds its callers to the service's quotas.

It answers like boto3's client. What the service would refuse it refuses, by the same errors; and it keeps
count of the calls that broke a quota.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import datetime, timedelta
from typing import Any

from fibflow.tests.io.kinesis.fakestream import (
    ANSWER_BYTES,
    ANSWER_RECORDS,
    BEGIN,
    EPOCH,
    QUOTAS,
    READ_BYTES_A_SECOND,
    FakeClock,
    FakeShard,
    FakeStream,
    Put,
    WallClock,
    error,
    hash_key_of,
    hash_of,
    invalid,
    number_of,
    parts_of,
    sequence_of,
    size_of,
)

__all__ = [
    "BEGIN",
    "QUOTAS",
    "FakeClock",
    "FakeKinesis",
    "FakeShard",
    "WallClock",
    "error",
    "hash_of",
    "number_of",
    "sequence_of",
]


class FakeKinesis(FakeStream):
    """One stream. Not for several threads at once, but for reading without quotas.

    ``fault`` is asked before each call, with the operation's name, and says what befalls it: ``throttled``,
    ``kms``, ``broken`` (a 500), ``timeout`` (not carried out), ``lost`` (carried out, its answer is lost),
    ``expired`` (an iterator), ``denied``, or None. ``lag`` is how long a child is missing from the list.
    ``quotas`` are all, none, or some of ``QUOTAS``. Records are numbered from ``begin`` on: a stream that is
    made anew has other numbers.
    """

    def list_shards(
        self,
        StreamName: str = "",
        NextToken: str = "",
        MaxResults: int = 1000,
        ExclusiveStartShardId: str = "",
    ) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            if bool(StreamName) == bool(NextToken):
                invalid("ListShards", "give either StreamName or NextToken")
            after = ExclusiveStartShardId
            if NextToken:
                after, at, _ = parts_of(NextToken, 3)
                if self.clock() - float(at) > self.iterator_seconds:
                    raise error("ExpiredNextTokenException", "NextToken has expired", "ListShards")
            found, more = self._page(after, min(self.page, MaxResults))
            plain: dict[str, Any] = {"Shards": found}
            if more:
                plain["NextToken"] = f"{found[-1]['ShardId']}@{self.clock()}@{self.name}"
            return plain

        return self._call("list_shards", answer)

    def describe_stream(
        self, StreamName: str, Limit: int = 100, ExclusiveStartShardId: str = ""
    ) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            found, more = self._page(ExclusiveStartShardId, min(Limit, 100))
            return {"StreamDescription": self._about() | {"Shards": found, "HasMoreShards": more}}

        return self._call("describe_stream", answer)

    def describe_stream_summary(self, StreamName: str) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            return {"StreamDescriptionSummary": self._about() | {"OpenShardCount": len(self.open)}}

        return self._call("describe_stream_summary", answer)

    def get_shard_iterator(
        self,
        StreamName: str,
        ShardId: str,
        ShardIteratorType: str,
        StartingSequenceNumber: str = "",
        Timestamp: datetime = EPOCH,
    ) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            shard = self._shard(ShardId)
            self._quota("iterators", shard, shard.iterators, "get_shard_iterator")
            newest = self._number if shard.end is None else shard.end
            if ShardIteratorType == "TRIM_HORIZON":
                after = shard.begin
            elif ShardIteratorType == "LATEST":
                after = newest
            elif ShardIteratorType in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
                after = number_of(StartingSequenceNumber)
                if not shard.begin <= after <= newest:
                    invalid(
                        "GetShardIterator",
                        f"StartingSequenceNumber {StartingSequenceNumber} used in GetShardIterator on shard "
                        f"{ShardId} in stream {self.name} is invalid because it did not come from this "
                        "stream.",
                    )
                after -= ShardIteratorType == "AT_SEQUENCE_NUMBER"
            elif ShardIteratorType == "AT_TIMESTAMP":
                at = float(int(Timestamp.timestamp()))  # the client cuts it
                place = bisect_left(shard.records, at, key=lambda record: record.at)
                after = shard.records[place - 1].number if place else shard.begin
            else:
                invalid("GetShardIterator", f"unknown ShardIteratorType {ShardIteratorType!r}")
            return {"ShardIterator": f"{ShardId}@{after}@{self.clock()}@{self.name}"}

        return self._call("get_shard_iterator", answer)

    def get_records(self, ShardIterator: str, Limit: int = ANSWER_RECORDS) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            if not 1 <= Limit <= ANSWER_RECORDS:
                invalid("GetRecords", f"Limit is {Limit}: it may be 1 to {ANSWER_RECORDS}")
            name, after, made, _ = parts_of(ShardIterator, 4)
            shard = self._shard(name)
            self._quota("reads", shard, shard.reads, "get_records")
            now = self.clock()
            if now - float(made) > self.iterator_seconds:
                raise error("ExpiredIteratorException", "Iterator expired", "GetRecords")
            if "read_bytes" in self.quotas and now < shard.paid_until:
                raise error("ProvisionedThroughputExceededException", "Rate exceeded", "GetRecords")
            begin = max(
                bisect_right(shard.records, int(after), key=lambda record: record.number),
                bisect_left(shard.records, now - self.retention, key=lambda record: record.at),
            )
            found: list[Put] = []
            size = 0
            for record in shard.records[begin : begin + Limit]:
                size += record.size
                if found and size > ANSWER_BYTES:
                    size -= record.size
                    break
                found.append(record)
            shard.paid_until = max(shard.paid_until, now) + size / READ_BYTES_A_SECOND
            over = begin + len(found) == len(shard.records)
            behind = 0 if over or not found else int((now - found[-1].at) * 1000) + 1
            plain: dict[str, Any] = {
                "Records": [
                    {
                        "SequenceNumber": sequence_of(record.number),
                        "ApproximateArrivalTimestamp": EPOCH + timedelta(seconds=record.at),
                        "Data": record.data,
                        "PartitionKey": record.key,
                    }
                    for record in found
                ],
                "MillisBehindLatest": behind,
            }
            last = found[-1].number if found else int(after)
            if not over or shard.closed is None:
                plain["NextShardIterator"] = f"{name}@{last}@{now}@{self.name}"
            else:
                children = [s for s in self.shards.values() if name in (s.parent, s.adjacent)]
                plain["ChildShards"] = [
                    {
                        "ShardId": child.id,
                        "ParentShards": [parent for parent in (child.parent, child.adjacent) if parent],
                        "HashKeyRange": self._plain(child)["HashKeyRange"],
                    }
                    for child in children
                ]
            return plain

        return self._call("get_records", answer)

    def put_record(
        self, StreamName: str, Data: bytes, PartitionKey: str, ExplicitHashKey: str = ""
    ) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            size = size_of("PutRecord", {"Data": Data, "PartitionKey": PartitionKey})
            shard = self._taking(hash_key_of("PutRecord", PartitionKey, ExplicitHashKey))
            if self._full(shard, size):
                raise error("ProvisionedThroughputExceededException", "Rate exceeded", "PutRecord")
            return {"ShardId": shard.id, "SequenceNumber": self._keep(shard, PartitionKey, Data)}

        return self._call("put_record", answer)

    def put_records(self, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            sizes = [size_of("PutRecords", record) for record in Records]
            if not 1 <= len(Records) <= 500 or sum(sizes) > 5 << 20:
                invalid("PutRecords", "a call may have 1 to 500 records and 5 MiB")
            values = [
                hash_key_of("PutRecords", record["PartitionKey"], record.get("ExplicitHashKey"))
                for record in Records
            ]
            results = []
            for record, size, value in zip(Records, sizes, values, strict=True):
                shard = self._taking(value)
                failed = self.fault("put_record")
                if failed == "throttled" or self._full(shard, size, not failed):
                    code = "ProvisionedThroughputExceededException"
                    results.append({"ErrorCode": code, "ErrorMessage": "Rate exceeded"})
                elif failed:
                    results.append({"ErrorCode": "InternalFailure", "ErrorMessage": "Internal"})
                else:
                    number = self._keep(shard, record["PartitionKey"], record["Data"])
                    results.append({"SequenceNumber": number, "ShardId": shard.id})
            return {"FailedRecordCount": sum("ErrorCode" in r for r in results), "Records": results}

        return self._call("put_records", answer)

    def split_shard(self, StreamName: str, ShardToSplit: str, NewStartingHashKey: str) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            shard = self._open_shard(ShardToSplit, "SplitShard")
            at = hash_key_of("SplitShard", "", NewStartingHashKey)
            if not shard.first < at <= shard.last:
                invalid("SplitShard", f"NewStartingHashKey {at} does not split {ShardToSplit} in two")
            self.split(shard, at)
            return {}

        return self._call("split_shard", answer)

    def merge_shards(self, StreamName: str, ShardToMerge: str, AdjacentShardToMerge: str) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            first, second = (
                self._open_shard(name, "MergeShards") for name in (ShardToMerge, AdjacentShardToMerge)
            )
            if first.last + 1 != second.first and second.last + 1 != first.first:
                invalid("MergeShards", f"{first.id} and {second.id} are not adjacent")
            self.merge(first, second)
            return {}

        return self._call("merge_shards", answer)

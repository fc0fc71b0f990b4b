"""The Kinesis that is served over HTTP: what boto3 sees of it, and our reader and producer on it."""

from __future__ import annotations

import itertools
import json
import random
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.error import HTTPError

import boto3
import pyarrow as pa
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from fibflow.io.kinesis.errors import Backoff, Fault, KinesisError, code_of, fault_of, kinesis_client
from fibflow.io.kinesis.positions import LaneState, Position
from fibflow.io.kinesis.producer import PutOptions, PutTicks
from fibflow.io.kinesis.reader import LaneReader, Limits
from fibflow.io.kinesis.shards import deal, list_shards, list_shards_once, roots
from fibflow.tests.io.kinesis.fake import hash_of
from fibflow.tests.io.kinesis.server import config_of, serving
from fibflow.transforms.schemas import TIMESTAMP

FAST = Limits(interval=0.0, rate=1e12, backoff=Backoff(0.001, 0.01))
HALF = 1 << 127
_names = itertools.count(1)


@pytest.fixture
def client(kinesis_server):
    return kinesis_client(kinesis_server)


@pytest.fixture
def stream(client):
    name = f"stream-{next(_names)}"
    client.create_stream(StreamName=name, ShardCount=2)
    return name


def iterator(client, stream, shard, kind="TRIM_HORIZON", **arguments):
    answer = client.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType=kind, **arguments)
    return answer["ShardIterator"]


def data_of(client, stream, shard, kind="TRIM_HORIZON", **arguments):
    answer = client.get_records(ShardIterator=iterator(client, stream, shard, kind, **arguments))
    return [record["Data"] for record in answer["Records"]]


def put(client, stream, data, hash_key=0):
    answer = client.put_record(
        StreamName=stream, Data=data, PartitionKey="key", ExplicitHashKey=str(hash_key)
    )
    return answer["ShardId"], answer["SequenceNumber"]


def refused(call, **arguments):
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    return code_of(raised.value)


# What boto3 sees -------------------------------------------------------------------------------------------


def test_what_was_put_is_read(client, stream):
    payloads = [b"", b"\x00\xff" * 1000, "é".encode()]
    answer = client.put_records(
        StreamName=stream, Records=[{"Data": data, "PartitionKey": "küs"} for data in payloads]
    )
    assert answer["FailedRecordCount"] == 0
    (shard,) = {result["ShardId"] for result in answer["Records"]}
    assert shard == f"shardId-{int(hash_of('küs') >= HALF):012d}"
    found = client.get_records(ShardIterator=iterator(client, stream, shard))
    assert [record["Data"] for record in found["Records"]] == payloads
    assert {record["PartitionKey"] for record in found["Records"]} == {"küs"}
    numbers = [record["SequenceNumber"] for record in found["Records"]]
    assert numbers == [result["SequenceNumber"] for result in answer["Records"]] == sorted(numbers)
    assert found["MillisBehindLatest"] == 0
    arrived = [record["ApproximateArrivalTimestamp"] for record in found["Records"]]
    made = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    assert timedelta(0) <= arrived[0] - made["StreamCreationTimestamp"] < timedelta(minutes=5)
    assert arrived == sorted(arrived)
    following = client.get_records(ShardIterator=found["NextShardIterator"])
    assert following["Records"] == []
    _, number = put(client, stream, b"more", hash_of("küs"))
    (more,) = client.get_records(ShardIterator=following["NextShardIterator"])["Records"]
    assert (more["SequenceNumber"], more["Data"]) == (number, b"more")


def test_iterators_begin_where_they_say(client, stream):
    numbers = [put(client, stream, b"%d" % n)[1] for n in range(4)]
    shard = "shardId-000000000000"
    latest = iterator(client, stream, shard, "LATEST")
    at, after = (
        data_of(client, stream, shard, f"{kind}_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[2])
        for kind in ("AT", "AFTER")
    )
    assert (at, after) == ([b"2", b"3"], [b"3"])
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    assert len(data_of(client, stream, shard, "AT_TIMESTAMP", Timestamp=long_ago)) == 4
    later = datetime.now(UTC) + timedelta(days=1)
    assert data_of(client, stream, shard, "AT_TIMESTAMP", Timestamp=later) == []
    put(client, stream, b"new")
    assert [record["Data"] for record in client.get_records(ShardIterator=latest)["Records"]] == [b"new"]
    limited = client.get_records(ShardIterator=iterator(client, stream, shard), Limit=2)
    assert len(limited["Records"]) == 2
    assert limited["MillisBehindLatest"] > 0


def test_answers_are_no_larger_than_the_service_s(client, stream):
    for _ in range(3):
        client.put_records(
            StreamName=stream,
            Records=[{"Data": b"x" * 1_000_000, "PartitionKey": "k", "ExplicitHashKey": "0"}] * 5,
        )
    found = client.get_records(ShardIterator=iterator(client, stream, "shardId-000000000000"))
    assert len(found["Records"]) == 9
    rest = client.get_records(ShardIterator=found["NextShardIterator"])
    assert (len(rest["Records"]), rest["MillisBehindLatest"]) == (6, 0)


def test_shards_that_are_split_and_merged_end_and_name_their_children(client, stream):
    zero, one, two, three, four = (f"shardId-{n:012d}" for n in range(5))
    put(client, stream, b"before")
    client.split_shard(StreamName=stream, ShardToSplit=zero, NewStartingHashKey="1000")
    assert put(client, stream, b"low", 999)[0] == two
    assert put(client, stream, b"high", 1000)[0] == three
    answer = client.get_records(ShardIterator=iterator(client, stream, zero))
    assert [record["Data"] for record in answer["Records"]] == [b"before"]
    assert "NextShardIterator" not in answer
    assert [(child["ShardId"], child["ParentShards"]) for child in answer["ChildShards"]] == [
        (two, [zero]),
        (three, [zero]),
    ]
    client.merge_shards(StreamName=stream, ShardToMerge=one, AdjacentShardToMerge=three)
    assert put(client, stream, b"merged", 1000)[0] == four
    shards = {shard.id: shard for shard in list_shards_once(client, stream)}
    assert (shards[four].parent, shards[four].adjacent) == (one, three)
    assert (shards[four].first, shards[four].last) == (1000, (1 << 128) - 1)
    assert [shard.id for shard in shards.values() if shard.is_open] == [two, four]
    ended = client.get_records(ShardIterator=iterator(client, stream, one, "LATEST"))
    assert [child["ShardId"] for child in ended["ChildShards"]] == [four]
    told = client.describe_stream(StreamName=stream)["StreamDescription"]
    assert [shard["ShardId"] for shard in told["Shards"]] == sorted(shards)
    assert (told["StreamStatus"], told["HasMoreShards"]) == ("ACTIVE", False)
    summary = client.describe_stream_summary(StreamARN=told["StreamARN"])["StreamDescriptionSummary"]
    assert (summary["StreamName"], summary["OpenShardCount"]) == (stream, 2)


def test_lists_come_by_pages(client):
    name = f"stream-{next(_names)}"
    client.create_stream(StreamName=name, ShardCount=5)
    client.get_waiter("stream_exists").wait(StreamName=name)
    assert name in client.list_streams()["StreamNames"]
    names = [f"shardId-{n:012d}" for n in range(5)]
    first = client.list_shards(StreamName=name, MaxResults=3)
    second = client.list_shards(NextToken=first["NextToken"], MaxResults=3)
    assert [shard["ShardId"] for shard in first["Shards"] + second["Shards"]] == names
    assert "NextToken" not in second
    pages = client.get_paginator("describe_stream").paginate(
        StreamName=name, PaginationConfig={"PageSize": 2}
    )
    found = [shard["ShardId"] for page in pages for shard in page["StreamDescription"]["Shards"]]
    assert found == names


def test_what_the_service_refuses_is_refused(client, stream):
    shard = {"StreamName": stream, "ShardId": "shardId-000000000000"}
    one, two = "shardId-000000000000", "shardId-000000000001"
    assert refused(client.create_stream, StreamName=stream, ShardCount=1) == "ResourceInUseException"
    assert refused(client.describe_stream, StreamName="nothing") == "ResourceNotFoundException"
    assert refused(client.list_shards, NextToken="a@1@nothing") == "ResourceNotFoundException"
    assert refused(client.get_records, ShardIterator="a@nothing") == "ResourceNotFoundException"
    for call, arguments in (
        (client.get_records, {"ShardIterator": f"made-up@{stream}"}),
        (client.list_shards, {"NextToken": "a@1@" + stream, "StreamName": stream}),
        (
            client.get_shard_iterator,
            shard | {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": "5"},
        ),
        (client.get_shard_iterator, shard | {"ShardIteratorType": "SOMEWHERE"}),
        (client.put_record, {"StreamName": stream, "Data": b"x" * (1 << 20), "PartitionKey": "k"}),
        (client.put_records, {"StreamName": stream, "Records": [{"Data": b"", "PartitionKey": "k"}] * 501}),
        (client.put_records, {"StreamName": stream, "Records": [{"Data": b""}]}),
        (
            client.put_record,
            {"StreamName": stream, "Data": b"", "PartitionKey": "k", "ExplicitHashKey": str(1 << 128)},
        ),
        (client.split_shard, {"StreamName": stream, "ShardToSplit": one, "NewStartingHashKey": "0"}),
        (client.merge_shards, {"StreamName": stream, "ShardToMerge": one, "AdjacentShardToMerge": one}),
    ):
        assert refused(call, **arguments) == "InvalidArgumentException", arguments
    assert refused(client.list_shards, StreamName=stream, ShardFilter={"Type": "AT_LATEST"}) == (
        "ValidationException"
    )
    assert refused(client.describe_limits) == "UnknownOperationException"
    client.merge_shards(StreamName=stream, ShardToMerge=one, AdjacentShardToMerge=two)
    again = {"StreamName": stream, "ShardToSplit": one, "NewStartingHashKey": "9"}
    assert refused(client.split_shard, **again) == "InvalidArgumentException"


def test_a_body_that_is_no_json_is_an_error_of_the_caller(kinesis_server):
    headers = {"X-Amz-Target": "Kinesis_20131202.ListShards"}
    request = urllib.request.Request(kinesis_server.endpoint_url, b"{", headers)
    with pytest.raises(HTTPError) as raised, urllib.request.urlopen(request):
        pass
    with raised.value as answer:
        assert (answer.code, json.load(answer)["__type"]) == (400, "SerializationException")


def test_a_stream_that_is_made_anew_refuses_positions_in_the_old_one(client, stream):
    shard, number = put(client, stream, b"old")
    client.delete_stream(StreamName=stream)
    assert refused(client.list_shards, StreamName=stream) == "ResourceNotFoundException"
    client.create_stream(StreamName=stream, ShardCount=2)
    put(client, stream, b"new")
    assert data_of(client, stream, shard) == [b"new"]
    reader = LaneReader(client, stream, FAST, time.time, time.sleep, random.random)
    with pytest.raises(KinesisError, match="which was made anew since: start again"):
        reader.poll({shard: Position(number)})


# Quotas, time and faults -----------------------------------------------------------------------------------


def throttled(call, times):
    """Whether a call is refused for a quota when it is made so often."""
    for _ in range(times):
        try:
            call()
        except ClientError as error:
            if fault_of(error) is Fault.THROTTLED:
                return True
            raise
    return False


@pytest.mark.parametrize("quota", ["reads", "read_bytes", "iterators", "puts"])
def test_a_quota_that_is_turned_on_is_kept_and_no_other(quota):
    zero, one = "shardId-000000000000", "shardId-000000000001"
    records = [{"Data": b"x" * 500_000, "PartitionKey": "k", "ExplicitHashKey": "0"}] * 10
    with serving("--quota", quota) as url:
        client = kinesis_client(config_of(url))
        client.create_stream(StreamName="ticks", ShardCount=2)
        kept = {
            "puts": client.put_records(StreamName="ticks", Records=records)["FailedRecordCount"] > 0,
            "iterators": throttled(lambda: iterator(client, "ticks", one), 50),
        }
        full = iterator(client, "ticks", zero)
        # Few calls for 5 MB of a shard, and many for nothing of another.
        kept["read_bytes"] = throttled(lambda: client.get_records(ShardIterator=full), 3)
        client.merge_shards(StreamName="ticks", ShardToMerge=zero, AdjacentShardToMerge=one)
        empty = iterator(client, "ticks", "shardId-000000000002")
        kept["reads"] = throttled(lambda: client.get_records(ShardIterator=empty), 50)
    assert {name for name, is_kept in kept.items() if is_kept} == {quota}


def test_iterators_and_records_grow_old():
    with serving("--iterator-seconds", "0", "--retention", "0") as url:
        client = kinesis_client(config_of(url))
        client.create_stream(StreamName="ticks", ShardCount=2)
        put(client, "ticks", b"1")
        old = iterator(client, "ticks", "shardId-000000000000")
        assert refused(client.get_records, ShardIterator=old) == "ExpiredIteratorException"
        token = client.list_shards(StreamName="ticks", MaxResults=1)["NextToken"]
        assert refused(client.list_shards, NextToken=token) == "ExpiredNextTokenException"
    with serving("--retention", "0") as url:
        client = kinesis_client(config_of(url))
        client.create_stream(StreamName="ticks", ShardCount=1)
        put(client, "ticks", b"1")
        assert data_of(client, "ticks", "shardId-000000000000") == []
        client.split_shard(StreamName="ticks", ShardToSplit="shardId-000000000000", NewStartingHashKey="9")
        assert [shard.id[-1] for shard in list_shards_once(client, "ticks")] == ["1", "2"]


def test_it_ends_when_its_standard_input_does():
    with serving() as url:
        client = boto3.client(
            "kinesis",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}),
        )
        assert client.list_streams()["StreamNames"] == []
    with pytest.raises(EndpointConnectionError):
        client.list_streams()


# Our reader and producer -----------------------------------------------------------------------------------


def ticks(begin, count):
    rows = range(begin, begin + count)
    return pa.table(
        {
            "symbol": pa.array([f"S{n % 97}" for n in rows]),
            "message": pa.array([b"%d" % n for n in rows], pa.binary()),
            "ts": pa.array(rows, pa.int64()).cast(TIMESTAMP),
        }
    )


def producer_of(client, stream, **options):
    chosen = PutOptions(messages=10, backoff=FAST.backoff, **options)
    return PutTicks(client, stream, time.time, time.sleep, random.Random(1).random, chosen)


def lanes_of(client, stream, count):
    shards = list_shards(client, stream, time.sleep, random.random)
    return deal(stream, shards, roots(shards, "TRIM_HORIZON", 0), count)


class Consumer:
    """Reads a lane; notes each record's shard and number, and its messages."""

    def __init__(self, client, lane, executor):
        self.reader = LaneReader(
            client, lane.stream, FAST, time.time, time.sleep, random.Random(2).random, executor
        )
        self.state: LaneState = lane.start
        self.rows: list[tuple[str, str, int, str, bytes]] = []

    def poll(self, ended):
        """Poll; be done with a shard that was found empty after ``ended``, UTC microseconds."""
        found = self.reader.poll(self.state.shards)
        for block in found.blocks:
            names = ("shard", "sequence", "sub", "key", "data")
            self.rows += zip(*(block.records[name].to_pylist() for name in names), strict=True)
        # An answer that was asked for ahead may be older than what was put last.
        steps = [
            block.step._replace(quiet=None) if (block.step.quiet or 0) < ended else block.step
            for block in found.blocks
        ]
        self.state = self.state.advanced(steps, {}, stop_at_end=True)


def consume(client, stream, lanes, produce):
    """Read all lanes to the end while ``produce`` puts; return what each read."""
    with ThreadPoolExecutor() as calls, ThreadPoolExecutor() as threads:
        consumers = [Consumer(client, lane, calls) for lane in lanes_of(client, stream, lanes)]
        ended = float("inf")

        def put_all():
            nonlocal ended
            try:
                produce()
            finally:
                ended = time.time() * 1e6

        done = threads.submit(put_all)

        def read(consumer):
            while consumer.state.shards:
                consumer.poll(ended)
            return consumer.rows

        rows = list(threads.map(read, consumers))
        done.result()
    return rows


def messages_of(rows):
    return [int(line) for *_, data in rows for line in data.split(b"\n")]


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("aggregated", [False, True])
def test_every_record_comes_once_through_a_split_and_a_merge(lanes, aggregated, client, stream):
    producer = producer_of(client, stream, aggregate=aggregated, queued=2_000)

    def produce():
        zero, one, two, three = (f"shardId-{n:012d}" for n in range(4))
        for part in range(12):
            producer.put(ticks(part * 500, 500))
            if part == 4:
                client.split_shard(StreamName=stream, ShardToSplit=zero, NewStartingHashKey=str(1 << 126))
            if part == 8:
                client.merge_shards(StreamName=stream, ShardToMerge=one, AdjacentShardToMerge=three)
        producer.flush()
        assert two in {shard.id for shard in producer.open_shards()}

    found = consume(client, stream, lanes, produce)
    rows = [row for part in found for row in part]
    assert len({row[:3] for row in rows}) == len(rows)
    assert sorted(messages_of(rows)) == list(range(6_000))
    assert {shard[-1] for shard, *_ in rows} == set("01234")
    if lanes == 1 and not aggregated:
        for key in {row[3] for row in rows}:
            order = messages_of([row for row in rows if row[3] == key])
            assert order == sorted(order)


def test_faults_lose_nothing_and_make_no_record_come_twice():
    with serving("--faults", "0.1", "--seed", "7") as url:
        client = kinesis_client(config_of(url))
        client.create_stream(StreamName="ticks", ShardCount=2)
        producer = producer_of(client, "ticks", queued=0)

        def produce():
            for part in range(10):
                producer.put(ticks(part * 500, 500))
                if part == 5:
                    client.merge_shards(
                        StreamName="ticks",
                        ShardToMerge="shardId-000000000000",
                        AdjacentShardToMerge="shardId-000000000001",
                    )
            producer.flush()

        (rows,) = consume(client, "ticks", 1, produce)
    assert len({row[:3] for row in rows}) == len(rows)
    # A record whose answer was lost is in the stream twice; that is the producer's promise.
    counts = Counter(messages_of(rows))
    assert set(counts) == set(range(5_000))
    assert producer.counts.throttled + producer.counts.failed > 0

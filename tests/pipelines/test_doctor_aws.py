"""``pipelines.doctor`` and AWS: who we are, buckets, streams, tables and topics, each also as it fails."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from fibflow.pipelines import tables
from fibflow.tests.pipelines.doctoring import NAMES, due, land, looked, now

_TOPIC = "arn:aws:sns:us-east-1:123456789012:"


@pytest.fixture(autouse=True)
def reached(s3, monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3


def stream(s3, name, shards=2):
    client = s3.aws.boto3_client("kinesis")
    client.create_stream(StreamName=name, ShardCount=shards)
    client.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    return client


def test_credentials_and_aws_clock_are_told(s3):
    found = looked("--source", "kinesis://none")
    assert found["aws"][0] == "ok"
    assert "region us-east-1" in found["aws"][1]
    assert found["clock: AWS"][0] == "ok"
    assert "test" not in found["aws"][1].replace("arn:aws", "")
    behind = looked("--source", "kinesis://none", now=lambda: time.time() - 4)
    assert behind["clock: AWS"][0] == "warning"
    ahead = looked("--source", "kinesis://none", now=lambda: time.time() + 60)
    assert ahead["clock: AWS"][0] == "failed"
    assert "behind ours" in ahead["clock: AWS"][1]


def test_without_credentials_everything_of_aws_says_so(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    found = looked("--source", "kinesis://none", "--dynamodb", "none")
    for check in ("aws", "kinesis", "dynamodb"):
        assert found[check][0] == "failed"
        assert "no AWS credentials found" in found[check][1]
    assert looked("--source", "kinesis://none", "--profile", "nobody")["aws"][0] == "failed"


# The bucket ------------------------------------------------------------------------------------------------


def test_a_bucket_is_tried_and_left_as_it_was(s3, raw):
    land(s3.uri("lake"), raw, due(now()), s3.aws)

    def keys():
        return {each["Key"] for each in s3.client.list_objects_v2(Bucket=s3.bucket).get("Contents", [])}

    before = keys()
    block = dict.fromkeys(
        ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
    )
    found = looked("--lake", s3.uri("lake"))
    assert found.code == 0
    assert found["bucket"][0] == found["lake tables"][0] == "ok"
    assert found["bucket: public"][0] == "warning"
    s3.client.put_public_access_block(Bucket=s3.bucket, PublicAccessBlockConfiguration=block)
    assert looked("--lake", s3.uri("lake")).states() == {"ok"}
    assert keys() == before


def test_a_public_bucket_fails(s3):
    s3.client.put_bucket_acl(Bucket=s3.bucket, ACL="public-read")
    found = looked("--lake", s3.uri("lake"))
    assert found["bucket: public"][0] == "failed"
    assert "put-public-access-block" in found["bucket: public"][2]
    s3.client.put_bucket_acl(Bucket=s3.bucket, ACL="private")
    everybody = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{s3.bucket}/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everybody]})
    s3.client.put_bucket_policy(Bucket=s3.bucket, Policy=policy)
    assert looked("--lake", s3.uri("lake"))["bucket: public"][0] == "failed"


def test_a_bucket_of_another_region_or_none(s3):
    state, reason, advice = looked("--lake", s3.uri("lake"), "--region", "eu-west-1")["bucket"]
    assert state == "failed"
    assert "is in us-east-1" in reason
    assert advice == "set AWS_REGION to us-east-1"
    found = looked("--lake", "s3://no-such-bucket-here/lake")
    assert found["bucket"][0] == "failed"
    assert "there is no bucket" in found["bucket"][1]


# The stream ------------------------------------------------------------------------------------------------


def test_a_stream_its_shards_and_its_end(s3):
    client = stream(s3, "well")
    closed = datetime(2024, 3, 9, 17, tzinfo=UTC).timestamp()  # a Saturday
    found = looked("--source", "kinesis://well?lanes=2", now=lambda: closed)
    assert found["kinesis"] == ("ok", "well is ACTIVE, 2 open shards for 2 lanes, 24 h kept", "")
    assert found["kinesis read"][0] == "ok"
    for key in ("a", "b", "c", "d"):
        client.put_record(StreamName="well", Data=b"{}", PartitionKey=key)
    assert "came within" in looked("--source", "kinesis://well?lanes=2")["kinesis read"][1]
    assert looked("--source", "kinesis://well?lanes=3")["kinesis"][0] == "warning"


def test_a_quiet_stream_while_the_exchange_is_open(s3):
    stream(s3, "quiet", 1)
    noon = datetime(2024, 3, 8, 17, tzinfo=UTC).timestamp()  # a Friday
    state, _, advice = looked("--source", "kinesis://quiet", now=lambda: noon)["kinesis read"]
    assert state == "warning"
    assert "pipelines.ingest" in advice


def test_a_stream_that_is_missing_or_in_another_region(s3):
    stream(s3, "here", 1)
    for argv in (("--source", "kinesis://nowhere"), ("--source", "kinesis://here", "--region", "eu-west-1")):
        state, reason, _ = looked(*argv)["kinesis"]
        assert state == "failed"
        assert "no such stream" in reason
        assert "AWS_REGION" in reason


def test_a_canary_is_not_put_where_it_would_set_the_clock(s3):
    client = stream(s3, "silent", 1)
    found = looked("--source", "kinesis://silent", "--redis", "redis://127.0.0.1:1/0", "--canary")
    state, reason, _ = found["canary"]
    assert state == "failed"
    assert "nothing was put" in reason
    shard = client.list_shards(StreamName="silent")["Shards"][0]["ShardId"]
    begin = client.get_shard_iterator(StreamName="silent", ShardId=shard, ShardIteratorType="TRIM_HORIZON")[
        "ShardIterator"
    ]
    assert client.get_records(ShardIterator=begin)["Records"] == []


# Tables and topics -----------------------------------------------------------------------------------------


def test_tables_of_dynamodb(s3):
    names = "--dynamodb", "doctor-prices", "--dynamodb-ticks", "doctor-ticks"
    missing = looked(*names)
    assert [each["state"] for each in missing.found if each["check"] == "dynamodb"] == ["failed", "failed"]
    assert "pipelines.tables" in missing.text
    tables.run(names)
    found = looked(*names)
    assert found.code == 0
    assert [each["state"] for each in found.found if each["check"] == "dynamodb"] == ["ok", "ok"]
    s3.aws.boto3_client("dynamodb").update_time_to_live(
        TableName="doctor-prices", TimeToLiveSpecification={"Enabled": False, "AttributeName": "ttl"}
    )
    assert looked("--dynamodb", "doctor-prices")["dynamodb"][0] == "warning"
    assert "another key" in looked("--dynamodb", "doctor-ticks")["dynamodb"][1]


def test_a_topic(s3):
    client = s3.aws.boto3_client("sns")
    arn = client.create_topic(Name="evening")["TopicArn"]
    assert looked("--sns", arn)["sns"][0] == "warning"
    queue = "arn:aws:sqs:us-east-1:123456789012:queue"
    client.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue)
    assert looked("--sns", arn)["sns"][0] == "ok"
    state, reason, _ = looked("--sns", f"{_TOPIC}nowhere")["sns"]
    assert state == "failed"
    assert "there is no topic" in reason

"""Notices through SNS."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest

from fibflow.io.notices import NoticeError, publish, region_of


def test_a_notice_reaches_its_subscribers_on_one_line(s3_server):
    sns, sqs = s3_server.boto3_client("sns"), s3_server.boto3_client("sqs")
    arn = sns.create_topic(Name="notices")["TopicArn"]
    queue = sqs.create_queue(QueueName="notices")["QueueUrl"]
    told = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=told)
    publish(arn, "daily:\nfailed – " + "x" * 200, "the table", s3_server)
    (message,) = sqs.receive_message(QueueUrl=queue)["Messages"]
    body = json.loads(message["Body"])
    assert body["Message"] == "the table"
    assert body["Subject"].startswith("daily: failed  x")
    assert len(body["Subject"]) == 100
    assert region_of(arn) == "us-east-1"


def test_what_cannot_be_sent_is_said_in_one_line_without_secrets(s3_server):
    nowhere = "arn:aws:sns:us-east-1:123456789012:nowhere"
    with pytest.raises(NoticeError, match="no such topic"):
        publish(nowhere, "s", "t", s3_server)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = replace(
            s3_server,
            endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}",
            secret_access_key="hush",
        )
        with pytest.raises(NoticeError, match=r"^SNS does not answer") as raised:
            publish(nowhere, "s", "t", away)
    assert "hush" not in str(raised.value)
    with pytest.raises(ValueError, match="is no topic"):
        region_of("notices")

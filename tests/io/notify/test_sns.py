"""Topics get up to ten events in a call, with attributes to filter by; what fails is classed."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import Any

import pytest

from fibflow.io.alerts.claims import End
from fibflow.io.aws import AwsError
from fibflow.io.notify.body import as_json
from fibflow.io.notify.sns import MOST_CLIENTS, Topics, check_topic
from fibflow.tests.io.notify.sending import EVENT


@pytest.fixture
def topic(s3_server, request):
    """A topic with a queue behind it: its ARN, and what reads the queue."""
    return make_topic(s3_server, "".join(mark for mark in request.node.name if mark.isalnum())[:60])


def make_topic(aws, name, fifo=False):
    sns, sqs = aws.boto3_client("sns"), aws.boto3_client("sqs")
    ending, attributes = (".fifo", {"FifoTopic": "true"}) if fifo else ("", {})
    arn = sns.create_topic(Name=name + ending, Attributes=attributes)["TopicArn"]
    queue = sqs.create_queue(QueueName=name + ending, Attributes={"FifoQueue": "true"} if fifo else {})[
        "QueueUrl"
    ]
    told = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=told)

    def read():
        found = []
        while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
            found += [json.loads(each["Body"]) for each in messages]
        return found

    return arn, read


def events(count):
    return [replace(EVENT, id=f"7-1-{n}", symbol=f"S{n}") for n in range(count)]


def test_events_arrive_whole_with_attributes_to_filter_by(s3_server, topic):
    arn, read = topic
    outcomes = Topics(lambda: s3_server).publish(arn, events(10))
    assert {each.end for each in outcomes} == {End.DELIVERED}
    found = {json.loads(each["Message"])["id"]: each for each in read()}
    assert len(found) == 10
    first = found["7-1-0"]
    assert json.loads(first["Message"]) == as_json(events(1)[0])
    assert {name: each["Value"] for name, each in first["MessageAttributes"].items()} == {
        "event_id": "7-1-0",
        "symbol": "S0",
    }


def test_a_fifo_topic_keeps_what_comes_twice_once(s3_server):
    arn, read = make_topic(s3_server, "fifo", fifo=True)
    topics = Topics(lambda: s3_server)
    odd = replace(EVENT, id="x" * 200)
    for _ in range(2):
        assert {each.end for each in topics.publish(arn, [*events(2), odd])} == {End.DELIVERED}
    assert sorted(json.loads(each["Message"])["id"] for each in read()) == ["7-1-0", "7-1-1", "x" * 200]


def test_a_topic_that_is_gone_is_gone_and_what_is_no_topic_is_refused(s3_server):
    topics = Topics(lambda: s3_server)
    (outcome,) = topics.publish("arn:aws:sns:us-east-1:123456789012:nowhere", [EVENT])
    assert (outcome.end, outcome.error) == (End.GONE, "SNS: there is no such topic")
    (outcome,) = topics.publish("nowhere", [EVENT])
    assert outcome.end is End.REFUSED


def test_what_the_operator_must_mend_is_said_once_and_not_to_the_events_owner(s3_server):
    said: list[str] = []
    arn = "arn:aws:sns:us-east-1:123456789012:t"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        topics = Topics(lambda: replace(s3_server, endpoint_url=url, secret_access_key="hush"), said.append)
        for _ in range(2):
            outcomes = topics.publish(arn, events(2))
            assert [(each.end, each.error) for each in outcomes] == [(End.FAILED, "SNS does not answer")] * 2
    assert said == ["SNS does not answer (EndpointConnectionError): check the network and its endpoint"]

    def nobody():
        raise AwsError("no AWS credentials found: set AWS_PROFILE")

    (outcome,) = Topics(nobody, said.append).publish(arn, [EVENT])
    assert (outcome.end, outcome.error) == (End.FAILED, "SNS cannot be used from here at the moment")
    assert said[1:] == ["SNS cannot be used: no AWS credentials found: set AWS_PROFILE"]


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "t",
        "arn:aws:sqs:us-east-1:123456789012:t",
        "arn:aws:sns:us-east-1:1:t",
        "arn:aws:sns:us-east-1:١٢٣٤٥٦٧٨٩٠١٢:t",
        "arn:aws:sns:us-east-1:123456789012:tö",
    ],
)
def test_what_is_no_topic_is_said(arn):
    with pytest.raises(ValueError, match="that is no topic: write arn:aws:sns:REGION:ACCOUNT:NAME"):
        check_topic(arn)


@pytest.mark.parametrize(
    "arn", ["arn:aws:sns:evil-1:123456789012:t", "arn:aws-cn:sns:us-east-1:123456789012:t"]
)
def test_a_region_that_there_is_not_is_said_and_nothing_is_made_for_it(arn):
    with pytest.raises(ValueError, match=r"AWS has no region .*: check the ARN"):
        check_topic(arn)
    asked: list[int] = []

    def aws() -> Any:
        asked.append(1)

    (outcome,) = Topics(aws).publish(arn, [EVENT])
    assert (outcome.end, asked) == (End.REFUSED, [])


def test_clients_of_the_regions_that_were_used_last_are_kept(s3_server):
    made = []

    def aws():
        made.append(1)
        return s3_server

    topics = Topics(aws)
    regions = ["us-east-1", "us-east-2", "us-west-1", "us-west-2", "eu-west-1", "eu-west-2", "eu-west-3"]
    regions += ["eu-central-1", "eu-north-1"]
    assert len(regions) == MOST_CLIENTS + 1

    def publish(region):
        topics.publish(f"arn:aws:sns:{region}:123456789012:nowhere", [EVENT])
        return len(made)

    for region in regions[:-1]:
        publish(region)
    assert publish(regions[0]) == MOST_CLIENTS
    assert publish(regions[-1]) == publish(regions[0]) == MOST_CLIENTS + 1
    assert publish(regions[1]) == MOST_CLIENTS + 2


def test_a_topic_names_its_region():
    assert check_topic("arn:aws-us-gov:sns:us-gov-west-1:123456789012:a-b_c.fifo") == "us-gov-west-1"

"""Events into topics of SNS, up to ten in a call."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from fibflow.io.alerts.claims import End, Outcome
from fibflow.io.alerts.model import Event
from fibflow.io.aws import AwsConfig, AwsError
from fibflow.io.notify.body import body_of

#: Entries that a call takes.
BATCH = 10
_TOPIC = re.compile(r"arn:(aws[a-z-]*):sns:([a-z0-9-]{1,32}):\d{12}:[\w-]{1,256}(\.fifo)?", re.ASCII)
#: Regions whose clients are kept: each takes some megabytes.
MOST_CLIENTS = 8
_TIMEOUT_S = 3.0
_DEDUPLICATION = re.compile(r"[!-~]{1,128}")
# What no other try, and no change of rights, can mend.
_REFUSED = frozenset({"InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid"})
_SAID = {
    "NotFound": "SNS: there is no such topic",
    "AuthorizationError": "SNS: the topic does not let this service publish: allow it sns:Publish",
    "AccessDenied": "SNS: the topic does not let this service publish: allow it sns:Publish",
    "KMSAccessDenied": "SNS: the topic's key does not let this service encrypt",
    "KMSAccessDeniedException": "SNS: the topic's key does not let this service encrypt",
}
_OURS = "SNS cannot be used from here at the moment"


def check_topic(arn: str) -> str:
    """Return the region of a topic.

    Raises:
        ValueError: it is no topic's ARN; one line that says what to write.
    """
    found = _TOPIC.fullmatch(arn)
    if found is None:
        raise ValueError("that is no topic: write arn:aws:sns:REGION:ACCOUNT:NAME")
    partition, region = found[1], found[2]
    if region not in _regions().get(partition, ()):
        raise ValueError(f"AWS has no region {region} in {partition} that is known here: check the ARN")
    return region


@cache
def _regions() -> dict[str, frozenset[str]]:
    """Return the regions of SNS by partition."""
    from botocore.session import get_session

    session = get_session()
    return {
        each: frozenset(session.get_available_regions("sns", each))
        for each in session.get_available_partitions()
    }


class Topics:
    """Publishes to topics. Safe to use from several threads.

    Args:
        aws_of: gives credentials and endpoint, when the first topic needs them.
        say: is told what the operator should know, a line each.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        aws_of: Callable[[], AwsConfig],
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._aws_of, self._say, self._clock = aws_of, say, clock
        self._lock = threading.Lock()
        # The one that was used last is the last.
        self._clients: OrderedDict[str, Any] = OrderedDict()
        self._ailing = ""

    def publish(self, arn: str, events: Sequence[Event]) -> list[Outcome]:
        """Send events to a topic.

        Args:
            arn: of the topic.
            events: at most ``BATCH``.

        Returns:
            What became of each, in their order.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        began = self._clock()

        def all_end(end: End, error: str) -> list[Outcome]:
            return [Outcome(end, error, took_ms=self._since(began))] * len(events)

        try:
            region = check_topic(arn)
        except ValueError as error:
            return all_end(End.REFUSED, f"SNS: {error}")
        entries = [
            {"Id": str(place), **_entry(event, arn.endswith(".fifo"))} for place, event in enumerate(events)
        ]
        try:
            answer = self._client(region).publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if _is_ours(code):
                self._tell(f"SNS refuses: {code}: check the credentials and their rights")
            return all_end(*_class_of(code))
        except AwsError as error:
            self._tell(f"SNS cannot be used: {error}")
            return all_end(End.FAILED, _OURS)
        except BotoCoreError as error:
            self._tell(f"SNS does not answer ({type(error).__name__}): check the network and its endpoint")
            return all_end(End.FAILED, "SNS does not answer")
        self._ailing = ""
        took = self._since(began)
        outcomes = [Outcome(End.FAILED, "SNS did not say what became of it", took_ms=took)] * len(events)
        for each in answer.get("Successful", ()):
            outcomes[int(each["Id"])] = Outcome(End.DELIVERED, took_ms=took)
        for each in answer.get("Failed", ()):
            end, error_text = _class_of(each.get("Code", ""))
            outcomes[int(each["Id"])] = Outcome(end, error_text, took_ms=took)
        return outcomes

    def _since(self, began: float) -> int:
        return round((self._clock() - began) * 1_000)

    def _tell(self, line: str) -> None:
        """Tell the operator once, until it is another thing or was well between."""
        if line != self._ailing:
            self._ailing = line
            self._say(line)

    def _client(self, region: str) -> Any:
        from botocore.config import Config

        with self._lock:
            if region not in self._clients:
                # Tries are counted, and spread in time, by whoever asks.
                config: Any = Config(
                    connect_timeout=_TIMEOUT_S,
                    read_timeout=_TIMEOUT_S,
                    retries={"total_max_attempts": 1},
                    max_pool_connections=32,
                )
                aws = replace(self._aws_of(), region=region)
                self._clients[region] = aws.boto3_client("sns", config)
                if len(self._clients) > MOST_CLIENTS:
                    # Whoever has it in use still has it.
                    self._clients.popitem(last=False)
            self._clients.move_to_end(region)
            return self._clients[region]


def _entry(event: Event, is_fifo: bool) -> dict[str, Any]:
    """Return an event as an entry of a batch."""
    entry: dict[str, Any] = {
        "Message": body_of(event).decode(),
        "MessageAttributes": {
            "event_id": {"DataType": "String", "StringValue": event.id},
            "symbol": {"DataType": "String", "StringValue": event.symbol},
        },
    }
    if is_fifo:
        # In order within an alert; and what is sent twice within five minutes is kept once.
        is_plain = _DEDUPLICATION.fullmatch(event.id) is not None
        entry["MessageDeduplicationId"] = (
            event.id if is_plain else hashlib.sha256(event.id.encode()).hexdigest()
        )
        entry["MessageGroupId"] = f"alert-{event.alert}"
    return entry


def _class_of(code: str) -> tuple[End, str]:
    if code in ("NotFound", "NotFoundException"):
        return End.GONE, _SAID["NotFound"]
    if code in _REFUSED:
        return End.REFUSED, f"SNS refuses it: {code}"
    if code in _SAID:
        return End.FAILED, _SAID[code]
    # The credentials are the service's own, and no matter of the event's owner.
    return End.FAILED, _OURS if _is_ours(code) else f"SNS answers {code or 'nothing that is known'}"


def _is_ours(code: str) -> bool:
    return code in (
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "ExpiredToken",
        "ExpiredTokenException",
        "SignatureDoesNotMatch",
        "InvalidSecurity",
    )

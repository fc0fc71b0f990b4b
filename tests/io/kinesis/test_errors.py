"""Errors of the service: which pass by themselves, and what is said of the others."""

from __future__ import annotations

import pytest
from botocore.exceptions import EndpointConnectionError, IncompleteReadError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.kinesis.errors import Backoff, Fault, explain, fault_of
from fibflow.tests.io.kinesis.fake import error


@pytest.mark.parametrize(
    ("raised", "fault"),
    [
        (error("ProvisionedThroughputExceededException"), Fault.THROTTLED),
        (error("LimitExceededException"), Fault.THROTTLED),
        (error("KMSThrottlingException"), Fault.THROTTLED),
        (error("New", status=429), Fault.THROTTLED),
        (error("InternalFailure", status=500), Fault.BROKEN),
        (error("503", status=503), Fault.BROKEN),
        (error("ResourceInUseException"), Fault.BROKEN),
        (EndpointConnectionError(endpoint_url="x"), Fault.BROKEN),
        (ReadTimeoutError(endpoint_url="x"), Fault.BROKEN),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), Fault.BROKEN),
        (ConnectionResetError(), Fault.BROKEN),
        (error("ExpiredIteratorException"), Fault.EXPIRED),
        (error("ExpiredNextTokenException"), Fault.EXPIRED),
        (error("ResourceNotFoundException"), Fault.FATAL),
        (error("AccessDeniedException"), Fault.FATAL),
        (error("KMSDisabledException"), Fault.FATAL),
        (error("InvalidArgumentException"), Fault.FATAL),
        (ValueError("a bug"), Fault.FATAL),
    ],
)
def test_faults(raised, fault):
    assert fault_of(raised) is fault


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            error("ResourceNotFoundException", "Stream t under account 1 not found."),
            "kinesis://t, shard s1: there is no such stream",
        ),
        (error("ResourceNotFoundException", "Shard s1 in stream t does not exist"), "the shard is gone"),
        (
            error("InvalidArgumentException", "StartingSequenceNumber 5 used in x is invalid"),
            "made anew since",
        ),
        (error("InvalidArgumentException", "Limit"), "Limit"),
        (error("KMSAccessDeniedException"), "kms:Decrypt"),
        (error("UnrecognizedClientException"), "AWS refuses these keys"),
        (error("ExpiredTokenException"), "log in again"),
        (EndpointConnectionError(endpoint_url="x"), "check the network, AWS_ENDPOINT_URL"),
        (ValueError("a bug\nin two lines"), "kinesis://t, shard s1: a bug"),
        (ValueError(), "ValueError"),
    ],
)
def test_explanations_are_one_line(raised, message):
    text = explain(raised, "t", "s1")
    assert message in text
    assert "\n" not in text


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backing_off_stays_within_a_time_that_doubles(failures, drawn):
    delay = Backoff(0.5, 8.0).delay(failures, lambda: drawn)
    assert delay == drawn * min(8.0, 0.5 * 2.0 ** min(failures - 1, 10))

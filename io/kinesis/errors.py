"""What can go wrong with Kinesis: what to try again, how soon, and what to say of the rest."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError

from fibflow.io.aws import AwsConfig

#: Gives the next random number in [0, 1).
Random = Callable[[], float]
#: Gives the time, seconds since 1970.
Clock = Callable[[], float]
#: Waits so many seconds.
Sleep = Callable[[float], None]


class KinesisError(Exception):
    """A stream cannot be used as it was asked for. The message is one line that says what to do."""


class Fault(enum.Enum):
    """What to make of an error."""

    THROTTLED = "throttled"  # a quota: try again later
    BROKEN = "broken"  # the service or the network: try again later; the call may have had its effect
    EXPIRED = "expired"  # an iterator or a page token that is too old: get another
    FATAL = "fatal"


_THROTTLED = {
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "KMSThrottlingException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "SlowDown",
}
_BROKEN = {
    "InternalFailure",
    "InternalFailureException",
    "InternalServerError",
    "InternalServerException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "RequestTimeout",
    "RequestTimeoutException",
    # The stream is being created, split or merged.
    "ResourceInUseException",
}
_EXPIRED = {"ExpiredIteratorException", "ExpiredNextTokenException"}
_NETWORK = (
    botocore.ConnectionError,
    botocore.HTTPClientError,
    botocore.IncompleteReadError,
    ResponseParserError,
    ConnectionError,
    TimeoutError,
)

_ADVICE = (
    (
        {"AccessDeniedException", "AccessDenied"},
        "access is denied: these credentials need kinesis:ListShards, kinesis:GetShardIterator and "
        "kinesis:GetRecords (kinesis:PutRecords to write)",
    ),
    (
        {
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "IncompleteSignature",
            "MissingAuthenticationToken",
        },
        "AWS refuses these keys: check AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    ({"ExpiredTokenException", "ExpiredToken"}, "the AWS session has expired: log in again"),
    (
        {
            "KMSAccessDeniedException",
            "KMSDisabledException",
            "KMSInvalidStateException",
            "KMSNotFoundException",
            "KMSOptInRequired",
        },
        "the stream's key cannot be used: check it, and kms:Decrypt (kms:GenerateDataKey to write)",
    ),
)


def code_of(error: BaseException) -> str:
    """Return the service's code of an error, empty where it has none."""
    if isinstance(error, botocore.ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""


def fault_of(error: BaseException) -> Fault:
    """Return what to make of an error that a call of the client raised."""
    code = code_of(error)
    if code in _EXPIRED:
        return Fault.EXPIRED
    if code in _THROTTLED:
        return Fault.THROTTLED
    if code in _BROKEN or isinstance(error, _NETWORK):
        return Fault.BROKEN
    if isinstance(error, botocore.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status == 429:
            return Fault.THROTTLED
        if status >= 500:
            return Fault.BROKEN
    return Fault.FATAL


def explain(error: BaseException, stream: str, shard: str = "") -> str:
    """Return one line that says what is wrong with a stream and what to do."""
    where = f"kinesis://{stream}" + (f", shard {shard}" if shard else "")
    code = code_of(error)
    if code == "ResourceNotFoundException":
        if shard and shard in str(error):
            return (
                f"{where}: the shard is gone, the stream no longer keeps what was not read of it: start "
                "again from start=TRIM_HORIZON, without the old state"
            )
        return f"{where}: there is no such stream: check its name, the account and AWS_REGION"
    if code == "InvalidArgumentException" and "equence" in str(error):
        return (
            f"{where}: the position is not one of this stream's, which was made anew since: start again from "
            "start=TRIM_HORIZON, without the old state"
        )
    for codes, advice in _ADVICE:
        if code in codes:
            return f"{where}: {advice}"
    if isinstance(error, _NETWORK) and isinstance(error, botocore.BotoCoreError):
        return f"{where}: the service cannot be reached: check the network, AWS_ENDPOINT_URL and AWS_REGION"
    lines = str(error).strip().splitlines()
    return f"{where}: {lines[0] if lines else type(error).__name__}"


@dataclass(frozen=True)
class Backoff:
    """How long to wait after failures: a random share of a time that doubles.

    Attributes:
        base: that time after the first failure, seconds.
        most: its limit, seconds.
    """

    base: float = 0.25
    most: float = 8.0

    def delay(self, failures: int, random: Random) -> float:
        """Return the seconds to wait after so many failures in a row, 1 or more."""
        return float(random() * min(self.most, self.base * 2.0 ** min(failures - 1, 30)))


def kinesis_client(aws: AwsConfig, config: Any = None) -> Any:
    """Return a boto3 client that tries each call once.

    Its own retries would come faster than a shard's quota allows, and out of sight of clock and counters.

    Args:
        aws: whom it reaches.
        config: a ``botocore.config.Config`` with other timeouts than boto3's own.

    Raises:
        AwsError: No credentials, or no region.
    """
    client = aws.boto3_client("kinesis", config)
    client.meta.events.unregister("needs-retry.kinesis", unique_id="retry-config-kinesis")
    return client

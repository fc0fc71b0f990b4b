"""Notices to people through SNS. No Beam."""

from __future__ import annotations

import re
from typing import Any

from fibflow.io.aws import AwsConfig, AwsError

_ARN = re.compile(r"arn:aws[\w-]*:sns:([a-z0-9-]+):\d{12}:[\w-]{1,256}")
_LONGEST_SUBJECT = 100
# SNS takes 256 KiB.
_LONGEST_TEXT = 200_000
_TIMEOUT_S = 10.0
_ADVICE = {
    "NotFound": "there is no such topic: check its ARN",
    "AuthorizationError": "access is denied: the credentials need sns:Publish",
    "AccessDenied": "access is denied: the credentials need sns:Publish",
    "InvalidClientTokenId": "AWS refuses these keys: check AWS_PROFILE or AWS_ACCESS_KEY_ID",
    "ExpiredToken": "the AWS session has expired: log in again",
}


class NoticeError(Exception):
    """A notice cannot be sent; one line that says what to do."""


def region_of(arn: str) -> str:
    """Return the region of a topic.

    Raises:
        ValueError: it is no ARN of a topic.
    """
    found = _ARN.fullmatch(arn)
    if found is None:
        raise ValueError(f"{arn!r} is no topic: write arn:aws:sns:REGION:ACCOUNT:NAME")
    return found[1]


def publish(arn: str, subject: str, text: str, aws: AwsConfig) -> None:
    """Send a notice to a topic's subscribers.

    Args:
        arn: of the topic.
        subject: one line; what is too long, or no plain text, is left out.
        text: what there is to say.
        aws: credentials and region.

    Raises:
        NoticeError: SNS does not answer, or refuses.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    plain = "".join(
        letter for letter in " ".join(subject.split()) if letter.isascii() and letter.isprintable()
    )
    config: Any = Config(
        connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries={"total_max_attempts": 3}
    )
    try:
        client = aws.boto3_client("sns", config)
        client.publish(TopicArn=arn, Subject=plain[:_LONGEST_SUBJECT], Message=text[:_LONGEST_TEXT])
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise NoticeError(f"{arn}: {_ADVICE.get(code, code)}") from error
    except AwsError as error:
        raise NoticeError(str(error)) from error
    except BotoCoreError as error:
        raise NoticeError(
            f"SNS does not answer ({type(error).__name__}): check the network, AWS_REGION and "
            "AWS_ENDPOINT_URL"
        ) from error

"""All items of a table of DynamoDB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fibflow.io.aws import AwsConfig, AwsError
from fibflow.io.dynamodb import DynamoAway, DynamoError

Item = dict[str, Any]

_TIMEOUT_S = 10.0
# Of a table that others use too, its throughput may be used up for seconds.
_ATTEMPTS = 10
_ADVICE = {
    "ResourceNotFoundException": "there is no such table: check its name and AWS_REGION",
    "UnrecognizedClientException": "AWS refuses these keys: check AWS_PROFILE or AWS_ACCESS_KEY_ID",
    "ExpiredTokenException": "the AWS session has expired: log in again",
    "AccessDeniedException": "access is denied: they need dynamodb:Scan",
    "ProvisionedThroughputExceededException": "it is throttled: raise its capacity, and run again",
    "ThrottlingException": "it is throttled: raise its capacity, and run again",
}


def scan(table: str, aws: AwsConfig) -> Iterator[list[Item]]:
    """Yield a table's items, some at a time: text, ``Decimal``, bool, None, and lists and maps of them.

    Raises:
        DynamoError: DynamoDB does not answer, or refuses; one line that says what to do.
    """
    from boto3.dynamodb.types import TypeDeserializer
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    decode = TypeDeserializer().deserialize
    retries: Any = {"total_max_attempts": _ATTEMPTS, "mode": "standard"}
    try:
        client = aws.boto3_client(
            "dynamodb", Config(connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries=retries)
        )
        for page in client.get_paginator("scan").paginate(TableName=table):
            yield [{name: decode(value) for name, value in item.items()} for item in page["Items"]]
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise DynamoError(f"DynamoDB table {table}: {_ADVICE.get(code, code)}") from error
    except ParamValidationError as error:
        raise DynamoError(f"DynamoDB has no table of the name {table!r}: correct it") from error
    except AwsError as error:
        raise DynamoError(str(error)) from error
    except BotoCoreError as error:
        raise DynamoAway(
            f"DynamoDB does not answer ({type(error).__name__}): check the network, AWS_REGION and "
            "AWS_ENDPOINT_URL"
        ) from error

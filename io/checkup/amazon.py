"""AWS: who we are there, tables of DynamoDB, a topic of SNS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fibflow.io.checkup import clocks
from fibflow.io.checkup.findings import Finding, Wrong, attempt, ok, warning
from fibflow.io.checkup.site import Site
from fibflow.io.dynamodb import PriceTable, TickTable
from fibflow.io.notices import region_of

_KEYS = "check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_CLOCK = "this machine's clock is wrong, or the secret key: let NTP set the clock, then check the keys"
_ADVICE = {
    "InvalidClientTokenId": _KEYS,
    "UnrecognizedClientException": _KEYS,
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _CLOCK,
    "InvalidSignatureException": _CLOCK,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": "the session has expired: log in again",
    "ExpiredTokenException": "the session has expired: log in again",
}
DENIED = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation"})
_TTL = "ttl"


def code_of(error: ClientError) -> str:
    """Return the service's code of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def asking(what: str, right: str) -> Iterator[None]:
    """Raise what boto3 raises as ``Wrong``.

    Args:
        what: is asked for, for people.
        right: of IAM that it takes.
    """
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        advice = f"allow these credentials {right}" if code in DENIED else _ADVICE.get(code, "")
        raise Wrong(f"{what}: AWS answers {code or 'nothing that is known'}", advice) from None
    except BotoCoreError as error:
        raise Wrong(
            f"{what}: AWS does not answer ({type(error).__name__})",
            "check the network, AWS_REGION and AWS_ENDPOINT_URL",
        ) from None


def identity(site: Site) -> Iterator[Finding]:
    """Look who we are, and at AWS' clock."""
    client, before = site.client("sts"), site.now()
    with asking("who these credentials are", "sts:GetCallerIdentity"):
        answer = client.get_caller_identity()
    after = site.now()
    yield ok("aws", f"{answer['Arn']}, region {site.aws_of().region}")
    stamp = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        theirs = parsedate_to_datetime(stamp).timestamp()
    except ValueError:
        return
    # It is cut to the second.
    yield clocks.compared("AWS", theirs, before, after, resolution_s=1.0)


def dynamodb(site: Site) -> Iterator[Finding]:
    """Look at the tables of DynamoDB."""
    client = site.client("dynamodb")
    for kind, name in ((PriceTable, site.dynamodb), (TickTable, site.dynamodb_ticks)):
        if name:
            yield attempt("dynamodb", partial(_table, client, name, kind.KEY))


def _table(client: Any, name: str, wanted: tuple[tuple[str, str], ...]) -> Finding:
    make = "make it with pipelines.tables, or correct its name and AWS_REGION"
    try:
        with asking(f"table {name}", "dynamodb:DescribeTable"):
            table = client.describe_table(TableName=name)["Table"]
    except Wrong as wrong:
        if "ResourceNotFoundException" in wrong.reason:
            raise Wrong(f"there is no table {name} in {client.meta.region_name}", make) from None
        raise
    kinds = {kind["AttributeName"]: kind["AttributeType"] for kind in table["AttributeDefinitions"]}
    key = tuple((part["AttributeName"], kinds[part["AttributeName"]]) for part in table["KeySchema"])
    if key != wanted:
        names = " and ".join(part for part, _ in wanted)
        raise Wrong(f"table {name} has another key than {names}", "name another table")
    if table["TableStatus"] not in ("ACTIVE", "UPDATING"):
        raise Wrong(f"table {name} is {table['TableStatus']}", "wait until it is active")
    with asking(f"table {name}", "dynamodb:DescribeTimeToLive"):
        answer = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    status, column = answer["TimeToLiveStatus"], answer.get("AttributeName")
    if status not in ("ENABLED", "ENABLING") or column != _TTL:
        return warning(
            "dynamodb",
            f"table {name} is there, its time to live is {status} {column or ''}".rstrip(),
            f"run pipelines.tables: without time to live on {_TTL} it only grows",
        )
    return ok("dynamodb", f"table {name} is {table['TableStatus']}, time to live on {_TTL}")


def topic(site: Site) -> Iterator[Finding]:
    """Look at a topic; nothing is published."""
    assert site.sns is not None
    client = site.client("sns", region_of(site.sns))
    try:
        answer = client.get_topic_attributes(TopicArn=site.sns)["Attributes"]
    except ClientError as error:
        if code_of(error) in DENIED:
            yield warning(
                "sns",
                f"{site.sns} may not be looked at",
                "allow sns:GetTopicAttributes to see more; sending takes sns:Publish alone",
            )
            return
        if code_of(error) in ("NotFound", "NotFoundException"):
            raise Wrong(f"there is no topic {site.sns}", "make it, or correct its ARN") from None
        with asking(site.sns, "sns:GetTopicAttributes"):
            raise
    except BotoCoreError:
        with asking(site.sns, "sns:GetTopicAttributes"):
            raise
    count = int(answer.get("SubscriptionsConfirmed") or 0) or _subscribed(client, site.sns)
    if not count:
        yield warning(
            "sns", f"nobody has subscribed to {site.sns}", "subscribe, and confirm by the mail that comes"
        )
    else:
        yield ok("sns", f"{site.sns}, {count} subscriptions")


def _subscribed(client: Any, arn: str) -> int:
    """Return how many have confirmed, of the first page: the topic's own count comes behind the times."""
    try:
        listed = client.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]
    except (ClientError, BotoCoreError):
        return 0
    return sum(str(each.get("SubscriptionArn", "")).startswith("arn:") for each in listed)

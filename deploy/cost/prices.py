"""What AWS asks for in us-east-1, in US dollars, on demand, without a free tier but where a price says so."""

from __future__ import annotations

from typing import NamedTuple

REGION = "us-east-1"
#: When the list was put together.
DATE = "2026-11-30"

_FARGATE = "vantage.sh/blog/fargate-pricing; wring.co/blog/aws-fargate-pricing-guide (2026-03)"
_DYNAMO = "airbyte.com/data-engineering-resources/dynamodb-pricing (2025-07)"
_RDS = "infratally.com/articles/aws-rds-pricing-explained-2026.html"
_RDS_DISK = "usage.ai/blogs/aws/reserved-instances/rds/pricing-calculator (2026-06)"
_NETWORK = "notes.darshanraul.me/AWS/cost-management/network-cost-optimization"
#: Nobody looked it up: hold it against AWS's own page before you trust a figure that stands on it.
MEMORY = "from memory"


class Price(NamedTuple):
    """A price.

    Attributes:
        dollars: for one unit.
        unit: of what.
        source: where it was read, or ``MEMORY``.
    """

    dollars: float
    unit: str
    source: str


PRICES = {
    "fargate.vcpu": Price(0.04048, "vCPU and hour", _FARGATE),
    "fargate.gb": Price(0.004445, "GB and hour", _FARGATE),
    "fargate.disk": Price(0.000111, "GB above 20 and hour", _FARGATE),
    "ec2.m7g.large": Price(0.0816, "hour", MEMORY),
    "ec2.m7g.2xlarge": Price(0.3264, "hour", MEMORY),
    "ebs.gp3": Price(0.08, "GB and month", MEMORY),
    "eks.cluster": Price(0.10, "hour", MEMORY),
    "flink.kpu": Price(0.11, "KPU and hour", MEMORY),
    "flink.disk": Price(0.10, "GB and month", MEMORY),
    "kinesis.shard": Price(0.015, "shard and hour", MEMORY),
    "kinesis.put": Price(0.014e-6, "payload unit of 25 KB", MEMORY),
    "dynamodb.write": Price(0.625e-6, "write unit of 1 KB", _DYNAMO),
    "dynamodb.read": Price(0.125e-6, "read unit of 4 KB", _DYNAMO),
    "dynamodb.gb": Price(0.25, "GB and month", MEMORY),
    "rds.db.t4g.micro": Price(0.016, "hour", _RDS),
    "rds.db.t4g.small": Price(0.032, "hour", _RDS),
    "rds.db.t4g.medium": Price(0.065, "hour", _RDS),
    "rds.db.t4g.large": Price(0.129, "hour", MEMORY),
    "rds.db.m7g.large": Price(0.168, "hour", MEMORY),
    "rds.gb": Price(0.115, "GB and month", _RDS_DISK),
    "redis.cache.t4g.micro": Price(0.016, "hour", MEMORY),
    "redis.cache.t4g.small": Price(0.032, "hour", MEMORY),
    "redis.cache.t4g.medium": Price(0.065, "hour", MEMORY),
    "redis.cache.r7g.large": Price(0.219, "hour", MEMORY),
    "s3.gb": Price(0.023, "GB and month", MEMORY),
    "s3.put": Price(0.005e-3, "PUT or LIST", MEMORY),
    "s3.get": Price(0.0004e-3, "GET", MEMORY),
    "efs.gb": Price(0.30, "GB and month", MEMORY),
    "efs.write": Price(0.06, "GB written", MEMORY),
    "nat.hour": Price(0.045, "hour", _NETWORK),
    "nat.gb": Price(0.045, "GB", _NETWORK),
    "endpoint.hour": Price(0.01, "zone and hour", MEMORY),
    "balancer.hour": Price(0.0225, "hour", MEMORY),
    "balancer.unit": Price(0.008, "capacity unit and hour", MEMORY),
    "cdn.gb": Price(0.085, "GB above 1 TB a month", _NETWORK),
    "cdn.request": Price(0.0100e-4, "HTTPS request above 10 million a month", MEMORY),
    "gateway.request": Price(3.50e-6, "request of a REST API", MEMORY),
    "gateway.message": Price(1.00e-6, "WebSocket message of 32 KB", MEMORY),
    "gateway.minute": Price(0.25e-6, "minute of a WebSocket connection", MEMORY),
    "lambda.request": Price(0.20e-6, "request", MEMORY),
    "lambda.gb_second": Price(16.6667e-6, "GB and second", MEMORY),
    "sns.publish": Price(0.50e-6, "notice", MEMORY),
    "logs.gb": Price(0.50, "GB written", MEMORY),
    "secret": Price(0.40, "secret and month", MEMORY),
    "key": Price(1.00, "key and month", MEMORY),
}

#: ElastiCache asks this part of Redis's price for a node of Valkey. From memory.
VALKEY = 0.8
#: Of a month.
HOURS = 730.0
#: The free tier of CloudFront that does not end, a month. From memory.
CDN_FREE_GB, CDN_FREE_REQUESTS = 1_024.0, 10e6


def cost(name: str, count: float) -> float:
    """Return dollars for so many units of a price."""
    return PRICES[name].dollars * count


def fargate(vcpus: float, gb: float, hours: float = HOURS) -> float:
    """Return dollars of a task of so many vCPUs and GB of memory."""
    return hours * (cost("fargate.vcpu", vcpus) + cost("fargate.gb", gb))


def cdn(gb: float, requests: float) -> float:
    """Return dollars of CloudFront for what goes out of it in a month."""
    paid = cost("cdn.gb", max(0.0, gb - CDN_FREE_GB))
    return paid + cost("cdn.request", max(0.0, requests - CDN_FREE_REQUESTS))

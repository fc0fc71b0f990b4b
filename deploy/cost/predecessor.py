"""The predecessor's bill, from its own load: what it ran, as its figures name it.

Its figures are totals: $305 a month, ten times the users $500, a hundred times $1,200. What a part was sized
to, where they do not say, is the smallest that does the work, and stands in the note of the part.
"""

from __future__ import annotations

from typing import NamedTuple

from fibflow.deploy.cost.load import SESSIONS, Load
from fibflow.deploy.cost.prices import HOURS, cdn, cost, fargate

#: What its own figures say: users, as a multiple of the first, to dollars a month.
STATED = {1: 305.0, 10: 500.0, 100: 1_200.0}
#: At work at once, with the first figure. The hundredfold are the 1,000 that it aimed at.
USERS = 10


class Part(NamedTuple):
    """A line of a bill.

    Attributes:
        name: what.
        dollars: a month.
        note: how it is sized.
    """

    name: str
    dollars: float
    note: str


def load_of(times: float) -> Load:
    """Return its load with so many times the first users."""
    return Load(users=USERS * times)


def bill(load: Load) -> list[Part]:
    """Return what it paid a month."""
    grown = load.users / USERS
    database = "db.t4g.small" if grown <= 1 else "db.t4g.medium" if grown <= 10 else "db.t4g.large"
    redis = "cache.t4g.micro" if grown <= 1 else "cache.t4g.small" if grown <= 10 else "cache.t4g.medium"
    missed = load.requests * (1 - load.cached)
    api = cost("gateway.request", missed) + cost("lambda.request", missed)
    api += cost("lambda.gb_second", missed * 0.25 * 0.2)
    sockets = cost("gateway.message", load.pushed) + cost("gateway.minute", load.users * load.hours * 60)
    files = load.symbols * SESSIONS
    return [
        Part("Polygon fetcher", fargate(0.5, 1, 2 * SESSIONS), "0.5 vCPU, 2 h an evening"),
        Part(
            "RDS PostgreSQL",
            cost(f"rds.{database}", HOURS) + cost("rds.gb", 50),
            f"{database}, 50 GB for {load.rows / 1e6:.1f} million rows",
        ),
        Part(
            "S3",
            cost("s3.gb", 20) + cost("s3.put", files) + cost("s3.get", files * 20),
            "20 GB; a file a symbol and day, read again by each consolidation",
        ),
        Part("AWS Batch, DuckDB", fargate(4, 16, 1.9 * SESSIONS), "4 vCPU, 1.9 h an evening"),
        Part("WebSocket service", fargate(0.5, 1), "0.5 vCPU: the vendor's feed into Kinesis"),
        Part(
            "Kinesis",
            cost("kinesis.shard", 2 * HOURS) + cost("kinesis.put", load.minute_bars),
            "2 shards, a record a symbol and minute",
        ),
        Part(
            "Flink SQL",
            cost("flink.kpu", 2 * HOURS) + cost("flink.disk", 50),
            "managed: 1 KPU, and the one that each application has",
        ),
        Part(
            "DynamoDB",
            cost("dynamodb.write", 2 * load.minute_bars)
            + cost("dynamodb.read", missed)
            + cost("dynamodb.gb", 2),
            "a tick a symbol and minute, in the table and its index",
        ),
        Part(
            "SNS",
            cost("sns.publish", load.users * load.alerts * SESSIONS),
            f"{load.alerts:g} alerts a user and day",
        ),
        Part("Redis", cost(f"redis.{redis}", HOURS), redis),
        Part(
            "API and CDN",
            api + sockets + cdn(load.out_gb, load.requests),
            f"by the request: {load.requests / 1e6:,.1f} million, {load.pushed / 1e6:,.0f} million messages "
            f"pushed, {load.out_gb:,.0f} GB",
        ),
    ]


def total(parts: list[Part]) -> float:
    """Return the sum of a bill."""
    return sum(part.dollars for part in parts)

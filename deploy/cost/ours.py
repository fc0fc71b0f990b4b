"""Our bill: what ``deploy/aws`` makes, for a load. The sizes are its templates'; a test says so."""

from __future__ import annotations

import math
from typing import NamedTuple

from fibflow.deploy.cost.load import SESSIONS, Load
from fibflow.deploy.cost.predecessor import Part
from fibflow.deploy.cost.prices import HOURS, VALKEY, cdn, cost, fargate

#: Questions a second that a vCPU of a server answers, as measured (docs/benchmarks-serving.md): two workers
#: on two cores that they shared with a thousand users and Redis answered 884.
ANSWERS_A_VCPU = 400.0
#: WebSockets that a vCPU holds: a thousand on those two cores (likewise).
SOCKETS_A_VCPU = 500.0
#: Of that, what a server is loaded with: scaling begins at half.
LOADED = 0.5
#: GB of the lake for the predecessor's rows: all daily rows and six timeframes are 1.06 GB (likewise); with
#: raw files, minutes and old versions it is taken as 30 times that. An assumption.
LAKE_GB = 32.0
#: Of the feed's bytes, what a year of archived ticks takes in Parquet. An assumption.
ARCHIVED = 0.25
#: A month of all services' logs, GB. An assumption.
LOGS_GB = 5.0
#: Of Kinesis's unit of payload.
_UNIT = 25_000


class Size(NamedTuple):
    """A size of the templates.

    Attributes:
        name: of it.
        shards: of the stream.
        database, database_gb, zones: of PostgreSQL; zones is 2 where it stands by in another one.
        redis, redis_nodes: of the live store.
        servers, server: how many, at least, and (vCPUs, GB) of one.
        ingest: (vCPUs, GB).
        daily, daily_hours: (vCPUs, GB) of the evening's run, and how long it takes.
        endpoints: interface endpoints, in two zones each.
        nats: gateways.
        node, nodes: machines of the Kubernetes cluster, for Flink.
        dynamodb_rate: items a second that the stream may write, in each of two tables.
    """

    name: str
    shards: int
    database: str
    database_gb: int
    zones: int
    redis: str
    redis_nodes: int
    servers: int
    server: tuple[float, float]
    ingest: tuple[float, float]
    daily: tuple[float, float]
    daily_hours: float
    endpoints: int
    nats: int
    node: str
    nodes: int
    dynamodb_rate: float


SIZES = {
    size.name: size
    for size in (
        Size(
            name="try-out",
            shards=1,
            database="db.t4g.micro",
            database_gb=20,
            zones=1,
            redis="cache.t4g.small",
            redis_nodes=1,
            servers=1,
            server=(0.5, 2),
            ingest=(0.25, 1),
            daily=(1, 4),
            daily_hours=0.5,
            endpoints=0,
            nats=1,
            node="m7g.large",
            nodes=1,
            dynamodb_rate=0,
        ),
        Size(
            name="team",
            shards=2,
            database="db.t4g.small",
            database_gb=50,
            zones=1,
            redis="cache.t4g.medium",
            redis_nodes=1,
            servers=2,
            server=(1, 4),
            ingest=(0.5, 1),
            daily=(4, 16),
            daily_hours=0.5,
            endpoints=6,
            nats=1,
            node="m7g.large",
            nodes=1,
            dynamodb_rate=10,
        ),
        Size(
            name="market",
            shards=16,
            database="db.m7g.large",
            database_gb=200,
            zones=2,
            redis="cache.r7g.large",
            redis_nodes=2,
            servers=3,
            server=(4, 16),
            ingest=(1, 2),
            daily=(16, 64),
            daily_hours=2,
            endpoints=6,
            nats=2,
            node="m7g.2xlarge",
            nodes=4,
            dynamodb_rate=200,
        ),
    )
}


def servers_for(load: Load, size: Size) -> int:
    """Return how many servers hold the users' WebSockets and answer the questions that the CDN does not."""
    rate = load.users * load.questions * (1 - load.cached)
    vcpus = (rate / ANSWERS_A_VCPU + load.users / SOCKETS_A_VCPU) / LOADED
    return max(size.servers, math.ceil(vcpus / size.server[0]))


def bill(load: Load, size: Size) -> list[Part]:
    """Return what a load costs in a month, at a size of the templates."""
    busy = load.hours * 3_600
    servers = servers_for(load, size)
    standing = fargate(*size.server) + cost("fargate.disk", 40 * HOURS)
    written = 2 * size.dynamodb_rate * busy
    lake = LAKE_GB * load.rows / 22_609_541 + 12 * load.feed_gb * ARCHIVED
    # Three tables are committed every 5 s for a third of the day.
    commits = 3 * HOURS * 3_600 / 5 / 3
    return [
        Part(
            "live feed",
            fargate(*size.ingest) + cost("efs.gb", 1) + cost("efs.write", load.feed_gb),
            _task(size.ingest),
        ),
        Part("daily run", fargate(*size.daily, hours=size.daily_hours * SESSIONS), _task(size.daily)),
        Part("alerts, news", 2 * fargate(0.25, 1), "2 × 0.25 vCPU"),
        Part("servers", servers * standing, f"{servers} × {_task(size.server)}"),
        Part(
            "PostgreSQL",
            size.zones * (cost(f"rds.{size.database}", HOURS) + cost("rds.gb", size.database_gb)),
            f"{size.database}, {size.database_gb} GB" + (", in two zones" if size.zones > 1 else ""),
        ),
        Part(
            "S3",
            cost("s3.gb", lake) + cost("s3.put", 4 * commits) + cost("s3.get", 40 * commits),
            f"{lake:.0f} GB",
        ),
        Part(
            "Kinesis",
            cost("kinesis.shard", size.shards * HOURS) + cost("kinesis.put", load.feed_gb * 1e9 / _UNIT),
            f"{size.shards} shards" if size.shards > 1 else "1 shard",
        ),
        Part(
            "Flink on Kubernetes",
            cost("eks.cluster", HOURS) + size.nodes * (cost(f"ec2.{size.node}", HOURS) + cost("ebs.gp3", 50)),
            f"EKS, {size.nodes} × {size.node}",
        ),
        Part(
            "DynamoDB",
            cost("dynamodb.write", written) + cost("dynamodb.gb", 2),
            f"{size.dynamodb_rate:g} prices a second into two tables" if size.dynamodb_rate else "not used",
        ),
        Part(
            "Redis",
            VALKEY * size.redis_nodes * cost(f"redis.{size.redis}", HOURS),
            f"{size.redis_nodes} × {size.redis}, Valkey",
        ),
        Part(
            "load balancer",
            cost("balancer.hour", HOURS) + cost("balancer.unit", load.origin_gb),
            "a unit takes 1 GB an hour",
        ),
        Part("CloudFront", cdn(load.out_gb, load.requests), f"{load.out_gb:,.0f} GB"),
        Part(
            "network",
            size.nats * cost("nat.hour", HOURS)
            + cost("nat.gb", load.feed_gb)
            + cost("endpoint.hour", 2 * size.endpoints * HOURS),
            f"{size.nats} NAT, {size.endpoints} endpoints in two zones",
        ),
        Part(
            "notices, logs, secrets",
            cost("sns.publish", load.users * load.alerts * SESSIONS)
            + cost("logs.gb", LOGS_GB)
            + cost("secret", 6)
            + cost("key", 1),
            f"{LOGS_GB:g} GB of logs",
        ),
    ]


def _task(size: tuple[float, float]) -> str:
    vcpus, gb = size
    return f"{vcpus:g} vCPU, {gb:g} GB"

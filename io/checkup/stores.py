"""Redis and PostgreSQL: whether they answer, hold what this release expects, and keep time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from fibflow.io import submissions
from fibflow.io.checkup import clocks
from fibflow.io.checkup.findings import Finding, Wrong, failed, ok, warning
from fibflow.io.checkup.site import CONNECT_S, Site
from fibflow.io.checkup.streams import ago
from fibflow.io.liverecords import LAYOUT
from fibflow.io.liveredis import Connection, Patience
from fibflow.io.livestore import LiveStore
from fibflow.io.postgresql import migrate
from fibflow.io.postgresql.session import Connection as PgConnection
from fibflow.io.postgresql.session import session
from fibflow.io.storage import Storage

_LEAST_REDIS = (6, 2)
_FULL = 0.9
#: A delivery whose turn came so long ago is worth a look, and an error, seconds.
WARNS_S, FAILS_S = 60.0, 600.0
_STATEMENT_MS = 10_000


def live_store(site: Site) -> Iterator[Finding]:
    """Look at Redis and at the live store in it."""
    assert site.redis is not None
    meta = LiveStore(site.redis, site.prefix).key("meta")
    connection = Connection(site.redis, CONNECT_S, Patience(bound_s=0.0))

    def question(client: redis.Redis) -> tuple[Any, ...]:
        # Asked once before, so that the time is not that of connecting.
        client.ping()
        before = site.now()
        seconds, micros = client.time()
        after = site.now()
        pipe: Any = client.pipeline(transaction=False)
        info, found = pipe.info().hgetall(meta).execute()
        return before, seconds + micros / 1e6, after, info, found

    try:
        before, theirs, after, info, found = connection.ask(question)
    finally:
        connection.close()
    yield _server(info)
    yield _memory(info)
    yield _persistence(info)
    yield _marker({name.decode(): value.decode() for name, value in found.items()}, info)
    yield clocks.compared("Redis", theirs, before, after)


def _server(info: dict[str, Any]) -> Finding:
    version = str(info.get("redis_version", "0"))
    shown = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    if tuple(map(int, version.split(".")[:2])) < _LEAST_REDIS:
        return failed("redis", f"it is {shown}", "use Redis 6.2 or later, or Valkey")
    if info.get("role") != "master":
        return failed("redis", f"{shown} answers as a {info.get('role')}", "name the primary in REDIS_URL")
    return ok("redis", f"{shown} answers, up for {ago(int(info.get('uptime_in_seconds', 0)))}")


def _memory(info: dict[str, Any]) -> Finding:
    name, policy = "redis memory", info.get("maxmemory_policy", "unknown")
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    told = f"{used / 1e6:,.0f} MB of {f'{most / 1e6:,.0f} MB' if most else 'no limit'}, policy {policy}"
    if policy != "noeviction":
        return failed(
            name, told, "set maxmemory-policy noeviction: prices and bars would vanish one by one, unseen"
        )
    if most and used > _FULL * most:
        return warning(
            name, told, "raise maxmemory, or keep fewer closed bars: full, it refuses what is written"
        )
    return ok(name, told)


def _persistence(info: dict[str, Any]) -> Finding:
    name = "redis persistence"
    if info.get("loading"):
        return failed(name, "it is loading what it kept", "wait until it has")
    if info.get("rdb_last_bgsave_status", "ok") != "ok" or info.get("aof_last_write_status", "ok") != "ok":
        return failed(
            name,
            "its last write to disk failed",
            "make room on its disk: until then it refuses what is written",
        )
    kept = (
        "an append-only file" if info.get("aof_enabled") else "snapshots, or nothing: the job fills it again"
    )
    return ok(name, f"it keeps {kept}")


def _marker(known: dict[str, str], info: dict[str, Any]) -> Finding:
    name = "live store"
    if not known:
        return warning(name, "it is empty", "start the job with --redis, or correct --prefix")
    if known.get("layout") != str(LAYOUT):
        return failed(
            name,
            f"it has layout {known.get('layout')}, this release's is {LAYOUT}",
            "run one release of the job and the server, or use another prefix",
        )
    marker = f"{known.get('generation', '')}/{info.get('run_id', '')}"
    told = f"generation {known.get('generation')}, {known.get('buckets')} buckets"
    if known.get("filled") != marker:
        return warning(
            name,
            f"{told}; closed bars were not filled since Redis started",
            "the job fills them within a minute: see whether it runs (pipelines.jobs list)",
        )
    return ok(name, f"{told}, closed bars are filled")


# PostgreSQL ------------------------------------------------------------------------------------------------

# Of an outbox that is long nobody needs the exact length.
WAITING = """
SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(due)), 0)::float8 FROM (
    SELECT due FROM alert_deliveries WHERE state = 'pending' ORDER BY destination, due LIMIT 100000
) AS each
"""
_DEAD = "SELECT count(*) FROM (SELECT FROM alert_deliveries WHERE state = 'dead' LIMIT 10000) AS each"
_ACTIVE = "SELECT count(*) FROM alerts WHERE state = 'active'"


def postgresql(site: Site) -> Iterator[Finding]:
    """Look at PostgreSQL, its schema and its clock."""
    assert site.postgres is not None
    with session(site.postgres, program="fibflow doctor") as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        version = cursor.fetchone()[0]
        before = site.now()
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8, pg_is_in_recovery()")
        after = site.now()
        theirs, is_replica = cursor.fetchone()
    if is_replica:
        raise Wrong(f"PostgreSQL {version} is a replica", "name the primary in DATABASE_URL")
    yield ok("postgresql", f"PostgreSQL {version} answers")
    yield clocks.compared("PostgreSQL", theirs, before, after)
    state = migrate.current(site.postgres)
    if state.pending:
        yield failed(
            "postgresql schema",
            f"it is at revision {state.revision or 'none'}, this release's is {state.head}",
            "run pipelines.database upgrade",
        )
    else:
        yield ok("postgresql schema", f"revision {state.revision}, this release's")


def alerts(site: Site) -> Iterator[Finding]:
    """Look at the outbox, and whether a job holds prices against the alerts."""
    assert site.postgres is not None
    with session(site.postgres, program="fibflow doctor") as connection:
        count, overdue = one(connection, WAITING)
        (dead,) = one(connection, _DEAD)
        (active,) = one(connection, _ACTIVE)
    told = f"{count:,} deliveries wait"
    if overdue > WARNS_S:
        judged = failed if overdue > FAILS_S else warning
        yield judged(
            "alerts outbox",
            f"{told}, one of them for {ago(overdue)} past its turn",
            "see whether pipelines.notify runs and is healthy (docs/notify.md)",
        )
    elif dead:
        yield warning(
            "alerts outbox",
            f"{told}, and {dead:,} were given up",
            "pipelines.notify dead lists them, replay sends them again",
        )
    else:
        yield ok("alerts outbox", f"{told}, none of them past its turn")
    yield _watched(site, int(active))


def one(connection: PgConnection, statement: str) -> tuple[Any, ...]:
    """Return the one row of a statement that may not take long."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {_STATEMENT_MS}")
        cursor.execute(statement)
        return tuple(cursor.fetchone())


def _watched(site: Site, active: int) -> Finding:
    """Return whether the live job was submitted with alerts."""
    name, told = "alerts job", f"{active:,} alerts are active"
    if not active:
        return ok(name, told)
    if site.lake is None or not site.job:
        return ok(name, f"{told}; whether a job knows them is seen with --lake and --job")
    submitted = submissions.read(Storage(site.lake, site.lake_aws()), site.job)
    if submitted is None:
        return warning(
            name, f"{told}, and the lake knows no job {site.job}", "start it with pipelines.stream"
        )
    if not any(word == "--alerts" or word.startswith("--alerts=") for word in submitted.argv):
        return failed(
            name,
            f"{told}, and job {site.job} was submitted without --alerts: nothing fires",
            f"pipelines.jobs stop {site.job}, then resume {site.job} --alerts URL",
        )
    return ok(name, f"{told}, and job {site.job} was submitted with --alerts")

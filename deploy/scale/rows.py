"""The lines of the document's tables: a part of the system each, what was measured, and what follows."""

from __future__ import annotations

from typing import NamedTuple

from fibflow.deploy.scale import model
from fibflow.deploy.scale.model import GROWN, MANY_SYMBOLS, READERS, ROWS, SHARDS, SYMBOLS, value

M, A, U = "measured", "arithmetic", "unknown"


class Row(NamedTuple):
    """A line of a table.

    Attributes:
        part: of the system.
        now: what was measured, and where.
        then: what follows.
        kind: ``M``, ``A`` or ``U``.
        breaks: what gives way first there.
        knob: what moves it.
    """

    part: str
    now: str
    then: str
    kind: str
    breaks: str
    knob: str


def tables() -> tuple[list[Row], list[Row], list[Row]]:
    """Return the lines of the tables: for more symbols, for the tape, for more readers."""
    mean = model.mean_rate()
    return _of_symbols(), _of_tape(mean, model.peak_rate()), _of_readers(mean)


def _of_symbols() -> list[Row]:
    session = value("load a session") + value("batch a session")
    return [
        Row(
            "stream, catching up",
            f"{value('ticks'):,.0f} trades a second, {value('cpu'):g} µs of CPU each",
            f"{value('ticks of 20,000'):,.0f}, {value('cpu of 20,000'):g} µs",
            M,
            "cores",
            "task managers, `--parallelism`, shards",
        ),
        Row(
            "stream's checkpoint",
            f"{value('state'):g} MB",
            f"{value('state of 20,000'):g} MB in {value('checkpoint of 20,000'):.1f} s",
            M,
            "nothing near",
            "checkpoint interval",
        ),
        Row(
            "savepoint in mid-session",
            f"{value('savepoint'):g} bytes a symbol",
            f"{value('savepoint') * MANY_SYMBOLS / 1e6:.1f} MB",
            A,
            "nothing near",
            "timeframes",
        ),
        Row(
            "closed bars in Redis",
            f"{value('closed bar'):g} bytes each",
            f"{model.redis_gb(SYMBOLS):.1f} to {model.redis_gb(MANY_SYMBOLS):.1f} GB",
            A,
            "memory of the node: it refuses writes, and the job waits",
            "`keep`, timeframes, the node",
        ),
        Row(
            "a minute closes, in Redis",
            f"{value('closed bars'):,.0f} bars a second",
            f"{model.closing(SYMBOLS):.2f} to {model.closing(MANY_SYMBOLS):.2f} s where all "
            f"{model.TIMEFRAMES} timeframes close",
            A,
            "that much delay, at the top of an hour",
            "timeframes",
        ),
        Row(
            "history, six timeframes",
            f"{ROWS:,} days in {value('batch'):g} s",
            f"{ROWS * GROWN:,.0f} in {value('batch') * GROWN:.0f} s",
            A,
            "unknown: memory was not looked at beyond it",
            "`--workers`",
        ),
        Row(
            "days and their bars",
            f"{value('lake'):g} MB",
            f"{value('lake') * GROWN / 1e3:.1f} GB",
            A,
            "nothing near",
            "-",
        ),
        Row(
            "an evening: one session more",
            f"{session:.1f} s",
            f"at most {session * GROWN:.0f} s",
            A,
            "the vendor's calls take longer: one a session, whatever the symbols",
            "`--rate`",
        ),
        Row(
            "PostgreSQL, an evening",
            f"{value('upsert'):g} s for a million days",
            f"{model.upsert(MANY_SYMBOLS):.1f} s",
            A,
            "nothing near",
            "-",
        ),
        Row(
            "DynamoDB, 200 items a second",
            "the bound is the default",
            f"a price is up to {MANY_SYMBOLS / 200:.0f} s old, with ticks {MANY_SYMBOLS / 100:.0f} s",
            A,
            "the age of prices",
            "`--dynamodb-rate`, which is paid for",
        ),
    ]


def _of_tape(mean: float, peak: float) -> list[Row]:
    day = model.trades_a_day()
    stop = mean * 600
    live = value("live cpu of workers") + value("live cpu of Flink")
    return [
        Row(
            "ingest",
            f"{value('ingest'):,.0f} messages a second in one process",
            f"{peak / value('ingest'):.0%} of it in the busiest second",
            A,
            "one connection, one process: it is not divided",
            "several with lists of their own, if the vendor gives more connections",
        ),
        Row(
            "Kinesis, mean",
            f"{value('shard'):g} MB a second and shard (cited)",
            f"{model.shards_for(mean):.1f} shards",
            A,
            "nothing near",
            "shards",
        ),
        Row(
            "Kinesis, busiest second",
            "likewise",
            f"{model.shards_for(peak):.0f} shards to take it at once; with {SHARDS} it waits "
            f"{model.wait_in_spool(peak, SHARDS):.1f} s in the spool",
            A,
            "delay; nothing is lost",
            "shards, or on demand",
        ),
        Row(
            "stream, mean, 20,000 symbols",
            f"{live:.1f} µs a trade, live at 20,000 a second",
            f"{model.job_cpu(mean, MANY_SYMBOLS):.1f} cores",
            A,
            "cores",
            "task managers, `--parallelism`",
        ),
        Row(
            "stream, busiest second",
            f"{value('ticks of 20,000'):,.0f} a second on two cores",
            f"{model.behind(peak):.1f} s until two cores have caught up",
            A,
            "delay: bars are late by that, none is wrong",
            "task managers",
        ),
        Row(
            "stream, after a stop of 10 minutes",
            "likewise",
            f"{stop:,.0f} trades: {model.behind(stop):.0f} s on two cores; reading them takes "
            f"{model.megabytes(stop) / (SHARDS * 2 * value('shard')):.0f} s from {SHARDS} shards",
            A,
            "delay",
            "task managers, shards",
        ),
        Row(
            "the thread that commits",
            f"{value('committing'):g} s for 3,946,900 trades",
            f"is never idle at {model.commits_ceiling():,.0f} a second",
            A,
            "it is one key a table: more cores do not help",
            "commit interval",
        ),
        Row(
            "daily run: temporary files",
            f"{value('tick on disk'):g} bytes a trade",
            f"{model.disk_of_reconcile(day):.0f} GB",
            A,
            "the task's disk (100 GiB)",
            "`--staging`",
        ),
        Row("daily run: time", "not measured at this size", "", U, "", "`--workers`"),
    ]


def _of_readers(mean: float) -> list[Row]:
    processes = model.servers_for(READERS) * model.SERVER_PROCESSES
    some, all_of_them = model.minute_gb(READERS)
    cpu, rate = model.push_cpu(READERS), model.origin_rate(READERS)
    return [
        Row(
            "servers",
            f"{value('sockets'):,.0f} on two cores, p99 {value('push delay'):g} ms from Redis to client",
            f"{model.servers_for(READERS):,.0f} of {model.SERVER_CPUS} vCPU, half loaded at that density",
            A,
            f"the template's {model.MOST_SERVERS}",
            "`MostServers` of the size",
        ),
        Row(
            "CPU of a minute",
            f"{value('push cpu'):.0f} ms",
            f"at most {cpu:.0f} CPU seconds; {cpu * 2:.0f} cores to be out within half a second",
            A,
            "delay",
            "servers",
        ),
        Row(
            "memory",
            f"{value('socket memory'):.0f} MB with all processes",
            f"at most {value('socket memory') * READERS / value('sockets') / 1e3:.0f} GB over all servers",
            A,
            "slow clients: up to 32 MB each until they are cut off",
            "`queue`",
        ),
        Row(
            "Redis: `push`, all symbols at each push",
            f"{value('push entry'):g} kB an entry of {model.BUCKETS} buckets",
            f"{model.push_mb(MANY_SYMBOLS):.0f} MB a second and process, "
            f"{model.push_mb(MANY_SYMBOLS) * processes / 1e3:.0f} GB to {processes:.0f} processes",
            A,
            f"the node's network ({model.REDIS_GB_S:.2f} GB a second for a while, from memory): "
            f"{model.processes_of_redis(MANY_SYMBOLS):.0f} processes",
            "timeframes, pace, processes a server",
        ),
        Row(
            "Redis: `push`, the tape's mean rate",
            "likewise",
            f"at most {model.push_mb(MANY_SYMBOLS, mean):.1f} MB a second and process, "
            f"{model.push_mb(MANY_SYMBOLS, mean) * processes / 1e3:.1f} GB to {processes:.0f}",
            A,
            f"{model.processes_of_redis(MANY_SYMBOLS, mean):.0f} processes",
            "likewise",
        ),
        Row(
            "out to readers, a minute",
            f"{model.BAR_BYTES} bytes a bar (assumption)",
            f"{some:.2f} GB to those with {model.FOLLOWED} symbols, {all_of_them:.0f} GB to those with all",
            A,
            "who follows all costs a thousand times as much",
            "the rate of keys, `queue`",
        ),
        Row(
            "questions",
            f"{value('answers'):g} ms of CPU each",
            f"{rate:,.0f} a second past CloudFront: {model.answer_cpu(READERS):.0f} cores",
            A,
            "cores",
            "servers, CloudFront's hit rate",
        ),
        Row("reconnecting at once", "not measured", "", U, "", "`stop-within`, servers replaced one by one"),
    ]

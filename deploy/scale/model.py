"""Arithmetic from what was measured to larger loads. It is straight lines: what bends them is not in it."""

from __future__ import annotations

from fibflow.deploy.cost import ours
from fibflow.deploy.scale.figures import CITED, MEASURED

#: What the benchmarks had, and where this goes.
SYMBOLS, ROWS = 5_350, 22_609_541
MANY_SYMBOLS, READERS = 20_000, 100_000
GROWN = MANY_SYMBOLS / SYMBOLS
#: Sessions of 2023, and seconds of regular hours.
SESSIONS_OF_2023, REGULAR_S = 250, 23_400
#: All three tapes in their busiest second, beside tape C alone. An assumption: they need not coincide.
TAPES = 2.0
#: Buckets, pushes a second, and timeframes of the stream's defaults.
BUCKETS, PUSHES_A_SECOND, TIMEFRAMES, KEPT = 16, 4, 8, 500
#: What a reader does: symbols followed, bytes of a minute's bar, the part that follows all. Assumptions.
FOLLOWED, BAR_BYTES, OF_ALL = 20, 150, 0.02
#: Questions a second of a reader, and the part that CloudFront answers: as in the cost model.
QUESTIONS, CACHED = 0.2, 0.7
#: The most servers that the size `market` of the templates makes, the cores and processes of one.
MOST_SERVERS, SERVER_CPUS, SERVER_PROCESSES = 20, 4, 4
SHARDS = ours.SIZES["market"].shards
#: GB a second that a cache.r7g.large gives for a while: 12.5 Gbit/s, from memory.
REDIS_GB_S = 12.5 / 8


def value(name: str) -> float:
    """Return a figure's number."""
    return (MEASURED.get(name) or CITED[name]).value


# The tape --------------------------------------------------------------------------------------------------


def trades_a_day() -> float:
    """Return the trades of a day now: those of 2023, grown as the shares have."""
    then = value("shares of 2023") / SESSIONS_OF_2023
    return value("trades a day") * value("shares a day") / then


def mean_rate() -> float:
    """Return trades a second, if all of a day fell into regular hours."""
    return trades_a_day() / REGULAR_S


def peak_rate() -> float:
    """Return messages of the busiest second of all tapes."""
    return value("peak of tape C") * TAPES


def megabytes(trades: float) -> float:
    """Return the bytes of messages, MB."""
    return trades * value("message") / 1e6


def shards_for(rate: float) -> float:
    """Return the shards that take a rate without anything waiting in the spool."""
    return megabytes(rate) / value("shard")


def wait_in_spool(burst: float, shards: int) -> float:
    """Return for how many seconds one second's messages wait until shards have taken all of them."""
    return max(0.0, megabytes(burst) / (shards * value("shard")) - 1)


def behind(trades: float) -> float:
    """Return seconds until two cores have caught up with trades of 20,000 symbols."""
    return trades / value("ticks of 20,000")


def job_cpu(rate: float, symbols: int) -> float:
    """Return cores that Flink and its workers need live.

    What a trade costs, as when catching up; and what goes on whatever comes (bundles, pushes, commits), which
    is the rest of what was measured live, taken to grow with the symbols.
    """
    job = (value("cpu of workers") + value("cpu of Flink")) / value("cpu")
    each = job * (value("cpu") if symbols <= SYMBOLS else value("cpu of 20,000"))
    live = value("live cpu of workers") + value("live cpu of Flink")
    always = (live - job * value("cpu")) * 20_000
    return (rate * each + always * symbols / SYMBOLS) / 1e6


def commits_ceiling() -> float:
    """Return trades a second at which the one thread that commits is never idle."""
    return 3_946_900 / value("committing")


def disk_of_reconcile(trades: float) -> float:
    """Return GB of temporary files of a session's trades."""
    return trades * value("tick on disk") / 1e9


# Symbols ---------------------------------------------------------------------------------------------------


def redis_gb(symbols: int) -> float:
    """Return GB of closed bars in Redis."""
    return symbols * TIMEFRAMES * KEPT * value("closed bar") / 1e9


def closing(symbols: int) -> float:
    """Return seconds in which Redis gets a bar of each timeframe of all symbols."""
    return symbols * TIMEFRAMES / value("closed bars")


def upsert(rows: float) -> float:
    """Return seconds to bring days into PostgreSQL."""
    return rows / 1e6 * value("upsert")


# Readers ---------------------------------------------------------------------------------------------------


def push_cpu(readers: float) -> float:
    """Return CPU seconds to hand out a minute; the part that is done once a process is counted too often."""
    return readers / value("sockets") * value("push cpu") / 1e3


def servers_for(readers: float) -> float:
    """Return servers that hold WebSockets at half their load."""
    return readers / ours.SOCKETS_A_VCPU / ours.LOADED / SERVER_CPUS


def sockets_of(servers: float) -> float:
    """Return WebSockets that servers hold at half their load."""
    return servers * SERVER_CPUS * ours.SOCKETS_A_VCPU * ours.LOADED


def bytes_a_symbol() -> float:
    """Return bytes of a push when all bars of a symbol change."""
    return value("push entry") * 1e3 * BUCKETS / SYMBOLS


def push_mb(symbols: int, rate: float | None = None) -> float:
    """Return MB a second that one process of the server reads.

    Args:
        symbols: of the stream.
        rate: trades a second, each of which changes the bars of one symbol; None: all change at each push.
    """
    most = symbols * PUSHES_A_SECOND
    return bytes_a_symbol() * (most if rate is None else min(most, rate)) / 1e6


def processes_of_redis(symbols: int, rate: float | None = None) -> float:
    """Return how many processes one node of Redis feeds."""
    return REDIS_GB_S * 1e3 / push_mb(symbols, rate)


def minute_gb(readers: float) -> tuple[float, float]:
    """Return GB that a minute's bars are: to who follows some symbols, and to who follows all."""
    some = readers * (1 - OF_ALL) * FOLLOWED * BAR_BYTES / 1e9
    return some, readers * OF_ALL * MANY_SYMBOLS * BAR_BYTES / 1e9


def origin_rate(readers: float) -> float:
    """Return questions a second that come through to the servers."""
    return readers * QUESTIONS * (1 - CACHED)


def answer_cpu(readers: float) -> float:
    """Return cores that answer them."""
    return origin_rate(readers) * value("answers") / 1e3

"""What was measured, as the repository's documents have it, and what others have published.

Each measured figure names its document and words that stand there. Benchmarks are run again now and then: a
test says which figure the documents no longer have.
"""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """A number.

    Attributes:
        value: the number.
        what: it is of, with its unit.
        source: a document below ``docs/``, or an address.
        words: that stand in the document; empty for what others published.
    """

    value: float
    what: str
    source: str
    words: str = ""


_STREAM, _SERVING = "benchmarks-stream.md", "benchmarks-serving.md"

#: Two cores of one machine run everything, the emulators and the benchmark too, where nothing else is said.
MEASURED = {
    "ticks": Figure(
        136_291,
        "trades a second, whole graph, 5,350 symbols, two cores",
        _STREAM,
        "| 5,350 symbols, parallelism 2 | 136,291 | 1.00 | 144,039 | 11.5 | 37.6 MB | 2,197 |",
    ),
    "ticks of 20,000": Figure(
        90_707,
        "trades a second, likewise, 20,000 symbols",
        _STREAM,
        "| 20,000 symbols, parallelism 2 | 90,707 | 0.67 | 99,729 | 17.0 | 86.5 MB | 3,423 |",
    ),
    "cpu": Figure(11.5, "µs of CPU a trade, all processes, 5,350 symbols", _STREAM, "144,039 | 11.5 |"),
    "cpu of 20,000": Figure(17.0, "µs of CPU a trade, likewise, 20,000 symbols", _STREAM, "99,729 | 17.0 |"),
    "cpu of workers": Figure(6.22, "of these in Python workers", _STREAM, "| 24.6 | 6.22 |"),
    "cpu of Flink": Figure(2.76, "and in Flink's task manager", _STREAM, "| 10.9 | 2.76 |"),
    "live cpu of workers": Figure(
        24.15, "µs of CPU a trade in Python workers, live at 20,000 a second", _STREAM, "| 29.0 | 24.15 |"
    ),
    "live cpu of Flink": Figure(7.71, "and in Flink's task manager", _STREAM, "| 9.2 | 7.71 |"),
    "committing": Figure(
        4.0,
        "seconds of the thread that commits, for 3,946,900 trades",
        _STREAM,
        "`CommitFiles OneKey` | 4.0",
    ),
    "state": Figure(37.6, "MB of a checkpoint, 5,350 symbols", _STREAM, "| 11.5 | 37.6 MB |"),
    "state of 20,000": Figure(86.5, "MB of a checkpoint, 20,000 symbols", _STREAM, "| 17.0 | 86.5 MB |"),
    "checkpoint of 20,000": Figure(3.423, "seconds that it took", _STREAM, "| 86.5 MB | 3,423 |"),
    "savepoint": Figure(724, "bytes of a savepoint a symbol, in mid-session", _STREAM, "(724 B a symbol)"),
    "ingest": Figure(
        300_000,
        "messages a second through one process of ingest, 0.9 of a core",
        "ingest.md",
        "300,000 a second, with 0.9 of a core",
    ),
    "message": Figure(
        110, "bytes of a trade's message", "ingest.md", "peak of 100,000 messages a second (11 MB)"
    ),
    "batch": Figure(
        7.1,
        "seconds of batch over 22,609,541 days, six timeframes",
        "benchmarks.md",
        "| by_symbol/exchange | fibflow | 7.1 ",
    ),
    "lake": Figure(949, "MB of days and their bars", "benchmarks.md", "A lake of 949 MB"),
    "load a session": Figure(1.6, "seconds to land a session", "benchmarks.md", "| load of session 2 | 1.6"),
    "batch a session": Figure(
        1.6, "seconds to make its bars", "benchmarks.md", "| batch of session 1 | 1.6 | 16.7 |"
    ),
    "answers": Figure(1.86, "ms of the server's CPU a question", _SERVING, "the server's 1.86 ms a question"),
    "sockets": Figure(1_000, "WebSockets on two cores", _SERVING, "1,000 clients at `/stocks`"),
    "push cpu": Figure(
        246.65, "ms of the server's CPU for a minute of 5,350 symbols to them", _SERVING, "246.65 ms a minute"
    ),
    "socket memory": Figure(429, "MB of all processes with them", _SERVING, "| sockets | 4 | 429 MB |"),
    "push delay": Figure(
        173, "ms from Redis to a client, p99", _SERVING, "| Redis to client, all clients | 90.8 | 125 | 173 |"
    ),
    "closed bar": Figure(100, "bytes of a closed bar in Redis", "live-store.md", "about 90 to 100 bytes"),
    "closed bars": Figure(
        200_000, "closed bars a second into Redis", "live-store.md", "in 0.21 s (200,000 a second)"
    ),
    "push entry": Figure(
        230, "kB of an entry of `push`, all bars of one of 16 buckets", "live-store.md", "an entry has 230 kB"
    ),
    "upsert": Figure(
        9.3, "seconds for a million days into PostgreSQL", "postgres.md", "| first upsert | 9.3"
    ),
    "tick on disk": Figure(
        150, "bytes of temporary files a trade, of the daily run", "reconcile.md", "about 150 bytes a tick"
    ),
}

_SNAPSHOT = "finra.org/media-center/reports-studies/2024-industry-snapshot/market-data"
_FINRA = f"FINRA, Industry Snapshot 2024 ({_SNAPSHOT})"
_HOW_MUCH = "how-much-data-is-streamed-through-polygons-websockets"
CITED = {
    "trades a day": Figure(70_977_966, "trades in NMS stocks a day, mean of 2023", f"{_FINRA}, 3.1.1.2"),
    "shares of 2023": Figure(2_760_416_311_642, "shares traded in 2023", f"{_FINRA}, 3.1.1.1"),
    "shares a day": Figure(
        17.6e9,
        "shares a day, mean of 2025",
        "Cboe's review of 2025, reprinted (themoneymechanics.com/?p=20799)",
    ),
    "peak of tape C": Figure(
        119_536,
        "messages in the busiest second of 2024 (to July), trades of Nasdaq's listings alone (UTDF)",
        "UTP Vendor Alert 2024-11 (nasdaqtrader.com/TraderNews.aspx?id=UTP2024-11)",
    ),
    "vendor's mean": Figure(
        2_000,
        "messages of trades a second, mean, each with one trade or several",
        f"the vendor (polygon.io/knowledge-base/article/{_HOW_MUCH})",
    ),
    "shard": Figure(
        1.0,
        "MB a second that a shard takes, and 2 MB that it gives",
        "AWS (docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html)",
    ),
}

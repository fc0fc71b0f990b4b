"""The document: ``docs/scale.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fibflow.deploy.cost import ours
from fibflow.deploy.scale import model
from fibflow.deploy.scale.figures import CITED, MEASURED, Figure
from fibflow.deploy.scale.model import GROWN, MANY_SYMBOLS, SHARDS, value
from fibflow.deploy.scale.rows import Row, tables

_HEAD = """# How far it goes

Made by `python -m deploy.scale --write`; do not edit. The arithmetic is `deploy/scale/model.py`.

What was measured is one machine with two cores, on which the emulators and the benchmark ran too. Beyond it
there is only arithmetic, in straight lines. Each figure says what it is:

- **measured**: here, in the document that is named; a test holds the two together.
- **cited**: published by others.
- **arithmetic**: from these, by the model. An assumption in it is named.
- **unknown**: nobody has looked.

**Nothing of this page was run on AWS, nor with more than one task manager.** That the work of a stream falls
into buckets, and that of servers into processes, is by design; that two machines do twice as much is not
measured. With `--parallelism 2` in place of 1, on the same two cores, nothing was gained: both were busy.

"""
_FIRST = """## What breaks first

1. **Readers.** The size `market` of the templates makes {most} servers at most, which hold {held:,.0f}
   WebSockets at the density that was tried, half loaded (arithmetic). Raise `MostServers` of the size.
2. **Redis's network**, with more servers: every process of every server reads all of `push`. With 20,000
   symbols that all move at each push one node feeds {full:,.0f} processes, at the tape's mean rate
   {mean:,.0f} (arithmetic). Fewer timeframes and a longer pace make the stream smaller; one follower a server
   in place of one a process would divide it by {processes}: **not built**, as is reading from replicas.
3. **The spool, in the tape's busiest second**: {shards} shards take {took:.0f} MB a second, and that second
   may bring {came:.0f} (arithmetic). It waits for {wait:.1f} s, and nothing is lost. Shards are the knob.
4. **Redis's memory**, with 20,000 symbols: {redis:.1f} GB of closed bars (arithmetic). `keep`.
5. The stream itself is last: {cpu:.1f} cores at the tape's mean rate (arithmetic); the size `market` has 32.

"""
_SYMBOLS = """## 20,000 symbols

{times:.2f} times the symbols of the benchmarks, at the same rate of trades, or their minutes.

"""
_TAPE = """## The whole US trade tape

| | | |
|---|---|---|
| trades a day, 2023 | {day:,.0f} | cited: {finra} |
| shares a day, 2023 and 2025 | {old:.1f} and {new:.1f} thousand million | cited |
| trades a day, 2025 | {now:,.0f} | arithmetic: a trade is as large as in 2023, an assumption |
| a second, if all came in regular hours | {mean:,.0f} | arithmetic |
| the vendor's mean, a second | {vendor:,.0f} messages | cited; each holds one trade or several |
| busiest second of tape C | {peak_c:,.0f} | cited: {utp} |
| busiest second of all tapes | {peak:,.0f} | arithmetic: twice that, an assumption |
| busiest minute | | unknown |

A message of {message:.0f} bytes makes {gb:.1f} GB a day, {mb:.2f} MB a second in the mean, and {burst:.0f} MB
in the busiest second (arithmetic).

"""
_READERS = """## 100,000 WebSocket readers

Each follows {followed} symbols' minutes, and {of_all:.0%} of them all {many:,} (assumptions; the benchmark's
clients do likewise). CloudFront carries WebSockets and caches none of them; of questions it answers
{cached:.0%} (an assumption of [the cost model](cost.md)).

"""
_UNKNOWN = """## What nobody knows

- How many WebSockets a vCPU holds. {density:.0f} is what was tried: the server used {used:.0f} ms of CPU
  a minute for all of them together, so the limit is further away, and fewer servers may do.
- Whether a stream on several task managers does as much more as they have cores. Keys are buckets
  ({buckets}, fixed for a job's life), so {buckets} is also the most that the kernel can be spread over;
  `--parallelism` goes no higher than the lanes.
- How the real tape is spread: busy symbols share a bucket with others, and a bucket is worked on by one core.
  The benchmark's tape is made up.
- The daily run's time for a session of {trades:,.0f} trades: its disk is known, its speed is not.
- A crowd that comes back: 100,000 clients that reconnect and subscribe at once after an upgrade.
- What a load balancer, CloudFront and Redis do near their limits, and their quotas in a new account.
- How a day of the whole tape reads before it is compacted: small files come by the commit, whatever they
  carry, and compaction is nightly.

## The figures

| measured | | in |
|---|---|---|
"""


def render() -> str:
    """Return the document."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    mean, peak = model.mean_rate(), model.peak_rate()
    of_symbols, of_tape, of_readers = map(_table, tables())
    yield _HEAD
    yield _FIRST.format(
        most=model.MOST_SERVERS,
        held=model.sockets_of(model.MOST_SERVERS),
        full=model.processes_of_redis(MANY_SYMBOLS),
        mean=model.processes_of_redis(MANY_SYMBOLS, mean),
        processes=model.SERVER_PROCESSES,
        shards=SHARDS,
        took=SHARDS * value("shard"),
        came=model.megabytes(peak),
        wait=model.wait_in_spool(peak, SHARDS),
        redis=model.redis_gb(MANY_SYMBOLS),
        cpu=model.job_cpu(mean, MANY_SYMBOLS),
    )
    yield _SYMBOLS.format(times=GROWN)
    yield of_symbols
    yield _TAPE.format(
        day=value("trades a day"),
        finra=CITED["trades a day"].source,
        old=value("shares of 2023") / model.SESSIONS_OF_2023 / 1e9,
        new=value("shares a day") / 1e9,
        now=model.trades_a_day(),
        mean=mean,
        vendor=value("vendor's mean"),
        peak_c=value("peak of tape C"),
        utp=CITED["peak of tape C"].source,
        peak=peak,
        message=value("message"),
        gb=model.megabytes(model.trades_a_day()) / 1e3,
        mb=model.megabytes(mean),
        burst=model.megabytes(peak),
    )
    yield of_tape
    yield _READERS.format(
        followed=model.FOLLOWED, of_all=model.OF_ALL, many=MANY_SYMBOLS, cached=model.CACHED
    )
    yield of_readers
    yield _UNKNOWN.format(
        density=ours.SOCKETS_A_VCPU,
        used=value("push cpu"),
        buckets=model.BUCKETS,
        trades=model.trades_a_day(),
    )
    yield from (_figure(figure, f"[{figure.source}]({figure.source})") for figure in MEASURED.values())
    yield "\n| cited | | by |\n|---|---|---|\n"
    yield from (_figure(figure, figure.source) for figure in CITED.values())


def _figure(figure: Figure, source: str) -> str:
    return f"| {figure.value:,.15g} | {figure.what} | {source} |\n"


def _table(rows: Sequence[Row]) -> str:
    lines = ["| | measured | then | is | gives way first | knob |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n\n"

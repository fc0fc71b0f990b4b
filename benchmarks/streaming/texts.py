"""What the page in ``docs/`` says around its tables; ``report`` puts the values in."""

HEAD = """# Benchmarks of the live pipeline

Made by `make bench-stream`{on}; do not edit. One machine runs all of it: Flink's job and task managers,
Python workers, Redis, the emulator of Kinesis (moto), Beam's job server, and the benchmark itself. Speed is
told as ratios within one run, for figures of another machine differ; the load averages say what else there
was to do.

The trades are synthetic and seeded (`benchmarks/streaming/tapes.py`): messages `T` as on the vendor's
socket, in time order, 500 a record, in {shards} shards. The emulator has no quotas, so the source's limit
of 2 MB a second and shard is off.
"""

STAGES = """## Catching up

{ticks} trades of {symbols} symbols wait in the stream, {density}. A job with a part of the graph reads them
all, with parallelism {parallelism} and checkpoints every {checkpoint:g} s. Measured is from the first table
of ticks that leaves the parser to the last thing done for the last tick: its last bar made, or Redis's last
write. The first table's ticks are not counted; the job's start and the first read are not in the time. Then
a heartbeat ends the session, outside the measurement, and a run counts only if every tick was parsed, none
was refused or late, and as many final bars came out as the same kernel makes of the same ticks at once.

*Behind the parser* leaves the first and the last tenth of the ticks out. The clock stops before the lake's
last commit, for rows wait there for their file and the file for its commit: how much was in files by then,
and when all was visible, is below the table. De-duplication is part of the kernel, and no option leaves it
out: the profile says what it costs.
"""

GROWTH = """## Growth

The whole graph, measured as above; ratios are to the first row. All of it shares the same {cores} cores, so
twice the parallelism cannot be twice as fast.
"""

LATENCY = """## Live

{rate} trades a second of {symbols} symbols for {seconds:g} s (after {warm:g} s that do not count), the
whole graph. A process of its own puts records of 500 trades, each trade stamped with the clock when its
record is put. A reader follows the live store's `push`, as a server would. The latency of a trade is from
its stamp until the reader had a last price of its symbol that is not older, or a one-minute bar that counts
it. Every trade counts, those that others overtook among them.
"""

FIBONACCI = """## With Fibonacci timeframes

The whole graph as above, and the same with the six Fibonacci timeframes beside the others: official history
of 40 sessions of all symbols in the state, and six more open bars a symbol with each change. Both catch up
with the same tape, and follow the same live feed, in turns.
"""

CHECKPOINTS = """## The size of checkpoints

As Flink tells it: the whole state, also where a checkpoint wrote only what is new. First nothing comes, for
{polls} reads of the shard that was read least; then {sessions} sessions, {symbols} symbols. In each the feed
stops after half of the trades, when every window of the day is open, and after the last; the sizes are
those of the checkpoints at rest. A checkpoint has RocksDB's files as they are, with entries in them that are
deleted and not yet compacted; a savepoint in Flink's own format has the state alone.
"""

PROFILE = """## What a tick costs

The pipeline's own functions in one process on one core, without Beam, Flink and servers, on the first
{ticks} trades of the tape, in blocks as a lane gets them. What the stages above need beyond it is Beam's
and Flink's: bundles, state calls, bytes between processes, checkpoints, and the emulator.
"""

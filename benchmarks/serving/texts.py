"""What the page in ``docs/`` says around its tables; ``report`` puts the values in."""

HEAD = """# Benchmarks of the server

Made by `make bench-serving`{on}; do not edit. One machine runs all of it on the same {cores} cores: the
server, Redis, and the users. Figures of another machine differ; the load averages say what else there
was to do before each part.

The lake holds {rows} daily rows of {symbols} symbols and the six Fibonacci timeframes that the pipeline
makes of them ({size} of Parquet). The history is synthetic and seeded (`benchmarks/history.py`), and so
is all that is asked (`benchmarks/serving/`). The server is `python -m serving {arguments}` without TLS,
with open access and no log of requests, on the loopback. The users are a process of their own on raw
connections, which reads as little of an answer as it can; some answers are kept, and held after the run
against a query of DuckDB's over the lake's files: symbol, number of bars, last bar, and the sum of the
closes.
"""

OPEN = """## Users

{users} users on a keep-alive connection each, each with a question every {every:g} s at a phase of its
own, for {seconds:g} s (after {warm:g} s that do not count): {history} the last 500 bars of a random
symbol and timeframe, half of them as `/v1/bars`, half as the vendor's aggregates; {price} last
prices, likewise; {export} exports of 100,000 rows as Parquet, CSV or Arrow. Symbols are drawn
evenly, which suits no cache. Half of the users take gzip, as all of the official clients do, the others
nothing. Before all that {tours}: a server that has been up for a while has decoded the rows that are
asked for.

A question is sent at its planned time, whether or not earlier ones have come back, on another connection
where the user's is taken, and its latency counts from the planned time until the answer is whole: nobody
waits for the server before asking it more.
"""

CLOSED = """## At saturation

Each connection asks anew as soon as its answer is whole, for {seconds:g} s: *history* is the last 500
bars as above, *prices* are last prices. Half of the answers are taken as gzip.
"""

SOCKETS = """## WebSockets

{clients} clients at `/stocks`: {some} with {topics} random symbols each, {wild} with all, on `AM`. A
process writes the closed minutes of all {symbols} symbols into Redis at once, as the stream does,
{minutes} times, one every {every:g} s (the first {warm} do not count). The latency of a bar is from the
time that Redis gave to its entry until a client had the whole frame; with it, that since the begin of
the call that wrote all bars of the minute. Every bar of every client is looked at: each must come once,
and as it was written.
"""

POINTS = """## Point reads

One question for the last 500 bars (of 34d a symbol has fewer in all), one after another on one
connection, without compression, one server process. *Cold*: the first question that a new server is
asked, with the lake dropped from the page cache; {cold} servers a timeframe. *Dropped*: a question for
another symbol, the lake dropped again. *Warm*: the lake in the page cache, and a symbol that was not
asked for before; {warm} a timeframe. *Again*: the same question once more. {daily} is not stored but
made of daily rows{more}. Milliseconds, median (least - most).
"""

MEMORY = """## Memory

Of all processes of the server together, sampled once a second, the most of each part. PSS counts what
processes share once, RSS for each of them.
"""

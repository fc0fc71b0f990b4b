"""The page of the benchmark of alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fibflow.benchmarks.report import machine
from fibflow.benchmarks.streaming.report import versions

Plain = Mapping[str, Any]
_HEAD = """\
# Benchmark: alerts in the live job

`make bench-alerts` made this page{on}. Everything runs on one machine: the feed, the emulator of Kinesis,
Flink with its Python workers, Redis and PostgreSQL share its cores. Alerts lie above and below the prices of
their symbols, half of them within a few percent; nine in ten fire once, the others each time. The job makes
all the bars that it makes without alerts, and writes the live store and the lake.
"""
_LIVE = """\
## From a trade to the outbox

{alerts:,} alerts on {symbols:,} symbols, {rate:,.0f} trades a second for {seconds:.0f} s; prices walk at
random. Measured from the put of the trade that fired into Kinesis until a reader of the outbox, whom
PostgreSQL tells of new events, has the event.
"""
_COST = """\
## What alerts cost the bars

The same {ticks:,} trades wait in the stream, and a job catches up with and without {alerts:,} alerts, in
turns; medians of {rounds} rounds. The job has loaded its alerts before it begins to read.
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _live(part: Plain) -> str:
    found = part["found"]
    seconds = found["seconds"]
    rows = [
        ["fired a second", f"{found['fired'] / seconds:,.0f}"],
        *([f"put to outbox, {name}", f"{1000 * value:,.0f} ms"] for name, value in found["outbox"].items()),
        ["feed behind its time, at most", f"{1000 * found['behind']:,.0f} ms"],
        ["start of the job until all alerts are loaded", f"{found['loaded_s']:.0f} s"],
        [
            "checkpoint",
            f"{found['state'] / 2**20:,.0f} MiB, {max(found['checkpoints'], default=0):,} ms at most",
        ],
        *(
            [f"CPU of {name}", f"{100 * cpu / seconds:.0f} % of a core"]
            for name, cpu in sorted(found["cpu"].items(), key=lambda item: -item[1])
            if cpu > 0.005 * seconds
        ),
        ["load of the machine before", f"{found['load']:.1f}"],
    ]
    return "\n\n".join([_LIVE.format(**found).strip(), _table(("", ""), rows)])


def _cost(part: Plain) -> str:
    runs, sizes = part["found"], part["sizes"]
    names = ("without", "with alerts")
    by_name = {name: [run for run in runs if run["name"] == name] for name in names}
    first = median(run["rate"] for run in by_name["without"])
    rows = [
        [
            name,
            f"{median(run['rate'] for run in some):,.0f}",
            f"{median(run['rate'] for run in some) / first:.2f}",
            f"{1e6 * median(sum(run['cpu'].values()) / run['ticks'] for run in some):.2f}",
            f"{max(run['state'] for run in some) / 2**20:,.0f} MiB",
            ", ".join(f"{run['load']:.1f}" for run in some),
        ]
        for name, some in by_name.items()
    ]
    more = max(run["state"] for run in by_name["with alerts"]) - max(
        run["state"] for run in by_name["without"]
    )
    head = _COST.format(ticks=runs[0]["ticks"], alerts=sizes["alerts"], rounds=len(by_name["without"]))
    table = _table(("", "trades a second", "of the first", "CPU µs a trade", "checkpoint", "load"), rows)
    state = f"The checkpoint is larger by {more / sizes['alerts']:,.0f} bytes an alert."
    return "\n\n".join([head.strip(), table, state])


def _kernel(part: Plain) -> str:
    lines = "\n".join(f"- {line}" for line in part["found"])
    sizes = part["sizes"]
    what = f"{sizes['alerts']:,} alerts on {sizes['symbols']:,} symbols, one core, no servers."
    return f"## The kernel alone\n\n{what}\n\n{lines}"


def sections(results: Plain) -> list[str]:
    """Return the sections of what was measured."""
    makers = {"live": _live, "cost": _cost, "kernel": _kernel}
    return [make(results[name]) for name, make in makers.items() if name in results]


def page(results: Plain, date: str | None = None) -> str:
    """Return the page for ``docs/``.

    Args:
        results: as kept.
        date: of the runs, to be named; None: none is.
    """
    about = machine() | {"versions": versions()}
    told = "## The machine\n\n" + "\n".join(f"- {name}: {value}" for name, value in about.items())
    head = _HEAD.format(on=f" on {date}" if date else "").strip()
    return "\n\n".join([head, told, *sections(results)]) + "\n"

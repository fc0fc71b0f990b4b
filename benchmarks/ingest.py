"""What the live feed holds: ``python -m benchmarks.ingest``.

Ten minutes of the vendor stand-in's minutes at 10,000 messages a second, the vendor cut twice and Kinesis
gone for a minute: whether every message reaches the stream, what comes twice, and the memory. Then the
highest rate that one process holds: trades, faster and faster, until it falls behind; the vendor and the
Kinesis of that part cost little, and have the same cores.

    python -m benchmarks.ingest
    python -m benchmarks.ingest --quick          # small and short: does it run?
    python -m benchmarks.ingest --only rate --rates 100000,150000 --seconds 60
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.benchmarks.faults.proxy import Mode, Proxy
from fibflow.benchmarks.ingesting.checking import check
from fibflow.benchmarks.ingesting.processes import BenchmarkError, Child, IngestProcess, Watch
from fibflow.pipelines import cli
from fibflow.serving.standin.handle import Vendor, started
from fibflow.serving.standin.make import Wanted

_MB = 1e6
_MINUTES_A_SESSION = 390
_LAST = date(2024, 3, 28)
SINK = "fibflow.benchmarks.ingesting.sink"
SOURCE = "fibflow.benchmarks.ingesting.source"
RATES = "25000,50000,75000,100000,125000,150000,200000,250000,300000"
#: A part of the rate that may be missing, and seconds that may wait, for it to count as held.
_SHORT, _BEHIND_S = 0.01, 2.0


def parser() -> cli.Parser:
    """Return the parser of the command line."""
    made = cli.Parser(prog="benchmarks.ingest", description=__doc__.splitlines()[0], allow_abbrev=False)
    made.add_argument("--only", choices=["soak", "rate"], help="one part")
    made.add_argument("--quick", action="store_true", help="small and short")
    made.add_argument("--minutes", type=float, default=10.0, help="of the soak (default: %(default)g)")
    made.add_argument("--rate", type=float, default=10_000.0, help="of the soak (default: %(default)g)")
    made.add_argument("--symbols", type=int, default=5_000, help="of the soak (default: %(default)s)")
    made.add_argument("--gone", type=float, default=60.0, help="seconds without Kinesis")
    made.add_argument("--rates", default=RATES, help="messages a second to try (default: %(default)s)")
    made.add_argument("--seconds", type=float, default=30.0, help="at each of them (default: %(default)g)")
    made.add_argument("--per-frame", type=int, default=100, help="messages a frame (default: %(default)s)")
    made.add_argument("--shards", type=int, default=16, help="default: %(default)s")
    made.add_argument("--results", type=Path, help="write them there too, as JSON")
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code says whether everything was as it has to be."""
    args = parser().parse_args(argv)
    if args.quick:
        args.minutes, args.rate, args.symbols, args.gone = 0.5, 5_000.0, 300, 5.0
        args.rates, args.seconds = "10000,20000", 5.0
    found: dict[str, Any] = {"cores": os.cpu_count()}
    if args.only != "rate":
        found["soak"] = soak(args)
        cli.print_table(
            "soak", [(name.replace("_", " "), _text(value)) for name, value in found["soak"].items()]
        )
    if args.only != "soak":
        found["rates"] = rates(args)
    if args.results:
        args.results.write_text(json.dumps(found, indent=1))
    return cli.OK if found.get("soak", {}).get("whole", True) else cli.FAILED


def _print(title: str, found: dict[str, Any]) -> None:
    cli.print_table(title, [(name.replace("_", " "), _text(value)) for name, value in found.items()])


def _text(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fibflow-ingest-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# The soak ---------------------------------------------------------------------------------------------------


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """Play sessions at a rate, break things meanwhile, and say what came of it."""
    messages = args.rate * args.minutes * 60
    sessions = max(1, math.ceil(messages / (args.symbols * _MINUTES_A_SESSION)))
    wanted = Wanted(
        symbols=args.symbols, first=_LAST - timedelta(days=40), last=_LAST, minutes=sessions, key="benchmark"
    )
    print(f"making a market of {args.symbols:,} symbols with the minutes of {sessions} sessions", flush=True)
    with _folder() as folder, started(wanted) as vendor:
        kept = folder / "kept"
        with (
            Child(SINK, "--shards", str(args.shards), "--keep", str(kept)) as sink,
            Proxy(f"http://127.0.0.1:{sink.port}") as proxy,
            IngestProcess(
                folder,
                f"ws://{vendor.feed}/stocks",
                proxy.url,
                *("--vendor-url", vendor.url, "--rate", "2000", "--at-once", "8"),
            ) as ingest,
            Watch(ingest.process.pid) as watch,
        ):
            found = _play(args, vendor, proxy, ingest, sessions)
            found["drained_s"] = ingest.stop()
            counted = watch
        rows = vendor.minutes()
        checked = check(kept, rows)
        log = ingest.log.read_text()
    memory = np.array(counted.memory) / _MB
    fifths = [float(part.max()) for part in np.array_split(memory, 5)]
    print("".join(f"  {line}\n" for line in log.splitlines()))
    return {
        "messages": checked.wanted,
        **found,
        "missing": checked.missing,
        "not_the_vendors": checked.strange,
        "came_again": checked.again,
        "with_other_values": checked.other,
        "memory_MB_by_fifths": ", ".join(f"{peak:,.0f}" for peak in fifths),
        "cpu_s": counted.cpu_s,
        "symbols_asked_for": asked_for(log),
        "whole": not (checked.missing or checked.strange or checked.other),
    }


def asked_for(log: str) -> int:
    """Return how many symbols holes were asked for of, by what the ingest said."""
    said = (line.partition("asking for ")[2] for line in log.splitlines())
    return sum(int(line.split()[0].replace(",", "")) for line in said if line)


def _play(
    args: argparse.Namespace, vendor: Vendor, proxy: Proxy, ingest: IngestProcess, sessions: int
) -> dict[str, Any]:
    per_session = args.symbols * _MINUTES_A_SESSION
    total = int(min(args.rate * args.minutes * 60, sessions * per_session))
    cuts = [total // 5, total * 4 // 5]
    gone_at = total * 2 // 5
    began = time.monotonic()
    done, worst, gone_since, kinesis_back = 0, 0.0, None, None
    days = vendor_sessions(vendor, sessions)
    for number, day in enumerate(days):
        for cut in cuts:
            if number * per_session <= cut < (number + 1) * per_session:
                vendor.feed_fault("cut", at=cut - number * per_session, seconds=5.0)
        vendor.play(day, rate=args.rate)
        while (told := vendor.played)["state"] not in ("played", "idle"):
            if str(told["state"]).startswith("failed"):
                raise BenchmarkError(str(told["state"]))
            position = done + int(told["position"])
            if gone_since is None and position >= gone_at:
                proxy.set(Mode.GONE)
                gone_since = time.monotonic()
            if gone_since is not None and kinesis_back is None and time.monotonic() - gone_since >= args.gone:
                proxy.set(Mode.PASSES)
                kinesis_back = time.monotonic()
            worst = max(worst, ingest.counters()["spool_bytes"])
            time.sleep(0.25)
        done += int(told["total"])
    seconds = time.monotonic() - began
    if kinesis_back is None:
        proxy.set(Mode.PASSES)
    until = time.monotonic() + 600
    while (counters := ingest.counters())["open_holes"] or counters["spool_bytes"] > 1_000:
        if time.monotonic() > until:
            raise BenchmarkError("the spool is not sent")
        time.sleep(0.25)
    return {
        "seconds": seconds,
        "messages_a_second": done / seconds,
        "caught_up_after_s": time.monotonic() - began - seconds,
        "cuts": int(counters["cuts_total"]),
        "holes": int(counters["holes_total"]),
        "holes_not_filled": int(counters["holes_unfilled_total"]),
        "messages_that_filled": int(counters["filled_total"]),
        "most_in_the_spool_MB": worst / _MB,
    }


def vendor_sessions(vendor: Vendor, count: int) -> list[date]:
    """Return the sessions that have minutes, the oldest first."""
    assert vendor.market is not None
    calendar, last = vendor.market.calendar, vendor.market.last
    days: Any = calendar.days[last - count + 1 : last + 1]
    return [each.as_py() for each in pa.array(days, pa.int32()).cast(pa.date32())]


# The highest rate -------------------------------------------------------------------------------------------


def rates(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Try one rate after the other until one is not held."""
    found = []
    for text in args.rates.split(","):
        found.append(at_rate(args, float(text)))
        one = found[-1]
        _print(f"{one['rate']:,.0f} messages a second", one)
        if not one["held"]:
            break
    held = [one["rate"] for one in found if one["held"]]
    print(
        f"held: {max(held, default=0):,.0f} messages a second; the US tape peaks at about 100,000", flush=True
    )
    return found


def at_rate(args: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Play trades at a rate and return whether it was held."""
    with (
        _folder() as folder,
        Child(SINK, "--shards", str(args.shards)) as sink,
        Child(
            SOURCE,
            *("--rate", str(rate), "--seconds", str(args.seconds), "--per-frame", str(args.per_frame)),
        ) as source,
        IngestProcess(
            folder,
            f"ws://127.0.0.1:{source.port}/stocks",
            f"http://127.0.0.1:{sink.port}",
            *("--subscribe", "T.*", "--no-fill"),
        ) as ingest,
        Watch(ingest.process.pid) as watch,
    ):
        ingest.counters()
        began = time.monotonic()
        told = json.loads(source.line())
        played = time.monotonic()
        waiting = ingest.counters()["spool_bytes"]
        while ingest.counters()["sent_total"] < told["messages"]:
            if time.monotonic() - played > 60 + args.seconds:
                raise BenchmarkError("not everything was sent")
            time.sleep(0.05)
        behind = time.monotonic() - played
        ingest.stop()
    late = float(told["late_s"])
    return {
        "rate": rate,
        "messages": int(told["messages"]),
        "seconds": float(told["seconds"]),
        "vendor_waited_s": float(told["longest_wait_s"]),
        "in_the_spool_at_the_end_MB": waiting / _MB,
        "sent_after_s": behind,
        "cores": watch.cpu_s / max(1e-9, played - began),
        "memory_MB": max(watch.memory) / _MB,
        "held": late <= _SHORT * args.seconds and behind <= _BEHIND_S,
    }


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], (BenchmarkError,))

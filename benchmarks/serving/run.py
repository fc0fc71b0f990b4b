"""``make bench-serving``: how fast the server answers and how soon it pushes, its users on the same cores.

    python -m benchmarks.serving.run                        # everything, then docs/benchmarks-serving.md
    python -m benchmarks.serving.run --quick                # small and short: does it run?
    python -m benchmarks.serving.run --only points          # one part; results of the others are kept
    python -m benchmarks.serving.run --serve "--exports 8"  # other options of the server

Makes the lake once, from the history of ``make bench``; starts a server, Redis and users of its own, on the
loopback, and stops them at the end. Files lie below one folder, ``.cache/bench`` by default; at full size
they need about 3 GB there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fibflow.benchmarks.history import SEED as HISTORY_SEED
from fibflow.benchmarks.serving import points, report
from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.serving.lakes import ROOT, ServedLake, lake_of, python
from fibflow.benchmarks.serving.questions import TIMEFRAMES, Book
from fibflow.benchmarks.serving.report import PARTS
from fibflow.benchmarks.serving.servers import MemorySampler, RedisServer, Server, load, stay_on
from fibflow.benchmarks.streaming.cpu import CpuSampler
from fibflow.runners.services.process import ServiceError

KNOWN = (BenchmarkError, ServiceError)
SEED = 1
#: Not stored either: what making bars of daily rows costs.
COMPUTED = "10d"
_ENDS_WITHIN_S = 60.0
_LONGEST_S = 1_800.0


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        scale: of the lake.
        users, every_s: of the open loop, and how often each asks.
        price, export: shares of the questions; history is the rest.
        tours: how often each history is asked for before: servers have been up for a while.
        seconds, warm_s: of the open loop, and before it.
        connections: of the closed loops, one after another.
        closed_s: of each.
        clients, wild, topics: of WebSockets; those with all symbols; the symbols of each other one.
        minutes, warm_minutes, minute_s: that are written; those that do not count; from one to the next.
        timeframes: of point reads.
        cold, warm: point reads of each.
    """

    scale: float = 1.0
    users: int = 1_000
    every_s: float = 1.0
    price: float = 0.495
    export: float = 0.01
    tours: int = 2
    seconds: float = 60.0
    warm_s: float = 10.0
    connections: tuple[int, ...] = (1, 8, 64)
    closed_s: float = 15.0
    clients: int = 1_000
    wild: int = 20
    topics: int = 20
    minutes: int = 21
    warm_minutes: int = 1
    minute_s: float = 3.0
    timeframes: tuple[str, ...] = (*TIMEFRAMES, COMPUTED)
    cold: int = 5
    warm: int = 20


QUICK = Sizes(
    scale=0.01,
    users=50,
    tours=1,
    seconds=4.0,
    warm_s=1.0,
    connections=(1, 8),
    closed_s=2.0,
    clients=50,
    wild=2,
    topics=5,
    minutes=4,
    minute_s=0.5,
    cold=1,
    warm=3,
)


class Bench:
    """One run of the benchmark.

    Args:
        args: of the command line.
        sizes: how large everything is.
        lake: that is served.
        cores: that all of it runs on.
    """

    def __init__(self, args: argparse.Namespace, sizes: Sizes, lake: ServedLake, cores: int) -> None:
        self.args, self.sizes, self.lake = args, sizes, lake
        # Results go with the lake that they are of.
        self.folder = lake.folder.parent
        self.kept = self.folder / ("quick.json" if args.quick else "results.json")
        self.serve = ["--workers", str(args.workers), *shlex.split(args.serve)]
        self.about = {
            "rows": lake.rows,
            "symbols": lake.symbols,
            "bytes": lake.bytes,
            "cores": cores,
            "arguments": " ".join(self.serve),
        }
        self.results: dict[str, Any] = {"parts": {}}
        if self.kept.exists():
            self.results = json.loads(self.kept.read_text())
        self.results["lake"] = self.about
        self.found: dict[str, Any] = {"lake": self.about, "parts": {}}

    def keep(self, part: str, runs: list[dict[str, Any]], about: dict[str, Any], **more: Any) -> None:
        """Keep what a part has found, in the file too."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        symbols = self.lake.symbols
        self.found["parts"][part] = {"at": at, "about": about, "runs": runs, "symbols": symbols, **more}
        self.results["parts"][part] = self.found["parts"][part]
        self.kept.write_text(json.dumps(self.results, indent=1))

    @contextmanager
    def serving(self) -> Iterator[tuple[Server, RedisServer]]:
        """Yield a server on the lake and on a live store that has a price of each symbol."""
        with ExitStack() as held:
            redis = held.enter_context(RedisServer(self.folder))
            self.write(redis)
            server = held.enter_context(Server(self.folder, self.lake.folder, redis.url, self.serve))
            yield server, redis

    def write(self, redis: RedisServer, *more: str) -> dict[str, Any]:
        """Run the writer to its end; what it printed."""
        at = ("--redis", redis.url, "--catalogue", str(self.lake.catalogue), "--seed", str(self.args.seed))
        return dict(json.loads(python("-m", "fibflow.benchmarks.serving.writer", *at, *more)))

    def ask(
        self, server: Server, others: dict[str, int], *arguments: str
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Run users to their end; what they printed, and the CPU seconds of each process meanwhile."""
        command = [sys.executable, "-P", "-m", "fibflow.benchmarks.serving.users", *arguments]
        command += ["--port", str(server.port), "--catalogue", str(self.lake.catalogue)]
        command += [
            "--patience-s",
            str(self.args.patience_s),
            "--prices-seed",
            str(self.args.seed),
            "--checked",
            str(self.args.checked),
        ]
        with child(command) as users:
            with CpuSampler({"server": server.session, "users": users.pid, **others}) as sampler:
                said = finished(users, "the users", _LONGEST_S)
            found = json.loads(said)
            return found, sampler.between(*found["at"])

    def open(self) -> None:
        """Run users who ask at planned times."""
        sizes, before = self.sizes, load()
        keys = ("users", "every_s", "price", "export", "seconds", "warm_s")
        about = {key: getattr(sizes, key) for key in keys}
        options = [
            word for key, value in about.items() for word in (f"--{key.replace('_', '-')}", str(value))
        ]
        with self.serving() as (server, redis), MemorySampler(server.session) as memory:
            for tour in range(sizes.tours):
                asked = ("--ask", "tour", "--connections", "16", "--seconds", str(_LONGEST_S))
                self.ask(server, {}, "closed", *asked, "--seed", str(self.args.seed + 100 + tour))
            seed = ("--seed", str(self.args.seed + 1))
            run, cpu = self.ask(server, {"redis": redis.session}, "open", *options, *seed)
        begin, end = run["at"]
        about["tours"] = sizes.tours
        self.keep("open", [run], about, cpu=cpu, wall=end - begin, load=before, memory=asdict(memory.most))

    def closed(self) -> None:
        """Run connections that ask again and again."""
        sizes, before, runs = self.sizes, load(), []
        with self.serving() as (server, redis), MemorySampler(server.session) as memory:
            for number, (ask, count) in enumerate(
                (ask, count) for ask in ("history", "prices") for count in sizes.connections
            ):
                options = ("--ask", ask, "--connections", str(count), "--seconds", str(sizes.closed_s))
                seed = ("--warm-s", "1", "--seed", str(self.args.seed + 10 + number))
                run, cpu = self.ask(server, {"redis": redis.session}, "closed", *options, *seed)
                print(f"closed: {ask}, {count} connections: {run['rate']:,.0f} a second", flush=True)
                runs.append({**run, "cpu": cpu})
        self.keep("closed", runs, {"seconds": sizes.closed_s}, load=before, memory=asdict(memory.most))

    def sockets(self) -> None:
        """Run WebSocket clients, and write minutes."""
        sizes, before, written = self.sizes, load(), self.folder / "written.parquet"
        written.unlink(missing_ok=True)
        keys = ("clients", "wild", "topics", "minutes", "warm_minutes", "minute_s")
        about = {key: getattr(sizes, key) for key in keys}
        with self.serving() as (server, redis), MemorySampler(server.session) as memory:
            command = [sys.executable, "-P", "-m", "fibflow.benchmarks.serving.followers"]
            command += ["--port", str(server.port), "--catalogue", str(self.lake.catalogue)]
            for key in ("clients", "wild", "topics", "minutes"):
                command += [f"--{key}", str(about[key])]
            command += ["--patience-s", str(self.args.patience_s)]
            command += ["--warm", str(sizes.warm_minutes), "--seed", str(self.args.seed + 2)]
            command += ["--values-seed", str(self.args.seed), "--written", str(written)]
            with child(command) as clients:
                assert clients.stdin is not None
                assert clients.stdout is not None
                names = {"server": server.session, "clients": clients.pid, "redis": redis.session}
                if not clients.stdout.readline():
                    raise BenchmarkError(f"the clients ended before they were ready: {last_of(clients)}")
                with CpuSampler(names) as sampler:
                    begin = time.time()
                    options = ("--minutes", str(sizes.minutes), "--every-s", str(sizes.minute_s))
                    wrote = self.write(redis, *options, "--written", str(written))
                    end = time.time()
                    clients.stdin.write("written\n")
                    clients.stdin.flush()
                cpu = sampler.between(begin, end)
                run = json.loads(finished(clients, "the clients", _ENDS_WITHIN_S + sizes.minutes))
        more = {"cpu": cpu, "writes": wrote["seconds"], "load": before, "memory": asdict(memory.most)}
        self.keep("sockets", [run], about, **more)

    def points(self) -> None:
        """Read 500 bars at a time, cold and warm."""
        sizes, before = self.sizes, load()
        book = Book(self.lake.catalogue, self.args.seed)

        def start() -> Server:
            return Server(self.folder, self.lake.folder, None, shlex.split(self.args.serve))

        found = points.run(
            start, self.lake.folder, book, sizes.timeframes, sizes.cold, sizes.warm, self.args.seed + 3
        )
        about = {"cold": sizes.cold, "warm": sizes.warm}
        self.keep("points", [reads.plain() for reads in found], about, load=before)


@contextmanager
def child(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Yield a process in a session of its own, which ends with the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as made:
        try:
            yield made
        finally:
            if made.poll() is None:
                made.kill()


def finished(made: subprocess.Popen[str], name: str, within_s: float) -> str:
    """Return what a process has printed when it has ended.

    Raises:
        BenchmarkError: it failed, or does not end.
    """
    try:
        said, _ = made.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{name} did not end within {within_s:g} s") from None
    if made.returncode:
        raise BenchmarkError(f"{name} failed: {last_of(made)}")
    return said


def last_of(made: subprocess.Popen[str]) -> str:
    """Return the last line that a process has said of what is wrong."""
    told = made.stderr.read() if made.stderr is not None and not made.stderr.closed else ""
    return (told.strip().splitlines() or ["no message"])[-1]


def run(args: argparse.Namespace) -> Bench:
    """Run the parts that are asked for."""
    sizes = QUICK if args.quick else Sizes()
    changed = {name: value for name in vars(sizes) if (value := getattr(args, name, None)) is not None}
    sizes = Sizes(**{**vars(sizes), **changed})
    lake = lake_of(args.data, sizes.scale, args.history_seed)
    bench = Bench(args, sizes, lake, stay_on(args.cores))
    for part in [part for part in PARTS if not args.only or part in args.only]:
        print(f"{part}: begins, load {load()}", flush=True)
        getattr(bench, part)()
    return bench


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving.run", description="Measure the server.")
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / ".cache" / "bench",
        help="folder of all files (default %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="small and short: does everything run?")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=(), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--scale", type=float, help="of the lake, of the full size (default 1)")
    parser.add_argument("--users", type=int, help="of the open loop (default 1,000)")
    parser.add_argument("--every-s", type=float, help="between the questions of a user (default 1)")
    parser.add_argument("--price", type=float, help="share of live prices (default 0.495)")
    parser.add_argument("--export", type=float, help="share of exports (default 0.01)")
    parser.add_argument("--tours", type=int, help="times that each history is asked for before (default 2)")
    parser.add_argument("--seconds", type=float, help="of the open loop (default 60)")
    parser.add_argument("--warm-s", type=float, help="before them, not counted (default 10)")
    parser.add_argument("--connections", type=int, nargs="+", help="of the closed loops (default 1 8 64)")
    parser.add_argument("--closed-s", type=float, help="seconds of each closed loop (default 15)")
    parser.add_argument("--clients", type=int, help="of WebSockets (default 1,000)")
    parser.add_argument("--wild", type=int, help="of them follow all symbols (default 20)")
    parser.add_argument("--topics", type=int, help="symbols of each other one (default 20)")
    parser.add_argument("--minutes", type=int, help="that are written (default 21)")
    parser.add_argument("--minute-s", type=float, help="seconds from one to the next (default 3)")
    parser.add_argument("--timeframes", nargs="+", help=f"of point reads (default all, and {COMPUTED})")
    parser.add_argument("--cold", type=int, help="cold point reads of each timeframe (default 5)")
    parser.add_argument("--warm", type=int, help="warm ones (default 20)")
    parser.add_argument("--seed", type=int, default=SEED, help="of what is asked (default %(default)s)")
    parser.add_argument(
        "--history-seed", type=int, default=HISTORY_SEED, help="of the lake (default %(default)s)"
    )
    parser.add_argument("--checked", type=float, default=0.01, help="share of answers that are checked")
    parser.add_argument("--patience-s", type=float, default=10.0, help="for the last answers (default 10)")
    parser.add_argument("--workers", type=int, default=2, help="server processes (default %(default)s)")
    parser.add_argument(
        "--serve", default="", metavar="OPTIONS", help="more options of the server, in one word"
    )
    parser.add_argument("--cores", type=int, default=2, help="that all of it runs on (default %(default)s)")
    parser.add_argument(
        "--report", type=Path, help="page to write (default docs/benchmarks-serving.md, for a whole run only)"
    )
    parser.add_argument("--date", help="of the runs, to be named on the page")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0 when everything ran, and no answer failed or was wrong."""
    args = parse(argv)
    args.data = args.data.resolve()
    args.data.mkdir(parents=True, exist_ok=True)
    try:
        bench = run(args)
    except KNOWN as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    whole = not args.quick and args.scale in (None, 1.0) and set(bench.results["parts"]) == set(PARTS)
    target = args.report or (ROOT / "docs" / "benchmarks-serving.md" if whole else None)
    if target:
        target.write_text(report.page(bench.results, args.date))
    print("\n\n".join(report.sections(bench.found)))
    return 0 if report.is_right(bench.found["parts"]) else 1


if __name__ == "__main__":
    sys.exit(main())

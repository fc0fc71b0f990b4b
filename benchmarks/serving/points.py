"""Single reads of 500 bars over HTTP, each timeframe: from a new server and a cold disk, and warm."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fibflow.benchmarks.pagecache import drop, files_below
from fibflow.benchmarks.serving import answers
from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.serving.questions import Book, Question
from fibflow.benchmarks.serving.servers import Server
from fibflow.benchmarks.serving.users import HOST
from fibflow.benchmarks.serving.wire import OK, Caller, request_of

#: A server that has just started may still be at it.
_SETTLES_S = 0.5


@dataclass
class Reads:
    """Of one timeframe; seconds until the answer is whole.

    Attributes:
        timeframe: whose.
        rows: how many bars the answers hold, the fewest and the most.
        cold: the first question that a server is asked, the lake dropped from the page cache.
        dropped: a server that has answered others; the lake dropped again; a symbol that was not asked for.
        warm: the lake in the page cache; a symbol that was not asked for.
        again: the same question once more.
    """

    timeframe: str
    rows: list[int] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    dropped: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def run(
    start: Callable[[], Server],
    lake: Path,
    book: Book,
    timeframes: Sequence[str],
    cold: int,
    warm: int,
    seed: int,
    settles_s: float = _SETTLES_S,
) -> list[Reads]:
    """Read each timeframe so often.

    Args:
        start: makes a server.
        lake: that it serves.
        book: makes questions.
        timeframes: of them.
        cold: reads of each, each from a server of its own.
        warm: reads of each, from one server.
        seed: of the symbols.
        settles_s: how long a server is left alone after its start.

    Raises:
        BenchmarkError: an answer is not right.
    """
    rng, found = np.random.default_rng(seed), {name: Reads(name) for name in timeframes}
    chosen = {name: book.longest(rng, name, 2 * cold + warm + 1) for name in timeframes}
    for number in range(cold):
        for name in timeframes:
            with start() as server:
                time.sleep(settles_s)
                drop(files_below(lake))
                with Caller(HOST, server.port) as caller:
                    _read(caller, server.port, book.bars(chosen[name][number], name), found[name], "cold")
                    other = book.bars(chosen[name][cold + number], name)
                    drop(files_below(lake))
                    _read(caller, server.port, other, found[name], "dropped")
    with start() as server, Caller(HOST, server.port) as caller:
        time.sleep(settles_s)
        for name in timeframes:
            # The first one brings the files into the page cache.
            first, *rest = chosen[name][2 * cold :]
            _read(caller, server.port, book.bars(first, name), found[name], None)
            for symbol in rest:
                question = book.bars(symbol, name)
                _read(caller, server.port, question, found[name], "warm")
                _read(caller, server.port, question, found[name], "again")
    return list(found.values())


def _read(caller: Caller, port: int, question: Question, reads: Reads, kind: str | None) -> None:
    """Ask once, and keep how long it took as ``kind``; None: not at all."""
    seconds = caller.ask(request_of(f"{HOST}:{port}", question.target, "identity"))
    reader = caller.reader
    if reader.status != OK:
        raise BenchmarkError(f"status {reader.status} of {question.target}: {reader.body[:200]!r}")
    if reason := answers.wrong(question, reader.coding, reader.body):
        raise BenchmarkError(reason)
    if kind is not None:
        getattr(reads, kind).append(seconds)
        if question.rows is not None:
            reads.rows = [min([*reads.rows, question.rows]), max([*reads.rows, question.rows])]

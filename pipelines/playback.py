"""Playing a tape: at which moments its messages go out, and where to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.kinesis.producer import PutTicks
from fibflow.pipelines.tape import Kind, Messages, TapeError
from fibflow.pipelines.tape.cells import SECOND_US

#: Gives the time in seconds, from any beginning.
Clock = Callable[[], float]
#: Waits so many seconds.
Sleep = Callable[[float], None]
Seconds = npt.NDArray[np.float64]

#: Messages go out in such steps, seconds: a call for each would be the bottleneck.
STEP = 0.1
#: Where a tape is silent, as at night, playing it in time waits no longer than this, seconds of event time.
LONGEST_SILENCE = 60.0
FILE_MESSAGES = 1_000_000
SUFFIXES = {"none": "", "gzip": ".gz", "zstd": ".zst"}


class Sink(Protocol):
    """Takes messages in order."""

    def put(self, messages: pa.Table) -> None:
        """Take messages: ``symbol``, ``message`` and ``ts``, as ``tape.MESSAGES`` has them."""
        ...

    def heartbeat(self, ts: int) -> None:
        """Say that nothing before ``ts`` (UTC microseconds) comes, lateness apart."""
        ...

    def flush(self) -> None:
        """Send what waits."""
        ...

    def close(self) -> None:
        """Send what waits, and end."""
        ...

    def rows(self) -> Iterable[tuple[str, str]]:
        """Return what was sent, for the table at the end."""
        ...


def at_speed(sent: npt.NDArray[np.int64], speed: float) -> Seconds:
    """Return when messages are due, seconds from the beginning, at ``speed`` times the tape's own.

    Args:
        sent: as ``Messages.sent``, shape (n,).
        speed: above 0.
    """
    gaps = np.diff(sent, prepend=sent[:1]) / SECOND_US
    return np.cumsum(np.minimum(gaps, LONGEST_SILENCE)) / speed


def at_rate(messages: int, rate: float) -> Seconds:
    """Return when messages are due, seconds from the beginning, at ``rate`` a second."""
    return np.arange(messages) / rate


def play(
    tape: Messages,
    sink: Sink,
    clock: Clock,
    sleep: Sleep,
    due: Seconds | None = None,
    told: Callable[[int], None] | None = None,
) -> None:
    """Send a tape's messages to a sink, in order, none before it is due.

    Args:
        tape: what to send.
        sink: where to; it is closed at the end.
        clock: seconds.
        sleep: waits.
        due: when each message may go out, seconds from now, rising; None for as fast as it goes.
        told: is told how many messages went out so far.
    """
    began, done = clock(), 0
    for block in tape.blocks():
        times = None if due is None else due[done : done + block.num_rows]
        at = 0
        while at < block.num_rows:
            until = block.num_rows
            if times is not None:
                until = int(np.searchsorted(times, clock() - began, side="right"))
                if until <= at:
                    sleep(max(float(times[at]) - (clock() - began), STEP))
                    continue
            _send(block.slice(at, until - at), sink)
            if times is not None:
                sink.flush()
            at = until
            if told:
                told(done + at)
        done += block.num_rows
    sink.close()


def _send(messages: pa.Table, sink: Sink) -> None:
    """Send some messages, the heartbeats among them at their places; of several in a row the last one."""
    columns = messages.select(["symbol", "message", "ts"])
    kinds: Any = messages["kind"].cast(pa.string())
    is_beat = pc.equal(kinds, pa.scalar(Kind.HB.name)).to_numpy()
    lasts = np.flatnonzero(is_beat & ~np.append(is_beat[1:], False))
    firsts = np.flatnonzero(is_beat & ~np.append(False, is_beat[:-1]))
    begin = 0
    for first, beat in zip(firsts.tolist(), lasts.tolist(), strict=True):
        if first > begin:
            sink.put(columns.slice(begin, first - begin))
        sink.heartbeat(columns["ts"][beat].cast(pa.int64()).as_py())
        begin = beat + 1
    if begin < len(columns):
        sink.put(columns.slice(begin))


class KinesisSink:
    """Puts messages into a stream.

    Args:
        producer: puts them.
    """

    def __init__(self, producer: PutTicks) -> None:
        self._producer = producer

    def put(self, messages: pa.Table) -> None:
        """Take messages; records that are full go out."""
        self._producer.put(messages)

    def heartbeat(self, ts: int) -> None:
        """Send what waits, and a heartbeat to every shard."""
        self._producer.heartbeat(ts)

    def flush(self) -> None:
        """Send what waits."""
        self._producer.flush()

    def close(self) -> None:
        """Send what waits."""
        self._producer.flush()

    def rows(self) -> Iterable[tuple[str, str]]:
        """Return what was sent."""
        counts = self._producer.counts
        return [
            ("records", f"{counts.records:,}"),
            ("megabytes", f"{counts.bytes / 1e6:,.1f}"),
            ("heartbeats, all shards", f"{counts.heartbeats:,}"),
            ("records put again", f"{counts.throttled + counts.failed:,}"),
        ]


class FileSink:
    """Writes messages to a folder, a line each: ``ticks-000000.ndjson`` and so on, in order.

    Args:
        folder: is made; one that holds something is refused.
        codec: ``none``, ``gzip`` or ``zstd``.
        messages: the most a file.

    Raises:
        TapeError: the folder holds something, or cannot be made.
    """

    def __init__(self, folder: Path, codec: str = "none", messages: int = FILE_MESSAGES) -> None:
        self._folder, self._codec, self._most = folder, codec, messages
        self._file: Any = None
        self._in_file = self._files = self._bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise TapeError(f"{folder} is not empty: name another folder")
        except OSError as error:
            raise TapeError(f"cannot write to {folder}: {error.strerror}") from error

    def put(self, messages: pa.Table) -> None:
        """Write messages."""
        for begin in range(0, len(messages), self._most):
            part = messages.slice(begin, self._most)
            self._write(_lines(part["message"]), len(part))

    def heartbeat(self, ts: int) -> None:
        """Write a heartbeat as streams have them."""
        line = json.dumps({"ev": Kind.HB.name, "t": ts // 1000}, separators=(",", ":"))
        self._write(f"{line}\n".encode(), 1)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """End the last file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def rows(self) -> Iterable[tuple[str, str]]:
        """Return what was written."""
        return [("files", f"{self._files:,}"), ("megabytes of JSON", f"{self._bytes / 1e6:,.1f}")]

    def _write(self, lines: bytes | pa.Buffer, messages: int) -> None:
        if self._file is None or self._in_file + messages > self._most:
            self.close()
            path = self._folder / f"ticks-{self._files:06}.ndjson{SUFFIXES[self._codec]}"
            compression: Any = None if self._codec == "none" else self._codec
            self._file = pa.output_stream(str(path), compression=compression)
            self._in_file = 0
            self._files += 1
        self._file.write(lines)
        self._in_file += messages
        self._bytes += len(lines) if isinstance(lines, bytes) else lines.size


def _lines(messages: pa.ChunkedArray) -> pa.Buffer:
    """The messages, each with a newline, as one buffer."""
    whole: Any = messages.combine_chunks()
    ended = pc.binary_join_element_wise(whole, b"\n", b"")
    _, offsets, data = ended.buffers()
    bounds = np.frombuffer(offsets, np.int32)[[ended.offset, ended.offset + len(ended)]]
    return data.slice(int(bounds[0]), int(bounds[1] - bounds[0]))

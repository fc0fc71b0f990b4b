"""Where the reading of shards is: the state of a lane, which outlives crashes and releases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fibflow.io.kinesis.errors import KinesisError

_VERSION = 1


@dataclass(frozen=True)
class Position:
    """Where the reading of one shard is.

    Attributes:
        sequence: number of the last record that was read; None while there was none.
        at: arrival time from which to read while there was none, UTC microseconds; None for the oldest
            record. ``LATEST`` is no position: whoever asks for it twice has lost what came in between.
        newest: the newest event time or heartbeat read, UTC microseconds; None while nothing told the time.
        behind: by how much the last answer was behind the shard's end, milliseconds.
    """

    sequence: str | None = None
    at: int | None = None
    newest: int | None = None
    behind: int = 0

    def of_child(self) -> Position:
        """Return where to begin with a child of the shard, once the shard has been read to its end.

        Its records came after all of the parent's, so that its time is the parent's.
        """
        return Position(at=self.at if self.sequence is None else None, newest=self.newest)


class Step(NamedTuple):
    """How far one poll went in one shard.

    Attributes:
        shard: the shard.
        sequence: of the last record taken; None where there was none.
        behind: milliseconds behind the shard's end.
        ended: the shard was closed, and read to its end.
        children: the shards to be read after it in this lane.
        quiet: when the call was made that found nothing, with nothing behind it, UTC microseconds; else None.
    """

    shard: str
    sequence: str | None
    behind: int
    ended: bool = False
    children: tuple[str, ...] = ()
    quiet: int | None = None


@dataclass(frozen=True)
class LaneState:
    """Where a lane is: a position for each shard that it has yet to read. Shards that ended are not in it."""

    shards: Mapping[str, Position]

    def advanced(
        self,
        steps: Iterable[Step],
        newest: Mapping[str, int],
        idle_after: int | None = None,
        stop_at_end: bool = False,
    ) -> LaneState:
        """Return the state after a poll.

        Args:
            steps: what the poll did, at most one a shard.
            newest: by shard, the newest time that the records told, UTC microseconds.
            idle_after: of a live source only: a shard without news is taken to be this far behind the clock,
                microseconds.
            stop_at_end: a shard without news is done.
        """
        shards = dict(self.shards)
        for step in steps:
            position = shards.pop(step.shard)
            times = [position.newest, newest.get(step.shard)]
            if idle_after is not None and step.quiet is not None:
                times.append(step.quiet - idle_after)
            position = replace(
                position,
                sequence=position.sequence if step.sequence is None else step.sequence,
                newest=max((time for time in times if time is not None), default=None),
                behind=step.behind,
            )
            if step.ended:
                shards.update({child: position.of_child() for child in step.children})
            elif not (stop_at_end and step.quiet is not None):
                shards[step.shard] = position
        return LaneState(shards)

    def watermark(self, out_of_orderness: int) -> int | None:
        """Return the time that all shards have passed, UTC microseconds in whole milliseconds.

        None where a shard has not told the time yet, and where there is no shard.

        Args:
            out_of_orderness: by how much a record may be older than one before it, microseconds.
        """
        times = [position.newest for position in self.shards.values()]
        known = [time for time in times if time is not None]
        if not known or len(known) < len(times):
            return None
        # Runners on the JVM count in milliseconds: no output may be behind a watermark by a fraction of one.
        return (min(known) - out_of_orderness) // 1000 * 1000

    @property
    def behind(self) -> int:
        """Milliseconds that its shards are behind, added up."""
        return sum(position.behind for position in self.shards.values())

    def encode(self) -> bytes:
        """Return a version byte and JSON: the same bytes for the same state."""
        return _encode({"shards": _plain(self.shards)})

    @classmethod
    def decode(cls, encoded: bytes) -> LaneState:
        """Return what was encoded, by this release or an earlier one.

        Raises:
            KinesisError: A later release wrote it.
        """
        return cls(_positions(_decode(encoded)["shards"]))


@dataclass(frozen=True)
class Lane:
    """A lane as the launching command dealt it.

    Attributes:
        stream: name of the stream.
        number: of the lane, from 0 on.
        start: where its shards begin.
    """

    stream: str
    number: int
    start: LaneState

    def encode(self) -> bytes:
        """Return a version byte and JSON: the same bytes for the same lane, which is a key to the runner."""
        return _encode({"stream": self.stream, "number": self.number, "shards": _plain(self.start.shards)})

    @classmethod
    def decode(cls, encoded: bytes) -> Lane:
        """Return what was encoded.

        Raises:
            KinesisError: A later release wrote it.
        """
        found = _decode(encoded)
        return cls(found["stream"], found["number"], LaneState(_positions(found["shards"])))


def _plain(shards: Mapping[str, Position]) -> dict[str, dict[str, Any]]:
    default = vars(Position())
    return {
        shard: {name: value for name, value in vars(position).items() if value != default[name]}
        for shard, position in shards.items()
    }


def _positions(plain: dict[str, dict[str, Any]]) -> dict[str, Position]:
    return {shard: Position(**fields) for shard, fields in plain.items()}


def _encode(plain: dict[str, Any]) -> bytes:
    return bytes([_VERSION]) + json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def _decode(encoded: bytes) -> Any:
    if encoded[:1] != bytes([_VERSION]):
        raise KinesisError(
            f"the saved state of a Kinesis lane has format {encoded[0] if encoded else 'none'}, this release "
            f"reads format {_VERSION}: resume with the release that wrote it"
        )
    return json.loads(encoded[1:])

"""A look at how far back in time a stream reaches, before a job reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.kinesis.decoded import DEAD_LETTERS, Decoder
from fibflow.io.kinesis.errors import Clock, Random, Sleep
from fibflow.io.kinesis.positions import Lane
from fibflow.io.kinesis.reader import LaneReader, Limits
from fibflow.io.kinesis.source import decode_blocks

#: Of a lane that answers nothing: the service's answers may be empty although there is more.
_POLLS = 20


def earliest(
    client: Any, lanes: Iterable[Lane], decode: Decoder, clock: Clock, sleep: Sleep, random: Random
) -> int | None:
    """Return the earliest event time of the first records that lanes will read, UTC microseconds.

    None where there are no records yet, or none that tells the time. Shards are taken to begin at about the
    same time: the service cuts them all at one.

    Raises:
        KinesisError: the stream cannot be read.
    """
    found: list[int] = []
    for lane in lanes:
        reader = LaneReader(client, lane.stream, Limits(), clock, sleep, random)
        state = lane.start
        for _ in range(_POLLS if state.shards else 0):
            poll = reader.poll(state.shards)
            decoded = decode_blocks(poll, decode)
            found += decoded.newest.values()
            for tag, table in decoded.outputs.items():
                if tag != DEAD_LETTERS:
                    found.append(pc.min(table["ts"]).cast(pa.int64()).as_py())
            quiet = sum(block.step.quiet is not None for block in poll.blocks)
            if decoded.newest or quiet == len(state.shards):
                break
            state = state.advanced((block.step for block in poll.blocks), decoded.newest)
            sleep(max(0.0, poll.due - clock()))
    return min(found, default=None)

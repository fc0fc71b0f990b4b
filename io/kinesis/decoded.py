"""What a decoder makes of a block of records, and what a source needs to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

TRADES = "trades"
MINUTES = "minutes"
SECONDS = "seconds"
DEAD_LETTERS = "dead_letters"
#: The outputs of a source of ticks.
TAGS = (TRADES, MINUTES, SECONDS, DEAD_LETTERS)


@dataclass(frozen=True)
class Decoded:
    """The messages of a block of records.

    Attributes:
        outputs: by tag, tables that are not empty: TRADES of ``schemas.TRADES``, MINUTES and SECONDS of
            ``schemas.AGGREGATES``, DEAD_LETTERS of ``schemas.DEAD_LETTERS``.
        newest: by shard, the latest event time or heartbeat of the block, UTC microseconds; shards that said
            nothing about time are absent.
    """

    outputs: dict[str, pa.Table]
    newest: dict[str, int]


#: Takes a table of ``schemas.RECORDS``. It is pickled to workers.
Decoder = Callable[[pa.Table], Decoded]

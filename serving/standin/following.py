"""Who follows what of the feed, and the frames that they get of its messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.serving.live.fragments import FRAME_BYTES
from fibflow.serving.live.topics import Topic

# The stubs know too few types of columns.
pc: Any = pyarrow.compute


@dataclass
class Follower:
    """Who follows what: by kind every symbol, or some."""

    every: set[str] = field(default_factory=set)
    some: dict[str, set[str]] = field(default_factory=dict)
    _key: tuple[Any, ...] | None = None

    def change(self, topics: Iterable[Topic], add: bool) -> None:
        """Follow topics, or no longer."""
        self._key = None
        for topic in topics:
            among = self.every if topic.is_wild else self.some.setdefault(topic.channel, set())
            name = topic.channel if topic.is_wild else topic.symbol
            (among.add if add else among.discard)(name)

    def topics(self) -> int:
        """Return how many topics it follows."""
        return len(self.every) + sum(map(len, self.some.values()))

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for all who get the same."""
        if self._key is None:
            some = {kind: names for kind, names in self.some.items() if kind not in self.every and names}
            self._key = (
                tuple(sorted(self.every)),
                tuple(sorted((kind, tuple(sorted(names))) for kind, names in some.items())),
            )
        return self._key


class Part:
    """Messages of a script, and what followers get of them."""

    def __init__(self, messages: pa.Table) -> None:
        self._messages = messages.combine_chunks()
        self._masks: dict[Any, npt.NDArray[np.bool_] | None] = {}

    def frames(self, follower: Follower, at: int, until: int) -> tuple[list[str], int]:
        """Return a follower's frames of some messages, and how many messages they hold."""
        key = follower.key
        if key not in self._masks:
            self._masks[key] = self._mask(follower)
        mask = self._masks[key]
        texts: Any = self._column("message").slice(at, until - at)
        if mask is not None:
            texts = texts.filter(pa.array(mask[at:until]))
        return _framed(texts), len(texts)

    def _column(self, name: str) -> Any:
        column: Any = self._messages[name]
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)

    def _mask(self, follower: Follower) -> npt.NDArray[np.bool_] | None:
        kinds, symbols = self._column("kind"), self._column("symbol")
        wanted = np.zeros(len(kinds), np.bool_)
        for kind in follower.every:
            wanted |= pc.equal(kinds, kind).to_numpy(zero_copy_only=False)
        for kind, names in follower.some.items():
            known = pc.is_in(symbols.dictionary, value_set=pa.array(sorted(names), pa.string()))
            of = known.take(symbols.indices).fill_null(False)
            wanted |= pc.and_(pc.equal(kinds, kind), of).to_numpy(zero_copy_only=False)
        return None if wanted.all() else wanted


def _framed(texts: Any) -> list[str]:
    """Return texts of JSON as arrays of them, none larger than a frame may be."""
    if not len(texts):
        return []
    size = int(pc.sum(pc.binary_length(texts)).as_py()) + len(texts) + 1
    if size > FRAME_BYTES and len(texts) > 1:
        half = len(texts) // 2
        return _framed(texts.slice(0, half)) + _framed(texts.slice(half))
    listed = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    return [f"[{pc.binary_join(listed, ',')[0].as_py()}]"]

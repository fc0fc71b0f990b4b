"""A tape: messages in the order of their delivery, what each of them is, and how many of which there are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.pipelines.tape import encode
from fibflow.pipelines.tape.aggregates import Aggregates
from fibflow.pipelines.tape.cells import MINUTE_US, SECOND_US, Int64, TapeError
from fibflow.pipelines.tape.disorder import BROKEN, Case, Kind, Order
from fibflow.pipelines.tape.trades import Trades
from fibflow.transforms.schemas import SYMBOL, TIMESTAMP

_WORD = pa.dictionary(pa.int8(), pa.string())
_FIELDS: list[Any] = [
    ("kind", _WORD),
    ("case", _WORD),
    ("symbol", SYMBOL),
    ("ts", TIMESTAMP),
    ("sent", TIMESTAMP),
    ("message", pa.binary()),
]
#: A tape's messages. ``symbol`` is their partition key, null for a heartbeat; ``sent`` is when they are
#: delivered, in event time; ``message`` is one line of JSON, null for a heartbeat, which goes to every shard.
MESSAGES = pa.schema(_FIELDS)
BLOCK = 65_536
_METADATA = b"fibflow.tape"
_KINDS = pa.array([kind.name for kind in Kind])
_CASES = pa.array([case.name.lower() for case in Case])
_WIDTHS = {Kind.AM: MINUTE_US, Kind.A: SECOND_US}


@dataclass(frozen=True)
class Counts:
    """The truth of a tape.

    Attributes:
        of: number of messages by kind (``T``, ``AM``, ``A``, ``HB``) and case (``on_time``, ...).
        behind: by kind, messages that come after one of the same kind with a later ``ts``.
        windows: by kind of aggregates, how many windows have one.
        first, last: the least and the greatest ``ts`` of messages that are not heartbeats, UTC microseconds.
        symbols: how many there are.
    """

    of: Mapping[str, Mapping[str, int]]
    behind: Mapping[str, int]
    windows: Mapping[str, int]
    first: int
    last: int
    symbols: int

    def number(self, kind: Kind | None = None, *cases: Case) -> int:
        """Return how many messages there are: of a kind, else of all but heartbeats; of some cases only."""
        kinds = [kind.name] if kind is not None else [k.name for k in Kind if k != Kind.HB]
        named = {case.name.lower() for case in cases or Case}
        return sum(n for k in kinds for case, n in self.of.get(k, {}).items() if case in named)

    @property
    def broken(self) -> int:
        """How many messages cannot be read."""
        return self.number(None, *BROKEN)

    @property
    def readable(self) -> int:
        """How many messages can be read, heartbeats apart: those that the archive of the stream holds."""
        return self.number() - self.broken


class Messages(Protocol):
    """What can be played: a tape just made, or one that was saved."""

    @property
    def truth(self) -> Counts:
        """How many of which messages there are."""
        ...

    @property
    def sent(self) -> Int64:
        """When each message is delivered, UTC microseconds of event time, rising; shape (messages,)."""
        ...

    def blocks(self, size: int = BLOCK) -> Iterator[pa.Table]:
        """Yield the messages in order, as tables of ``MESSAGES`` with at most ``size`` rows."""
        ...


@dataclass(frozen=True, eq=False)
class Tape:
    """Messages that are written as JSON when they are asked for; ``order`` is in the order of delivery."""

    symbols: tuple[str, ...]
    trades: Trades
    aggregates: Mapping[Kind, Aggregates]
    order: Order
    truth: Counts
    seed: int = 0
    stamped: bool = True
    _encoder: encode.Encoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encoder", encode.Encoder(self.symbols))

    def __len__(self) -> int:
        return len(self.order)

    @property
    def sent(self) -> Int64:
        """When each message is delivered, UTC microseconds of event time, rising; shape (messages,)."""
        return self.order.sent

    def blocks(self, size: int = BLOCK) -> Iterator[pa.Table]:
        """Yield the messages in order, as tables of ``MESSAGES`` with at most ``size`` rows."""
        names = pa.array(self.symbols, pa.string())
        for begin in range(0, len(self.order), size):
            part = self.order.take(slice(begin, begin + size))
            kind, case, symbol, ts, sent = (
                pa.array(values, mask=part.symbol < 0 if values is part.symbol else None)
                for values in (part.kind, part.case, part.symbol, part.ts, part.sent)
            )
            columns: list[Any] = [
                _words(kind, _KINDS),
                _words(case, _CASES),
                _words(symbol, names),
                ts.view(TIMESTAMP),
                sent.view(TIMESTAMP),
                self._data(part),
            ]
            yield pa.table(columns, schema=MESSAGES)

    @property
    def messages(self) -> pa.Table:
        """All messages, a table of ``MESSAGES``: about 200 bytes each."""
        return pa.concat_tables(list(self.blocks())) if len(self) else MESSAGES.empty_table()

    def _data(self, part: Order) -> Any:
        """The bytes of messages, shape (rows,): written kind by kind, then put in order."""
        made: list[Any] = [pa.nulls(1, pa.binary())]
        place = np.zeros(len(part), np.int64)
        total = 1
        for kind in (Kind.T, *self.aggregates):
            rows = np.flatnonzero(part.kind == kind)
            if not len(rows):
                continue
            place[rows] = total + np.arange(len(rows))
            total += len(rows)
            if kind == Kind.T:
                made.append(self._encoder.trades(self.trades, part.row[rows]))
            else:
                made.append(
                    self._encoder.aggregates(
                        self.aggregates[kind], part.row[rows], _WIDTHS[kind], self.stamped
                    )
                )
        index: Any = pa.array(place)
        data: Any = pa.concat_arrays(made).take(index)
        bad = np.flatnonzero(part.case >= Case.CUT)
        if not len(bad):
            return data
        dice = _dice(self.seed, part.kind[bad], part.row[bad])
        broken: Any = pa.array(bad)
        good = data.take(broken).to_pylist()
        spoilt = [
            encode.broken(Kind(kind).name, message, case - Case.CUT, number)
            for kind, message, case, number in zip(
                part.kind[bad].tolist(), good, part.case[bad].tolist(), dice.tolist(), strict=True
            )
        ]
        return pc.replace_with_mask(data, pa.array(part.case >= Case.CUT), pa.array(spoilt, pa.binary()))


def _dice(seed: int, kind: npt.NDArray[np.int8], row: Int64) -> npt.NDArray[np.uint64]:
    """Numbers below 2**31 that are drawn from a message's identity: the steps of SplitMix64."""
    z = row.astype(np.uint64) * np.uint64(4) + kind.astype(np.uint64) + np.uint64(seed % 2**32 << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(33)


def _words(index: Any, names: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(index, names)


def count(order: Order, aggregates: Mapping[Kind, Aggregates], symbols: int) -> Counts:
    """Return the truth of messages in the order of their delivery."""
    of: dict[str, dict[str, int]] = {}
    behind: dict[str, int] = {}
    for kind in Kind:
        rows = np.flatnonzero(order.kind == kind)
        if not len(rows):
            continue
        cases, numbers = np.unique(order.case[rows], return_counts=True)
        of[kind.name] = {
            Case(case).name.lower(): number
            for case, number in zip(cases.tolist(), numbers.tolist(), strict=True)
        }
        behind[kind.name] = int((order.ts[rows] < np.maximum.accumulate(order.ts[rows])).sum())
    told = order.ts[order.kind != Kind.HB]
    return Counts(
        of,
        behind,
        {kind.name: _windows(made) for kind, made in aggregates.items()},
        int(told.min(initial=np.iinfo(np.int64).max)),
        int(told.max(initial=0)),
        symbols,
    )


def _windows(made: Aggregates) -> int:
    return len(np.unique(made.symbol.astype(np.int64) << 36 | made.start // SECOND_US))


def save(tape: Messages, path: Path) -> None:
    """Write a tape's messages, encoded, and its truth to an Arrow file.

    Raises:
        TapeError: the file cannot be written.
    """
    schema = MESSAGES.with_metadata({_METADATA: json.dumps(asdict(tape.truth)).encode()})
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
    try:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
            for block in tape.blocks():
                writer.write_table(block.replace_schema_metadata(schema.metadata))
    except OSError as error:
        raise TapeError(f"cannot write the tape {path}: {error.strerror or error}") from error


class SavedTape:
    """A tape in a file, which is mapped and not read: it can be larger than the memory."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            TapeError: it is not there, or no tape.
        """
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            told: dict[str, Any] = json.loads((self._reader.schema.metadata or {})[_METADATA])
        except FileNotFoundError:
            raise TapeError(f"there is no tape {path}: --save makes one") from None
        except (OSError, pa.ArrowInvalid, KeyError, ValueError):
            raise TapeError(f"{path} is no tape: --save makes one") from None
        self.truth = Counts(**told)

    def __len__(self) -> int:
        return len(self.sent)

    @property
    def sent(self) -> Int64:
        """When each message is delivered, UTC microseconds of event time, rising; shape (messages,)."""
        at = self._reader.schema.get_field_index("sent")
        parts = [self._reader.get_batch(n).column(at) for n in range(self._reader.num_record_batches)]
        return np.concatenate([np.zeros(0, np.int64), *(p.view(pa.int64()).to_numpy() for p in parts)])

    def blocks(self, size: int = BLOCK) -> Iterator[pa.Table]:
        """Yield the messages in order, as tables of ``MESSAGES`` with at most ``size`` rows."""
        for number in range(self._reader.num_record_batches):
            batch = pa.Table.from_batches([self._reader.get_batch(number)]).cast(MESSAGES)
            for begin in range(0, batch.num_rows, size):
                yield batch.slice(begin, size)

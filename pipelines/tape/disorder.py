"""How messages arrive: in time, or late, twice, mixed up and broken, each drawn from a seed and named."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fibflow.pipelines.tape.cells import MINUTE_US, SECOND_US, Int32, Int64, TapeError

Int8 = npt.NDArray[np.int8]

#: A message that is sent twice comes again within this time.
_TWICE_US = 60 * SECOND_US
_TOO_LATE_SPREAD_US = 600 * SECOND_US


class Kind(IntEnum):
    """What a message is; its name is the feed's."""

    T = 0
    AM = 1
    A = 2
    HB = 3


class Case(IntEnum):
    """What became of a message on its way."""

    ON_TIME = 0
    #: After its minute's end and the out-of-orderness, but within the lateness.
    LATE = 1
    #: After the lateness, and after heartbeats that say so.
    TOO_LATE = 2
    #: The same bytes once more.
    DUPLICATE = 3
    #: A newer version of an aggregate, made of trades that came late.
    AGAIN = 4
    #: An older version of an aggregate, after the newest.
    RESENT = 5
    CUT = 6
    WRONG_TYPE = 7
    MISSING_FIELD = 8
    GARBAGE = 9


BROKEN = (Case.CUT, Case.WRONG_TYPE, Case.MISSING_FIELD, Case.GARBAGE)


@dataclass(frozen=True)
class Disorder:
    """How much goes wrong. Durations are in seconds of event time, parts are of the messages of each kind.

    A message suffers one thing at most. Broken messages come on top of the good ones that they were made of,
    and so do duplicates and older versions: leaving out what is broken or too late leaves what must count.

    Attributes:
        shuffle: messages are put off by up to this long, and so overtake each other.
        late: part that is put off past its minute's end, but not past the lateness.
        too_late: part that is put off past the lateness.
        duplicates: part that comes twice.
        resent: part of the minutes of which an older version follows the newest.
        broken: part of which a broken copy follows.
        lateness, out_of_orderness: the job's.
        heartbeat: time between heartbeats.
    """

    shuffle: float = 0.0
    late: float = 0.0
    too_late: float = 0.0
    duplicates: float = 0.0
    resent: float = 0.0
    broken: float = 0.0
    lateness: float = 900.0
    out_of_orderness: float = 5.0
    heartbeat: float = 60.0

    def __post_init__(self) -> None:
        for name in ("late", "too_late", "duplicates", "resent", "broken"):
            if not 0 <= getattr(self, name) <= 1:
                raise TapeError(f"{name.replace('_', '-')} is {getattr(self, name)}: give a part from 0 to 1")
        if self.late + self.too_late + self.duplicates > 1:
            raise TapeError("late, too-late and duplicates are more than all messages: give parts up to 1")
        if min(self.shuffle, self.out_of_orderness) < 0 or self.heartbeat <= 0:
            raise TapeError("shuffle and out-of-orderness are 0 s or more, heartbeat is more than 0 s")
        if self.lateness < self.out_of_orderness + 1:
            raise TapeError("the lateness has to be a second more than the out-of-orderness, at least")
        if self.shuffle >= self.lateness:
            raise TapeError("shuffle has to be less than the lateness: what it moves further is too-late's")


@dataclass(frozen=True, eq=False)
class Order:
    """Messages in some order; all arrays have shape (messages,).

    Attributes:
        kind: of ``Kind``.
        case: of ``Case``.
        symbol: position among the tape's symbols; -1 for a heartbeat.
        ts: event time, UTC microseconds: a trade's, or an aggregate's start.
        sent: when it is delivered, UTC microseconds of event time.
        row: position among the trades or aggregates of its kind.
    """

    kind: Int8
    case: Int8
    symbol: Int32
    ts: Int64
    sent: Int64
    row: Int64

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Order:
        """Return some messages."""
        return Order(*(getattr(self, item.name)[rows] for item in fields(self)))


def joined(*parts: Order) -> Order:
    """Return all messages, one part after the other."""
    return Order(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Order)))


def in_time(kind: Kind, case: Case, symbol: Int32, ts: Int64, sent: Int64, row: Int64) -> Order:
    """Return messages of one kind as they would come were nothing wrong."""
    return Order(np.full(len(ts), kind, np.int8), np.full(len(ts), case, np.int8), symbol, ts, sent, row)


def horizon(ts: Int64, disorder: Disorder) -> Int64:
    """Return until when a message is accepted, UTC microseconds: its minute's end and the lateness."""
    return ts // MINUTE_US * MINUTE_US + MINUTE_US + _us(disorder.lateness)


def put_off(messages: Order, disorder: Disorder, rng: np.random.Generator) -> Order:
    """Return the messages with some of them late and some too late: their ``case`` and ``sent`` change."""
    drawn, share = rng.random(len(messages)), rng.random(len(messages))
    late = drawn < disorder.late
    too_late = ~late & (drawn < disorder.late + disorder.too_late)
    until = horizon(messages.ts, disorder)
    ended = until - _us(disorder.lateness) + _us(disorder.out_of_orderness) + SECOND_US
    earliest = np.minimum(np.maximum(messages.sent, ended), until)
    passed = until + _us(disorder.out_of_orderness) + _us(disorder.heartbeat) + SECOND_US
    sent = np.where(late, earliest + (share * (until - earliest)).astype(np.int64), messages.sent)
    sent = np.where(too_late, passed + (share * _TOO_LATE_SPREAD_US).astype(np.int64), sent)
    case = np.where(late, Case.LATE, np.where(too_late, Case.TOO_LATE, messages.case)).astype(np.int8)
    return Order(messages.kind, case, messages.symbol, messages.ts, sent, messages.row)


def disturbed(messages: Order, disorder: Disorder, rng: np.random.Generator) -> Order:
    """Return the messages mixed up, with the duplicates and the broken ones that come on top of them."""
    calm = (messages.case == Case.ON_TIME) | (messages.case == Case.AGAIN)
    jitter = np.where(calm, rng.random(len(messages)) * _us(disorder.shuffle), 0).astype(np.int64)
    messages = Order(
        messages.kind, messages.case, messages.symbol, messages.ts, messages.sent + jitter, messages.row
    )
    again = messages.take(np.flatnonzero(calm & (rng.random(len(messages)) < _among(calm, disorder))))
    delay = (rng.random(len(again)) * _TWICE_US).astype(np.int64)
    again = Order(
        again.kind,
        np.full(len(again), Case.DUPLICATE, np.int8),
        again.symbol,
        again.ts,
        np.maximum(np.minimum(again.sent + delay, horizon(again.ts, disorder)), again.sent),
        again.row,
    )
    whole = messages.take(np.flatnonzero(rng.random(len(messages)) < disorder.broken))
    how = rng.integers(Case.CUT, Case.GARBAGE + 1, len(whole), np.int8)
    return joined(messages, again, Order(whole.kind, how, whole.symbol, whole.ts, whole.sent, whole.row))


def _among(calm: npt.NDArray[np.bool_], disorder: Disorder) -> float:
    """The part of the calm messages that makes the wanted part of all."""
    number = int(calm.sum())
    return disorder.duplicates * len(calm) / number if number else 0.0


def _us(seconds: float) -> int:
    return round(seconds * SECOND_US)

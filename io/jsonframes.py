"""Where the messages of payloads begin and end, without parsing them.

A payload of the plain form is an array of objects, or has one object a line; the objects hold no others. What
is not exactly of that form is named, for a parser to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fibflow.io.jsonspans import WORD, Bool, Index, Text

_WHITE = b" \t\r\n"
_LINES, _ARRAY = 1, 2
#: Between messages: more characters than this, or more kinds of gap, are left to a parser.
_MAX_GAP, _MAX_GAPS = WORD, 16


@dataclass(frozen=True)
class Frames:
    """The messages of payloads of plain form, in their order.

    Attributes:
        starts: where each begins, ascending, shape (n,).
        ends: behind each.
        record: its payload's number.
        place: its number in the payload.
        is_array: whether a payload is an array, shape (payloads,).
        others: the numbers of the payloads that are of another form.
    """

    starts: Index
    ends: Index
    record: Index
    place: Index
    is_array: Bool
    others: Index


def frame(text: Text, begins: Index, finishes: Index) -> Frames:
    """Find the messages of payloads.

    Args:
        text: holds the payloads, one behind the other.
        begins: where each begins, shape (payloads,).
        finishes: where each ends.
    """
    count = len(begins)
    starts = text.places(b"{")
    first = np.searchsorted(starts, begins)
    held = np.diff(first, append=len(starts))
    record = np.repeat(np.arange(count), held)
    some = np.flatnonzero(held)
    last = first[some] + held[some] - 1
    following = np.append(starts[1:], 0)[: len(starts)]
    following[last] = finishes[some]
    gaps = _gaps(text, following)
    ends = following - gaps

    leads = np.zeros(count, np.uint8)
    leads[some] = _forms(text, begins[some], starts[first[some]] - begins[some], _outer(b"["))
    is_last = np.zeros(len(starts), np.bool_)
    is_last[last] = True
    forms = _forms(text, ends, gaps, _inner)
    forms[last] = _forms(text, ends[last], gaps[last], _outer(b"]"))
    plain = leads != 0
    plain[record[(forms != leads[record]) | (ends <= starts)]] = False
    place = np.arange(len(starts)) - first[record]
    others = np.flatnonzero(~plain)
    if len(others):
        kept = plain[record]
        starts, ends, record, place = starts[kept], ends[kept], record[kept], place[kept]
    return Frames(starts, ends, record, place, leads == _ARRAY, others)


def _gaps(text: Text, following: Index) -> Index:
    """Return how many characters lie between each message's last brace and what follows it."""
    gaps = np.zeros(len(following), np.int64)
    rows: Index = np.arange(len(following))
    for _ in range(_MAX_GAP + 1):
        rows = rows[text.bytes[following[rows] - 1 - gaps[rows]] != ord("}")]
        if not len(rows):
            break
        gaps[rows] += 1
    return gaps


def _outer(bracket: bytes) -> Callable[[bytes], int]:
    """Return what tells the form of a payload by what is before its first, or behind its last message."""
    return lambda gap: {b"": _LINES, bracket: _ARRAY}.get(gap.strip(_WHITE), 0)


def _inner(gap: bytes) -> int:
    """Return the form of a payload that has this between two messages; 0 for none."""
    bare = gap.strip(_WHITE)
    if bare == b",":
        return _ARRAY
    return _LINES if not bare and b"\n" in gap else 0


def _forms(text: Text, at: Index, lengths: Index, form_of: Callable[[bytes], int]) -> npt.NDArray[np.uint8]:
    """Return the form that each gap belongs to, 0 for none. There are few different gaps."""
    forms = np.zeros(len(at), np.uint8)
    rest: Index = np.arange(len(at))
    for _ in range(_MAX_GAPS):
        rest = rest[lengths[rest] <= _MAX_GAP]
        if not len(rest):
            break
        one = int(rest[0])
        gap = text.cut(int(at[one]), int(at[one] + lengths[one]))
        same = lengths[rest] == len(gap)
        if gap:
            same &= text.holds(at[rest], gap)
        forms[rest[same]] = form_of(gap)
        rest = rest[~same]
    return forms

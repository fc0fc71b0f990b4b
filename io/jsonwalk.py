"""The fields of flat JSON objects, found in all of them at once.

Messages of one producer have the same keys in the same order, some of them optional. Such a *layout* is
learnt from a few messages; then all are walked through field by field, side by side. A message is of a layout
when its bytes, from the first to the last, are the keys of the layout where they must stand, and values
between. Nothing is guessed: what is of no layout is left to a parser, and what was learnt changes the speed
only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fibflow.io.jsonspans import Bool, Index, Text, Words

TEXT, LIST, BARE = b'"', b"]", b","


class Span(NamedTuple):
    """A field's values; texts and lists without their quotation marks and brackets.

    Attributes:
        starts: where each begins, ascending, shape (n,).
        ends: where each ends.
        words: the words at their beginnings.
        present: which messages have the field; None for all. The others' values are empty.
        form: what the values are: ``TEXT``, ``LIST``, or ``BARE``: a number or a word.
    """

    starts: Index
    ends: Index
    words: Words
    present: Bool | None
    form: bytes


class Field(NamedTuple):
    """One field of a layout: what stands before its value, and its form, which is the character behind it."""

    key: str
    token: bytes
    form: bytes


@dataclass(frozen=True)
class Walked:
    """The messages of one layout.

    Attributes:
        kind: the value of the first field, ``ev``.
        rows: which of the messages, ascending, shape (n,).
        spans: the other fields, by key.
    """

    kind: str
    rows: Index
    spans: dict[str, Span]


_FIELD = re.compile(rb'(, ?"(\w{1,32})": ?)(?:(")[^"\\]*"|(\[)[^\[\]"]*\]|[^][",{}]+)')
_HEAD = re.compile(rb'\{"ev": ?"(\w{1,8})"')
#: Words that are looked at for the end of a value.
_MOST_WORDS = 5
#: So many layouts are tried in a block, and kept; and so many fields of one.
_MAX_LAYOUTS, _MAX_FIELDS = 16, 48
#: So many messages of a block are looked at for new fields, and again of those that are left.
_SAMPLES = 8
_MAX_WALKS = 3


@dataclass
class Layouts:
    """The layouts that were met so far: the fields in their order, by the message's beginning."""

    known: dict[bytes, tuple[Field, ...]] = field(default_factory=dict)

    def walk(
        self, text: Text, starts: Index, ends: Index, kinds: Collection[str], few: int
    ) -> Iterator[Walked]:
        """Yield the messages of each layout; those of rare ones, and those that are not flat, are in none.

        Args:
            text: holds the messages.
            starts: where each begins, ascending, shape (n,).
            ends: behind each.
            kinds: the values of ``ev`` to look for.
            few: fewer messages of a layout are not worth its fixed cost.
        """
        rest: Index = np.arange(len(starts))
        heads = list(self.known)
        for _ in range(len(heads) + _MAX_LAYOUTS):
            if len(rest) < few or not len(rest):
                return
            head = heads.pop(0) if heads else _head(text.cut(int(starts[rest[0]]), int(ends[rest[0]])))
            if head is None:
                rest = rest[1:]
                continue
            same = text.holds(starts[rest], head)
            rows, rest = rest[same], rest[~same]
            kind = _kind(head)
            if kind in kinds and len(rows) >= max(few, 1):
                yield self._walk(text, head, kind, rows, starts[rows], ends[rows], few)

    def _walk(
        self, text: Text, head: bytes, kind: str, rows: Index, starts: Index, ends: Index, few: int
    ) -> Walked:
        fields, last = self.known.get(head, ()), ends - 1
        spans, good = _fields(text, starts + len(head), last, fields) if fields else ({}, ends < starts)
        for _ in range(_MAX_WALKS):
            left = np.flatnonzero(~good)
            picked = left[:: max(len(left) // _SAMPLES, 1)].tolist()
            samples = [text.cut(int(starts[row]), int(ends[row])) for row in picked]
            learnt = _learn(fields, samples, len(head))
            if learnt == fields and 2 * len(left) > len(rows):
                # Another order of fields than once: forget that.
                learnt = _learn((), samples, len(head))
            if learnt == fields:
                break
            fields = learnt
            if len(left) < few:
                # Worth it for the blocks that follow.
                break
            spans, good = _fields(text, starts + len(head), last, fields)
        if len(self.known) >= _MAX_LAYOUTS:
            self.known.clear()
        self.known[head] = fields
        if good.all():
            return Walked(kind, rows, spans)
        return Walked(kind, rows[good], {key: _only(span, good) for key, span in spans.items()})


def _learn(fields: tuple[Field, ...], samples: list[bytes], at: int) -> tuple[Field, ...]:
    for sample in samples:
        fields = _merge(fields, sample, at)
    return fields


def _only(span: Span, kept: Bool) -> Span:
    present = None if span.present is None else span.present[kept]
    return Span(span.starts[kept], span.ends[kept], span.words[kept], present, span.form)


def _head(sample: bytes) -> bytes | None:
    match = _HEAD.match(sample)
    return None if match is None else match[0]


def _kind(head: bytes) -> str:
    return head.rsplit(b'"', 2)[1].decode()


def _merge(fields: tuple[Field, ...], sample: bytes, at: int) -> tuple[Field, ...]:
    """Add the fields of a message that are new, each behind the one before it.

    A message that is not flat, or has fields in another order or of another type, adds nothing.

    Args:
        fields: the layout so far.
        sample: the message.
        at: the length of its beginning.
    """
    merged = list(fields)
    slot = 0
    while sample[at : at + 1] != b"}":
        match = _FIELD.match(sample, at)
        if match is None:
            return fields
        token, key, quote, bracket = match.groups(b"")
        form = TEXT if quote else LIST if bracket else BARE
        one = Field(key.decode(), token + (quote or bracket), form)
        if one in merged[slot:]:
            slot = merged.index(one) + 1
        elif one.key == "ev" or any(one.key == other.key for other in merged):
            return fields
        else:
            merged.insert(slot, one)
            slot += 1
        at = match.end()
    return tuple(merged) if at == len(sample) - 1 and len(merged) <= _MAX_FIELDS else fields


def _fields(text: Text, at: Index, behind: Index, fields: tuple[Field, ...]) -> tuple[dict[str, Span], Bool]:
    """Walk through messages field by field.

    Args:
        text: holds them.
        at: where the first field begins, with its comma; shape (n,).
        behind: each message's last brace.
        fields: the layout.

    Returns:
        The spans, and which messages were walked through to their end.
    """
    spans = {}
    for key, token, form in fields:
        present = text.holds(at, token)
        if present.all():
            starts = at + len(token)
            words = text.words[starts]
            ends = text.find(form, words, starts, behind, _MOST_WORDS)
            spans[key] = Span(starts, ends, words, None, form)
            at = ends if form == BARE else ends + 1
            continue
        rows = np.flatnonzero(present)
        if not len(rows):
            continue
        some = at[rows] + len(token)
        some_words = text.words[some]
        some_ends = text.find(form, some_words, some, behind[rows], _MOST_WORDS)
        # An empty span stays in ascending order where the next field begins.
        starts, ends, words = at.copy(), at.copy(), np.zeros(len(at), np.uint64)
        at = at.copy()
        starts[rows], ends[rows], words[rows] = some, some_ends, some_words
        spans[key] = Span(starts, ends, words, present, form)
        at[rows] = some_ends + (form != BARE)
    return spans, at == behind

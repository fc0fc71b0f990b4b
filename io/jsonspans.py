"""Numbers and short texts read out of a large buffer at many places at once.

A value is a span ``[start, end)`` of the buffer. Eight characters are one 64-bit word, and arithmetic on a
word works on all of them, so that a column of numbers costs a few dozen operations on whole arrays. What is
read is exactly what a JSON parser reads; what is not of the plain form is left to one: every reader returns
which of its values it could read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Index = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

#: Characters of a word.
WORD = 8
#: Bytes before and after the data, so that words may reach over its ends.
PAD = 64
#: Longest whole number and decimal that are read, in characters.
MAX_WHOLE = 19
MAX_DECIMAL = 16


def _u64(value: int) -> np.uint64:
    return np.uint64(value)


def _word(characters: bytes) -> np.uint64:
    return _u64(int.from_bytes(characters, "little"))


_ONES, _HIGHS, _SIXES, _NIBBLES = (_word(bytes([byte]) * WORD) for byte in (0x01, 0x80, 0x06, 0xF0))
_ZEROS = _word(b"0" * WORD)
_DOTS = _word(bytes([ord(".") ^ ord("0")]) * WORD)
#: Of a word, the last n characters (the high bytes) or the first n.
_LAST = np.array([((1 << 64) - 1) ^ ((1 << (64 - 8 * n)) - 1) for n in range(WORD + 1)], np.uint64)
_FIRST = np.array([(1 << (8 * n)) - 1 for n in range(WORD + 1)], np.uint64)
_POWERS = np.array([10.0**n for n in range(MAX_DECIMAL)])
_EXACT = _u64(1 << 53)
#: How neighbours are joined: the left one's factor, the distance, and what is left of a word.
_HALVINGS = tuple(
    (_u64(factor), _u64(shift), _u64(kept))
    for factor, shift, kept in (
        (10, 8, 0x00FF00FF00FF00FF),
        (100, 16, 0x0000FFFF0000FFFF),
        (10_000, 32, 0x00000000FFFFFFFF),
    )
)
_INT64_MAX = _u64((1 << 63) - 1)
#: Odd, so that words that differ stay different.
_MIX = _u64(0x9E3779B97F4A7C15)
#: Characters that a JSON text cannot hold as they are, and all that are not ASCII.
_UNSAFE = np.ones(256, np.bool_)
_UNSAFE[32:127] = False
_UNSAFE[[ord('"'), ord("\\")]] = True


class Text:
    """A buffer that words of eight characters can be read from at any place.

    Attributes:
        bytes: the data with ``PAD`` zeros before and some behind, uint8. Places are counted in it.
        words: the word that begins at each place.
    """

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        end = PAD + len(data)
        self.bytes = np.empty((end + PAD) // WORD * WORD, np.uint8)
        self.bytes[:PAD], self.bytes[end:] = 0, 0
        self.bytes[PAD:end] = data
        shape = (len(self.bytes) - WORD + 1,)
        self.words: Words = np.ndarray(shape, "<u8", buffer=self.bytes, strides=(1,))

    def cut(self, start: int, end: int) -> bytes:
        """Return the bytes of one span."""
        return self.bytes[start:end].tobytes()

    def holds(self, at: Index, token: bytes) -> Bool:
        """Return where ``token``, of one character at least, begins at ``at``; shape (n,)."""
        found = self._holds(at, token[:WORD])
        for offset in range(WORD, len(token), WORD):
            found &= self._holds(at + offset, token[offset : offset + WORD])
        return found

    def _holds(self, at: Index, token: bytes) -> Bool:
        words = self.words[at]
        if len(token) < WORD:
            words &= _FIRST[len(token)]
        return words == _word(token)

    def places(self, character: bytes) -> Index:
        """Return where a character stands that is rare: ascending, most words have none."""
        marks = self.bytes == character[0]
        by_word = marks.view(np.uint64)
        held = np.flatnonzero(by_word != 0)
        words = by_word[held]
        if (words & (words - _u64(1))).any():
            return np.flatnonzero(marks)
        return held * WORD + _first_byte(words)

    def find(self, character: bytes, words: Words, starts: Index, limits: Index, most: int) -> Index:
        """Return where values end: where a character first stands at or behind ``starts``, or ``limits``.

        A value that could be read of what is returned does not hold the character, so that it is the first.

        Args:
            character: what to look for.
            words: the words at ``starts``.
            starts: where to begin, shape (n,).
            limits: what is returned where it is not found before.
            most: the number of words that are looked at. Where they do not reach the limit and do not have
                the character, ``starts`` is returned.
        """
        if len(starts):
            # Many values are as long as the first; a shorter one that this runs over is no plain value.
            one = int(starts[0])
            guess = starts + max(self.cut(one, one + WORD * most).find(character), 0)
            if (self.bytes[guess] == character[0]).all():
                return np.minimum(guess, limits)
        pattern = _word(character * WORD)
        marks = _first_zero(words ^ pattern)
        found = starts + _first_byte(marks)
        rest = np.flatnonzero(marks == 0)
        for _ in range(1, most):
            if not len(rest):
                break
            place = found[rest]
            marks = _first_zero(self.words[place] ^ pattern)
            found[rest] = place + _first_byte(marks)
            rest = rest[marks == 0]
        np.minimum(found, limits, out=found)
        if len(rest):
            lost = rest[found[rest] < limits[rest]]
            found[lost] = starts[lost]
        return found


def _first_zero(words: Words) -> Words:
    """Return the high bit of the first byte that is 0; 0 where there is none."""
    marks = words - _ONES
    marks &= ~words
    marks &= _HIGHS
    marks &= ~marks + _u64(1)
    return marks


def _first_byte(marks: Words) -> Index:
    """Return the number of each word's first byte that is not 0, where that has one bit; 8 for no byte."""
    return (np.bitwise_count(marks - _u64(1)) >> 3).astype(np.int64)


def _digits(text: Text, ends: Index, lengths: Index, place: int) -> Words:
    """Return characters of values as digits, 0 to 9 a byte, of the word ``place`` words from the end.

    A character that is no digit leaves a byte above 9; before a value's beginning there are zeros.
    """
    words = text.words[ends - WORD * (place + 1)]
    words ^= _ZEROS
    words &= _LAST[np.minimum(np.maximum(lengths - WORD * place, 0), WORD)]
    return words


def _aligned(words: Words, lengths: Index | np.int64) -> Words:
    """Return the digits of values of one to eight characters, given the words at their beginnings."""
    shifts = (WORD - lengths).astype(np.uint64) << _u64(3)
    digits = words ^ _ZEROS
    digits <<= shifts
    return digits


def _are_digits(words: Words) -> Bool:
    above = words + _SIXES
    above |= words
    above &= _NIBBLES
    return above == 0


def _number(words: Words) -> Words:
    """Return the number that each word of eight digits spells: pairs, then fours, then all."""
    for factor, shift, kept in _HALVINGS:
        joined = words * factor
        joined += words >> shift
        joined &= kept
        words = joined
    return words


Reader = Callable[[Text, Words, Index, Index], tuple[npt.NDArray[Any], Bool]]


def whole(text: Text, words: Words, starts: Index, ends: Index) -> tuple[Index, Bool]:
    """Read whole numbers of up to ``MAX_WHOLE`` digits without a sign.

    Args:
        text: holds them.
        words: the words at their beginnings.
        starts: where they begin, shape (n,).
        ends: where they end.

    Returns:
        The numbers, and which could be read, both of shape (n,).
    """
    lengths = ends - starts
    longest = int(lengths.max(initial=0))
    if longest <= WORD:
        digits = _aligned(words, lengths)
        total, good = _number(digits), _are_digits(digits)
    elif longest <= 2 * WORD and (lengths == longest).all():
        low = text.words[ends - WORD] ^ _ZEROS
        high = _aligned(words, np.int64(longest - WORD))
        if (high == high[0]).all():
            high = high[:1]
        total = _number(high) * _u64(100_000_000) + _number(low)
        good = _are_digits(low) & _are_digits(high)
    else:
        total = np.zeros(len(starts), np.uint64)
        good = lengths <= MAX_WHOLE
        for place in reversed(range(-(-min(longest, MAX_WHOLE) // WORD))):
            digits = _digits(text, ends, lengths, place)
            good &= _are_digits(digits)
            total *= _u64(100_000_000)
            total += _number(digits)
        good &= total <= _INT64_MAX
    good &= (lengths == 1) | ((lengths > 1) & ((words & _FIRST[1]) != ord("0")))
    return total.view(np.int64), good


def decimals(text: Text, words: Words, starts: Index, ends: Index) -> tuple[Float64, Bool]:
    """Read numbers of up to ``MAX_DECIMAL`` characters without a sign and an exponent.

    Their digits are a whole number below 2**53 and the power of ten is exact, so that one division rounds as
    a parser does. Arguments and result as of ``whole``.
    """
    lengths = ends - starts
    values, good = _short_decimals(words, lengths)
    longer = np.flatnonzero(lengths > WORD)
    if len(longer):
        values[longer], good[longer] = _long_decimals(text, words[longer], ends[longer], lengths[longer])
    return values, good


def _short_decimals(words: Words, lengths: Index) -> tuple[Float64, Bool]:
    digits = _aligned(words, lengths)
    dots = _first_zero(digits ^ _DOTS)
    has_dot = dots != 0
    if not has_dot.any():
        good = _are_digits(digits) & (lengths > 0)
        good &= (lengths == 1) | ((words & _FIRST[1]) != ord("0"))
        return _number(digits).astype(np.float64), good
    digits, behind = _without_dot(digits, dots)
    good = _are_digits(digits) & _is_well_formed(words, lengths, behind, has_dot)
    return _number(digits).astype(np.float64) / _POWERS[behind], good


def _long_decimals(text: Text, words: Words, ends: Index, lengths: Index) -> tuple[Float64, Bool]:
    """Read decimals of more than eight characters."""
    low, high = (_digits(text, ends, lengths, place) for place in (0, 1))
    dots = _first_zero(low ^ _DOTS)
    in_low = dots != 0
    # The dot of the low word makes room for a character of the high one.
    carried = np.where(in_low, high >> _u64(56), _u64(0))
    high = np.where(in_low, high << _u64(8), high)
    low, behind = _without_dot(low, dots)
    high_dots = np.where(in_low, _u64(0), _first_zero(high ^ _DOTS))
    high, more = _without_dot(high, high_dots)
    in_high = high_dots != 0
    behind += np.where(in_high, more + WORD, 0)
    low |= carried
    total = _number(high) * _u64(100_000_000) + _number(low)
    good = (lengths <= MAX_DECIMAL) & _are_digits(low) & _are_digits(high) & (total < _EXACT)
    good &= _is_well_formed(words, lengths, behind, in_low | in_high)
    return total.astype(np.float64) / _POWERS[np.minimum(behind, MAX_DECIMAL - 1)], good


def _is_well_formed(words: Words, lengths: Index, behind: Index, has_dot: Bool) -> Bool:
    """Return which numbers have digits on both sides of a dot, and no needless zero in front."""
    before = lengths - behind - has_dot
    good = (before > 0) & ((behind > 0) | ~has_dot)
    good &= (before == 1) | ((words & _FIRST[1]) != ord("0"))
    return good


def _without_dot(words: Words, dots: Words) -> tuple[Words, Index]:
    """Close up the gap of a dot, and count the characters behind it; 0 where there is no dot."""
    above = ~((dots << _u64(1)) - _u64(1))
    below = (dots >> _u64(7)) - _u64(1)
    closed = (words & above) | ((words & below) << _u64(8))
    return np.where(dots == 0, words, closed), (np.bitwise_count(above) >> 3).astype(np.int64)


def texts(text: Text, starts: Index, ends: Index) -> tuple[Any, Bool]:
    """Read spans, in ascending order, as strings.

    Returns:
        A ``pa.StringArray`` of shape (n,), and which spans hold plain characters only.
    """
    n = len(starts)
    good = np.ones(n, np.bool_)
    if not n:
        return pa.array([], pa.string()), good
    # Every other one of the strings between these places is a value; taking those copies them.
    places = np.empty(2 * n, np.int32)
    places[::2], places[1::2] = starts, ends
    buffers: Any = [None, pa.py_buffer(places.data), pa.py_buffer(text.bytes.data)]
    between: Any = pa.Array.from_buffers(pa.string(), 2 * n - 1, buffers)
    values: Any = between.take(pa.array(np.arange(0, 2 * n, 2)))
    held = values.buffers()[2]
    if held is not None and held.size:
        unsafe = np.flatnonzero(_UNSAFE[np.frombuffer(held, np.uint8)])
        if len(unsafe):
            offsets = np.frombuffer(values.buffers()[1], np.int32)[: n + 1]
            good[np.searchsorted(offsets, unsafe, side="right") - 1] = False
    return values, good


def words_of(text: Text, words: Words, starts: Index, ends: Index, count: int) -> list[Words]:
    """Return the characters of spans as ``count`` words, zeros behind the end; longer ones are cut."""
    lengths = ends - starts
    found = [words & _FIRST[np.minimum(lengths, WORD)]]
    for place in range(1, count):
        further = text.words[starts + WORD * place]
        further &= _FIRST[np.minimum(np.maximum(lengths - WORD * place, 0), WORD)]
        found.append(further)
    return found


def distinct(words: Sequence[Words]) -> tuple[npt.NDArray[np.int32], Index]:
    """Number equal spans alike, in the order of their first appearance.

    Args:
        words: what ``words_of`` returned.

    Returns:
        The number of each span, shape (n,), and of each number the first span that has it.
    """
    mixed = words[0]
    for other in words[1:]:
        mixed = (mixed * _MIX) ^ other
    encoded: Any = pa.array(mixed).dictionary_encode()
    codes = np.asarray(encoded.indices)
    first: Index = np.zeros(len(encoded.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    if len(words) > 1 and not all((other == other[first[codes]]).all() for other in words):
        # Two that are not equal were mixed to one number.
        rows = np.stack(words, axis=1)
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order))
        return number[inverse.reshape(-1)], first[order]
    return codes, first

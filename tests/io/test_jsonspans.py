from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fibflow.io.jsonspans import MAX_DECIMAL, MAX_WHOLE, Text, decimals, distinct, texts, whole, words_of

WHOLE = re.compile(r"(0|[1-9][0-9]*)\Z")
DECIMAL = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?\Z")


def spans(values: list[bytes], gap: bytes = b",") -> tuple[Text, np.ndarray, np.ndarray]:
    """A text of the values, each behind a gap, and where they are."""
    data = b"".join(gap + value for value in values)
    text = Text(np.frombuffer(data, np.uint8))
    lengths = np.array([len(value) for value in values], np.int64)
    ends = np.cumsum(lengths + len(gap)) + len(text.bytes[: text.bytes.tobytes().index(data)])
    return text, ends - lengths, ends


def read(reader, values: list[str], gap: bytes = b",") -> list:
    """What is read of each value; None where it is not."""
    text, starts, ends = spans([value.encode() for value in values], gap)
    found, good = reader(text, text.words[starts], starts, ends)
    return [value if fine else None for value, fine in zip(found.tolist(), good.tolist(), strict=True)]


DIGITS = st.text("0123456789", max_size=21)
NUMBERS = st.one_of(
    DIGITS,
    st.builds("{}.{}".format, DIGITS, DIGITS),
    st.floats(0, 1e12).map(repr),
    st.integers(0, 2**65).map(str),
    st.text("0123456789.-+eE /:x", max_size=20),
)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1), st.sampled_from([b",", b"9", b"."]))
@example(["9223372036854775807", "9223372036854775808", "9999999999999999999"], b"9")
@example(["1732890600000"] * 3, b",")
@example(["173289060000x", "1732890600000"], b",")
def test_whole_numbers_are_as_int_reads_them(values, gap):
    for value, found in zip(values, read(whole, values, gap), strict=True):
        fits = WHOLE.match(value) and len(value) <= MAX_WHOLE and int(value) < 2**63
        assert found == (int(value) if fits else None)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1), st.sampled_from([b",", b"9", b"."]))
@example(["9007199254740991", "9007199254740992", "0.9007199254740991", "1.", ".1", "1..2", "1.2.3"], b".")
def test_decimals_are_as_float_reads_them_to_the_bit(values, gap):
    for value, found in zip(values, read(decimals, values, gap), strict=True):
        digits = value.replace(".", "")
        fits = DECIMAL.match(value) and len(value) <= MAX_DECIMAL and int(digits) < 2**53
        assert found == (float(value) if fits else None)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=12)))
def test_texts_are_copied_and_the_plain_ones_told(values):
    text, starts, ends = spans(values)
    found, good = texts(text, starts, ends)
    assert found.cast("binary").to_pylist() == values
    plain = [all(32 <= byte < 127 and byte not in b'"\\' for byte in value) for value in values]
    assert good.tolist() == plain


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20).filter(lambda value: not value.endswith(b"\0"))))
def test_equal_spans_have_one_number_in_the_order_of_appearance(values):
    text, starts, ends = spans(values)
    codes, first = distinct(words_of(text, text.words[starts], starts, ends, 3))
    known = list(dict.fromkeys(values))
    assert [known[code] for code in codes.tolist()] == values
    assert first.tolist() == [values.index(value) for value in known]


def test_words_that_are_mixed_to_one_number_stay_apart():
    # The second word undoes what the first one's factor makes of it.
    factor = 0x9E3779B97F4A7C15
    first = np.array([1, 2, 1], np.uint64)
    second = np.array([0, (2 * factor ^ factor) % 2**64, 0], np.uint64)
    codes, rows = distinct([first, second])
    assert (codes.tolist(), rows.tolist()) == ([0, 1, 0], [0, 1])


@pytest.mark.parametrize("character", [b",", b'"'])
@settings(deadline=None)
@given(values=st.lists(st.text("ab01", max_size=30), min_size=1), more=st.booleans())
def test_the_end_of_a_value_is_found_within_the_words_looked_at(character, values, more):
    text, starts, ends = spans([value.encode() for value in values], character)
    limits = ends + 7 if more else ends
    found = text.find(character, text.words[starts], starts, limits, 2)
    for value, start, end, at, is_last in zip(
        values, starts, ends, found, np.arange(len(values)) == len(values) - 1, strict=True
    ):
        if is_last and more:
            # Nothing stands behind the last one.
            assert at == (end + 7 if end + 7 <= start + 16 else start)
        elif at != end:
            assert at == start
            assert len(value) >= 16


def test_places_of_a_character_rare_or_not():
    for data in (b"", b"{", b"{{{{", b"a{b" * 50, bytes(1000) + b"{" + bytes(7) + b"{"):
        text = Text(np.frombuffer(data, np.uint8))
        offset = text.bytes.tobytes().index(data) if data.strip(b"\0") else 0
        found = text.places(b"{") - offset
        assert found.tolist() == [at for at, byte in enumerate(data) if byte == ord("{")]


def test_a_token_of_any_length_is_looked_for_at_any_place():
    text = Text(np.frombuffer(b"0123456789abcdefghij", np.uint8))
    start = text.bytes.tobytes().index(b"0123")
    for token in (b"0", b"01234567", b"012345678", b"0123456789abcdefg"):
        at = np.array([start, start + 1, start + 3])
        assert text.holds(at, token).tolist() == [True, False, False]
    assert text.cut(start + 2, start + 5) == b"234"

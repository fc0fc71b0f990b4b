from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.tests.transforms.streams import MINUTE, minute, stream_table, trade
from fibflow.tests.transforms.tables import dicts, ny
from fibflow.transforms import tickrows
from fibflow.transforms.schemas import DEAD_LETTERS, LATE

OPEN = ny("2024-07-02T09:30")
NUMBERS = st.integers(0, 10**56 - 1)


@given(st.lists(NUMBERS, max_size=20))
def test_words_keep_sequence_numbers_and_their_order(values):
    words = tickrows.to_words(values)
    assert tickrows.from_words(words) == values
    order = np.lexsort(tuple(words[::-1]))
    assert [values[place] for place in order] == sorted(values)


def test_sequence_numbers_are_integers():
    assert tickrows.sequence_numbers(["7", "007", "9" * 56]) == [7, 7, 10**56 - 1]


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "٣", "9" * 60])
def test_what_is_no_sequence_number(text):
    with pytest.raises(ValueError, match="is no decimal number of up to 56 digits"):
        tickrows.sequence_numbers([text])


@pytest.mark.parametrize("kind", ["strings", "one chunk", "chunks", "no chunks"])
def test_words_of_any_column(kind):
    texts = ["b", "a", "b", "c"]
    column = {
        "strings": pa.chunked_array([texts]),
        "one chunk": pa.chunked_array([pa.array(texts).dictionary_encode()]),
        "chunks": pa.chunked_array([pa.array(part).dictionary_encode() for part in (texts[:2], texts[2:])]),
        "no chunks": pa.chunked_array([], pa.dictionary(pa.int32(), pa.string())),
    }[kind]
    words, codes = tickrows.words(pa.table({"symbol": column}), "symbol")
    assert words.take(pa.array(codes)).to_pylist() == (texts if kind != "no chunks" else [])
    assert len(set(words.to_pylist())) == len(words)
    assert codes.dtype == np.int32


def test_minutes_of_instants():
    for ts in ([], [OPEN + 1, OPEN + MINUTE - 1], [OPEN + 1, OPEN - 1], [-1, 0]):
        values = np.array(ts, np.int64)
        assert tickrows.minutes_of(values).tolist() == [each // MINUTE * MINUTE for each in ts]


def test_the_order_of_the_stream():
    """Sequence as a number, then the places, then the shard."""
    told = [("9", 0, 0, "b"), ("10", 0, 0, "a"), ("10", 0, 1, "a"), ("10", 1, 0, "a"), ("10", 1, 0, "b")]
    names = ("sequence", "sub", "place", "shard")
    rows = [trade("A", OPEN, 1, 1.0) | dict(zip(names, each, strict=True)) for each in told]
    table = stream_table(rows[::-1])
    order = np.lexsort(tickrows.identity(table))
    assert order.tolist() == [4, 3, 2, 1, 0]


def test_dead_letters_of_trades():
    table = tickrows.dead_letters(stream_table([trade("A", OPEN + 5, 1, 10.5, 1.25, number=7)]), "duplicate")
    assert table.schema.equals(DEAD_LETTERS)
    (letter,) = dicts(table)
    values = {name: value for name, value in letter.items() if value is not None}
    assert values == {
        "reason": "duplicate",
        "origin": f"kinesis:shardId-000000000001/{10**55 + 1}/0/7",
        "symbol": "A",
        "ts": OPEN + 5,
        **dict.fromkeys(("open", "high", "low", "close"), 10.5),
        "volume": 1.25,
    }


def test_dead_letters_of_minutes():
    row = minute("A", OPEN, 10.5, 1, 7, high=11.0, volume=0.1, vwap=None)
    (letter,) = dicts(tickrows.dead_letters(stream_table([row]), "not_a_session"))
    names = ("symbol", "ts", "open", "high", "low", "close", "volume", "vwap", "trade_count")
    assert {name: letter[name] for name in names} == {name: row[name] for name in names}


def test_late_rows():
    rows = [trade("A", ny("2024-07-02T19:59"), 3, 1.0), trade("A", ny("2024-07-02T20:01"), 4, 1.0)]
    table = tickrows.late_rows(stream_table(rows), OPEN)
    assert table.schema.equals(LATE)
    assert [(row["kind"], row["seq"], row["horizon"], row["period"]) for row in dicts(table)] == [
        ("T", 3, OPEN, "2024-07-02"),
        # The period is UTC's date, which is one ahead of New York's in the evening.
        ("T", 4, OPEN, "2024-07-03"),
    ]
    (row,) = dicts(tickrows.late_rows(stream_table([minute("A", OPEN, 1.0, 1, 1)]), OPEN))
    assert (row["kind"], row["seq"], row["place"]) == ("AM", None, 1)

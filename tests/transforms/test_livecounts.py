"""What a bundle of live bars counts: by timeframe, by reason, and what was revised."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from apache_beam.internal import pickler

from fibflow.tests.transforms.counted import counting
from fibflow.transforms.livecounts import LiveCounts, by_word
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import DEAD_LETTERS


@pytest.fixture
def counted() -> Iterator[Callable[[], dict[str, int]]]:
    with counting() as found:
        yield found


def bars(*rows: tuple[str, int, bool]) -> pa.Table:
    """Bars of (timeframe, revision, final)."""
    timeframes, revisions, final = map(list, zip(*rows, strict=True))
    columns = {"timeframe": timeframes, "revision": revisions, "final": final}
    nulls = {field.name: pa.nulls(len(rows), field.type) for field in BAR_BATCH}
    for name, values in columns.items():
        nulls[name] = pa.array(values).cast(BAR_BATCH.field(name).type)
    return pa.table(nulls, schema=BAR_BATCH)


def test_bars_by_timeframe_and_those_that_are_revised(counted):
    counts = pickler.loads(pickler.dumps(LiveCounts()))
    counts.bars(bars(("1m", 0, False), ("1m", 2, False), ("5m", 1, False), ("1m", 2, True), ("34d", 0, True)))
    counts.bars(bars(("1m", 0, False)))
    assert counted() == {
        "bars_out": 6,
        "bars_out.1m": 4,
        "bars_out.5m": 1,
        "bars_out.34d": 1,
        "bars_revised.1m": 1,
        "bars_revised.5m": 1,
    }


def test_dead_letters_by_reason_and_plain_rows(counted):
    counts = LiveCounts()
    reasons = pa.array(["duplicate", "not_a_session", "duplicate"])
    letters = {field.name: pa.nulls(3, field.type) for field in DEAD_LETTERS} | {"reason": reasons}
    counts.letters(pa.table(letters))
    counts.rows("late", 7)
    assert counted() == {
        "dead_letters": 3,
        "rejected.duplicate": 2,
        "rejected.not_a_session": 1,
        "late": 7,
    }


def test_words_of_chunks_with_dictionaries_of_their_own():
    chunks = [pa.array(words).dictionary_encode() for words in (["a", "b", "a"], ["b", "c"])]
    assert by_word(pa.chunked_array(chunks)) == {"a": 2, "b": 2, "c": 1}
    assert by_word(pa.chunked_array([["a"], ["a"]])) == {"a": 2}
    assert by_word(pa.chunked_array([], pa.string())) == {}

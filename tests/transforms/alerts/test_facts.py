"""Closes and splits of symbols."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fibflow.transforms.alerts.facts import CLOSES, FACT, NO_DAY, Facts
from fibflow.transforms.alerts.schema import Fact

ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(Fact), st.integers(1, 14), st.integers(1, 9).map(float))
)


def days(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@given(ROWS, st.integers(0, 99))
def test_the_latest_closes_are_known_and_the_last_word_on_each(rows: list[tuple], seed: int):
    facts, numbers = Facts(), random.Random(seed)
    facts.widen(3)
    told: dict[int, dict[int, float]] = {0: {}, 1: {}, 2: {}}
    splits: dict[int, dict[int, float]] = {0: {}, 1: {}, 2: {}}
    while rows:
        count = numbers.randint(1, len(rows))
        part, rows = rows[:count], rows[count:]
        facts.take(np.array([(own, int(kind), day, value) for own, kind, day, value in part], FACT))
        for own, kind, day, value in part:
            (told if kind is Fact.CLOSE else splits)[own][day] = value
        for own, closes in told.items():
            told[own] = {day: closes[day] for day in sorted(closes)[-CLOSES:]}
        restored = Facts()
        restored.widen(3)
        restored.take(facts.records())
        facts = numbers.choice([facts, restored])
    every = np.arange(3)
    for day in range(16):
        expected = [told[own].get(day, np.nan) for own in range(3)]
        np.testing.assert_array_equal(facts.closes(every, day), expected)
        factors = facts.factors(every, days(3, 3, 3), day)
        product = [
            np.prod([factor for when, factor in sorted(splits[own].items()) if 3 < when <= day])
            for own in range(3)
        ]
        np.testing.assert_allclose(np.ones(3) if factors is None else factors, product)


def test_without_splits_there_are_no_factors():
    facts = Facts()
    facts.widen(1)
    assert facts.factors(np.zeros(1, np.int64), days(NO_DAY), 5) is None
    facts.take(np.array([(0, int(Fact.SPLIT), 9, 0.5)], FACT))
    assert facts.factors(np.zeros(1, np.int64), days(NO_DAY), 8) is None
    found = facts.factors(np.zeros(1, np.int64), days(NO_DAY), 9)
    assert found is not None
    assert found.tolist() == [0.5]
    facts.widen(1)
    assert len(facts.records()) == 1

"""A destination that fails rests, longer each time, and is then asked by one try."""

from __future__ import annotations

import random

import pytest

from fibflow.io.notify.breakers import Breakers


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def breakers(now) -> Breakers:
    return Breakers(random.Random(1), lambda: now[0])


def test_the_first_failures_mark_and_the_third_makes_it_rest(breakers):
    breakers.failed(7)
    breakers.failed(7)
    assert (breakers.room(7, 4), breakers.room(8, 4), breakers.suspects(), breakers.resting) == (4, 4, [7], 0)
    breakers.failed(7)
    assert (breakers.room(7, 4), breakers.room(8, 4), breakers.resting) == (0, 4, 1)


def test_after_a_rest_one_try_says_how_it_goes_on(breakers, now):
    for _ in range(3):
        breakers.failed(7)
    rests = []
    for _ in range(9):
        began = now[0]
        while not breakers.room(7, 4):
            now[0] += 0.125
        assert breakers.room(7, 4) == 1
        rests.append(now[0] - began)
        breakers.failed(7)
    assert all(
        bound / 2 <= rest <= bound + 0.125 for rest, bound in zip(rests, (2, 4, 8, 16, 32), strict=False)
    )
    assert max(rests) <= 60.125
    breakers.succeeded(7)
    assert (breakers.room(7, 4), breakers.suspects(), breakers.resting) == (4, [], 0)


def test_who_asks_for_time_gets_it_after_one_failure(breakers, now):
    breakers.failed(7, wait=30)
    assert breakers.room(7, 4) == 0
    now[0] = 30
    assert breakers.room(7, 4) == 4
    breakers.succeeded(9)


def test_who_ended_or_was_not_tried_for_an_hour_is_forgotten(breakers, now):
    for _ in range(3):
        breakers.failed(7)
    breakers.failed(8)
    breakers.failed(9, wait=60)
    breakers.ended(7)
    assert (breakers.suspects(), breakers.room(7, 4)) == ([8, 9], 4)
    now[0] = 3_600
    assert breakers.suspects() == [8, 9]
    now[0] = 3_601
    assert breakers.suspects() == [9]
    now[0] = 3_661
    assert (breakers.suspects(), breakers.resting) == ([], 0)

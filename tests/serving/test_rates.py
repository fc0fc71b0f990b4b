"""How often a key may ask."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving import rates
from fibflow.serving.rates import Rates

KEY, OTHER = "00000000000000a1", "00000000000000b2"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_is_let_in_and_the_next_one_is_not(clock):
    made = Rates(monotonic=clock)
    standings = [made.take(KEY, 2.0, 3) for _ in range(4)]
    assert [s.allowed for s in standings] == [True, True, True, False]
    assert [s.remaining for s in standings] == [2, 1, 0, 0]
    assert standings[-1].retry_s == pytest.approx(0.5)


def test_what_waited_as_long_as_it_was_told_is_let_in(clock):
    made = Rates(monotonic=clock)
    for _ in range(3):
        made.take(KEY, 2.0, 3)
    clock.now += made.take(KEY, 2.0, 3).retry_s
    assert made.take(KEY, 2.0, 3).allowed
    assert not made.take(KEY, 2.0, 3).allowed


def test_a_bucket_is_full_again_when_reset_says(clock):
    made = Rates(monotonic=clock)
    standing = made.take(KEY, 2.0, 3)
    for _ in range(2):
        standing = made.take(KEY, 2.0, 3)
    clock.now += standing.reset_s
    assert [made.take(KEY, 2.0, 3).allowed for _ in range(4)] == [True, True, True, False]


def test_keys_do_not_share_a_bucket(clock):
    made = Rates(monotonic=clock)
    assert made.take(KEY, 1.0, 1).allowed
    assert not made.take(KEY, 1.0, 1).allowed
    assert made.take(OTHER, 1.0, 1).allowed


def test_keys_whose_places_collide_do_not_share_a_bucket(clock):
    made = Rates(monotonic=clock)
    same_place = [f"{1 + number * rates._SLOTS:016x}" for number in range(rates._PROBES)]
    for key in same_place:
        assert made.take(key, 1.0, 1).allowed
    assert not any(made.take(key, 1.0, 1).allowed for key in same_place)


def test_more_keys_than_places_lose_only_the_one_that_has_not_asked_for_longest(clock):
    made = Rates(monotonic=clock)
    same_place = [f"{1 + number * rates._SLOTS:016x}" for number in range(rates._PROBES + 1)]
    for key in same_place:
        clock.now += 0.001
        assert made.take(key, 0.1, 1).allowed
    assert not any(made.take(key, 0.1, 1).allowed for key in same_place[1:])
    assert made.take(same_place[0], 0.1, 1).allowed


def test_the_headers_are_those_of_the_draft(clock):
    made = Rates(monotonic=clock)
    assert made.take(KEY, 0.1, 2).headers() == {
        "RateLimit-Limit": "2",
        "RateLimit-Remaining": "1",
        "RateLimit-Reset": "10",
    }
    made.take(KEY, 0.1, 2)
    refused = made.take(KEY, 0.1, 2).headers()
    assert refused["RateLimit-Remaining"] == "0"
    assert refused["Retry-After"] == "10"


@given(
    st.floats(0.01, 1_000),
    st.integers(1, 50),
    st.lists(st.floats(0, 2), min_size=1, max_size=80),
)
def test_never_more_than_burst_and_rate_together_allow(rate, burst, pauses):
    clock = Clock()
    made, let_in, began = Rates(monotonic=clock), 0, clock.now
    for pause in pauses:
        clock.now += pause
        let_in += made.take(KEY, rate, burst).allowed
        assert let_in <= burst + (clock.now - began) * rate + 1e-3


def test_processes_that_map_one_file_count_together(tmp_path):
    path = tmp_path / "rates"
    path.write_bytes(bytes(rates.SIZE))
    here = Rates(str(path))
    assert here.take(KEY, 0.001, 3).remaining == 2
    ask = f"Rates({str(path)!r}).take({KEY!r}, 0.001, 3).remaining"
    code = f"from fibflow.serving.rates import Rates; print({ask})"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert here.take(KEY, 0.001, 3).remaining == 0
    assert not here.take(KEY, 0.001, 3).allowed
    here.close()

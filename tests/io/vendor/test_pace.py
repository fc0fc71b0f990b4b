from __future__ import annotations

import random
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.vendor.pace import LONGEST_WAIT_S, Rate, backoff, retry_after

NOW = datetime(2024, 3, 4, 12, 0, 0, tzinfo=UTC)


class Time:
    """A clock that goes on where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lock = threading.Lock()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        with self.lock:
            self.now += seconds


@given(
    st.floats(0.05, 500.0),
    st.lists(st.one_of(st.just("take"), st.floats(0.0, 30.0), st.tuples(st.floats(0.0, 60.0))), max_size=40),
)
def test_never_more_than_the_rate_and_never_within_a_pause(per_second, steps):
    time = Time()
    rate = Rate(per_second, time.clock, time.sleep)
    taken, until = [], 0.0
    for step in steps:
        if step == "take":
            rate.take()
            assert time.now >= until - 1e-9
            taken.append(time.now)
        elif isinstance(step, tuple):
            rate.pause(step[0])
            until = max(until, time.now + step[0])
        else:
            time.now += step
    # One turn may have been saved up, never two.
    windows = [b - a for a, b in zip(taken, taken[2:], strict=False)]
    assert all(window >= 1 / per_second - 1e-6 for window in windows)


def test_threads_share_one_rate():
    time = Time()
    rate = Rate(10.0, time.clock, time.sleep)

    def taking() -> None:
        for _ in range(25):
            rate.take()

    threads = [threading.Thread(target=taking) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.now - 100.0 >= 98 * 0.1 - 1e-6


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="none"):
        Rate(0.0)


@given(st.integers(1, 2000), st.integers())
def test_waits_grow_up_to_a_bound(failed, seed):
    wait = backoff(min(failed, 60), random.Random(seed))
    assert 0.0 <= wait <= min(LONGEST_WAIT_S, 0.5 * 2 ** (min(failed, 60) - 1))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 0 ", 0.0),
        ("Mon, 04 Mar 2024 12:00:30 GMT", 30.0),
        ("Mon, 04 Mar 2024 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-3", None),
        ("1e9", None),
        ("Mon, 04 Mar 99999999999999999999 12:00:00 GMT", None),
        ("Mon, 04 Mar 2024 12:00:00 +99999999999999999999", None),
    ],
)
def test_what_retry_after_says(header, seconds):
    assert retry_after(header, lambda: NOW) == seconds

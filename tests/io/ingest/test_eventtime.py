"""The feed's time: of what came, and of signs of life."""

from __future__ import annotations

import pytest

from fibflow.io.ingest.eventtime import FeedTime, newest_of

NOW = 1_700_000_000_000_000
MS = NOW // 1000


@pytest.mark.parametrize(
    ("frame", "newest"),
    [
        (f'[{{"ev":"T","sym":"A","t":{MS}}},{{"ev":"T","sym":"B","t":{MS - 5}}}]', NOW),
        (f'[{{"ev":"T","sym":"A","t":{MS}000}}]', NOW),
        (f'[{{"ev":"T","sym":"A","t":{MS}000123}}]', NOW),
        (f'[{{"ev":"AM","sym":"A","s":{MS - 60_000},"e":{MS - 3}}}]', NOW - 3000),
        (f'[{{"ev":"AM","sym":"A","s":{MS - 60_000}}}]', NOW),
        (f'[{{"ev":"A","sym":"A","s":{MS - 60_000}}}]', NOW - 59_000_000),
        # Who is wrong about the time tells none.
        (f'[{{"ev":"T","t":{MS + 3_600_000}}},{{"ev":"T","t":{MS - 9}}}]', NOW - 9000),
        ('[{"ev":"T","t":"now"},{"ev":"T","t":true},{"ev":"T","t":-1},{"ev":"T"},7]', 0),
        (f'[{{"ev":["T"],"t":{MS}}},{{"ev":{{"T":1}},"t":{MS - 9}}},{{"ev":null}}]', NOW),
        ("nonsense", 0),
        ("", 0),
    ],
)
def test_the_newest_message_of_a_frame(frame, newest):
    assert newest_of(frame.encode(), NOW) == newest


def test_time_goes_on_with_signs_of_life_only():
    time = FeedTime()
    assert time.estimate() == 0
    time.lives(5)
    assert time.estimate() == 0
    time.heard(NOW, 1_000)
    assert time.estimate() == NOW
    assert time.estimate(3_000) == NOW + 2_000
    time.lives(1_500)
    assert time.estimate() == NOW + 500
    # Older messages are no news of the time, but a sign of life.
    time.heard(NOW - 60_000_000, 1_800)
    assert (time.newest, time.estimate()) == (NOW, NOW + 800)
    time.heard(0, 1_900)
    assert time.estimate() == NOW + 900
    time.heard(NOW + 50, 2_000)
    assert time.estimate() == NOW + 50


def test_time_goes_on_from_what_an_earlier_process_left():
    time = FeedTime(NOW, 1_000)
    assert time.estimate() == NOW
    assert time.estimate(61_000_000) == NOW + 60_999_000

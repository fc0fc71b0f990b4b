"""Addresses of streams."""

from __future__ import annotations

import pytest

from fibflow.io.kinesis.address import LATEST, TRIM_HORIZON, KinesisAddress
from fibflow.io.kinesis.errors import KinesisError

MOMENT = 1_709_908_200_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kinesis://ticks", KinesisAddress("ticks")),
        ("kinesis://ticks/", KinesisAddress("ticks")),
        ("kinesis://a.b_C-9?start=LATEST&lanes=4", KinesisAddress("a.b_C-9", LATEST, 4)),
        (
            "kinesis://t?start=TRIM_HORIZON&poll=1&rate=5e6&stop=end",
            KinesisAddress("t", TRIM_HORIZON, 1, 1.0, 5e6, True),
        ),
        ("kinesis://t?start=2024-03-08T14:30:00Z", KinesisAddress("t", MOMENT)),
        ("kinesis://t?start=2024-03-08T14:30:00", KinesisAddress("t", MOMENT)),
        ("kinesis://t?start=2024-03-08 14:30", KinesisAddress("t", MOMENT)),
        ("kinesis://t?start=2024-03-08T09:30:00-05:00", KinesisAddress("t", MOMENT)),
        ("kinesis://t?start=2024-03-08T15:30:00+01:00", KinesisAddress("t", MOMENT)),
        ("kinesis://t?start=2024-03-08T15:30:00%2B01:00", KinesisAddress("t", MOMENT)),
    ],
)
def test_addresses(text, expected):
    assert KinesisAddress.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kafka://ticks", "is no stream: write it as kinesis://NAME"),
        ("ticks", "is no stream"),
        ("kinesis://ticks/more", "is no stream"),
        ("kinesis://", "a stream's name has 1 to 128"),
        ("kinesis://a b", "a stream's name has"),
        ("kinesis://me@ticks", "a stream's name has"),
        ("kinesis://t?start=noon", "start is TRIM_HORIZON, LATEST, SESSION or a time such as"),
        ("kinesis://t?lanes=0", "lanes is a whole number of 1 or more"),
        ("kinesis://t?lanes=1.5", "lanes is a whole number"),
        ("kinesis://t?poll=0.1", "poll is a number of 0.2 or more"),
        ("kinesis://t?poll=nan", "poll is a number"),
        ("kinesis://t?rate=1", "rate is a number of 1000 or more"),
        ("kinesis://t?stop=now", "stop takes 'end' only"),
        ("kinesis://t?strat=LATEST", "unknown option 'strat': choose of start, lanes"),
        ("kinesis://t?start", "write options as key=value"),
        ("kinesis://t?lanes=1&lanes=2", "given twice"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(text, message):
    with pytest.raises(KinesisError, match=message) as caught:
        KinesisAddress.parse(text)
    assert "\n" not in str(caught.value)

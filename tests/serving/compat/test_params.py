"""Values of paths and queries as the vendor's clients write them."""

from __future__ import annotations

from datetime import date

import pytest

from fibflow.serving.compat import params
from fibflow.serving.problems import Problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03-08", date(2024, 3, 8)),
        ("1709874000000", 1_709_874_000_000_000_000),
        ("1709874000000123", 1_709_874_000_000_123_000),
        ("1709874000000123456", 1_709_874_000_000_123_456),
        ("0", 0),
        ("31536000000", 31_536_000_000_000_000),
        ("-86400000", -86_400_000_000_000),
        ("2024-03-08T05:00:00Z", 1_709_874_000_000_000_000),
        (" 2024-03-08T00:00:00-05:00 ", 1_709_874_000_000_000_000),
    ],
)
def test_moments(text, expected):
    assert params.moment_of(text, "from") == expected


@pytest.mark.parametrize(
    "text", ["", "today", "2024-02-30", "1e12", "１７", "9" * 21, "-" + "9" * 21, "9" * 40]
)
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(Problem, match=r"from=.* (is no time|lies beyond)") as refused:
        params.moment_of(text, "from")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("FALSE", False), ("1", True), ("0", False), ("", None)]
)
def test_flags(text, value):
    assert params.flag({"adjusted": text}, "adjusted", None) is value  # type: ignore[arg-type] # any default
    with pytest.raises(Problem, match="neither true nor false"):
        params.flag({"adjusted": "2"}, "adjusted", True)


def test_numbers():
    assert params.whole({"limit": " 7 "}, "limit", 5, 1, 9) == 7
    assert params.whole({}, "limit", 5, 1, 9) == 5
    for text in ("0", "10", "1.5", "x", "７", "--1", "1" * 30):
        with pytest.raises(Problem, match="whole number from 1 to 9"):
            params.whole({"limit": text}, "limit", 5, 1, 9)


@pytest.mark.parametrize("text", ["", "A" * 65, "A\nB", "A\x00"])
def test_what_is_no_ticker_is_refused(text):
    with pytest.raises(Problem, match="1 to 64 printable"):
        params.ticker_of(text)


def test_conditions_on_a_text():
    def hold(**given: str) -> list[str]:
        texts = params.Texts.of({name.replace("_", "."): text for name, text in given.items()}, "t")
        return [text for text in "ABCD" if texts.hold(text)]

    assert hold() == ["A", "B", "C", "D"]
    assert hold(t="B") == ["B"]
    assert hold(t_gt="B") == ["C", "D"]
    assert hold(t_gte="B", t_lt="D") == ["B", "C"]
    assert hold(t_lte="A") == ["A"]
    assert params.Texts.of({"t.any_of": "D, A,X"}, "t").hold("A")
    assert not params.Texts.of({"t.any_of": ""}, "t").hold("A")


def test_a_refusal_does_not_repeat_what_is_long():
    with pytest.raises(Problem) as refused:
        params.choice({"sort": "x" * 5_000}, "sort", ("asc",), "asc")
    assert len(refused.value.detail) < 200

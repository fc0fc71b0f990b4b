"""Indicators as the vendor's own clients read them, against plain loops over the lake's rows."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from fibflow.tests.serving.compat.answers import get, ms, refused
from fibflow.tests.serving.compat.test_formulas import ema, rsi

PATH = "/v1/indicators/{}/AAPL"


@pytest.fixture(scope="module")
def closes(raw):
    rows = raw.rows("SELECT session, close FROM adjusted WHERE symbol = 'AAPL' ORDER BY session")
    return [ms(row["session"]) for row in rows], [row["close"] for row in rows]


def pairs(found):
    return [(one.timestamp, one.value) for one in found.values]


def expected(closes, values):
    return [
        (at, pytest.approx(value, rel=1e-9))
        for at, value in zip(closes[0], values, strict=True)
        if value == value
    ]


def test_sma(client, closes):
    values = [
        np.mean(closes[1][max(0, at - 19) : at + 1]) if at >= 19 else np.nan for at in range(len(closes[1]))
    ]
    found = client.get_sma("AAPL", timespan="day", window=20, series_type="close", order="asc", limit=5000)
    assert pairs(found) == expected(closes, values)
    newest = client.get_sma("AAPL", timespan="day", window=20, series_type="close")
    assert pairs(newest) == expected(closes, values)[::-1][:10]


def test_ema(client, closes):
    found = client.get_ema("AAPL", timespan="day", window=10, order="asc", limit=5000)
    assert pairs(found) == expected(closes, ema(closes[1], 10))


def test_rsi(client, closes):
    found = client.get_rsi("AAPL", timespan="day", order="asc", limit=5000)
    assert pairs(found) == expected(closes, rsi(closes[1], 14))


def test_macd(client, closes):
    value = [a - b for a, b in zip(ema(closes[1], 12), ema(closes[1], 26), strict=True)]
    signal = [np.nan] * 25 + ema(value[25:], 9)
    found = client.get_macd("AAPL", timespan="day", order="asc", limit=5000)
    rows = [
        (at, pytest.approx(v), pytest.approx(s), pytest.approx(v - s))
        for at, v, s in zip(closes[0], value, signal, strict=True)
        if s == s
    ]
    assert [(one.timestamp, one.value, one.signal, one.histogram) for one in found.values] == rows


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("name", ["sma", "ema", "rsi"])
def test_pages_make_the_whole(raw_url, name, order):
    path, values = PATH.format(name) + f"?window=5&limit=17&order={order}&timestamp.gte=2023-12-01", []
    while path:
        document = get(raw_url, path)
        values += [(one["timestamp"], one["value"]) for one in document["results"]["values"]]
        path = document.get("next_url", "").removeprefix(raw_url)
    whole = get(raw_url, PATH.format(name) + f"?window=5&limit=5000&order={order}&timestamp.gte=2023-12-01")
    assert values == [
        (one["timestamp"], pytest.approx(one["value"], rel=1e-12)) for one in whole["results"]["values"]
    ]
    assert "next_url" not in whole


@pytest.mark.parametrize(
    ("conditions", "fits"),
    [
        ({"timestamp": date(2024, 3, 1)}, lambda day: day == date(2024, 3, 1)),
        (
            {"timestamp_gte": date(2024, 3, 1), "timestamp_lt": "2024-03-08"},
            lambda d: date(2024, 3, 1) <= d < date(2024, 3, 8),
        ),
        ({"timestamp_gt": "2024-03-28"}, lambda day: day > date(2024, 3, 28)),
        ({"timestamp_lte": "2023-12-20"}, lambda day: day <= date(2023, 12, 20)),
    ],
)
def test_a_value_is_the_same_in_any_range(client, closes, conditions, fits):
    found = client.get_ema("AAPL", timespan="day", window=10, order="asc", limit=100, **conditions)
    values = [pair for pair in expected(closes, ema(closes[1], 10)) if fits(day_of(pair[0]))]
    assert pairs(found) == values
    assert values


def day_of(stamp: int) -> date:
    return date(1970, 1, 1) + timedelta(milliseconds=stamp)


def test_splits_are_in_or_out(raw, client):
    for wish, table in ((True, "adjusted"), (False, "days"), (None, "adjusted")):
        rows = raw.rows(
            f"SELECT close FROM {table} WHERE symbol = 'SPLT' AND session <= '2024-03-14'"
            " ORDER BY session DESC LIMIT 5"
        )
        found = client.get_sma("SPLT", window=5, adjusted=wish, timestamp_lte="2024-03-14", limit=1)
        assert found.values[0].value == pytest.approx(sum(row["close"] for row in rows) / 5)


def test_other_prices_and_timespans(raw, client):
    [opened] = client.get_sma("AAPL", window=1, series_type="open", limit=1).values
    assert (
        opened.value
        == raw.rows("SELECT open FROM days WHERE symbol = 'AAPL' ORDER BY session DESC LIMIT 1")[0]["open"]
    )
    [minute] = client.get_sma("AAPL", timespan="minute", window=2, limit=1).values
    rows = raw.rows("SELECT close FROM minutes WHERE symbol = 'AAPL' ORDER BY ts DESC LIMIT 2")
    assert minute.value == pytest.approx((rows[0]["close"] + rows[1]["close"]) / 2)
    weeks = client.get_sma("AAPL", timespan="week", window=2, limit=100).values
    assert [day_of(one.timestamp).weekday() for one in weeks] == [6] * 19


def test_the_bars_behind_the_values(raw_url, client):
    found = client.get_sma("AAPL", window=5, limit=3)
    path = found.underlying.url.removeprefix(raw_url)
    stamps = [bar["t"] for bar in get(raw_url, path)["results"]]
    assert stamps == [one.timestamp for one in found.values]
    expanded: Any = client.get_sma("AAPL", window=5, limit=3, expand_underlying=True).underlying.aggregates
    assert len(expanded) == 7
    assert expanded[-1].timestamp == found.values[0].timestamp


def test_too_few_bars_have_no_values(client):
    assert client.get_sma("AAPL", window=200).values == []
    assert client.get_sma("NOSUCH", window=2).values == []


@pytest.mark.parametrize(
    "path",
    [
        "vwap/AAPL",
        "sma/AAPL?window=0",
        "sma/AAPL?window=501",
        "rsi/AAPL?limit=5001",
        "ema/AAPL?series_type=bid",
        "ema/AAPL?timespan=second",
        "macd/AAPL?short_window=30",
        "sma/AAPL?timestamp.gte=soon",
        "sma/AAPL?order=up",
        "sma/AAPL?cursor=e30",
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(raw_url, path):
    assert refused(raw_url, f"/v1/indicators/{path}")[0] == 400

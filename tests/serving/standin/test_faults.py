"""Faults: how they are named, and which calls draw them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.standin.faults import Fault, FaultError, Kind, Orders, draw, name_of, parse

GROUPED = "/v2/aggs/grouped/locale/us/market/stocks/2024-03-04"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (GROUPED, "grouped"),
        ("/v2/aggs/ticker/A/range/1/day/2024-01-02/2024-01-03", "days"),
        ("/v2/aggs/ticker/A/range/1/minute/1/2", "minutes"),
        ("/v2/aggs/ticker/BRK.B/prev", "previous"),
        ("/v3/reference/tickers", "tickers"),
        ("/v3/reference/tickers/types", "types"),
        ("/v3/reference/tickers/A", "details"),
        ("/vX/reference/tickers/A/events", "events"),
        ("/v3/reference/splits", "splits"),
        ("/stocks/v1/dividends", "dividends"),
        ("/v1/open-close/A/2024-01-02", "open-close"),
        ("/v1/marketstatus/now", "market"),
        ("/v1/bars", "other"),
        ("/healthz", "other"),
    ],
)
def test_what_a_path_asks_for(path, name):
    assert name_of(path) == name


def test_a_list_of_faults():
    assert parse("429:0.02, 500:share=0.5:path=grouped:times=3,slow:seconds=2.5,") == [
        Fault(Kind.RATE, 0.02),
        Fault(Kind.ERROR, 0.5, "grouped", 3),
        Fault(Kind.SLOW, seconds=2.5),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "501",
        "500:2",
        "500:often",
        "500:weight=1",
        "cut:times=-1",
        "429:seconds=-1",
        "partial:percent=101",
        ":",
    ],
)
def test_what_is_no_fault_is_refused_with_a_line(text):
    with pytest.raises(FaultError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


faults = st.builds(
    Fault,
    st.sampled_from(list(Kind)),
    st.floats(0, 1),
    st.sampled_from(["*", "grouped", "/v2/*"]),
    st.none() | st.integers(0, 9),
    st.floats(0, 10),
    st.floats(0, 100),
)


@given(faults)
def test_a_fault_survives_being_told(fault):
    assert Fault.of(fault.plain()) == fault


def test_the_first_that_is_drawn_counts_and_ends_after_its_times():
    orders = Orders(0, parse("500:path=grouped:times=2,429"))
    found = [orders.call(GROUPED) for _ in range(3)] + [orders.call("/v3/reference/splits")]
    assert [fault.kind for fault in found if fault] == [Kind.ERROR, Kind.ERROR, Kind.RATE, Kind.RATE]
    orders.clear()
    assert orders.call(GROUPED) is None
    assert orders.calls == {GROUPED: 4, "/v3/reference/splits": 1}
    assert orders.names == {"grouped": 4, "splits": 1}


@given(st.integers(0, 2**32), st.permutations(range(40)))
def test_calls_draw_the_same_whatever_their_order(seed, order):
    def drawn(places):
        orders = Orders(seed, parse("500:0.3,cut:0.3"))
        return {place: orders.call(f"{GROUPED}{place % 20}", f"a={place // 20}") for place in places}

    assert drawn(order) == drawn(range(40))


def test_a_share_of_the_calls():
    orders = Orders(7, parse("500:0.05"))
    found = Counter(orders.call(f"{GROUPED}{place % 500}") is not None for place in range(10_000))
    # Six standard deviations of 10,000 draws.
    assert abs(found[True] - 500) < 6 * (10_000 * 0.05 * 0.95) ** 0.5


@given(st.integers(), st.text(), st.integers())
def test_a_draw_is_a_part(seed, text, number):
    assert 0 <= draw(seed, text, number) < 1
    assert draw(seed, text, number) == draw(seed, text, number)

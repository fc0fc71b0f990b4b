"""What fires when, a rule at a time; ``test_live`` holds all of them together against the oracle."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fibflow.tests.transforms.alerts.tables import Bucket, change, close, price, split
from fibflow.tests.transforms.tables import calendar, days, ny
from fibflow.transforms.alerts.live import Plan
from fibflow.transforms.alerts.schema import ALWAYS, Frequency, Operator, Reference
from fibflow.transforms.timeframe import IntradayAnchor

SECOND = 1_000_000
OPEN = ny("2024-07-02T10:00")
NEXT = ny("2024-07-03T10:00")
(FIRST_DAY, SECOND_DAY) = days("2024-07-02", "2024-07-03")
EACH = Frequency.EVERY_TIME


def bucket(*changes: dict, anchor: IntradayAnchor = IntradayAnchor.MIDNIGHT) -> Bucket:
    made = Bucket(Plan(calendar("XNYS"), anchor))
    made.take(changes)
    return made


def walk(to: Bucket, *values: float, start: int = OPEN, step: int = SECOND, **options: Any) -> list[float]:
    """Prices, one a step; return those that something fired at."""
    rows = [price(start + n * step, value, **options) for n, value in enumerate(values)]
    return [event["price"] for event in to.take(rows)]


def alert(operator: Operator, value: float = 500, **options: Any) -> Bucket:
    return bucket(change(1, operator, value, **options))


# --- operators ----------------------------------------------------------------------------------------------


def test_an_alert_above_500_fires_once_on_400_to_600_and_not_on_600_to_700():
    assert walk(alert(Operator.ABOVE), 400, 600, 700) == [600]


def test_above_and_below_are_strict():
    assert walk(alert(Operator.ABOVE), 400, 500, 500.01) == [500.01]
    assert walk(alert(Operator.BELOW), 600, 500, 499.99) == [499.99]


def test_above_is_a_state_that_fires_at_the_first_price_where_it_is_true_already():
    assert walk(alert(Operator.ABOVE), 600, 610) == [600]


@pytest.mark.parametrize(
    ("operator", "path", "fires"),
    [
        (Operator.CROSSES_UP, [600, 610, 400, 500, 510], [500]),
        (Operator.CROSSES_UP, [500, 510], []),
        (Operator.CROSSES_DOWN, [400, 390, 600, 500, 490], [500]),
        (Operator.CROSSES_DOWN, [500, 490], []),
        (Operator.CROSSES, [510, 520, 490], [490]),
        (Operator.CROSSES, [490, 480, 510], [510]),
    ],
)
def test_a_crossing_needs_a_price_on_the_other_side_before_it(operator, path, fires):
    assert walk(alert(operator), *path) == fires


def test_a_crossing_does_not_fire_where_the_price_is_past_the_level_when_the_alert_is_made():
    made = bucket(change(2, Operator.ABOVE, 1))
    walk(made, 400, 600)
    made.take([change(1, Operator.CROSSES_UP, 500, since=OPEN + SECOND)])
    assert walk(made, 610, 620, start=OPEN + 2 * SECOND) == []


def test_the_price_before_may_be_of_another_day():
    made = alert(Operator.CROSSES_UP)
    assert walk(made, 400) == []
    assert walk(made, 600, start=NEXT) == [600]
    assert made.events[0]["previous"] == 400


@pytest.mark.parametrize(
    ("operator", "path", "fires", "level"),
    [
        (Operator.PERCENT_UP, [104, 105, 106], [105], 105),
        (Operator.PERCENT_DOWN, [96, 95, 94], [95], 95),
        (Operator.PERCENT, [96, 104, 105], [105], 105),
        (Operator.PERCENT, [104, 95, 105], [95], 95),
    ],
)
def test_percentages_of_the_price_at_creation(operator, path, fires, level):
    made = alert(operator, 5, reference=Reference.CREATION_PRICE, reference_price=100.0)
    assert walk(made, *path) == fires
    assert made.events[0]["level"] == level


def of_close(operator: Operator = Operator.PERCENT_UP, **options: Any) -> Bucket:
    return alert(operator, 10, reference=Reference.PREVIOUS_CLOSE, **options)


def test_a_percentage_of_an_unknown_close_does_not_fire():
    assert walk(of_close(), 1, 1000) == []


def test_the_previous_close_is_the_last_regular_price_where_no_official_one_is_known():
    made = of_close()
    walk(made, 90, 100)
    walk(made, 200, start=ny("2024-07-02T17:00"), regular=False)
    assert walk(made, 109, 110, start=NEXT) == [110]


def test_the_official_close_counts_more_also_where_it_comes_later():
    made = of_close()
    walk(made, 90, 100)
    assert walk(made, 109, start=NEXT) == []
    made.take([close(FIRST_DAY, 98.0)])
    assert walk(made, 109, start=NEXT + SECOND) == [109]


def test_the_close_of_an_older_session_is_not_the_previous_one():
    made = of_close()
    walk(made, 90, 100)
    made.take([close(FIRST_DAY, 100.0)])
    assert walk(made, 200, start=ny("2024-07-05T10:00")) == []


def test_before_the_open_the_previous_close_is_of_the_session_before():
    made = of_close()
    walk(made, 100)
    assert walk(made, 110, start=ny("2024-07-03T08:00"), regular=False) == [110]


# --- prices -------------------------------------------------------------------------------------------------


def test_prices_that_are_late_or_come_twice_are_passed_over():
    made = alert(Operator.ABOVE, frequency=EACH)
    assert walk(made, 400, 600) == [600]
    made.take([price(OPEN, 300), price(OPEN + SECOND, 600), price(OPEN + SECOND, 700)])
    assert walk(made, 650, start=OPEN + 2 * SECOND) == []
    assert len(made.events) == 1


def test_of_prices_of_one_instant_the_sequence_number_orders():
    made = alert(Operator.CROSSES_UP)
    made.take([price(OPEN, 400, seq=5), price(OPEN, 600, seq=4), price(OPEN, 450, seq=6)])
    assert made.events == []
    assert [event["seq"] for event in made.take([price(OPEN, 600, seq=7)])] == [7]


def test_prices_of_no_session_are_none():
    assert walk(alert(Operator.ABOVE), 600, start=ny("2024-07-06T12:00")) == []


def test_an_alert_of_regular_hours_sees_neither_prices_nor_crossings_outside_them():
    made = alert(Operator.CROSSES_UP, extended=False)
    walk(made, 400, start=ny("2024-07-02T15:59"))
    assert walk(made, 600, 450, start=ny("2024-07-02T17:00"), regular=False) == []
    assert walk(made, 600, start=NEXT) == [600]
    assert made.events[0]["previous"] == 400


def test_an_alert_of_extended_hours_sees_all():
    assert walk(alert(Operator.ABOVE), 600, start=ny("2024-07-02T17:00"), regular=False) == [600]


def test_symbols_do_not_mix():
    made = bucket(change(1, Operator.ABOVE, 500), change(2, Operator.ABOVE, 500, symbol="B"))
    rows = [
        price(OPEN, 400),
        price(OPEN, 600, symbol="B"),
        price(OPEN + 1, 450),
        price(OPEN - 1, 1, symbol="B"),
    ]
    assert [event["symbol"] for event in made.take(rows)] == ["B"]


# --- versions -----------------------------------------------------------------------------------------------


def test_a_version_counts_later_than_since_and_up_to_until():
    made = alert(Operator.ABOVE, frequency=Frequency.BAR, span=1, since=OPEN, until=OPEN + 60 * SECOND)
    assert walk(made, 600, 601, 602, step=60 * SECOND) == [601]
    made = alert(Operator.ABOVE, until=OPEN - 1)
    assert walk(made, 600, 601) == []


def test_an_edit_switches_at_one_instant_wherever_it_comes():
    old = change(1, Operator.ABOVE, 500, frequency=EACH)
    new = change(1, Operator.ABOVE, 600, version=2, since=OPEN + SECOND)
    made = bucket(old, new)
    assert walk(made, 550, 610, 620) == [550, 620]
    assert made.ids() == ["1-1-0", "1-2-0"]
    made = bucket(old)
    walk(made, 550)
    made.take([new])
    walk(made, 610, 620, start=OPEN + SECOND)
    assert made.ids() == ["1-1-0", "1-2-0"]


def test_deleting_stops_an_alert_at_its_instant():
    made = alert(Operator.CROSSES_UP, frequency=EACH)
    made.take([change(1, Operator.ENDED, 1, version=2, since=OPEN + 3 * SECOND)])
    assert walk(made, 400, 600, 400, 600, 400, 600) == [600, 600]


def test_a_version_that_is_known_or_older_is_nothing():
    made = alert(Operator.ABOVE, 500, version=2, frequency=EACH)
    walk(made, 600)
    made.take([change(1, Operator.ABOVE, 1, version=2), change(1, Operator.ABOVE, 1, version=1)])
    assert walk(made, 610, start=OPEN + SECOND) == []


def test_a_later_version_with_an_earlier_instant_ends_all_before_it():
    made = bucket(
        change(1, Operator.ABOVE, 100),
        change(1, Operator.ABOVE, 200, version=2, since=OPEN + 9 * SECOND),
        change(1, Operator.ABOVE, 300, version=3, since=OPEN),
    )
    assert walk(made, 90, 250, 350, step=10 * SECOND) == [350]


# --- frequencies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "fires"), [(IntradayAnchor.MIDNIGHT, [600, 602]), (IntradayAnchor.OPEN, [600, 601])]
)
def test_once_in_each_bar_of_the_jobs_anchor(anchor, fires):
    made = bucket(change(1, Operator.ABOVE, 500, frequency=Frequency.BAR, span=60), anchor=anchor)
    assert walk(made, 600, 601, 602, start=ny("2024-07-02T10:20"), step=20 * 60 * SECOND)[:2] == fires
    start = ny("2024-07-02T10:00") if anchor is IntradayAnchor.MIDNIGHT else ny("2024-07-02T09:30")
    assert made.ids()[0] == f"1-1-0-{start}"


def test_once_a_session_extended_hours_are_of_its_day():
    made = alert(Operator.ABOVE, frequency=Frequency.DAILY)
    assert walk(made, 600, start=ny("2024-07-02T04:00"), regular=False) == [600]
    assert walk(made, 601, start=OPEN) == []
    assert walk(made, 602, 603, start=NEXT) == [602]
    assert made.ids() == ["1-1-0-2024-07-02", "1-1-0-2024-07-03"]


@pytest.mark.parametrize(
    ("operator", "rearm", "path", "fires"),
    [
        (Operator.ABOVE, 10, [501, 491, 501, 490, 501], [501, 501]),
        (Operator.ABOVE, 0, [501, 500, 501], [501, 501]),
        (Operator.BELOW, 10, [499, 509, 499, 510, 499], [499, 499]),
        (Operator.CROSSES_UP, 10, [400, 500, 490, 500, 489, 500], [500, 500]),
        (Operator.CROSSES_DOWN, 10, [600, 500, 510, 500, 511, 500], [500, 500]),
        (Operator.CROSSES, 10, [490, 510, 490, 510, 511, 490], [510, 490]),
        (Operator.CROSSES, 0, [490, 500, 490, 510], [500, 490, 510]),
    ],
)
def test_every_time_waits_until_a_price_has_come_back_far_enough(operator, rearm, path, fires):
    if (operator, rearm) == (Operator.CROSSES, 0):
        # From the level itself there is no crossing.
        fires = [500, 510]
    assert walk(alert(operator, frequency=EACH, rearm=rearm), *path) == fires


@pytest.mark.parametrize(
    ("operator", "path", "fires"),
    [
        (Operator.PERCENT_UP, [110, 109, 110, 108.9, 110], [110, 110]),
        (Operator.PERCENT_DOWN, [90, 91, 90, 91.1, 90], [90, 90]),
        (Operator.PERCENT, [110, 90, 109, 90, 100, 90], [110, 90]),
    ],
)
def test_percentages_are_armed_again_inside(operator, path, fires):
    own = {"reference": Reference.CREATION_PRICE, "reference_price": 100.0, "frequency": EACH, "rearm": 1.0}
    assert walk(alert(operator, 10, **own), *path) == fires


def test_the_price_that_arms_does_not_fire():
    made = alert(Operator.CROSSES, frequency=EACH, rearm=10)
    assert walk(made, 400, 600, 400, 600) == [600, 600]
    assert made.ids() == ["1-1-0", f"1-1-{OPEN + 2 * SECOND}.0"]


def test_a_generation_is_named_by_the_price_that_armed_it():
    made = alert(Operator.ABOVE, frequency=EACH)
    walk(made, 600, 400, 450, 600, 700)
    assert made.ids() == ["1-1-0", f"1-1-{OPEN + SECOND}.0"]


def test_each_crossing_without_hysteresis_is_a_generation():
    made = alert(Operator.CROSSES, frequency=EACH)
    walk(made, 400, 600, 400)
    assert made.ids() == [f"1-1-{OPEN + SECOND}.0", f"1-1-{OPEN + 2 * SECOND}.0"]


def test_nothing_fires_within_the_cooldown_and_a_state_that_lasts_fires_after_it():
    made = alert(Operator.ABOVE, frequency=Frequency.BAR, span=1, cooldown=90 * SECOND)
    assert walk(made, 600, 601, 602, 603, 604, step=45 * SECOND) == [600, 602, 604]
    made = alert(Operator.ABOVE, frequency=EACH, cooldown=3 * SECOND)
    assert walk(made, 600, 400, 601, 602, 603) == [600, 602]
    made = alert(Operator.CROSSES_UP, frequency=EACH, cooldown=3 * SECOND)
    assert walk(made, 400, 600, 400, 600, 700) == [600]


# --- a job without state ------------------------------------------------------------------------------------


def test_once_that_has_fired_never_fires_again():
    assert walk(alert(Operator.ABOVE, fired=OPEN - 1), 600, 400, 600) == []


def test_every_time_that_has_fired_waits_for_a_price_that_arms_it():
    made = alert(Operator.ABOVE, frequency=EACH, fired=OPEN)
    assert walk(made, 400, 600, 400, 600) == [600]
    assert made.ids() == [f"1-1-{OPEN + 2 * SECOND}.0"]


@pytest.mark.parametrize(
    ("frequency", "fires"), [(Frequency.BAR, [603]), (Frequency.DAILY, [])], ids=["bar", "daily"]
)
def test_the_period_that_has_been_fired_in_stays_quiet(frequency, fires):
    span = 5 if frequency is Frequency.BAR else 0
    made = alert(Operator.ABOVE, frequency=frequency, span=span, fired=OPEN)
    assert walk(made, 600, 601, 602, 603, start=OPEN + 2 * 60 * SECOND, step=60 * SECOND) == fires


def test_cooldown_goes_on_from_what_has_fired():
    made = alert(Operator.ABOVE, frequency=Frequency.BAR, span=1, fired=OPEN, cooldown=3600 * SECOND)
    assert walk(made, 600, 601, 602, start=OPEN + 1, step=3600 * SECOND) == [601, 602]


def test_what_has_fired_in_no_session_holds_nothing_back():
    made = alert(Operator.ABOVE, frequency=Frequency.BAR, span=5, fired=ny("2024-06-30T12:00"))
    assert walk(made, 600) == [600]


# --- splits -------------------------------------------------------------------------------------------------


def test_a_split_of_four_shares_for_one_rescales_the_level():
    made = alert(Operator.ABOVE, 500, basis=FIRST_DAY)
    walk(made, 400)
    made.take([split(SECOND_DAY, 0.25)])
    assert walk(made, 110, 124, 126, start=NEXT) == [126]
    assert made.events[0]["level"] == 125


def test_a_split_rescales_the_price_before_so_that_it_is_no_crossing():
    made = alert(Operator.CROSSES_DOWN, 300, basis=FIRST_DAY)
    walk(made, 400)
    made.take([split(SECOND_DAY, 0.25)])
    assert walk(made, 100, 74, start=NEXT) == [74]
    assert (made.events[0]["previous"], made.events[0]["level"]) == (100, 75)


def test_a_split_rescales_closes_before_it():
    made = of_close(basis=SECOND_DAY)
    walk(made, 400)
    made.take([split(SECOND_DAY, 0.25)])
    assert walk(made, 109, 111, start=NEXT) == [111]


def test_a_split_does_not_touch_what_is_of_its_day_and_counts_once():
    made = alert(Operator.ABOVE, 500, basis=SECOND_DAY)
    made.take([split(SECOND_DAY, 0.25), split(SECOND_DAY, 0.25)])
    assert walk(made, 126, start=NEXT) == []
    made.take([split(SECOND_DAY, 0.25)])
    made.take([change(2, Operator.ABOVE, 500, basis=FIRST_DAY)])
    assert walk(made, 100, 126, start=NEXT + SECOND) == [126]
    assert made.events[0]["level"] == 125


def test_hysteresis_and_references_are_rescaled_too():
    own = {"frequency": EACH, "rearm": 40.0, "basis": FIRST_DAY}
    made = bucket(
        change(1, Operator.ABOVE, 400, **own),
        change(2, Operator.PERCENT_UP, 10, reference=Reference.CREATION_PRICE, reference_price=400.0, **own),
    )
    made.take([split(SECOND_DAY, 0.25)])
    walk(made, 120, 95, 120, 90, 120, start=NEXT)
    assert [(event["alert"], event["level"]) for event in made.events] == [
        (1, 100),
        (2, 110),
        (2, 110),
        (1, 100),
        (2, 110),
    ]


# --- events -------------------------------------------------------------------------------------------------


def test_an_event_tells_the_price_and_the_one_before_it():
    made = alert(Operator.ABOVE)
    walk(made, 600)
    (event,) = made.events
    assert math.isnan(event.pop("previous"))
    assert event == {
        "id": "1-1-0",
        "alert": 1,
        "version": 1,
        "symbol": "A",
        "ts": OPEN,
        "seq": 0,
        "price": 600,
        "level": 500,
    }


def test_events_come_in_the_order_of_their_prices_and_of_alerts():
    made = bucket(*[change(n, Operator.ABOVE, 700 - n, until=ALWAYS) for n in range(100, 0, -1)])
    rows = [price(OPEN + n, 600 + n) for n in range(200)]
    fired = made.take(rows)
    assert [event["alert"] for event in fired] == list(range(100, 0, -1))
    assert len({event["ts"] for event in fired}) == 100

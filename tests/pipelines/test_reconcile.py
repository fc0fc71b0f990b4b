"""What readers see after a reconciliation, and what the report says of it."""

from __future__ import annotations

import random

import pytest

from fibflow.tests.pipelines.lakes import files_in
from fibflow.tests.pipelines.streamed import (
    INTRADAY,
    Streamed,
    changes,
    contents,
    day_of_minutes,
    day_of_trades,
    of_names,
    session,
    windows,
)
from fibflow.transforms.timeframe import MINUTE_US

#: A Friday and the Monday after a change of the clocks, and a half day.
FRIDAY, MONDAY, HALF = "2024-03-08", "2024-03-11", "2024-07-03"
DAYS = (FRIDAY, MONDAY, HALF)


def disorder(rows: list[dict], numbers: random.Random) -> tuple[list[dict], list[dict]]:
    """A day's trades with copies, cancels and corrections; and some late ones, and late corrections."""
    own = [row for row in rows if numbers.random() < 0.9]
    late = [row for row in rows if row not in own]
    named = numbers.sample(own, 8)
    changes = []
    for number, row in enumerate(named):
        change = {**row, "seq": 10_000 + number, "ts": row["ts"] + numbers.randrange(30 * MINUTE_US)}
        change["correction"] = numbers.choice([10, 11, 7, 8, 12, 12])
        changes.append(
            {**change, "price": row["price"] + 1, "size": 7.0} if change["correction"] == 12 else change
        )
    lost = {**named[0], "trade_id": "unknown", "seq": 20_000, "correction": 10}
    copies = [dict(row) for row in numbers.sample([*own, *changes], 10)]
    return [*own, *changes[:6], lost, *copies], [*late, *changes[6:]]


def streamed(folder, feed: str, *days: str) -> Streamed:
    made = Streamed(folder, feed)
    numbers = random.Random(5)
    for day in days:
        if feed == "trades":
            rows, late = disorder(day_of_trades(day), numbers)
        else:
            rows = day_of_minutes(day)
            late = [row for row in rows if numbers.random() < 0.1]
            rows = [row for row in rows if row not in late]
        made.stream(rows, day, late=late)
    return made


@pytest.fixture(scope="module", params=["trades", "minutes"])
def before(request, tmp_path_factory):
    return streamed(tmp_path_factory.mktemp("base") / "lake", request.param, *DAYS)


@pytest.fixture
def made(before, tmp_path):
    return before.copy(tmp_path / "lake")


def told(made):
    return {(r["symbol"], r["timeframe"], us(r["ts"])): (r["change"], r["why"]) for r in made.report()}


def us(moment):
    return round(moment.timestamp()) * 1_000_000


# What readers see ------------------------------------------------------------------------------------------


def test_readers_see_what_batch_makes_of_everything(made):
    live = made.seen()
    made.reconcile()
    seen = made.seen()
    assert contents(of_names(seen, INTRADAY)) == made.truth()
    # Without official days those of the stream stay.
    assert of_names(seen, "1d") == of_names(live, "1d")
    late = windows(made.tardy)
    cancelled = windows(r for r in named(made, (7, 8, 10, 11)))
    corrected = windows(r for r in named(made, (12,)))

    def why(key):
        reasons = (("late", late), ("cancelled", cancelled), ("corrected", corrected))
        return ",".join(name for name, keys in reasons if key in keys)

    report = told(made)
    expected = changes(of_names(live, INTRADAY), made.truth())
    assert report == {key: (change, why(key)) for key, change in expected.items()}
    assert len(made.report()) == len(report) > 0
    assert not [key for key, (_, reason) in report.items() if not reason]


def named(made, codes):
    """The messages of some codes, and those that have the same trade id in the same session."""
    found = [row for row in made.messages if row.get("correction") in codes]
    names = {(row["symbol"], row["trade_id"], row["ts"] // 86_400_000_000) for row in found}
    return [
        row
        for row in made.messages
        if row["kind"] == "T" and (row["symbol"], row["trade_id"], row["ts"] // 86_400_000_000) in names
    ]


def test_a_second_run_does_nothing(made):
    made.reconcile()
    files = files_in(made.uri)
    made.reconcile()
    assert files_in(made.uri) == files


def test_sessions_that_have_not_ended_stay_the_streams(before, tmp_path):
    made = before.copy(tmp_path / "lake")
    day = "2024-07-05"
    rows = day_of_trades(day) if made.feed == "trades" else day_of_minutes(day)
    clock = session(day).opens + 60 * MINUTE_US
    own = Streamed(made.uri, made.feed, "1m,5m,1h", made.properties, made.messages, made.tardy, made.numbers)
    own.archive([row for row in rows if row["ts"] < clock])
    own.close(day)
    made.reconcile()
    seen = made.seen(INTRADAY)
    open_day = {key: bar for key, bar in seen.items() if key[2] >= session(day).start}
    assert {key[1] for key in open_day} == {"1m", "5m", "1h"}
    assert all(bar["final"] for bar in open_day.values())
    rest = contents({key: bar for key, bar in seen.items() if key not in open_day})
    assert rest == {key: bar for key, bar in made.truth().items() if key[2] < session(day).start}


def test_as_of_names_the_last_session(before, tmp_path):
    made = before.copy(tmp_path / "lake")
    live = made.seen(INTRADAY)
    made.reconcile("--as-of", MONDAY)
    seen, end = contents(made.seen(INTRADAY)), session(MONDAY).end
    truth = {key: bar for key, bar in made.truth().items() if key[2] < end}
    assert seen == truth | contents({key: bar for key, bar in live.items() if key[2] >= end})
    assert {us(row["end"]) <= end for row in made.report()} == {True}
    made.reconcile()
    assert contents(made.seen(INTRADAY)) == made.truth()
    assert len({row["run"] for row in made.report()}) == 2
    keys = [(row["symbol"], row["timeframe"], row["ts"]) for row in made.report()]
    assert len(keys) == len(set(keys))

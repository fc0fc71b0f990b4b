"""Alerts on the close of bars on real servers: out of PostgreSQL, judged in Flink, into the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fibflow.io.alerts.rows import micros
from fibflow.io.postgresql import migrate
from fibflow.runners.services.stack import Stack
from fibflow.tests.io.alerts.bars import on_bars
from fibflow.tests.io.postgresql.databases import select
from fibflow.tests.pipelines.alerting import Desk, instant
from fibflow.tests.pipelines.live import BUCKETS, LiveRun, Market, Segment, number, sql, wait_until

SYMBOLS, OWNER = 12, "bars"
CLOSE = {"field": "close"}
#: Out of what the day before was worth, by a bar that only the lake's official days tell of.
OUTSIDE = {
    "timeframe": "1h",
    "any": [
        {"left": CLOSE, "operator": "above", "right": {"field": "high", "timeframe": "1d"}},
        {"left": CLOSE, "operator": "below", "right": {"field": "low", "timeframe": "1d"}},
    ],
}
EVENTS = "SELECT id, operator, (extract(epoch FROM ts) * 1000000)::bigint, price FROM alert_events"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(["redis", "postgres", "moto", "flink", "beam"], slots=2) as running:
        migrate.upgrade(running.env["DATABASE_URL"])
        yield running


def test_hours_that_close_outside_the_day_before(stack: Stack, tmp_path: Path) -> None:
    market = Market.of("trades", ("2024-05-10",), SYMBOLS, "XNYS", trades=200.0, seed=11)
    opens = int(market.calendar.opens[market.last])
    run = LiveRun(stack, tmp_path, market, "ticks-bar-alerts", "trades")
    desk = Desk(stack.env["DATABASE_URL"], BUCKETS)
    run.create_stream()
    run.land(market.history)
    names = sorted({str(name) for name in market.official["symbol"].to_pylist()})
    wanted = [on_bars(name, OUTSIDE, frequency="bar") for name in names]
    made = desk.store.create(OWNER, wanted, instant(opens - 3_600_000_000))
    try:
        # The job finds a whole session: bars close before it has any alerts, and wait for them.
        run.play(Segment(market.tape, market.tape.messages, None))
        run.submit("--timeframes", "1h,1d", "--alerts", desk.url)

        def is_over() -> bool:
            live = run.table("silver.live")
            query = "select count(*) from live where timeframe = '1d' and final"
            return live is not None and number(query, live=live) >= SYMBOLS

        wait_until(is_over, "the session is over")
        numbers = {alert.definition.symbol: alert.id for alert in made}
        due = _due(run, numbers, micros(made[0].since))
        assert len(due) > SYMBOLS / 2
        asked = f"{EVENTS} WHERE owner = '{OWNER}'"
        wait_until(lambda: len(select(desk.url, asked)) >= len(due), f"{len(due)} events are in the outbox")
        assert {name: (operator, ts, price) for name, operator, ts, price in select(desk.url, asked)} == due
    finally:
        run.cancel()
        desk.store.close()


def _due(run: LiveRun, numbers: dict[str, int], since: int) -> dict[str, tuple[str, int, float]]:
    """What is due: hours as they were first told, against the last official day."""
    live = run.table("silver.live")
    assert live is not None
    query = f"""
        select symbol, epoch_us(ts) as ts, epoch_us("end") as over, close from live
        join (select symbol, high, low from daily qualify session = max(session) over ()) as before
        using (symbol)
        where timeframe = '1h' and revision = 0 and epoch_us("end") > {since}
        and (close > before.high or close < before.low)
    """
    rows = sql(query, live=live, daily=run.official()).to_pylist()
    return {f"{numbers[row['symbol']]}-1-0-{row['ts']}": ("bars", row["over"], row["close"]) for row in rows}

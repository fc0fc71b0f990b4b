"""Scripts of the feed: their order, that trades make the minutes that they are of, tapes."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import tables
from fibflow.pipelines import replay
from fibflow.serving.standin.lakes import write_market
from fibflow.serving.standin.market import Market
from fibflow.serving.standin.script import DELAY_US, MESSAGES, MINUTE_US, ScriptError, Session, Tape
from fibflow.tests.serving.standin.conftest import FIRST, LAST


@pytest.fixture(scope="module")
def lake(tmp_path_factory, market):
    return write_market(market, str(tmp_path_factory.mktemp("script") / "lake"), market.sessions[-2:])


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A lake with the minutes of one session of two symbols."""
    market = Market.make(2, FIRST, LAST, seed=1)
    return write_market(market, str(tmp_path_factory.mktemp("script") / "few"), market.sessions[-1:])


def read(script):
    """All messages, and when they go out."""
    parts = list(script.parts())
    assert all(part.schema == MESSAGES for part in parts)
    whole = pa.concat_tables(parts)
    texts: list[Any] = whole["message"].to_pylist()
    told = [json.loads(text) for text in texts]
    assert whole["kind"].to_pylist() == [message["ev"] for message in told]
    assert whole["symbol"].to_pylist() == [message["sym"] for message in told]
    sent: list[Any] = whole["sent"].cast(pa.int64()).to_pylist()
    assert sent == sorted(sent)
    assert sent[0] >= script.start
    assert len(told) == script.total
    return told, sent


def test_minutes_are_the_lakes(lake, market):
    session = market.sessions[-1]
    told, sent = read(Session.of(lake, None))
    rows = {
        (row["symbol"], round(row["ts"].timestamp() * 1000)): row
        for row in market.minutes(session).to_pylist()
    }
    assert len(told) == len(rows)
    volumes: dict[str, float] = defaultdict(float)
    notionals: dict[str, float] = defaultdict(float)
    opens: dict[str, float] = {}
    for message, at in zip(told, sent, strict=True):
        row = rows[message["sym"], message["s"]]
        assert at == message["e"] * 1000 + DELAY_US == message["s"] * 1000 + MINUTE_US + DELAY_US
        assert [message[name] for name in ("o", "h", "l", "c", "v", "vw")] == [
            row[name] for name in ("open", "high", "low", "close", "volume", "vwap")
        ]
        name = message["sym"]
        volumes[name] += row["volume"]
        notionals[name] += row["volume"] * row["vwap"]
        assert message["av"] == volumes[name]
        assert message["a"] == pytest.approx(notionals[name] / volumes[name], abs=1e-4)
        assert message["op"] == opens.setdefault(name, row["open"])


@settings(max_examples=6, deadline=None)
@given(trades=st.integers(4, 20), minutes=st.booleans())
def test_trades_make_the_minutes_that_they_are_of(few, trades, minutes):
    told, _ = read(Session.of(few, None, trades, minutes))
    made, numbers = defaultdict(list), defaultdict(list)
    for message in told:
        if message["ev"] == "T":
            made[message["sym"], message["t"] // 60_000 * 60_000].append(message)
            numbers[message["sym"]].append(message["q"])
    rows, _ = few.table(tables.MINUTES).snapshot().read()
    assert len(rows) == len(made)
    for row in rows.to_pylist():
        of = made[row["symbol"], round(row["ts"].timestamp() * 1000)]
        prices = [message["p"] for message in of]
        assert (prices[0], max(prices), min(prices), prices[-1]) == (
            row["open"],
            row["high"],
            row["low"],
            row["close"],
        )
        assert sum(message["s"] for message in of) == pytest.approx(row["volume"], abs=1e-9)
        assert 4 <= len(of) <= trades
    for found in numbers.values():
        assert all(before < after for before, after in pairwise(found))
    assert any(message["ev"] == "AM" for message in told) is minutes


def test_a_session_by_its_date(lake, market):
    first, last = (Session.of(lake, session) for session in market.sessions[-2:])
    assert last.start - first.start > 20 * 3_600_000_000
    assert first.total == len(market.minutes(market.sessions[-2]))


def test_what_cannot_be_played_is_refused(lake, market, tmp_path):
    for wrong in (
        lambda: Session.of(lake, market.sessions[0]),
        lambda: Session.of(lake, None, 0, False),
        lambda: Session.of(lake, None, 3),
        lambda: Session.of(write_market(market, str(tmp_path / "bare")), None),
        lambda: Tape(tmp_path / "nothing"),
    ):
        with pytest.raises(ScriptError):
            wrong()


def test_a_tape_without_what_a_feed_does_not_have(tmp_path):
    path = tmp_path / "ticks.arrow"
    command = ["--synthetic", "3", "--sessions", "2024-11-29", "--feed", "both", "--broken", "0.02"]
    assert replay.run([*command, "--seed", "1", "--save", str(path)]) == 0
    rows: list[Any] = pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_pylist()
    good = [json.loads(row["message"]) for row in rows if row["kind"] != "HB" and row["case"] == "on_time"]
    assert 0 < len(good) < len(rows)
    told, _ = read(Tape(path))
    assert told == good

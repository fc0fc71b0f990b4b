"""Minutes into a real live store, and what WebSocket clients make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibflow.benchmarks.serving import market
from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.serving.followers import Bars, Heard, Written, bars_of, evaluate, topics_of
from fibflow.benchmarks.serving.writer import (
    WRITTEN,
    names_of,
    write_minutes,
    write_there,
    written_since,
)
from fibflow.io import livefollow
from fibflow.io.livestore import LiveStore
from fibflow.transforms.calendar import load_calendar

NAMES = ["A", "BB", "CCC"]
SEED = 5
NOW_US = 1_800_000_000_000_000


# The writer ------------------------------------------------------------------------------------------------


def test_the_minutes_are_of_one_day_that_the_calendar_has():
    day, calendar = market.DAY_US, load_calendar("XNYS", 2028)
    position = int(np.searchsorted(calendar.opens, market.OPEN_US))
    assert calendar.opens[position] == market.OPEN_US
    assert day[0] < market.OPEN_US < market.start_of(359) < calendar.closes[position] < day[1]
    with pytest.raises(ValueError, match="at most 360"):
        market.start_of(360)


def test_a_price_and_an_open_day_of_each_symbol_are_there(store: LiveStore):
    write_there(store, NAMES, SEED, NOW_US)
    found = store.last_prices()
    assert found["symbol"].to_pylist() == NAMES
    assert found["price"].to_pylist() == market.last_prices(3, SEED).tolist()
    days = store.open_bars()
    assert days["symbol"].to_pylist() == NAMES
    assert set(days["timeframe"].to_pylist()) == {"1d"}


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_minutes_are_written_at_an_interval_and_each_bar_has_the_time_of_its_entry(store: LiveStore):
    clock = Clock()
    store.marker()
    here = livefollow.position(store)
    calls = write_minutes(store, NAMES, SEED, 3, 2.0, clock, clock.sleep)
    assert [began for began, _ in calls] == [1_800_000_000.0, 1_800_000_002.0, 1_800_000_004.0]
    found = written_since(store, here, NAMES, calls)
    assert found.schema == WRITTEN
    assert found["symbol"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found["minute"].to_pylist() == [0, 1, 2] * 3
    assert found["began"].to_pylist() == [began for began, _ in calls] * 3
    stored = found["stored_ms"].to_numpy().reshape(3, 3)
    assert (np.diff(stored, axis=1) >= 0).all()
    bars = store.closed_bars("BB", "1m")
    assert bars["close"].to_pylist() == [market.closes(3, SEED, minute)[1] for minute in range(3)]


def test_the_names_are_those_of_the_catalogue(tmp_path):
    pq.write_table(pa.table({"symbol": ["B", "A", "B"], "rows": [1, 2, 3]}), tmp_path / "c.parquet")
    assert names_of(tmp_path / "c.parquet") == ["A", "B"]


# The clients -----------------------------------------------------------------------------------------------


def frame(*bars: tuple[str, int, float], more: str = "") -> bytes:
    rows = [
        {"ev": "AM", "sym": name, "s": market.start_of(minute) // 1_000, "c": close}
        for name, minute, close in bars
    ]
    return orjson.dumps([*rows, *([{"ev": "status", "message": more}] if more else [])])


def test_frames_become_bars_with_the_time_at_which_they_came():
    heard = Heard()
    heard.take(0, frame(("A", 0, 1.0), ("CCC", 0, 2.0)), 10.0)
    heard.take(1, frame(("BB", 1, 3.0), more="stale"), 11.0)
    heard.take(2, frame(("A", 0, 1.0), ("CCC", 0, 2.0)), 12.0)
    heard.take(2, frame(("Z", 1, 4.0)), 13.0)
    assert len(heard.texts) == 3
    bars = bars_of(heard, NAMES)
    assert bars.at.tolist() == [10.0, 10.0, 11.0, 12.0, 12.0, 13.0]
    assert bars.client.tolist() == [0, 0, 1, 2, 2, 2]
    assert bars.symbol.tolist() == [0, 2, 1, 0, 2, -1]
    assert bars.minute.tolist() == [0, 0, 1, 0, 0, 1]
    assert bars.close.tolist() == [1.0, 2.0, 3.0, 1.0, 2.0, 4.0]


def test_no_frames_are_no_bars():
    assert len(bars_of(Heard(), NAMES).at) == 0


FOLLOWED = [None, [1]]


def whole() -> tuple[Bars, Written]:
    """Two minutes of three symbols to two clients: 0.1 s after Redis had them, to who follows all 0.2 s."""
    stored = np.array([[100.0, 103.0], [100.01, 103.01], [100.02, 103.02]])
    rows = [(0, symbol, minute) for symbol in range(3) for minute in range(2)]
    rows += [(1, 1, minute) for minute in range(2)]
    client, symbol, minute = np.array(rows).T
    at = stored[symbol, minute] + np.where(client == 0, 0.2, 0.1)
    close = np.array([market.closes(3, SEED, each)[of] for of, each in zip(symbol, minute, strict=True)])
    return Bars(at, client, symbol, minute, close), Written(stored, stored - 0.05)


def test_when_all_came_nothing_is_wrong_and_latencies_are_since_redis_had_it():
    found = evaluate(*whole(), FOLLOWED, SEED, warm=1)
    assert [found[key] for key in ("bars", "expected", "missing", "twice", "wrong")] == [4, 8, 0, 0, 0]
    assert found["stored_all"]["p50"] == pytest.approx(0.2)
    assert found["stored_some"]["p100"] == pytest.approx(0.1)
    assert found["stored"]["p100"] == pytest.approx(0.2)
    assert found["began"]["p100"] == pytest.approx(0.25)


def change(bars: Bars, **values) -> Bars:
    return Bars(**{**vars(bars), **values})


def test_what_is_missing_twice_or_wrong_is_counted():
    bars, written = whole()
    fewer = Bars(*(part[:-1] for part in vars(bars).values()))
    assert evaluate(fewer, written, FOLLOWED, SEED, 0)["missing"] == 1
    more = Bars(*(np.append(part, part[-1]) for part in vars(bars).values()))
    assert evaluate(more, written, FOLLOWED, SEED, 0)["twice"] == 1
    other = change(bars, close=bars.close + (np.arange(8) == 3))
    assert evaluate(other, written, FOLLOWED, SEED, 0)["wrong"] == 1
    # Not its own symbol: that one is missing too.
    strange = change(bars, symbol=np.where(np.arange(8) == 7, 2, bars.symbol))
    found = evaluate(strange, written, FOLLOWED, SEED, 0)
    assert (found["wrong"] >= 1, found["missing"]) == (True, 1)
    unknown = change(bars, symbol=np.where(np.arange(8) == 7, -1, bars.symbol))
    assert evaluate(unknown, written, FOLLOWED, SEED, 0)["wrong"] == 1


def test_each_client_follows_its_own_symbols_by_the_seed():
    names = [f"S{number}" for number in range(50)]
    first, again = (topics_of(names, 10, 2, 20, 7) for _ in range(2))
    assert first == again
    assert first[:2] == [None, None]
    some = [own for own in first if own is not None]
    assert all(len(set(own)) == 20 for own in some)
    assert len({tuple(own) for own in some}) == 8
    assert topics_of(names[:3], 2, 0, 20, 7) == [[0, 1, 2]] * 2


def test_a_writer_that_did_not_write_all_is_refused(tmp_path: Path):
    columns = {"symbol": [0, 0], "minute": [0, 1], "stored_ms": [1_000, 2_000], "began": [0.5, 1.5]}
    pq.write_table(pa.table(columns).cast(WRITTEN), tmp_path / "written.parquet")
    read = Written.read(tmp_path / "written.parquet", 1, 2)
    assert (read.stored.tolist(), read.began.tolist()) == ([[1.0, 2.0]], [[0.5, 1.5]])
    with pytest.raises(BenchmarkError, match="not 4"):
        Written.read(tmp_path / "written.parquet", 2, 2)


def test_the_bars_of_a_minute_are_as_the_stream_gives_them():
    table = market.minute_table(NAMES, SEED, 2)
    assert (table["low"].to_numpy() <= table["close"].to_numpy()).all()
    assert table["complete"].to_pylist() == [True] * 3
    assert table["revision"].to_pylist() == [0] * 3

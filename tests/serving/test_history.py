"""Answers of ``History`` against SQL over the lake's files: stored, computed, scaled and filled bars."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.serving.history.bars import History
from fibflow.serving.history.query import AsOf, BarQuery, Fill, cursor_of, resumed
from fibflow.serving.problems import Problem
from fibflow.tests.io.barlakes import XNYS, commit_bars, daily_rows, make_bars, minute_rows
from fibflow.tests.serving.historylakes import (
    Oracle,
    Stream,
    World,
    commit_batch,
    commit_rows,
    plain,
    splits_table,
    us,
)
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, Timeframe

NOW = datetime(2024, 4, 2, tzinfo=UTC)
ALL = ("A", "B", "C", "D")
MANY = 50_000


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def history(world):
    return history_of(world.lake, world.splits)


def history_of(lake: Lake, splits: pa.Table | None = None) -> History:
    table = splits_table() if splits is None else splits
    return History(lake, 0, lambda symbol: table, clock=lambda: NOW)


def ask(symbols: str, timeframe: str, **options) -> BarQuery:
    options = {"limit": MANY, **options}
    return BarQuery(tuple(symbols.split(",")) if symbols else None, Timeframe.parse(timeframe), **options)


def seen(history: History, query: BarQuery) -> list[dict]:
    answer = history.bars(query)
    assert answer.table.schema.names == [*BARS.names, "filled"]
    assert [answer.table.schema.field(name).type for name in BARS.names] == BARS.types
    return plain(answer.table, *(["filled"] if query.fill is not Fill.NONE else []))


def of(bars: list[dict], symbols: str) -> list[dict]:
    return [bar for bar in bars if bar["symbol"] in symbols.split(",")]


# Stored and computed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeframe", ["3d", "5d", "1d", "2d", "8d", "34d"])
def test_bars_of_days_are_those_of_sql(world, history, timeframe):
    expected = world.oracle.days(int(timeframe[:-1]))
    answer = history.bars(ask("A,B,C,D", timeframe))
    assert plain(answer.table) == expected
    assert answer.stored == (timeframe in ("3d", "5d"))
    flags = answer.table.select(["complete", "final"])
    assert flags["complete"].equals(flags["final"])
    assert set(answer.table["revision"].to_pylist()) == {0}


@pytest.mark.parametrize("timeframe", ["3d", "7d"])
def test_bars_counted_from_the_listing(world, history, timeframe):
    expected = world.oracle.days(int(timeframe[:-1]), "listing")
    assert seen(history, ask("A,B,C,D", timeframe, anchor=Anchor.LISTING)) == expected
    # Those of one symbol do not depend on which others are asked for, nor on where the range begins.
    middle = expected[len(expected) // 3]["ts"]
    for symbol in ALL:
        mine = [bar for bar in of(expected, symbol) if bar["ts"] >= middle]
        assert seen(history, ask(symbol, timeframe, anchor=Anchor.LISTING, start=middle)) == mine


@pytest.mark.parametrize("timeframe", ["5m", "1h", "1m", "2m", "30m", "4h"])
@pytest.mark.parametrize("anchor", [IntradayAnchor.MIDNIGHT, IntradayAnchor.OPEN])
def test_bars_of_minutes_are_those_of_sql(world, history, timeframe, anchor):
    minutes = Timeframe.parse(timeframe).minutes
    expected = world.oracle.intraday(minutes, anchor)
    answer = history.bars(ask("A,B", timeframe, intraday_anchor=anchor))
    assert plain(answer.table) == expected
    assert answer.stored == (timeframe in ("5m", "1h") and anchor is IntradayAnchor.MIDNIGHT)


def test_what_is_computed_is_what_batch_stores(tmp_path, world, history):
    other = Lake(str(tmp_path))
    rows, _ = world.lake.table(tables.DAILY).snapshot().read()
    rows = rows.sort_by([("symbol", "ascending"), ("session", "ascending")])
    commit_bars(other, make_bars(rows, "1d,2d,21d"))
    for timeframe in ("1d", "2d", "21d"):
        stored = history_of(other).bars(ask("A,B,C,D", timeframe))
        computed = history.bars(ask("A,B,C,D", timeframe))
        assert stored.stored
        assert not computed.stored
        assert computed.table.equals(stored.table)


def test_days_and_minutes_that_are_stored_as_bars_are_folded_too(tmp_path, world, history):
    """A lake that was made of a raw folder has no rows, but its 1d and 1m bars tell all that rows do."""
    lake = Lake(str(tmp_path))
    days, minutes = (
        world.lake.table(spec).snapshot().read()[0].sort_by([("symbol", "ascending"), (time, "ascending")])
        for spec, time in ((tables.DAILY, "session"), (tables.MINUTES, "ts"))
    )
    commit_batch(lake, make_bars(days, "1d"), None)
    commit_batch(lake, make_bars(minutes, "1m"), None)
    for symbols, timeframe in (("A,B,C,D", "8d"), ("A,B", "10m")):
        found = history_of(lake).bars(ask(symbols, timeframe))
        assert found.table.equals(history.bars(ask(symbols, timeframe)).table)
        assert not found.stored


BOUNDS = st.one_of(st.none(), st.integers(us("2023-08-25"), us("2024-04-05")))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["3d", "5d", "1d", "13d", "1h", "10m", "5m"]),
    BOUNDS,
    BOUNDS,
    st.booleans(),
    st.integers(1, 60),
    st.booleans(),
)
def test_any_range_order_and_limit(world, history, timeframe, start, end, descending, limit, complete_only):
    parsed = Timeframe.parse(timeframe)
    whole = (
        world.oracle.intraday(parsed.minutes) if parsed.is_intraday else world.oracle.days(parsed.sessions)
    )
    if start is not None and end is not None and start > end:
        start, end = end, start
    expected = [
        bar
        for bar in whole
        if (start is None or bar["ts"] >= start)
        and (end is None or bar["ts"] < end)
        and (bar["complete"] or not complete_only)
    ]
    for symbols in ("A", "A,B", "A,B,C,D"):
        if parsed.is_intraday and "C" in symbols:
            continue
        mine = sorted(
            of(expected, symbols), key=lambda bar: (bar["symbol"], -bar["ts"] if descending else bar["ts"])
        )
        query = ask(symbols, timeframe, start=start, end=end, descending=descending, limit=limit)
        answer = history.bars(replace(query, complete_only=complete_only))
        assert plain(answer.table) == mine[:limit]
        assert answer.more == (len(mine) > limit)


# Splits ----------------------------------------------------------------------------------------------------


def register(oracle: Oracle, splits: pa.Table, until: str = "2024-04-02") -> str:
    oracle.db.register("given_splits", splits)
    oracle.db.execute(
        f"CREATE OR REPLACE TABLE splits AS SELECT * FROM given_splits WHERE execution_date <= DATE '{until}'"
    )
    return "splits"


def close(found: list[dict], expected: list[dict], volume: float = 0) -> None:
    """The same but for the last bits of scaled numbers, and for what rows were rounded to."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            got, rounded = mine[name], volume if name in ("volume", "vwap") else 0
            same = pytest.approx(value, rel=1e-12, abs=rounded) if isinstance(value, float) else value
            assert got == same, (name, mine)


@pytest.mark.parametrize("timeframe", ["1d", "3d", "5d", "8d", "34d"])
def test_scaled_bars_of_days_are_made_of_scaled_rows(world, history, timeframe):
    splits = register(world.oracle, world.splits)
    expected = world.oracle.days(int(timeframe[:-1]), splits=splits)
    assert expected != world.oracle.days(int(timeframe[:-1]))
    close(seen(history, ask("A,B,C,D", timeframe, adjusted=True)), expected)
    for symbol in ALL:
        close(
            seen(history, ask(symbol, timeframe, adjusted=True, descending=True)), of(expected, symbol)[::-1]
        )


def test_a_bar_with_a_split_inside_is_made_anew(world, history):
    """Scaling the stored bar would give other numbers."""
    raw = history.bars(ask("A", "34d")).table
    scaled = history.bars(ask("A", "34d", adjusted=True)).table
    day = us("2023-12-13")
    starts, ends = (raw[name].cast(pa.int64()).to_pylist() for name in ("ts", "end"))
    (at,) = [n for n, (ts, end) in enumerate(zip(starts, ends, strict=True)) if ts < day < end]
    ratios = [scaled[name][at].as_py() / raw[name][at].as_py() for name in ("open", "close", "high", "low")]
    assert ratios[0] == pytest.approx(0.75)
    assert ratios[1] == pytest.approx(3.0)


@pytest.mark.parametrize("timeframe", ["5m", "1h", "10m"])
def test_scaled_bars_of_minutes(world, history, timeframe):
    splits = register(world.oracle, world.splits)
    expected = world.oracle.intraday(Timeframe.parse(timeframe).minutes, splits=splits)
    close(seen(history, ask("A,B", timeframe, adjusted=True)), expected, 1e-3)


def test_a_split_to_come_scales_nothing(world, history):
    assert history.bars(ask("B,D", "5d", adjusted=True)).table.equals(history.bars(ask("B,D", "5d")).table)
    later = History(
        world.lake, 0, lambda symbol: world.splits, clock=lambda: datetime(2030, 1, 2, 12, tzinfo=UTC)
    )
    # In New York it is still the evening before.
    evening = History(
        world.lake, 0, lambda symbol: world.splits, clock=lambda: datetime(2030, 1, 2, 3, tzinfo=UTC)
    )
    assert evening.bars(ask("B", "1d", adjusted=True)).table.equals(history.bars(ask("B", "1d")).table)
    scaled = later.bars(ask("B", "1d", adjusted=True, limit=1)).table
    assert scaled["open"][0].as_py() == pytest.approx(
        history.bars(ask("B", "1d", limit=1)).table["open"][0].as_py() / 10
    )


def test_without_daily_rows_a_bar_with_a_split_inside_is_refused(tmp_path):
    lake = Lake(str(tmp_path))
    rows = daily_rows({"A": ("2023-12-01", "2023-12-29"), "B": ("2023-12-01", "2023-12-29")})
    commit_bars(lake, make_bars(rows, "1d,5d"))
    # 12 December is inside a window, 8 December begins one.
    starts = [str(bar)[:10] for bar in history_of(lake).bars(ask("A", "5d")).table["ts"].to_pylist()]
    assert "2023-12-12" not in starts
    history = history_of(lake, splits_table(("A", "2023-12-12", 1.0, 2.0), ("B", starts[2], 1.0, 2.0)))
    with pytest.raises(Problem, match="has a split inside") as told:
        history.bars(ask("A", "5d", adjusted=True))
    assert told.value.code == "split_inside"
    raw, scaled = (
        [bar["open"] for bar in seen(history, ask("B", "5d", adjusted=flag))] for flag in (False, True)
    )
    assert scaled == [raw[0] / 2, raw[1] / 2, *raw[2:]]
    one = history.bars(ask("A", "1d", adjusted=True)).table
    assert one["close"][0].as_py() * 2 == history.bars(ask("A", "1d")).table["close"][0].as_py()


def test_where_prices_are_adjusted_already_nothing_is_scaled(tmp_path):
    lake = Lake(str(tmp_path))
    rows = daily_rows({"A": ("2023-12-01", "2023-12-29")})
    commit_rows(lake, tables.DAILY, rows, "run", "split-adjusted")
    history = history_of(lake, splits_table(("A", "2023-12-12", 1.0, 2.0)))
    assert history.bars(ask("A", "3d", adjusted=True)).table.equals(history.bars(ask("A", "3d")).table)


# Filling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [Fill.PREV, Fill.NULL])
@pytest.mark.parametrize("timeframe", ["1d", "3d", "2d"])
def test_filled_bars_of_days(world, history, fill, timeframe):
    oracle = world.oracle
    until = oracle.rows("SELECT max(ends) AS t FROM sessions JOIN daily USING (day)")[0]["t"]
    expected = oracle.fill(oracle.days(int(timeframe[:-1])), timeframe, until, fill)
    assert any(bar["filled"] for bar in expected if bar["symbol"] == "B")
    assert seen(history, ask("A,B,C,D", timeframe, fill=fill)) == expected


@pytest.mark.parametrize("timeframe", ["5m", "1h", "10m"])
def test_filled_bars_of_minutes(world, history, timeframe):
    """The grid has the half day of 24 November, and goes on over both changes of the clock."""
    oracle = world.oracle
    bars = oracle.intraday(Timeframe.parse(timeframe).minutes)
    until = max(bar["end"] for bar in bars)
    if timeframe == "10m":
        # What is computed is as of the end of the newest session.
        until = oracle.rows("SELECT max(ends) AS t FROM minutes")[0]["t"]
    expected = oracle.fill(bars, timeframe, until, "prev")
    assert seen(history, ask("A,B", timeframe, fill=Fill.PREV)) == expected
    half = [
        row["end"]
        for row in expected
        if row["symbol"] == "B" and row["filled"] and row["ts"] < us("2023-11-25")
    ]
    # The session ends at 13:00 in New York.
    assert max(half) == us("2023-11-24T18:00")


def test_windows_counted_from_the_listing_are_filled_by_their_own_count(world, history):
    bars = seen(history, ask("B", "3d", anchor=Anchor.LISTING))
    rows = seen(history, ask("B", "3d", anchor=Anchor.LISTING, fill=Fill.PREV))
    assert [{k: v for k, v in row.items() if k != "filled"} for row in rows if not row["filled"]] == bars
    assert any(row["filled"] for row in rows)
    starts = [int(XNYS.positions_at(pa.array([row["ts"]]).to_numpy())[0]) for row in rows]
    assert starts == list(range(starts[0], starts[0] + 3 * len(rows), 3))


def test_nothing_is_made_before_the_first_bar_nor_after_the_data(world, history):
    early, late = us("2000-01-01"), us("2029-01-01")
    rows = seen(history, ask("B", "1d", fill=Fill.PREV, start=early, end=late))
    first = seen(history, ask("B", "1d", limit=1))[0]["ts"]
    last = seen(history, ask("A", "1d", limit=1, descending=True))[0]["ts"]
    assert (rows[0]["ts"], rows[-1]["ts"]) == (first, last)
    assert seen(history, ask("D", "1d", fill=Fill.PREV, end=us("2024-03-20"))) == []
    # Delisted: flat from there to the end of the data.
    assert seen(history, ask("C", "1d", fill=Fill.PREV, descending=True, limit=1))[0]["ts"] == last
    tail = seen(history, ask("C", "1d", fill=Fill.PREV, start=us("2024-03-01"), end=us("2024-03-08")))
    assert len(tail) == 5
    assert len({bar["close"] for bar in tail}) == 1
    assert all(bar["filled"] and bar["volume"] == 0 for bar in tail)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["1d", "3d", "1h", "10m"]), st.integers(1, 40), st.booleans(), BOUNDS, BOUNDS)
def test_filled_pages_put_together_are_the_whole(world, history, timeframe, limit, descending, start, end):
    symbols = "A,B" if timeframe[-1] in "mh" else "A,B,C,D"
    if start is not None and end is not None and start > end:
        start, end = end, start
    base = ask(symbols, timeframe, fill=Fill.PREV, start=start, end=end, descending=descending)
    whole = seen(history, replace(base, descending=False))
    cut = limit if len(whole) < 20 * limit else max(limit, len(whole) // 8)
    assert pages(history, replace(base, limit=cut)) == in_order(whole, descending)


def in_order(rows: list[dict], descending: bool) -> list[dict]:
    return sorted(rows, key=lambda bar: (bar["symbol"], -bar["ts"] if descending else bar["ts"]))


def pages(history: History, query: BarQuery) -> list[dict]:
    """All pages of a question, each asked with the cursor of the one before."""
    found, page = [], query
    while True:
        answer = history.bars(page)
        assert len(answer.table) <= query.limit
        found += plain(answer.table, *(["filled"] if query.fill is not Fill.NONE else []))
        position = answer.position
        if position is None:
            return found
        assert len(answer.table)
        page = resumed(query, cursor_of(page, position))


# Pages -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["3d", "5d", "1d", "13d", "1h", "10m"]),
    st.integers(1, 50),
    st.booleans(),
    BOUNDS,
    BOUNDS,
    st.sampled_from(["A", "B", "A,B"]),
)
def test_pages_put_together_are_the_whole(world, history, timeframe, limit, descending, start, end, symbols):
    if start is not None and end is not None and start > end:
        start, end = end, start
    base = ask(symbols, timeframe, start=start, end=end, descending=descending)
    whole = seen(history, base)
    cut = max(limit, len(whole) // 12)
    assert pages(history, replace(base, limit=cut)) == whole


def test_pages_of_all_symbols(world, history):
    whole = seen(history, ask("", "5d"))
    assert {bar["symbol"] for bar in whole} == set(ALL)
    assert pages(history, ask("", "5d", limit=7)) == whole
    assert pages(history, ask("", "5d", limit=7, descending=True)) == in_order(whole, True)
    day = us("2024-03-26T04:00")
    assert [bar["symbol"] for bar in seen(history, ask("", "1d", start=day, end=day + 1))] == ["A", "B", "D"]


def test_pages_behind_a_cursor_are_of_the_versions_of_the_first(tmp_path):
    lake = Lake(str(tmp_path))
    commit_bars(lake, make_bars(daily_rows({"A": ("2023-12-01", "2023-12-29")}), "1d"), "one")
    history = history_of(lake)
    query = ask("A", "1d", limit=4)
    first = history.bars(query)
    assert first.position is not None
    commit_bars(lake, make_bars(daily_rows({"A": ("2024-01-02", "2024-01-31")}), "1d"), "two")
    assert len(history.bars(ask("A", "1d")).table) == 41
    page = resumed(query, cursor_of(query, first.position))
    rest = history.bars(replace(page, limit=MANY))
    assert len(first.table) + len(rest.table) == 20
    assert (rest.bars, rest.live, rest.more) == (0, -1, False)
    assert rest.settled


# The stream ------------------------------------------------------------------------------------------------


def bar(symbol: str, timeframe: str, day: str, price: float, **more) -> dict:
    """A closed bar of one session."""
    at = int(
        XNYS.positions(pa.array([datetime.fromisoformat(day)]).cast(pa.date32()).view(pa.int32()).to_numpy())[
            0
        ]
    )
    values = dict.fromkeys(("open", "high", "low", "close", "vwap"), price)
    return {
        "symbol": symbol,
        "timeframe": timeframe,
        "ts": int(XNYS.day_starts[at]),
        "end": int(XNYS.day_ends[at]),
        **values,
        "volume": 100.0,
        "trade_count": 3,
        "sessions": 1,
        "complete": True,
        "final": True,
        "revision": 0,
        **more,
    }


def bars_of(*rows: dict) -> pa.Table:
    columns = []
    for field in BARS:
        values = [row[field.name] for row in rows]
        timed = pa.types.is_timestamp(field.type)
        columns.append(
            pa.array(values, pa.int64()).cast(field.type) if timed else pa.array(values, field.type)
        )
    return pa.table(columns, schema=BARS)


@pytest.fixture
def streamed(tmp_path):
    """Official days up to 15 March 2024, a Friday, and the stream's for the week after."""
    lake = Lake(str(tmp_path))
    commit_rows(
        lake,
        tables.DAILY,
        daily_rows({"A": ("2024-02-01", "2024-03-15"), "B": ("2024-02-01", "2024-03-15")}),
        "run",
    )
    stream = Stream(lake)
    stream.commit(bars_of(bar("A", "1d", "2024-03-15", 1.0), bar("A", "1d", "2024-03-18", 18.0)))
    stream.commit(
        bars_of(
            bar("A", "1d", "2024-03-19", 19.0, final=False), bar("B", "1d", "2024-03-18", 8.0, revision=2)
        )
    )
    return lake, stream


def test_days_are_official_rows_and_then_the_streams(streamed):
    lake, stream = streamed
    history = history_of(lake)
    official = Oracle(lake.uri).days(1)
    found = seen(history, ask("A", "1d"))
    assert found[:-2] == of(official, "A")
    assert [row["close"] for row in found[-2:]] == [18.0, 19.0]
    last = history.bars(ask("A,B", "1d", start=us("2024-03-16"))).table
    assert last.select(["symbol", "final", "revision"]).to_pylist() == [
        {"symbol": "A", "final": True, "revision": 0},
        {"symbol": "A", "final": False, "revision": 0},
        {"symbol": "B", "final": True, "revision": 2},
    ]
    # A day that is landed counts from then on, whatever the stream said.
    commit_rows(lake, tables.DAILY, daily_rows({"A": ("2024-03-18", "2024-03-18")}, seed=5), "next")
    again = seen(history, ask("A", "1d"))
    assert again[-2]["close"] != 18.0
    assert again[-1] == found[-1]
    stream.commit(bars_of(bar("A", "1d", "2024-03-18", 17.0, revision=1)))
    assert seen(history, ask("A", "1d")) == again


def test_windows_of_days_go_on_with_the_streams_days(streamed):
    lake, _ = streamed
    history = history_of(lake)
    rows = seen(history, ask("A", "1d"))
    two = history.bars(ask("A", "2d")).table
    fold: dict[int, list[dict]] = {}
    for row in rows:
        number = int(XNYS.positions_at(pa.array([row["ts"]]).to_numpy())[0]) - XNYS.origin
        fold.setdefault(number // 2, []).append(row)
    assert two["close"].to_pylist() == [days[-1]["close"] for days in fold.values()]
    assert two["volume"].to_pylist() == [sum(day["volume"] for day in days) for days in fold.values()]
    # 18 March closes a window that began on the 15th; 19 March may still change.
    assert (
        two.select(["complete", "final"]).to_pylist()[-2:]
        == [
            {"complete": True, "final": True},
            {"complete": False, "final": False},
        ]
        or len(fold[max(fold)]) == 2
    )


def test_bars_of_the_stream_itself_count_after_history(streamed):
    lake, stream = streamed
    position = int(XNYS.positions_at(pa.array([us("2024-03-19T15:00")]).to_numpy())[0])
    first = XNYS.origin + (position - XNYS.origin) // 2 * 2
    window = {"ts": int(XNYS.day_starts[first]), "end": int(XNYS.day_ends[first + 1])}
    stream.commit(bars_of(bar("A", "2d", "2024-03-19", 77.0, revision=4, **window)))
    history = history_of(lake)
    found = history.bars(ask("A", "2d"))
    assert not found.stored
    rows = found.table.to_pylist()
    stamps = found.table["ts"].cast(pa.int64()).to_pylist()
    assert stamps.count(window["ts"]) == 1
    row = rows[stamps.index(window["ts"])]
    assert (row["close"], row["revision"]) == (77.0, 4)
    before = history.bars(ask("A", "2d", end=window["ts"])).table
    assert len(before) == len(rows) - 1


def minute_bars_of(rows: pa.Table) -> pa.Table:
    return make_bars(rows, "1m")[0]


def test_a_symbol_that_only_the_stream_has_is_read_from_either_end(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    commit_rows(lake, tables.DAILY, daily_rows({"A": ("2024-01-02", "2024-02-15")}), "daily")
    (bars,) = make_bars(daily_rows({"NEW": ("2024-02-16", "2024-03-01")}), "5d", complete_only=True)
    Stream(lake).commit(bars.cast(BARS))
    history = history_of(lake)
    up, down = (seen(history, ask("NEW", "5d", descending=descending)) for descending in (False, True))
    assert len(up) == len(bars)
    assert down == up[::-1]


@pytest.mark.parametrize("timeframe", ["1d", "2d"])
def test_rows_of_a_day_that_the_calendar_has_lost_are_no_bar(tmp_path, timeframe):
    lake = Lake(str(tmp_path / "lake"))
    rows = daily_rows({"A": ("2024-01-29", "2024-02-16")})
    sunday = rows.slice(4, 1).set_column(1, "session", pa.array([date(2024, 2, 4)], pa.date32()))
    commit_rows(lake, tables.DAILY, pa.concat_tables([rows, sunday]), "daily")
    history = history_of(lake)
    every = seen(history, ask("A", timeframe))
    for limit in range(1, len(every) + 2):
        assert seen(history, ask("A", timeframe, limit=limit, descending=True)) == every[::-1][:limit]


def test_minutes_of_a_stream_of_minutes_are_folded(tmp_path):
    lake = Lake(str(tmp_path))
    rows = minute_rows("A", ["2024-03-18T13:30", "2024-03-19T13:30"], 90)
    Stream(lake, **{tables.BARS_FROM: "minutes"}).commit(minute_bars_of(rows))
    found = history_of(lake).bars(ask("A", "10m"))
    expected = make_bars(rows, "10m")[0]
    assert found.table.drop_columns(["filled"]).equals(expected)
    assert not found.stored
    with pytest.raises(Problem, match="no 1h bars of X") as told:
        history_of(lake).bars(ask("X", "1h", intraday_anchor=IntradayAnchor.OPEN))
    assert told.value.code == "unknown_symbol"


def test_minutes_that_trades_made_are_not_folded(tmp_path):
    lake = Lake(str(tmp_path))
    Stream(lake, **{tables.BARS_FROM: "trades"}).commit(
        minute_bars_of(minute_rows("A", ["2024-03-18T13:30"], 90))
    )
    history = history_of(lake)
    assert len(history.bars(ask("A", "1m")).table) == 90
    with pytest.raises(Problem, match="cannot be made exactly of 1m bars that trades made") as told:
        history.bars(ask("A", "10m"))
    assert (told.value.status, told.value.code) == (400, "not_exact")


# What is not there -----------------------------------------------------------------------------------------


def test_what_is_not_there_is_said(world, history, tmp_path):
    def code(query: BarQuery, asked: History = history) -> tuple[int, str]:
        with pytest.raises(Problem) as told:
            asked.bars(query)
        return told.value.status, told.value.code

    assert code(ask("X", "5d")) == (404, "unknown_symbol")
    assert code(ask("A,X", "2d")) == (404, "unknown_symbol")
    assert code(ask("C", "10m")) == (404, "unknown_symbol")
    assert code(ask("A", "5d"), history_of(Lake(str(tmp_path / "none")))) == (404, "no_bars")
    assert history.bars(ask("A", "5d", end=us("1990-01-01"))).table.num_rows == 0
    only = Lake(str(tmp_path / "bars"))
    commit_bars(only, make_bars(daily_rows({"A": ("2024-01-02", "2024-01-31")}), "5d"))
    assert code(ask("A", "2d"), history_of(only)) == (404, "unknown_timeframe")
    assert code(ask("A", "5m"), history_of(only)) == (404, "unknown_timeframe")
    assert code(ask("A", "5d", anchor=Anchor.LISTING), history_of(only)) == (404, "unknown_timeframe")
    assert code(ask("A", "2d", anchor=Anchor.ROWS)) == (400, "bad_anchor")
    assert code(ask("A", "5d", as_of=AsOf(None, 99, -1))) == (404, "unknown_version")
    assert code(ask("A", "5d", as_of=AsOf(datetime(2000, 1, 1, tzinfo=UTC)))) == (404, "no_bars")


# Settled ---------------------------------------------------------------------------------------------------


def test_only_ranges_that_nothing_can_come_to_are_settled(world, history):
    def settled(symbols: str, timeframe: str, **options) -> bool:
        return history.bars(ask(symbols, timeframe, **options)).settled

    old, newest = us("2024-02-01"), us("2024-03-29")
    for timeframe in ("5d", "2d", "1d", "5m", "10m"):
        symbols = "A,B"
        assert settled(symbols, timeframe, start=us("2023-10-01"), end=us("2024-01-03"))
        assert not settled(symbols, timeframe, start=old)
        assert not settled(symbols, timeframe, end=newest)
        assert not settled(symbols, timeframe, descending=True, limit=3)
    assert settled("A", "1d", limit=3)
    assert not settled("A,B", "1d", limit=3)
    # A window of 34 sessions that is open may begin before the range ends.
    assert not settled("A", "34d", end=us("2024-02-20"))
    assert settled("A", "34d", end=us("2023-12-01"))
    # A split to come moves all prices before it.
    assert not settled("A", "1d", adjusted=True, end=us("2024-01-03"))
    answer = history.bars(ask("A", "1d"))
    versions = AsOf(None, answer.bars, answer.live, answer.daily, answer.minutes)
    assert settled("A", "1d", as_of=versions)


def test_what_the_stream_made_is_not_settled(streamed):
    lake, _ = streamed
    history = history_of(lake)
    assert history.bars(ask("A", "1d", start=us("2024-02-02"), end=us("2024-03-13"))).settled
    assert not history.bars(ask("A", "1d", start=us("2024-03-18"), end=us("2024-03-19"))).settled
    # Nor what official rows may still be landing.
    assert not history.bars(ask("A", "1d", start=us("2024-03-15"), end=us("2024-03-16"))).settled

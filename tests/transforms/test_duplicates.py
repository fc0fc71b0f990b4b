from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.tests.transforms.tables import address, daily, dictionary, dicts, minutes, row, us
from fibflow.transforms.duplicates import resolve
from fibflow.transforms.schemas import DAILY_ROWS, SYMBOL

MINUTE = 60_000_000
DAY = date(2024, 7, 2)
START = us("2024-07-02T13:30")


def opens(rows: pa.Table) -> list[float]:
    return [each["open"] for each in dicts(rows)]


def day(number: int) -> date:
    return DAY + timedelta(days=number)


# --- precedence ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([{"rank": 0}, {"rank": 1}], 1),
        ([{"rank": 2}, {"rank": 1}, {"rank": 0}], 0),
        ([{"rank": 1}, {"rank": 1}], 1),
        ([{"rank": 1}, {"rank": 1}, {"rank": 0}], 1),
        ([{"version": 1}, {"version": 2}], 1),
        ([{"version": 2}, {"version": 1}], 0),
        ([{"version": 2, "rank": 0}, {"version": 1, "rank": 9}], 0),
        ([{"version": 2, "rank": 0}, {"version": 2, "rank": 1}], 1),
        ([{"version": 0, "rank": 0}, {"version": None, "rank": 9}], 0),
        ([{"version": None, "rank": 0}, {"version": None, "rank": 9}], 1),
        ([{"version": None}, {"version": None}, {"version": None}], 2),
    ],
    ids=[
        "greater rank",
        "greater rank first",
        "later row of one file",
        "later row of the better file",
        "greater version",
        "greater version first",
        "version over rank",
        "rank where versions tie",
        "a version over none",
        "rank without versions",
        "later row without any",
    ],
)
def test_the_winner_of_one_minute(rows, winner):
    table = minutes([row("A", START, float(n + 1), **{"rank": 0, **own}) for n, own in enumerate(rows)])
    won, lost = resolve(table, "ts")
    assert opens(won) == [winner + 1]
    assert sorted(opens(lost)) == [n + 1 for n in range(len(rows)) if n != winner]


def test_without_rank_and_version_the_later_row_wins():
    table = daily([row("A", DAY, 1.0), row("A", DAY, 2.0)], rank=False)
    won, lost = resolve(table, "session")
    assert (opens(won), opens(lost)) == ([2.0], [1.0])


def test_equal_times_of_other_symbols_and_other_times_of_equal_symbols_are_no_duplicates():
    table = daily([row("B", day(1)), row("A", day(1)), row("A", day(0))])
    won, lost = resolve(table, "session")
    assert len(won) == 3
    assert len(lost) == 0
    assert lost.schema == won.schema


def test_losers_keep_all_their_values():
    rows = [row("A", DAY, 1.0, vwap=1.5, trade_count=3, rank=0), row("A", DAY, 2.0, rank=1)]
    _, lost = resolve(daily(rows), "session")
    (loser,) = dicts(lost)
    assert loser == rows[0]


# --- order --------------------------------------------------------------------------------------------------


def test_winners_are_sorted_by_symbol_and_time():
    table = daily([row(symbol, day(n)) for n in (2, 0, 1) for symbol in ("b", "a", "B")])
    won, _ = resolve(table, "session")
    assert [(r["symbol"], r["session"]) for r in dicts(won)] == [
        (s, day(n)) for s in ("B", "a", "b") for n in range(3)
    ]


def test_sorted_rows_are_handed_on_as_they_are():
    table = daily([row(symbol, day(n)) for symbol in ("A", "B") for n in range(3)]).combine_chunks()
    won, lost = resolve(table, "session")
    assert address(won, "open") == address(table, "open")
    assert won.equals(table)
    assert len(lost) == 0


@pytest.mark.parametrize(
    "symbols", [["A", "B"], ["B", "A"]], ids=["dictionary in order", "dictionary out of order"]
)
def test_the_dictionary_is_put_in_order(symbols):
    codes = pa.array([symbols.index("A"), symbols.index("B")], pa.int32())
    table = daily([row("A", DAY), row("B", DAY)])
    table = table.set_column(0, "symbol", pa.DictionaryArray.from_arrays(codes, symbols))
    won, _ = resolve(table, "session")
    assert dictionary(won, "symbol") == ["A", "B"]
    assert won["symbol"].to_pylist() == ["A", "B"]
    assert won["symbol"].type == SYMBOL


def test_more_symbols_than_16_bits_count():
    names = [f"S{n:05d}" for n in range(70_000)]
    times = [day(0)] * len(names)
    symbols = pa.array(names[::-1] + names[:2]).dictionary_encode()
    table = pa.table({"symbol": symbols, "session": pa.array([*times, *times[:2]], pa.date32())})
    won, lost = resolve(table, "session")
    assert won["symbol"].to_pylist() == names
    assert lost["symbol"].to_pylist() == names[:2]


def test_nothing():
    for table in (DAILY_ROWS.empty_table(), daily([])):
        won, lost = resolve(table, "session")
        assert (len(won), len(lost)) == (0, 0)


@pytest.mark.parametrize("when", ["1677-09-21", "1900-01-01", "2262-04-11"])
def test_any_time_of_a_timestamp(when):
    stamps = [us(when), us(when) + MINUTE, us("1970-01-01"), us(when)]
    won, lost = resolve(minutes([row("A", stamp, float(n)) for n, stamp in enumerate(stamps, 1)]), "ts")
    assert [r["ts"] for r in dicts(won)] == sorted(set(stamps))
    assert opens(lost) == [1.0]


# --- against brute force ------------------------------------------------------------------------------------

RANKED = st.lists(
    st.tuples(
        st.sampled_from(["A", "AA", "B", "é"]),
        st.integers(-3, 3),
        st.integers(0, 2),
        st.none() | st.integers(0, 2),
    ),
    max_size=40,
)


@given(rows=RANKED, chunks=st.integers(1, 4), sort=st.booleans())
def test_resolve_equals_brute_force(rows, chunks, sort):
    if sort:
        rows = sorted(rows, key=lambda each: each[:2])
    named = [
        row(symbol, START + at * MINUTE, float(n + 1), rank=rank, version=version)
        for n, (symbol, at, rank, version) in enumerate(rows)
    ]
    table = pa.concat_tables([minutes(named[n::chunks]) for n in range(chunks)])
    order = [each for n in range(chunks) for each in named[n::chunks]]
    best: dict[tuple, tuple] = {}
    for place, each in enumerate(order):
        version = -1 if each["version"] is None else each["version"]
        key = (each["symbol"], each["ts"])
        best[key] = max(best.get(key, ()), (version, each["rank"], place, each["open"]))
    won, lost = resolve(table, "ts")
    assert {(r["symbol"], r["ts"]): r["open"] for r in dicts(won)} == {
        key: each[-1] for key, each in best.items()
    }
    keys = [(r["symbol"], r["ts"]) for r in dicts(won)]
    assert keys == sorted(keys)
    assert sorted(opens(won) + opens(lost)) == [n + 1 for n in range(len(rows))]

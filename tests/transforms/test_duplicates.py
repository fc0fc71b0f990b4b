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


def brute_force(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Winners by key, and losers in order of their rows."""
    ranked: dict[tuple, list[tuple]] = {}
    for place, each in enumerate(rows):
        version = -1 if each.get("version") is None else each["version"]
        ranked.setdefault((each["symbol"], each["ts"]), []).append((version, each["rank"], place))
    best = {key: max(own)[-1] for key, own in ranked.items()}
    kept = set(best.values())
    lost = [each for place, each in enumerate(rows) if place not in kept]
    return [rows[best[key]] for key in sorted(best)], lost


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
    best, others = brute_force([each for n in range(chunks) for each in named[n::chunks]])
    won, lost = resolve(table, "ts")
    assert [(r["symbol"], r["ts"], r["open"]) for r in dicts(won)] == [
        (each["symbol"], each["ts"], each["open"]) for each in best
    ]
    assert sorted(opens(lost)) == sorted(each["open"] for each in others)


# --- few corrections before rows that are in order ----------------------------------------------------------


def corrected(at: list[tuple[int, int, int | None]], versions: bool) -> list[dict]:
    """Some corrections (number of the minute, rank, version), then a history of ninety minutes in order."""
    history = [
        row(
            symbol,
            START + n * MINUTE,
            float(n + 1),
            rank=5,
            vwap=n + 0.5 if n % 3 else None,
            trade_count=n if n % 5 else None,
            version=n % 2 if versions and n % 7 else None,
        )
        for symbol in ("A", "B", "é")
        for n in range(30)
    ]
    fixes = []
    for number, (which, rank, version) in enumerate(at):
        fixed = history[which] if which < len(history) else row("A", START - which * MINUTE)
        values = {"open": 1000.0 + number, "vwap": None if which % 2 else 7.0, "trade_count": number or None}
        fixes.append({**fixed, **values, "rank": rank, "version": version if versions else None})
    return fixes + history


@pytest.mark.parametrize("versions", [False, True])
@given(
    at=st.lists(
        # Beyond the history there is no such key.
        st.tuples(st.integers(0, 90), st.sampled_from([4, 5, 6]), st.none() | st.integers(0, 2)),
        min_size=1,
        max_size=10,
    ),
    chunk=st.integers(1, 40),
)
def test_corrections_of_a_history_in_order_equal_brute_force(at, chunk, versions):
    rows = corrected(at, versions)
    table = minutes(rows)
    if not versions:
        table = table.drop_columns("version")
    pieces = [table.slice(first, chunk) for first in range(0, len(table), chunk)]
    won, lost = resolve(pa.concat_tables(pieces), "ts")
    best, others = brute_force(rows)
    names = table.column_names
    assert dicts(won) == [{name: each.get(name) for name in names} for each in best]
    expected = [{name: each.get(name) for name in names} for each in others]
    assert sorted(dicts(lost), key=repr) == sorted(expected, key=repr)
    assert won.schema == lost.schema == table.schema


def test_corrections_without_rank_and_version_come_first_and_lose():
    history = [row("A", day(n), float(n + 1)) for n in range(20)]
    won, lost = resolve(daily([row("A", day(7), 99.0), *history], rank=False), "session")
    assert opens(won) == [n + 1 for n in range(20)]
    assert opens(lost) == [99.0]


def test_what_no_correction_touches_keeps_its_place():
    history = [row("A", day(n), float(n + 1), rank=0) for n in range(20)]
    won, lost = resolve(
        daily([row("A", day(7), 99.0, rank=1), row("A", day(3), 98.0, rank=1), *history]), "session"
    )
    assert opens(won) == [1.0, 2.0, 3.0, 98.0, 5.0, 6.0, 7.0, 99.0, *(n + 1.0 for n in range(8, 20))]
    assert sorted(opens(lost)) == [4.0, 8.0]

from __future__ import annotations

import itertools
import math
from datetime import date

import pyarrow as pa
import pytest

from fibflow.tests.transforms.tables import address, calendar, daily, days, dicts, minutes, ny, raw, row, us
from fibflow.transforms.schemas import DAILY_ROWS, DEAD_LETTERS, MINUTE_ROWS, RAW
from fibflow.transforms.validation import dead_letters, validate_daily, validate_minutes

XNYS = calendar("XNYS")
SESSION = us("2024-07-02")
HOLIDAY = us("2024-07-04T12:00")
OPEN = ny("2024-07-02T09:30")
FILES = ["old.parquet", "new.parquet"]

# In the order in which the first one that applies is given.
FAULTS: dict[str, list[dict]] = {
    "null_symbol": [{"symbol": None}, {"symbol": ""}],
    "null_time": [{"ts": None}],
    "null_price": [
        {name: bad}
        for name in ("open", "high", "low", "close")
        for bad in (None, math.nan, math.inf, -math.inf)
    ],
    "non_positive_price": [
        {name: bad} for name in ("open", "high", "low", "close") for bad in (0.0, -0.0, -1.0)
    ],
    "high_low_mismatch": [
        {"high": 9.0},
        {"low": 11.0},
        {"open": 10.5},
        {"close": 10.5},
        {"open": 9.5},
        {"close": 9.5},
        {"high": 9.0, "low": 11.0},
    ],
    "null_volume": [{"volume": bad} for bad in (None, math.nan, math.inf, -math.inf)],
    "negative_volume": [{"volume": -1.0}, {"volume": -1e-9}],
    "volume_out_of_range": [{"volume": math.nextafter(1e11, math.inf)}, {"volume": 1e300}],
    "not_a_session": [
        {"ts": HOLIDAY},
        {"ts": ny("2024-07-06")},
        {"ts": us("1850-01-02")},
        {"ts": us("2200-01-02")},
    ],
}
CASES = [(reason, fault) for reason, faults in FAULTS.items() for fault in faults]


def check_daily(*rows: dict):
    return validate_daily(raw(rows), XNYS, FILES)


# --- reasons ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "fault"), CASES)
@pytest.mark.parametrize("kind", ["daily", "minutes"])
def test_a_faulty_row_is_refused_with_its_reason_and_the_others_stay(kind, reason, fault):
    validate, stamp = (validate_daily, SESSION) if kind == "daily" else (validate_minutes, OPEN)
    good = [row("A", stamp, 1.0, rank=0), row("B", stamp, 2.0, rank=1)]
    bad = {**row("C", stamp, rank=1), **fault}
    found = validate(raw([good[0], bad, good[1]]), XNYS, FILES)
    assert found.rows["open"].to_pylist() == [1.0, 2.0]
    assert [(letter["reason"], letter["origin"]) for letter in dicts(found.rejected)] == [(reason, FILES[1])]


def both(first: str, second: str) -> dict | None:
    """A row's faults of both kinds at once; None where they are of one column."""
    pairs = itertools.product(FAULTS[first], FAULTS[second])
    return next((one | other for one, other in pairs if not set(one) & set(other)), None)


@pytest.mark.parametrize(
    ("first", "second"), [pair for pair in itertools.combinations(FAULTS, 2) if both(*pair) is not None]
)
def test_the_first_reason_that_applies_is_given(first, second):
    (letter,) = dicts(check_daily({**row("A", SESSION, rank=0), **(both(first, second) or {})}).rejected)
    assert letter["reason"] == first


def test_the_bounds_of_what_is_accepted():
    most = row("A", SESSION, 5e-324, volume=1e11, rank=0)
    least = row("B", SESSION, 1.7e308, volume=0.0, rank=0)
    found = check_daily(most, least)
    assert len(found.rejected) == 0
    assert dicts(found.rows.select(["open", "volume"])) == [
        {"open": 5e-324, "volume": 1e11},
        {"open": 1.7e308, "volume": 0.0},
    ]


def test_a_dead_letter_keeps_the_rows_values():
    bad = row("A", SESSION + 5, high=9.0, low=8.0, volume=7.5, vwap=-3.0, trade_count=-2, rank=1)
    (letter,) = dicts(check_daily(bad).rejected)
    expected = {name: bad.get(name) for name in DEAD_LETTERS.names}
    assert letter == {**expected, "reason": "high_low_mismatch", "origin": FILES[1], "run": None}


def test_a_dead_letter_without_its_key():
    (letter,) = dicts(check_daily(row(None, None, 3.0, rank=0)).rejected)
    assert (letter["symbol"], letter["ts"], letter["close"], letter["reason"]) == (
        None,
        None,
        3.0,
        "null_symbol",
    )


# --- what is accepted ---------------------------------------------------------------------------------------


def test_daily_rows_name_their_session():
    stamps = [SESSION, ny("2024-07-02"), ny("2024-07-02T16:00"), ny("2024-07-03T13:00")]
    found = check_daily(*(row("A", stamp, rank=0) for stamp in stamps))
    assert found.rows.schema == DAILY_ROWS.append(pa.field("rank", pa.int32()))
    assert found.rows["session"].cast(pa.int32()).to_pylist() == days("2024-07-02") * 3 + days("2024-07-03")
    assert found.rejected.schema == DEAD_LETTERS
    assert len(found.rejected) == 0


def test_minute_rows_start_at_their_minute():
    late = OPEN + 59_999_999
    found = validate_minutes(raw([row("A", OPEN, rank=0), row("A", late, version=3, rank=0)]), XNYS, FILES)
    assert found.rows.schema == MINUTE_ROWS.append(pa.field("rank", pa.int32()))
    assert [(r["ts"], r["version"]) for r in dicts(found.rows)] == [(OPEN, None), (OPEN, 3)]


@pytest.mark.parametrize(
    ("stamp", "accepted"),
    [
        (ny("2024-07-03T00:00"), True),
        (ny("2024-07-03T04:00"), True),
        (ny("2024-07-03T23:59"), True),
        (ny("2024-07-04T00:00"), False),
        (ny("2024-07-06T10:00"), False),
    ],
)
def test_minutes_of_a_sessions_whole_day_are_accepted(stamp, accepted):
    found = validate_minutes(raw([row("A", stamp, rank=0)]), XNYS, FILES)
    assert len(found.rows) == accepted
    assert [letter["reason"] for letter in dicts(found.rejected)] == ["not_a_session"] * (not accepted)


def test_a_session_that_was_closed_is_none():
    found = validate_daily(raw([row("A", SESSION, rank=0)]), XNYS.without("2024-07-02"), FILES)
    assert [letter["reason"] for letter in dicts(found.rejected)] == ["not_a_session"]


def test_optional_columns_may_be_missing():
    table = raw([row("A", SESSION)], rank=False).drop_columns(["vwap", "trade_count", "version"])
    found = validate_daily(table, XNYS, ["only.csv"])
    assert found.rows.column_names == [
        name for name in DAILY_ROWS.names if name not in ("vwap", "trade_count")
    ]


def test_without_rank_the_only_file_is_the_origin():
    bad = raw([row("A", HOLIDAY)], rank=False)
    (letter,) = dicts(validate_daily(bad, XNYS, ["only.csv"]).rejected)
    assert letter["origin"] == "only.csv"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"vwap": 9.5, "trade_count": 3}, (9.5, 3)),
        ({"vwap": math.nan}, (None, None)),
        ({"vwap": math.inf}, (None, None)),
        ({"vwap": -math.inf}, (None, None)),
        ({"vwap": 0.0}, (None, None)),
        ({"vwap": -1.0, "trade_count": 0}, (None, 0)),
        ({"vwap": 9.5, "trade_count": -1}, (9.5, None)),
        ({"vwap": 1e300, "trade_count": 2**62}, (None, 2**62)),
        ({"vwap": 5e-324}, (5e-324, None)),
    ],
)
def test_optional_values_that_make_no_sense_are_read_as_null(given, kept):
    plain = row("B", SESSION, vwap=2.0, trade_count=2, rank=0)
    found = check_daily(row("A", SESSION, **given, rank=0), plain)
    assert len(found.rejected) == 0
    assert [(r["vwap"], r["trade_count"]) for r in dicts(found.rows)] == [kept, (2.0, 2)]


def test_columns_in_order_are_handed_on_without_a_copy():
    table = raw([row("A", SESSION, vwap=1.0, trade_count=1, rank=0)]).combine_chunks()
    found = validate_daily(table, XNYS, FILES)
    for name in ("open", "volume", "vwap", "trade_count"):
        assert address(found.rows, name) == address(table, name)


def test_an_empty_name_that_no_row_bears_is_no_fault():
    table = raw([row("A", SESSION, rank=0)])
    symbols = pa.DictionaryArray.from_arrays(pa.array([1], pa.int32()), ["", "A"])
    assert len(validate_daily(table.set_column(0, "symbol", symbols), XNYS, FILES).rows) == 1


@pytest.mark.parametrize("validate", [validate_daily, validate_minutes])
@pytest.mark.parametrize("table", [raw([]), RAW.append(pa.field("rank", pa.int32())).empty_table()])
def test_no_rows(validate, table):
    found = validate(table, XNYS, FILES)
    assert (len(found.rows), len(found.rejected)) == (0, 0)
    assert found.rejected.schema == DEAD_LETTERS


def test_all_rows_refused():
    found = check_daily(row("A", HOLIDAY, rank=0), row("A", None, rank=1))
    assert len(found.rows) == 0
    assert [letter["reason"] for letter in dicts(found.rejected)] == ["not_a_session", "null_time"]


# --- dead letters of rows that were valid -------------------------------------------------------------------


def test_dead_letters_of_sessions_and_of_minutes():
    found = dead_letters(daily([row("A", date(2024, 7, 2), rank=1, vwap=2.0)]), "duplicate", FILES)
    assert found.schema == DEAD_LETTERS
    (letter,) = dicts(found)
    assert (letter["ts"], letter["origin"], letter["reason"], letter["vwap"]) == (
        SESSION,
        FILES[1],
        "duplicate",
        2.0,
    )
    (letter,) = dicts(dead_letters(minutes([row("A", OPEN, rank=0)]), "duplicate", FILES))
    assert (letter["ts"], letter["origin"]) == (OPEN, FILES[0])


def test_no_dead_letters():
    found = dead_letters(daily([]), "duplicate", FILES)
    assert found.equals(DEAD_LETTERS.empty_table())

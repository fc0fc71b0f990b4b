from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fibflow.io.convert import constant, to_double, to_int, to_symbol, to_utc_us
from fibflow.transforms.schemas import SYMBOL, TIMESTAMP

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
MARCH = 1_710_163_800_000_000  # 2024-03-11T13:30:00Z
MIDNIGHT = 1_710_115_200_000_000  # 2024-03-11T00:00:00Z


def micros(array):
    """Normalised times as integers, after a check of their type and length."""
    times = to_utc_us(array)
    assert times.type == TIMESTAMP
    assert len(times) == len(array)
    return times.cast(pa.int64()).to_pylist()


def address(array: Any) -> int:
    return array.buffers()[1].address


# --- timestamps and dates -------------------------------------------------------------------------


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_timestamps_of_every_unit_and_zone(unit, per_second, zone):
    raw = [MARCH // 10**6 * per_second, None, -86_400 * per_second, 0]
    array = pa.array(raw, pa.int64()).cast(pa.timestamp(unit, tz=zone))
    assert micros(array) == [MARCH, None, -86_400_000_000, 0]
    chunked = pa.chunked_array([array[:1], array[1:], array[:0]])
    assert micros(chunked) == micros(array)
    assert micros(array[1:3]) == [None, -86_400_000_000]


def test_right_times_are_not_copied():
    array = pa.array([MARCH, None], pa.int64()).cast(TIMESTAMP)
    assert to_utc_us(array) is array
    naive = array.cast(pa.timestamp("us"))
    assert address(to_utc_us(naive)) == address(naive)


def test_nanoseconds_round_down_on_both_sides_of_1970():
    array = pa.array([1_999, 1_000, -1, -1_000, -1_001], pa.timestamp("ns"))
    assert micros(array) == [1, 1, -1, -1, -2]


def test_out_of_range_is_null_not_wrapped():
    largest = np.iinfo(np.int64).max
    for unit in ("s", "ms"):
        assert micros(pa.array([largest, -largest, 0], pa.timestamp(unit))) == [None, None, 0]
    assert micros(pa.array([2**31 - 1, -(2**31), 0], pa.int32()).cast(pa.date32())) == [None, None, 0]
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    seconds = (last - EPOCH) // timedelta(seconds=1)
    assert micros(pa.array([seconds, seconds + 1], pa.timestamp("s"))) == [seconds * 10**6, None]
    first = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(seconds=1)
    assert micros(pa.array([first, first - 1], pa.timestamp("s"))) == [first * 10**6, None]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_are_midnight_utc(kind):
    array = pa.array([date(2024, 3, 11), None, date(1962, 1, 2), date(1969, 12, 31)], kind)
    assert micros(array) == [MIDNIGHT, None, -252_374_400_000_000, -86_400_000_000]


# --- epoch numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.float64(), pa.decimal128(25, 0), pa.string()])
def test_epoch_numbers_by_magnitude(kind, factor):
    seconds = [MARCH // 10**6, None, 1_000_000_000, 315_532_800]
    numbers = [None if s is None else s * factor for s in seconds]
    array: Any
    if kind == pa.string():
        array = pa.array([None if n is None else str(n) for n in numbers])
    elif pa.types.is_decimal(kind):
        array = pa.array([None if n is None else Decimal(n) for n in numbers], kind)
    else:
        array = pa.array(numbers, pa.int64()).cast(kind, safe=False)
    assert micros(array) == [None if s is None else s * 10**6 for s in seconds]


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_a_column_has_one_unit_through_1970(factor):
    days = np.arange(datetime(1962, 1, 2).toordinal(), datetime(2025, 10, 3).toordinal(), 7) - 719_163  # noqa: DTZ001
    array = pa.array(days * 86_400 * factor)
    assert micros(array) == [int(d) * 86_400_000_000 for d in days]


def test_one_wrong_number_does_not_change_the_unit_of_the_others():
    rows = [MARCH // 1000] * 3
    assert micros(pa.array([*rows, np.iinfo(np.int64).max])) == [MARCH] * 3 + [None]
    assert micros(pa.array([*rows, np.iinfo(np.int64).min])) == [MARCH] * 3 + [None]
    assert micros(pa.array([*rows, 7]))[:3] == [MARCH] * 3
    assert micros(pa.array([MARCH // 1000] * 3 + [2**64 - 1], pa.uint64())) == [MARCH] * 3 + [None]


def test_fractions_of_seconds():
    assert micros(pa.array([1_710_163_800.25, -0.5, None, float("nan"), float("inf")])) == [
        MARCH + 250_000,
        -500_000,
        None,
        None,
        None,
    ]
    assert micros(pa.array(["1710163800.25", "1710163800"])) == [MARCH + 250_000, MARCH]


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.float64(), pa.string()])
def test_numbers_that_all_read_as_dates_are_dates(kind):
    array = pa.array([20240311, None, 19620102, 20240229]).cast(kind)
    assert micros(array) == [MIDNIGHT, None, -252_374_400_000_000, 1_709_164_800_000_000]


def test_seconds_of_1970_are_not_taken_for_dates():
    seconds = [20_217_600, 20_304_000]  # two midnights in August 1970
    assert micros(pa.array(seconds)) == [s * 10**6 for s in seconds]
    assert micros(pa.array([20240311, 20240230])) == [20240311 * 10**6, 20240230 * 10**6]


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_no_integer_breaks_it(numbers):
    result = micros(pa.array(numbers, pa.int64()))
    assert all(r is None for n, r in zip(numbers, result, strict=True) if n is None)
    assert all(r is None or -62_135_596_800_000_000 <= r <= 253_402_300_799_999_999 for r in result)


@given(st.lists(st.none() | st.floats()))
def test_no_float_breaks_it(numbers):
    micros(pa.array(numbers, pa.float64()))


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03-11", MIDNIGHT),
        ("2024-03-11T13:30:00Z", MARCH),
        ("2024-03-11 13:30:00", MARCH),
        ("2024-03-11 13:30", MARCH),
        ("2024-03-11T09:30:00-04:00", MARCH),
        ("2024-03-11T09:30:00-0400", MARCH),
        ("2024-03-11 09:30:00 -04:00", MARCH),
        ("2024-03-11 13:30:00 UTC", MARCH),
        ("2024-03-11T13:30:00+00", MARCH),
        ("2024-03-11T19:00:00+05:30", MARCH),
        ("2024-03-11t13:30:00z", MARCH),
        ("  2024-03-11 13:30  ", MARCH),
        ("2024-03-11T13", MARCH - 1_800_000_000),
        ("2024-03-11T13:30:00.5Z", MARCH + 500_000),
        ("2024-03-11T13:30:00,25", MARCH + 250_000),
        ("2024-03-11T13:30:00.000001", MARCH + 1),
        ("2024-03-11T13:30:00.000001999Z", MARCH + 1),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("1710163800", MARCH),
        ("1710163800000", MARCH),
        (" 1710163800000000 ", MARCH),
        ("1.7101638e9", MARCH),
        ("1710163800000001000", MARCH + 1),
        ("20240311", MIDNIGHT),
        ("2024-02-29", 1_709_164_800_000_000),
    ],
)
def test_text(text, expected):
    for kind in (pa.string(), pa.large_string(), pa.binary()):
        assert micros(pa.array([text.encode()], pa.binary()).cast(kind)) == [expected]
    # The same beside others, which takes the general way and not the fast one.
    assert micros(pa.array(["junk", text, None, "2024-03-11T09:30:00.5-04:00"]))[1::2] == [
        expected,
        MARCH + 500_000,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "n/a", "2024-13-01", "2024-00-01", "2024-02-30", "2023-02-29", "2024-3-11", "11/03/2024",
        "2024-03-11T24:00", "2024-03-11T13:60", "2024-03-11T13:30:60", "2024-03-11T13:30:00+24:00",
        "2024-03-11T13:30:00+05:60", "2024-03-11 13:30 EST", "0000-01-01", "2024-03-11T", "--", "1e400",
    ],
)  # fmt: skip
def test_text_that_is_no_time_is_null(text):
    assert micros(pa.array([text])) == [None]
    assert micros(pa.array([text, "2024-03-11"])) == [None, MIDNIGHT]
    assert micros(pa.array([text, "2024-03-11T00:00Z", "1710115200000"])) == [None, MIDNIGHT, MIDNIGHT]


zones = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
# Away from the ends of the calendar, so that a zone does not carry a time over them.
SPAN = datetime(2, 1, 1), datetime(9998, 12, 31)  # noqa: DTZ001
moments = st.datetimes(*SPAN) | st.datetimes(*SPAN, timezones=zones)


@given(st.lists(st.tuples(moments, st.sampled_from(" T"), st.sampled_from(["auto", "microseconds"]))))
@example([(datetime(2024, 3, 11, tzinfo=UTC), "T", "auto")])
def test_iso_text_agrees_with_the_standard_library(cases):
    texts = [moment.isoformat(sep, spec) for moment, sep, spec in cases]
    expected = [
        ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICRO for moment, _, _ in cases
    ]
    assert micros(pa.array(texts, pa.string())) == expected
    one_by_one = [micros(pa.array([text]))[0] for text in texts[:5]]
    assert one_by_one == expected[:5]
    assert micros(pa.array([*texts, "junk"], pa.string())) == [*expected, None]


@given(st.lists(st.none() | st.text(st.sampled_from("0123456789-:T Z+.eE"), max_size=30)))
def test_no_text_breaks_it(texts):
    result = micros(pa.array(texts, pa.string()))
    assert all(r is None for t, r in zip(texts, result, strict=True) if t is None)


def test_dictionaries_nulls_and_nothing():
    array = pa.array(["2024-03-11", None, "2024-03-11"]).dictionary_encode()
    assert micros(array) == [MIDNIGHT, None, MIDNIGHT]
    assert micros(pa.nulls(2)) == [None, None]
    for kind in (
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.date32(),
        pa.timestamp("ns"),
        pa.null(),
        TIMESTAMP,
    ):
        assert micros(pa.array([], kind)) == []
        assert micros(pa.chunked_array([], kind)) == []
    assert micros(pa.array([None, None], pa.int64())) == [None, None]
    assert micros(pa.array([None], pa.string())) == [None]


@pytest.mark.parametrize("kind", [pa.bool_(), pa.list_(pa.int64()), pa.time64("us"), pa.duration("us")])
def test_types_that_hold_no_times(kind):
    with pytest.raises(TypeError, match="holds no times"):
        to_utc_us(pa.array([None], kind))


# --- numbers and symbols --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1.5, None, float("inf")]), [1.5, None, float("inf")]),
        (pa.array([1.5, None], pa.float32()), [1.5, None]),
        (pa.array([1, 2**53 + 1, None]), [1.0, 2.0**53, None]),
        (pa.array([2**64 - 1], pa.uint64()), [2.0**64]),
        (pa.array([Decimal("1.25"), None], pa.decimal128(9, 4)), [1.25, None]),
        (pa.array(["1.5", None, "2"]), [1.5, None, 2.0]),
        (pa.array(["1.5", "", "x", " 2e1 ", "-.5"]), [1.5, None, None, 20, -0.5]),
        (pa.array(["1,5", "NULL", "3."]), [None, None, 3]),
        (pa.array(["1.5", "2"]).dictionary_encode(), [1.5, 2.0]),
        (pa.array([b"7"], pa.binary()), [7.0]),
        (pa.nulls(2), [None, None]),
    ],
)  # fmt: skip
def test_doubles(array, expected):
    assert to_double(array).type == pa.float64()
    assert to_double(array).to_pylist() == expected
    assert to_double(pa.chunked_array([array, array])).to_pylist() == expected * 2


@given(st.lists(st.decimals(-(10**12), 10**12, places=6)))
def test_decimals_become_the_nearest_doubles(values):
    array = pa.array(values, pa.decimal128(20, 6))
    assert to_double(array).to_pylist() == [float(value) for value in values]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_doubles_survive_text(values):
    texts = [repr(v) for v in values]
    assert to_double(pa.array(texts, pa.string())).to_pylist() == values
    assert to_double(pa.array([*texts, "?"], pa.string())).to_pylist() == [*values, None]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, None]), [1, None]),
        (pa.array([3, None], pa.uint16()), [3, None]),
        (pa.array([2**64 - 1, 5], pa.uint64()), [None, 5]),
        (pa.array([3.0, 2.5, None, float("nan"), 1e300]), [3, None, None, None, None]),
        (pa.array(["x", "7.0", None, " 8 ", "7.5", "9" * 19]), [None, 7, None, 8, None, None]),
        (pa.array(["1710163800000000001", None]), [1710163800000000001, None]),
        (pa.array([Decimal(4)], pa.decimal128(9, 0)), [4]),
        (pa.array([MARCH], pa.timestamp("us")), [MARCH]),
        (pa.array(["4"]).dictionary_encode(), [4]),
        (pa.nulls(1), [None]),
    ],
)
def test_integers(array, expected):
    assert to_int(array).type == pa.int64()
    assert to_int(array).to_pylist() == expected
    assert to_int(pa.chunked_array([array, array])).to_pylist() == expected * 2


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["A", None, "", "A"]), ["A", None, "", "A"]),
        (pa.array(["A"], pa.large_string()), ["A"]),
        (pa.array([b"A"], pa.binary()), ["A"]),
        (pa.array([600519]), ["600519"]),
        (pa.array(["A", "B"]).dictionary_encode(), ["A", "B"]),
        (pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(["A"], pa.large_string())), ["A"]),
        (pa.nulls(1), [None]),
    ],
)
def test_symbols(array, expected):
    assert to_symbol(array).type == SYMBOL
    assert to_symbol(array).to_pylist() == expected


def test_chunks_of_symbols_share_one_dictionary():
    chunks = [pa.array(["B", "A"]).dictionary_encode(), pa.array(["C", "A"]).dictionary_encode()]
    column: Any = to_symbol(pa.chunked_array(chunks))
    assert column.to_pylist() == ["B", "A", "C", "A"]
    assert column.chunk(0).dictionary.equals(column.chunk(1).dictionary)


@pytest.mark.parametrize("convert", [to_double, to_int])
def test_types_that_hold_no_numbers(convert):
    with pytest.raises(TypeError, match="holds no numbers"):
        convert(pa.array([True]))


def test_types_that_hold_no_symbols():
    with pytest.raises(TypeError, match="holds no symbols"):
        to_symbol(pa.array([1.5]))


@pytest.mark.parametrize("rows", [0, 3, 100_000])
def test_constants(rows):
    assert constant(0, pa.int32(), rows).equals(pa.array(np.zeros(rows, np.int32)))
    assert constant(None, pa.float64(), rows).equals(pa.nulls(rows, pa.float64()))

from __future__ import annotations

import random
from dataclasses import replace

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to, is_empty

from fibflow.tests.transforms.tables import by_key, calendar, daily, dicts, minutes, ny, row
from fibflow.transforms.aggregate import (
    BARS,
    DEAD_LETTERS,
    AggregateBars,
    aggregate,
    split_by_bucket,
)
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import DAILY_ROWS
from fibflow.transforms.schemas import DEAD_LETTERS as DEAD_LETTER_ROWS
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, parse_timeframes

XNYS = calendar("XNYS")
MINUTE = 60_000_000
SYMBOLS = ["A", "AA", "BRK.B", "Z", "é"]
FIRST = XNYS.position_on_or_before(19_905)
SESSIONS = XNYS.days[FIRST : FIRST + 40].astype("datetime64[D]").tolist()
AS_OF = int(XNYS.day_ends[FIRST + 39])
FILES = ["one.parquet", "two.parquet", "three.parquet"]


def daily_files(numbers: random.Random, overlap: float) -> list[pa.Table]:
    """A file holds some sessions of all symbols; a part of the rows is in two files."""
    files: list[list[dict]] = [[] for _ in FILES]
    for symbol in SYMBOLS:
        for day in SESSIONS[numbers.randrange(20) :]:
            ranks = numbers.sample(range(len(FILES)), 2 if numbers.random() < overlap else 1)
            for rank in ranks:
                price = numbers.uniform(1, 99)
                files[rank].append(
                    row(symbol, day, price, volume=numbers.uniform(0, 1e6), vwap=price, rank=rank)
                )
    for file in files:
        numbers.shuffle(file)
    return [daily(file) for file in files]


def minute_files(numbers: random.Random) -> list[pa.Table]:
    start = ny("2024-07-02T09:00")
    files = []
    for rank in range(len(FILES)):
        own = [
            row(symbol, start + n * MINUTE, numbers.uniform(1, 99), version=numbers.randrange(3), rank=rank)
            for symbol in SYMBOLS
            for n in range(120)
            if numbers.random() < 0.5
        ]
        files.append(minutes(own))
    return files


def daily_spec(**options) -> BarSpec:
    return BarSpec(
        **{"timeframes": parse_timeframes("1d,fibonacci"), "calendar": XNYS, "as_of": AS_OF, **options}
    )


def minute_spec(**options) -> BarSpec:
    as_of = int(XNYS.day_ends[XNYS.position_on_or_before(19_906)])
    return BarSpec(
        **{"timeframes": parse_timeframes("intraday"), "calendar": XNYS, "as_of": as_of, **options}
    )


def as_tuples(rows: pa.Table) -> list[tuple]:
    return [tuple(each.values()) for each in dicts(rows)]


def by_symbol(tables: list[pa.Table]) -> list[pa.Table]:
    """Whole symbols: an element for each two of them."""
    rows = pa.concat_tables(tables)
    names = rows["symbol"].cast(pa.string())
    groups = (SYMBOLS[:2], SYMBOLS[2:4], SYMBOLS[4:])
    return [rows.filter(pa.compute.is_in(names, pa.array(group))) for group in groups]


def check(elements: list[pa.Table], rows: pa.Table, transform: AggregateBars) -> None:
    """Run the pipeline; its outputs are those of the plain twin over all rows."""
    bars, lost = aggregate(rows, transform.spec, transform.origins)
    expected = [each for part in bars for each in as_tuples(part)]
    assert expected
    with beam.Pipeline(runner=FnApiRunner()) as p:
        made = p | beam.Create(elements, reshuffle=False).with_output_types(pa.Table) | transform
        assert_that(made[BARS] | "Bars" >> beam.FlatMap(as_tuples), equal_to(expected), label="bars")
        letters = made[DEAD_LETTERS] | "DeadLetters" >> beam.FlatMap(as_tuples)
        assert_that(letters, equal_to(as_tuples(lost)) if len(lost) else is_empty(), label="dead letters")
        schemas = (made[BARS], made[DEAD_LETTERS]) | beam.Flatten() | beam.Map(lambda part: part.schema.names)
        assert_that(
            schemas | beam.Map(tuple) | beam.Distinct(), no_other_schema(bool(len(lost))), label="schemas"
        )


def no_other_schema(with_losers: bool):
    schemas = [BAR_BATCH, DEAD_LETTER_ROWS] if with_losers else [BAR_BATCH]
    return equal_to([tuple(schema.names) for schema in schemas])


@pytest.mark.parametrize("anchor", Anchor)
@pytest.mark.parametrize("overlap", [0.0, 0.3], ids=["no duplicates", "duplicates"])
def test_files_that_share_symbols_are_shuffled(anchor, overlap):
    files = daily_files(random.Random(1), overlap)
    transform = AggregateBars(daily_spec(anchor=anchor), origins=FILES, buckets=3)
    check(files, pa.concat_tables(files), transform)


@pytest.mark.parametrize("overlap", [0.0, 0.3], ids=["no duplicates", "duplicates"])
def test_whole_symbols_are_not_shuffled(overlap):
    files = daily_files(random.Random(2), overlap)
    transform = AggregateBars(daily_spec(), whole_symbols=True, origins=FILES)
    check(by_symbol(files), pa.concat_tables(files), transform)


@pytest.mark.parametrize("anchor", IntradayAnchor)
@pytest.mark.parametrize("whole_symbols", [False, True])
def test_minutes(anchor, whole_symbols):
    files = minute_files(random.Random(3))
    transform = AggregateBars(minute_spec(intraday_anchor=anchor), whole_symbols=whole_symbols, origins=FILES)
    check(by_symbol(files) if whole_symbols else files, pa.concat_tables(files), transform)


def test_a_changed_calendar_reaches_the_workers():
    files = daily_files(random.Random(4), 0.0)
    closed = XNYS.without(str(SESSIONS[5]))
    check(files, pa.concat_tables(files), AggregateBars(daily_spec(calendar=closed), origins=FILES))


def test_a_pipeline_without_rows():
    with beam.Pipeline(runner=FnApiRunner()) as p:
        empty = p | beam.Create([DAILY_ROWS.empty_table()]).with_output_types(pa.Table)
        for whole_symbols in (False, True):
            made = empty | str(whole_symbols) >> AggregateBars(daily_spec(), whole_symbols=whole_symbols)
            assert_that(made[BARS], is_empty(), label=f"bars {whole_symbols}")
            assert_that(made[DEAD_LETTERS], is_empty(), label=f"dead letters {whole_symbols}")


def test_options_of_history_are_refused_on_unbounded_input():
    p = beam.Pipeline(runner=FnApiRunner())
    stream = p | test_stream.TestStream().advance_watermark_to_infinity()
    with pytest.raises(ValueError, match="bars of a stream take no as_of"):
        stream | AggregateBars(daily_spec())


# --- the plain functions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("symbol", "bucket"), [("AAPL", 92), ("BRK.B", 172), ("é", 62)])
def test_a_symbols_bucket_never_moves(symbol, bucket):
    assert bucket_of(symbol) == bucket


def test_split_by_bucket_keeps_symbols_together_and_rows_in_order():
    rows = pa.concat_tables(daily_files(random.Random(5), 0.5))
    parts = dict(split_by_bucket(rows, 3))
    assert sum(len(part) for part in parts.values()) == len(rows)
    every = dicts(rows)
    for bucket, part in parts.items():
        assert dicts(part) == [each for each in every if bucket_of(each["symbol"], 3) == bucket]


def test_nothing_to_split():
    assert list(split_by_bucket(DAILY_ROWS.empty_table())) == []


def test_duplicates_that_lost_are_dead_letters_of_their_files():
    rows = daily([row("A", SESSIONS[0], 1.0, rank=0), row("A", SESSIONS[0], 2.0, rank=2)])
    bars, lost = aggregate(rows, daily_spec(timeframes=parse_timeframes("1d")), FILES)
    assert [bar["open"] for bar in by_key(bars).values()] == [2.0]
    (letter,) = dicts(lost)
    assert (letter["reason"], letter["origin"], letter["symbol"], letter["open"]) == (
        "duplicate",
        FILES[0],
        "A",
        1.0,
    )


def test_rows_without_rank_come_from_the_one_origin():
    rows = daily([row("A", SESSIONS[0], price) for price in (1.0, 2.0)], rank=False)
    _, lost = aggregate(rows, daily_spec(), ["only.csv"])
    assert lost["origin"].to_pylist() == ["only.csv"]


def test_the_order_of_rows_does_not_matter():
    numbers = random.Random(6)
    rows = pa.concat_tables(daily_files(numbers, 0.4))
    expected, lost = aggregate(rows, daily_spec(), FILES)
    shuffled = rows.take(pa.array(numbers.sample(range(len(rows)), len(rows))))
    got, again = aggregate(shuffled, replace(daily_spec(), as_of=AS_OF), FILES)
    assert [dicts(part) for part in got] == [dicts(part) for part in expected]
    assert sorted(as_tuples(again), key=repr) == sorted(as_tuples(lost), key=repr)

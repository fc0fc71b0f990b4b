"""The DoFn on runners: scenarios with hints of the watermark as a stream, and without them as a batch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that
from apache_beam.utils.timestamp import Timestamp

from fibflow.tests.transforms.streams import (
    MINUTE,
    compared,
    identity,
    kept,
    letters,
    minute,
    stream_table,
    trade,
)
from fibflow.tests.transforms.tables import calendar, days, dicts, ny, table
from fibflow.tests.transforms.tables import row as day_row
from fibflow.transforms import coders
from fibflow.transforms.aggregate import BARS, DEAD_LETTERS, LATE, OPEN, AggregateBars, aggregate
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.history import Note, with_note
from fibflow.transforms.livebars import StreamPolicy
from fibflow.transforms.livedofn import LiveBarsFn, split_ticks
from fibflow.transforms.openbars import Pace
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import DAILY_ROWS, MINUTE_INPUT, TRADE_INPUT
from fibflow.transforms.schemas import DEAD_LETTERS as DEAD_LETTER_ROWS
from fibflow.transforms.schemas import LATE as LATE_ROWS
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import IntradayAnchor, TimeframeError, parse_timeframes

XNYS = calendar("XNYS")
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.json"))


@dataclass
class Scenario:
    """A file of ``scenarios``: rows and hints of the watermark, and what is to come out."""

    spec: BarSpec
    events: list[tuple[str, Any]]
    rows: list[dict]
    late: list[dict]
    dead_letters: dict[str, int]
    bars: dict[tuple[str, str, int], dict]
    absent: set[tuple[str, str, int]]

    @classmethod
    def read(cls, path: Path) -> Scenario:
        told = json.loads(path.read_text())
        events: list[tuple[str, Any]] = []
        rows: list[dict] = []
        for event in told["events"]:
            if "watermark" in event:
                events.append(("watermark", ny(event["watermark"])))
                continue
            new = [_row(told["feed"], values, len(rows) + n) for n, values in enumerate(event["rows"])]
            rows += new
            events.append(("rows", new))
        # A row that is late is told by its number in its symbol; of minutes there is one.
        late = [next(row for row in rows if row.get("seq") == seq) for seq in told["late"] if seq is not None]
        if None in told["late"]:
            late = [row for row in rows if row["version"] == 4]
        frames = parse_timeframes(told["timeframes"])
        spec = BarSpec(frames, XNYS, intraday_anchor=IntradayAnchor(told.get("anchor", "midnight")))
        bars = {_key(name): _values(values) for name, values in told["bars"].items()}
        absent = {_key(name) for name in told.get("absent", [])}
        return cls(spec, events, rows, late, told["dead_letters"], bars, absent)


def at(text: str) -> int:
    """The instant of a time in New York, which may have a fraction."""
    whole, _, fraction = text.partition(".")
    return ny(whole) + int(fraction.ljust(6, "0"))


def _row(feed: str, values: list, number: int) -> dict:
    symbol, time, *rest = values
    if feed == "trades":
        seq, price, shares, *rules = rest
        return trade(
            symbol, at(time), seq, price, shares, number=number, **{"rules": rules[0]} if rules else {}
        )
    version, price, volume, vwap, count = rest
    return minute(symbol, at(time), price, version, number, volume=volume, vwap=vwap, trade_count=count)


def _key(name: str) -> tuple[str, str, int]:
    symbol, timeframe, time = name.split()
    return symbol, timeframe, ny(time)


def _values(values: dict) -> dict:
    return {name: ny(value) if name == "end" else value for name, value in values.items()}


def check_bars(scenario: Scenario, bars: list[dict], revisions: bool) -> None:
    """The bars that the file tells of, and those that the plain twin makes without the late rows."""
    best = kept(bars)
    for name, told in scenario.bars.items():
        values = {field: value for field, value in told.items() if revisions or field != "revision"}
        assert {field: best[name][field] for field in values} == values, name
    assert not scenario.absent & set(best)
    late = {identity(row) for row in scenario.late}
    made, _ = aggregate(
        stream_table([row for row in scenario.rows if identity(row) not in late]), scenario.spec
    )
    assert compared(best.values()) == compared(bar for part in made for bar in dicts(part))


def rows_of(tables: list[pa.Table], schema: pa.Schema) -> list[dict]:
    assert all(part.schema.equals(schema) for part in tables)
    assert all(len(part) for part in tables)
    return [row for part in tables for row in dicts(part)]


def check_letters(scenario: Scenario, tables: list[pa.Table]) -> None:
    found = rows_of(tables, DEAD_LETTER_ROWS)
    assert Counter(row["reason"] for row in found) == scenario.dead_letters


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_as_a_stream(path):
    """The runner is named: of Beam's own only this one has TestStream together with state and timers."""
    scenario = Scenario.read(path)
    stream = test_stream.TestStream(coder=coders.ArrowTableCoder())
    for kind, value in scenario.events:
        if kind == "rows":
            stream = stream.add_elements([stream_table(value)])
        else:
            stream = stream.advance_watermark_to(Timestamp(micros=value))
    stream = stream.advance_watermark_to_infinity()
    transform = AggregateBars(scenario.spec, stream=StreamPolicy(buckets=3), pace=Pace(0))
    late = letters(scenario.late, "symbol", "ts", "shard", "sequence", "place")

    def bars_as_told(tables):
        check_bars(scenario, rows_of(tables, BAR_BATCH), revisions=True)

    def late_as_told(tables):
        found = rows_of(tables, LATE_ROWS)
        assert letters(found, "symbol", "ts", "shard", "sequence", "place") == late

    def open_are_open(flushes):
        assert {bucket for bucket, *_ in flushes} <= {0, 1, 2}
        for bar in rows_of([bars for *_, bars in flushes if len(bars)], BAR_BATCH):
            assert (bar["complete"], bar["final"], bar["revision"]) == (False, False, 0)

    with beam.Pipeline(runner=BundleBasedDirectRunner()) as p:
        made = p | stream.with_output_types(pa.Table) | transform
        assert_that(made[BARS], bars_as_told, label="bars")
        assert_that(made[LATE], late_as_told, label="late")
        assert_that(made[OPEN], open_are_open, label="open")
        assert_that(made[DEAD_LETTERS], lambda tables: check_letters(scenario, tables), label="dead letters")


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_as_a_batch(path):
    scenario = Scenario.read(path)
    late = {identity(row) for row in scenario.late}
    rows = [row for row in scenario.rows if identity(row) not in late]
    elements = [stream_table([row]) for row in reversed(rows)]
    with beam.Pipeline(runner=FnApiRunner()) as p:
        given = p | beam.Create(elements, reshuffle=False).with_output_types(pa.Table)
        made = given | AggregateBars(scenario.spec, buckets=3)
        assert_that(
            made[BARS],
            lambda tables: check_bars(scenario, rows_of(tables, BAR_BATCH), revisions=False),
            label="bars",
        )
        assert_that(made[DEAD_LETTERS], lambda tables: check_letters(scenario, tables), label="dead letters")


def test_state_and_timers_of_the_portable_runner():
    """All rows of a scenario before any timer: every window closes, and is final, when the input ends."""
    scenario = Scenario.read(next(path for path in SCENARIOS if path.stem == "regular_hours"))
    elements = [part for row in scenario.rows for part in split_ticks(stream_table([row]), 4)]
    with beam.Pipeline(runner=FnApiRunner()) as p:
        made = (
            p
            | beam.Create(elements, reshuffle=False).with_output_types(tuple[int, pa.Table])
            | beam.ParDo(LiveBarsFn(scenario.spec, StreamPolicy(), Pace())).with_outputs(
                OPEN, LATE, DEAD_LETTERS, main=BARS
            )
        )
        assert_that(
            made[BARS], lambda tables: check_bars(scenario, rows_of(tables, BAR_BATCH), revisions=False)
        )


# --- history ------------------------------------------------------------------------------------------------

#: Windows of three and five sessions end with the second day of ticks.
PAST = [date(2024, 4, day) for day in (22, 23, 24, 25, 26)]
LONG = BarSpec(parse_timeframes("1h,3d,5d"), XNYS)


def history() -> tuple[pa.Table, pa.Table]:
    """Official days, and the element that holds them."""
    days_ = [day_row(symbol, day, 10.0 + day.day) for symbol in ("A", "B", "GONE") for day in PAST]
    rows = table(days_, DAILY_ROWS, rank=False)
    (through,) = days("2024-04-26")
    return rows, with_note(rows, Note(1, through, through - 30))


def ticks() -> list[pa.Table]:
    starts = [ny("2024-04-29T09:30"), ny("2024-04-30T09:30")]
    return [
        stream_table([trade(name, start + n * MINUTE, 10 * day + n, 20.0 + n)])
        for day, start in enumerate(starts)
        for n, name in enumerate(("A", "B", "NEW"))
    ]


def check_long(tables: list[pa.Table]) -> None:
    rows, _ = history()
    made, _ = aggregate_ticks(pa.concat_tables(ticks()).unify_dictionaries(), LONG, rows)
    (begun,) = (int(end) for end in XNYS.day_ends[XNYS.positions(np.array(days("2024-04-26")))])
    told = compared(bar for part in made for bar in dicts(part) if bar["end"] > begun and bar["complete"])
    best = compared(kept(rows_of(tables, BAR_BATCH)).values())
    assert {name: best[name] for name in told} == told
    # Windows that were open at the end of the rows are closed by the end of the input.
    assert {timeframe for _, timeframe, _ in told} == {"1h", "3d", "5d"}


def test_history_joins_ticks_on_a_runner():
    with beam.Pipeline(runner=FnApiRunner()) as p:
        rows = p | "Ticks" >> beam.Create(ticks(), reshuffle=False).with_output_types(pa.Table)
        _, element = history()
        days_ = p | "Days" >> beam.Create([element], reshuffle=False).with_output_types(pa.Table)
        made = (rows, days_) | AggregateBars(LONG, stream=StreamPolicy(buckets=3))
        assert_that(made[BARS], check_long)


@pytest.mark.parametrize(
    ("timeframes", "with_history"), [("1h,3d", False), ("1h,1d", True)], ids=["without", "too much"]
)
def test_history_comes_with_timeframes_of_several_sessions_only(timeframes, with_history):
    transform = AggregateBars(BarSpec(parse_timeframes(timeframes), XNYS))
    p = beam.Pipeline()
    rows = p | test_stream.TestStream(coder=coders.ArrowTableCoder()).with_output_types(pa.Table)
    other = p | "Days" >> beam.Create([]).with_output_types(pa.Table)
    with pytest.raises(TimeframeError, match="timeframes of several sessions come with history"):
        _ = ((rows, other) if with_history else rows) | transform


# --- buckets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [TRADE_INPUT, MINUTE_INPUT], ids=["trades", "minutes"])
def test_rows_go_to_their_symbols_bucket_in_the_order_they_had(schema):
    names = ["A", "AA", "BRK.B", "é", "Z", "unused"]
    start = ny("2024-07-02T09:30")
    make = {
        TRADE_INPUT: lambda name, n: trade(name, start + n, n, 10.0),
        MINUTE_INPUT: lambda name, n: minute(name, start + n * MINUTE, 10.0, 1, n),
    }[schema]
    rows = [make(names[n * 7 % 5], n) for n in range(40)]
    # In two chunks whose dictionaries differ.
    table = pa.concat_tables([stream_table(rows[:13]), stream_table(rows[13:])])
    parts = dict(split_ticks(table, 3))
    assert sum(map(len, parts.values())) == len(rows)
    for bucket, part in parts.items():
        assert part.schema.equals(schema)
        own = [row for row in rows if bucket_of(row["symbol"], 3) == bucket]
        order = {name: n for n, name in enumerate(dict.fromkeys(row["symbol"] for row in dicts(part)))}
        assert dicts(part) == sorted(own, key=lambda row: order[row["symbol"]])
        for name in ("symbol", "shard", "sequence"):
            column: Any = part[name].chunk(0)
            assert sorted(column.dictionary.to_pylist()) == sorted(set(column.to_pylist()))


def test_nothing_to_split():
    assert list(split_ticks(TRADE_INPUT.empty_table(), 3)) == []


def test_more_symbols_than_small_integers():
    names = [f"S{n}" for n in range(70_000)]
    start = ny("2024-07-02T09:30")
    table = stream_table([trade(name, start, n, 10.0) for n, name in enumerate(names)])
    parts = list(split_ticks(table, 2))
    assert {name for _, part in parts for name in part["symbol"].to_pylist()} == set(names)

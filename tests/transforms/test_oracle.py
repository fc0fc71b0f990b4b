"""The kernel against the brute-force oracle: every column of every bar, and every refused row, exactly."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.tables import by_key, calendar, dicts
from fibflow.tests.transforms.worlds import World, worlds_of_days, worlds_of_minutes
from fibflow.transforms.aggregate import aggregate, split_by_bucket
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, parse_timeframes
from fibflow.transforms.validation import Validated, validate_daily, validate_minutes

DAYS = ["1d", "3d", "5d", "8d", "13d", "21d", "34d", "55d"]
MINUTES = ["1m", "5m", "15m", "30m", "90m", "1h", "2h", "4h", "12h"]
ANCHORS = [(str(anchor), "midnight", DAYS) for anchor in Anchor]
INTRADAY_ANCHORS = [("exchange", str(anchor), MINUTES) for anchor in IntradayAnchor]


def calendar_of(world: World):
    return calendar(world.name).without(*(str(day) for day in world.closed))


def validated(world: World) -> list[Validated]:
    """The pieces, validated; an optional column that a piece lacks is left out, as readers do."""
    validate = validate_daily if world.kind == "daily" else validate_minutes
    parts = []
    for piece in world.tables():
        empty = [name for name in ("vwap", "trade_count", "version") if piece[name].null_count == len(piece)]
        parts.append(validate(piece.drop_columns(empty), calendar_of(world), world.origins))
    return parts


@st.composite
def options(draw: st.DrawFn) -> dict:
    """Where in the world's span a run looks, as fractions of it."""
    return {
        "as_of": draw(st.sampled_from([None, 0.0, 0.4, 0.9, 1.2])),
        "complete_only": draw(st.booleans()),
        "start": draw(st.sampled_from([None, None, 0.3])),
        "end": draw(st.sampled_from([None, None, 0.7])),
    }


def at(world: World, fraction: float | None) -> int | None:
    """An instant of a run's option: as-of times are ends of sessions in practice, but need not be."""
    return None if fraction is None else world.first + round((world.last - world.first) * fraction)


def spec_of(world: World, option: dict, anchors: tuple[str, str, list[str]]) -> tuple[BarSpec, dict]:
    anchor, intraday_anchor, timeframes = anchors
    common = {**option, **{name: at(world, option[name]) for name in ("as_of", "start", "end")}}
    common |= {"anchor": anchor, "intraday_anchor": intraday_anchor}
    spec = BarSpec(
        timeframes=parse_timeframes(timeframes),
        calendar=calendar_of(world),
        **{**common, "anchor": Anchor(anchor), "intraday_anchor": IntradayAnchor(intraday_anchor)},
    )
    return spec, {"timeframes": timeframes, **common}


def refused(tables: list[pa.Table]) -> list[tuple]:
    rows = [row for part in tables for row in dicts(part)]
    return sorted(((row["reason"], row["origin"], row["symbol"], row["open"]) for row in rows), key=repr)


def check(world: World, option: dict, anchors: list[tuple[str, str, list[str]]]) -> None:
    parts = validated(world)
    rows = pa.concat_tables([part.rows for part in parts], promote_options="default")
    won, out = world.verdict()
    for each in anchors:
        spec, common = spec_of(world, option, each)
        bars, duplicates = aggregate(rows, spec, world.origins)
        assert by_key(bars) == oracle.make_bars(won, world.oracle, **common)
        assert refused([*(part.rejected for part in parts), duplicates]) == out


@settings(max_examples=60)
@given(world=worlds_of_days(), option=options())
def test_bars_of_sessions_equal_the_oracles(world, option):
    check(world, option, ANCHORS)


@settings(max_examples=60)
@given(world=worlds_of_minutes(), option=options())
def test_intraday_bars_equal_the_oracles(world, option):
    check(world, option, INTRADAY_ANCHORS)


@settings(max_examples=40)
@given(world=worlds_of_days(), buckets=st.integers(1, 5), order=st.randoms(use_true_random=False))
def test_bars_do_not_depend_on_how_rows_are_cut_and_shuffled(world, buckets, order):
    """What ``AggregateBars`` does without Beam: files are split by bucket, and come together in any order."""
    whole = [(rank, 0, len(file)) for rank, file in enumerate(world.files)]
    parts = validated(dataclasses.replace(world, pieces=whole))
    grouped: dict[int, list[pa.Table]] = {}
    for part in order.sample(parts, len(parts)):
        for bucket, rows in split_by_bucket(part.rows, buckets):
            grouped.setdefault(bucket, []).append(rows)
    won, out = world.verdict()
    as_of = max((world.oracle.sessions[world.oracle.index[row["time"]]].end for row in won), default=0)
    for anchor, _, timeframes in ANCHORS:
        spec = BarSpec(parse_timeframes(timeframes), calendar_of(world), as_of, Anchor(anchor))
        made = [
            aggregate(pa.concat_tables(tables, promote_options="default"), spec, world.origins)
            for tables in grouped.values()
        ]
        assert by_key(part for bars, _ in made for part in bars) == oracle.make_bars(
            won, world.oracle, timeframes, anchor=anchor, as_of=as_of
        )
        assert refused([*(part.rejected for part in parts), *(lost for _, lost in made)]) == out

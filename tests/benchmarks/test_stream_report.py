import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.benchmarks.streaming import report, visible
from fibflow.benchmarks.streaming.cluster import BenchmarkError
from fibflow.benchmarks.streaming.cpu import spent
from fibflow.benchmarks.streaming.fibonacci import bars_ended, history_of, land
from fibflow.benchmarks.streaming.kernel import STEPS
from fibflow.benchmarks.streaming.latency import Seen, evaluate
from fibflow.benchmarks.streaming.meters import Meter, Notes, middle_rate, rate, read_lags, read_notes
from fibflow.benchmarks.streaming.pacer import SENT, Feed, name_of, pace
from fibflow.benchmarks.streaming.tapes import SESSIONS, ShardFiller, batches, saved_tape
from fibflow.io.historystart import history_start
from fibflow.io.kinesis import decoded
from fibflow.io.kinesis.packing import Record
from fibflow.io.lake import Lake
from fibflow.io.liverecords import BAR, PRICE, Grouped, Packed
from fibflow.io.ticks import DecodeTicks
from fibflow.pipelines import tape
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.schemas import RECORDS, TIMESTAMP
from fibflow.transforms.timeframe import FIBONACCI

XNYS = load_calendar("XNYS", 2028)
NOTHING = np.zeros(20, np.int64)
ABOUT = {"shards": 2, "minutes": 20, "checkpoint_s": 5.0, "cores": 2, "layout": "Flink: one"}


def catch_up(name: str, per_second: float, **more: Any) -> dict[str, Any]:
    run: dict[str, Any] = {
        "name": name,
        "symbols": 5_350,
        "ticks": 4_000_000,
        "parallelism": 2,
        "rate": per_second,
        "middle": per_second * 1.1,
        "seconds": 10.0,
        "cpu": {"python-workers": 12.0, "redis": 4.0, "job-server": 0.01},
        "workers": [4_000_000],
        "checkpoints": [300, 400],
        "busy": {"Bars": 9.0, "Tables": 0.2},
        "state": 12_300_000,
        "lake": None,
        "load": 0.4,
    }
    return run | more


def part(*runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"about": ABOUT, "runs": list(runs), **more}


def fibonacci(rate: float = 230_000.0, p99: float = 1.1) -> dict[str, Any]:
    runs = [catch_up(report.WITHOUT, 240_000.0), catch_up(report.WITH, rate)]
    lives = [live(1.1) | {"name": report.WITHOUT}, live(p99) | {"name": report.WITH}]
    return part(*runs, lives=lives)


def live(p99: float) -> dict[str, Any]:
    marks = {"p50": 0.2, "p90": 0.3, "p99": p99, "p100": 2.0}
    shown = ("prices", "bars", "put", "parsed", "prices_stored", "bars_stored")
    run: dict[str, Any] = dict.fromkeys(shown, marks)
    return run | {
        "rate": 20_000.0,
        "seconds": 60.0,
        "symbols": 5_350,
        "ticks": 1_200_000,
        "behind": 0.01,
        "checkpoints": [250],
        "state": 9_000_000,
        "cpu": {"python-workers": 30.0},
        "load": 0.5,
    }


def sizes(half: list[int]) -> dict[str, Any]:
    sessions = [
        {
            "date": f"2024-11-{25 + number}",
            "ticks": 1_000,
            "half": [size, size],
            "whole": [1_000, 1_000],
            "half_steps": {"Bars": size},
            "whole_steps": {"WriteFiles": 700},
            "half_content": 9_000,
            "whole_content": 100 + 20 * number,
        }
        for number, size in enumerate(half)
    ]
    return {"symbols": 5_350, "polls": 1_000, "idle": [1_000, 1_050], "sessions": sessions}


def results() -> dict[str, Any]:
    lake = {"part": 0.97, "after_s": 6.5, "commits": 4, "bars": 100_000, "bytes": 80_000_000}
    return {
        "parts": {
            "stages": part(
                catch_up("read", 600_000.0),
                catch_up("minute", 500_000.0),
                catch_up("redis", 240_000.0, lake=lake),
            ),
            "growth": part(catch_up("2", 240_000.0), catch_up("1", 180_000.0)),
            "latency": part(live(0.9), warm_s=20.0),
            "fibonacci": fibonacci(),
            "checkpoints": part(sizes([20_000, 21_000, 20_500])),
            "profile": part({"ticks": 1_000_000, "symbols": 5_350, "seconds": dict.fromkeys(STEPS, 0.5)}),
        }
    }


def test_the_page_has_all_parts_the_date_and_the_machine():
    page = report.page(results(), "2025-01-02", {"processor": "a fast one"})
    heads = [line for line in page.splitlines() if line.startswith("## ")]
    assert heads == [
        "## The machine",
        "## Catching up",
        "## Growth",
        "## Live",
        "## With Fibonacci timeframes",
        "## The size of checkpoints",
        "## What a tick costs",
    ]
    assert "make bench-stream` on 2025-01-02;" in page
    assert "- processor: a fast one" in page
    assert "{" not in page
    assert page.endswith("\n")


def test_the_page_tells_of_the_parts_that_there_are():
    found = {"parts": {"latency": results()["parts"]["latency"]}}
    assert "## Catching up" not in report.page(found, told={})
    assert "`make bench-stream`; do" in report.page(found, told={})


def test_ratios_are_to_the_first_run():
    lines = report.rates(results()["parts"]["stages"]["runs"], report.STAGES).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[:3] for row in cells] == [
        ["read and parse", "600,000", "1.00"],
        ["+ one-minute bars, de-duplicated", "500,000", "0.83"],
        ["+ Redis: last prices, open and closed bars", "240,000", "0.40"],
    ]
    assert cells[0][4] == "4.0"  # 16.01 CPU seconds over 4,000,000 ticks


def test_rounds_become_a_median_with_its_range():
    runs = [catch_up("read", each) for each in (100.0, 400.0, 200.0)]
    assert "| 200 (100 - 400) | 1.00 |" in report.rates(runs, {})


@pytest.mark.parametrize(
    ("per_second", "told"), [(300_000.0, "a second, reached."), (240_000.0, "missed: 0.80 of it.")]
)
def test_the_goal_of_the_whole_graph_is_said_to_be_reached_or_not(per_second, told):
    assert report.verdict([catch_up("read", 1e6), catch_up("redis", per_second)]).endswith(told)
    assert report.verdict([catch_up("read", 1e6)]) == ""


def test_fibonacci_timeframes_are_held_to_their_goal():
    text = report.fibonacci(fibonacci())
    assert "Goal: nothing worse by more than 10 %, reached." in text
    assert "ticks a second 0.96, last price p50 1.00" in text
    assert "missed: 25 %" in report.fibonacci(fibonacci(rate=180_000.0))
    assert "missed: 20 %" in report.fibonacci(fibonacci(p99=1.32))
    assert "reached" in report.fibonacci(fibonacci(rate=400_000.0, p99=0.1))


def test_history_of_the_benchmark_ends_windows(tmp_path):
    position = int(XNYS.positions(np.array([SESSIONS[0]], "datetime64[D]").astype(np.int32))[0])
    rows = history_of(3, XNYS, position, ["A", "B", "C"])
    assert rows["symbol"].unique().to_pylist() == ["A", "B", "C"]
    lake = Lake(str(tmp_path))
    land(lake, rows, XNYS)
    start = history_start(lake, FIBONACCI, XNYS, "raw")
    assert start.through == int(XNYS.days[position - 1])
    ends = [
        timeframe.name for timeframe in FIBONACCI if (position + 1 - XNYS.origin) % timeframe.sessions == 0
    ]
    assert bars_ended(3, XNYS, position) == 3 * len(ends)


def test_latency_is_held_to_its_goals():
    text = report.latency(part(live(1.1), warm_s=1.0))
    assert "last price, put to seen p99 at most 1 s: 1.10 s, missed" in text
    assert "one-minute bar, put to seen p99 at most 1.25 s: 1.10 s, reached" in text
    assert "| last price, put to seen | 200 | 300 | 1,100 | 2,000 |" in text


@pytest.mark.parametrize(
    ("half", "told"),
    [([20_000, 21_000, 21_900], "9.5 %, flat"), ([20_000, 21_000, 22_100], "10.5 %, not flat")],
)
def test_sessions_are_compared_at_the_same_place(half, told):
    text = report.checkpoints(part(sizes(half)))
    row = next(line for line in text.splitlines() if line.startswith("| checkpoints in mid-session"))
    assert row.endswith(f"| {told} |")
    assert "| savepoints in mid-session |  |  | 9.0 kB - 9.0 kB | 0.0 %, flat |" in text
    assert "| savepoints after the end |  |  | 100 B - 140 B | 40.0 %, not flat |" in text
    assert "| without data |  | 1.0 kB - 1.1 kB |  | 5.0 %, flat |" in text


def test_state_is_told_by_step_and_place():
    lines = report.steps(sizes([20_000])["sessions"]).splitlines()
    assert lines[0] == "| step of Flink | 2024-11-25 half | 2024-11-25 end |"
    assert lines[2:] == ["| `Bars` | 20.0 kB | 0 B |", "| `WriteFiles` | 0 B | 700 B |"]


def test_no_sizes_are_no_verdict():
    assert math.isnan(report.spread([]))
    assert "unknown" in report.checkpoints(part({**sizes([]), "idle": []}))


# --- what is measured -----------------------------------------------------------------------------------


def test_a_rate_starts_behind_the_first_table():
    notes = Notes(np.array([10.0, 11.0, 12.0]), np.array([500, 300, 200]), NOTHING[:3], NOTHING[:3])
    assert rate(notes, 15.0) == 500 / 5.0
    with pytest.raises(ValueError, match="1 tables: a rate needs two"):
        rate(Notes(*(each[:1] for each in vars(notes).values())), 15.0)


def test_the_middle_leaves_out_slow_ends():
    at = np.concatenate(([0.0, 5.0], 100.0 + np.arange(17), [1_000.0]))
    notes = Notes(at, np.full(20, 10), NOTHING, NOTHING)
    assert middle_rate(notes, 0.2) == pytest.approx(10.0)
    few = Notes(at[:9], np.full(9, 10), NOTHING[:9], NOTHING[:9])
    assert math.isnan(middle_rate(few))
    assert "too few" in report.rates([catch_up("read", 1.0, middle=middle_rate(few))], {})


def bars(*final: bool) -> pa.Table:
    ts = pa.array(np.arange(len(final)) * 1_000_000).view(TIMESTAMP)
    return pa.table({"ts": ts, "final": pa.array(final, pa.bool_())})


def test_what_meters_note_is_read_in_the_order_of_time(tmp_path):
    first, second = Meter(str(tmp_path), "here", lags=True), Meter(str(tmp_path), "here")
    other = Meter(str(tmp_path), "there")
    for meter, tables in (
        (first, [bars(True, False)]),
        (second, [bars(True), bars()]),
        (other, [bars(True)]),
    ):
        meter.setup()
        meter.start_bundle()
        for table in tables:
            meter.process(table)
        meter.finish_bundle()
    notes = read_notes(tmp_path, "here")
    assert notes.rows.tolist() == [2, 1, 0]
    assert notes.final.tolist() == [1, 1, 0]
    assert notes.total == 3
    assert list(notes.by_process().values()) == [3]
    lags = read_lags(tmp_path, "here")
    assert lags[:, 0].tolist() == [0.0, 1.0]
    assert lags[0, 1] - lags[1, 1] == pytest.approx(1.0)
    assert read_notes(tmp_path, "nowhere").last == 0.0


def test_cpu_time_is_interpolated_and_never_falls():
    samples = [(0.0, {"a": 1.0}), (2.0, {"a": 3.0, "b": 4.0}), (4.0, {"a": 2.0, "b": 4.0})]
    assert spent(samples, 1.0, 3.0) == {"a": 1.0, "b": 2.0}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.sampled_from([1.0, 50.0, 90.0, 99.0, 100.0]))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values, part_):
    found = visible.percentiles(np.array(values), (part_,))[f"p{part_:g}"]
    enough = [each for each in values if sum(v <= each for v in values) >= part_ / 100 * len(values) - 1e-9]
    assert found == min(enough)


def test_what_was_never_seen_reaches_the_highest_percentiles():
    found = visible.percentiles(np.array([1.0] * 98 + [np.nan] * 2))
    assert found["p50"] == 1.0
    assert math.isnan(found["p99"])
    assert math.isnan(visible.percentiles(np.zeros(0))["p50"])


SYMBOLS = st.integers(0, 2)
TIMES = st.integers(0, 3 * visible.MINUTE_US // 10_000_000)


@given(
    st.lists(st.tuples(SYMBOLS, TIMES), max_size=12),
    st.lists(st.tuples(SYMBOLS, TIMES), max_size=12),
)
def test_a_price_is_visible_with_the_first_that_is_not_older(trades, shown):
    symbol, ts = (np.array([each[n] for each in trades], np.int64) for n in (0, 1))
    seen_symbol, seen_ts = (np.array([each[n] for each in shown], np.int64) for n in (0, 1))
    at = np.arange(len(shown), dtype=np.float64)
    found = visible.prices_visible(ts, symbol, at, seen_symbol, seen_ts)
    for place, (own, time) in enumerate(trades):
        wanted = [at[n] for n, (other, seen) in enumerate(shown) if other == own and seen >= time]
        assert (found[place] == wanted[0]) if wanted else math.isnan(found[place])


@given(
    st.lists(st.tuples(SYMBOLS, TIMES), max_size=12),
    st.lists(st.tuples(SYMBOLS, st.integers(0, 2), st.integers(0, 4)), max_size=12),
)
def test_a_trade_is_in_the_first_bar_that_counts_it(trades, shown):
    symbol = np.array([each[0] for each in trades], np.int64)
    ts = np.array([each[1] * 10_000_000 for each in trades], np.int64)
    minute = np.array([each[1] * visible.MINUTE_US for each in shown], np.int64)
    at = np.arange(len(shown), dtype=np.float64)
    found = visible.bars_visible(
        ts,
        symbol,
        at,
        np.array([each[0] for each in shown], np.int64),
        minute,
        np.array([each[2] for each in shown], np.int64),
    )
    counted: dict[tuple[int, int], int] = {}
    for place in range(len(trades)):
        key = int(symbol[place]), int(ts[place]) // visible.MINUTE_US
        counted[key] = counted.get(key, 0) + 1
        wanted = [at[n] for n, each in enumerate(shown) if each[:2] == key and each[2] >= counted[key]]
        assert (found[place] == wanted[0]) if wanted else math.isnan(found[place])


# --- what is sent ---------------------------------------------------------------------------------------


def trade(number: int, symbol: str) -> dict[str, Any]:
    return {"symbol": symbol, "message": b"%d" % number, "ts": number * 1_000}


def block(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table(
        {
            "symbol": pa.array([each["symbol"] for each in rows], pa.string()).dictionary_encode(),
            "message": pa.array([each["message"] for each in rows], pa.binary()),
            "ts": pa.array([each["ts"] for each in rows], pa.int64()).view(TIMESTAMP),
        }
    )


@given(
    st.lists(st.sampled_from(["A", "B", "C", None]), max_size=30),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 9),
)
def test_records_keep_the_order_of_a_shard_and_heartbeats_come_behind(symbols, messages, shards, cut):
    rows = [
        trade(number, name) if name else {"symbol": None, "message": None, "ts": number * 1_000}
        for number, name in enumerate(symbols)
    ]
    filler = ShardFiller(shards, messages)
    made = [each for at in range(0, len(rows), cut) for each in filler.add(block(rows[at : at + cut]))]
    made += filler.rest()
    for shard in range(shards):
        sent: list[int] = []
        beaten = -1
        for _, data, count in (each for each in made if each[0] == shard):
            if not count:
                beat = int(data.split(b":")[2].rstrip(b"}"))
                assert beat > beaten
                beaten = beat
                # All that came before it has gone out.
                own = [n for n, name in enumerate(symbols) if name and bucket_of(name) % shards == shard]
                assert [n for n in own if n < beat] == [n for n in sent if n < beat]
                continue
            assert count <= messages
            sent += [int(line) for line in data.split(b"\n")]
        assert sent == [n for n, name in enumerate(symbols) if name and bucket_of(name) % shards == shard]
        if None in symbols:
            assert beaten == max(n for n, name in enumerate(symbols) if name is None)


class Idle:
    """Stands for a sampler of servers that do nothing."""

    def between(self, begin: float, end: float) -> dict[str, float]:
        return {"redis": end - begin}


def test_latency_is_of_every_trade_and_leaves_the_warm_up_out():
    begin, n = 1_732_618_200, 8
    at = begin + np.arange(n)  # a trade a second, of two symbols in turns
    symbol = np.arange(n, dtype=np.int32) % 2
    sent = pa.table([pa.array(at * 1_000_000), pa.array(symbol), pa.array(at + 0.125)], schema=SENT)
    seen = Seen()
    seen.take(b"1-0", {b"k": b"made"}, 0.0)
    for number in range(n):
        name, count = name_of(int(symbol[number])), number // 2 + 1
        price, bar = np.zeros(1, PRICE), np.zeros(2, BAR)
        price["ts"] = at[number] * 1_000_000
        bar["ts"], bar["trade_count"], bar["frame"] = begin * 1_000_000, [count, 99], [1, 5]
        prices = Packed(pa.array([name]), price).parts()
        bars = Grouped(pa.array([name]), np.array([2]), bar).parts()
        for kind, keys, parts, wait in (("price", "snr", prices, 0.25), ("open", "sncr", bars, 0.5)):
            stored = int((at[number] + wait) * 1000)
            fields = {key.encode(): part for key, part in zip(keys, parts, strict=True)}
            entry = {b"k": kind.encode(), **fields}
            seen.take(b"%d-0" % stored, entry, at[number] + wait + 0.0625)
    lags = np.column_stack((at.astype(float), np.where(at < begin + 4, 9.0, 0.1875)))
    found = evaluate(sent, seen, lags, 1.0, 4.0, 4.0, 2, [], Idle(), 0.5)
    assert found.ticks == 4
    assert set(found.prices.values()) == {0.3125}
    assert set(found.bars.values()) == {0.5625}
    assert set(found.prices_stored.values()) == {0.25}
    assert set(found.bars_stored.values()) == {0.5}
    assert set(found.put.values()) == {0.125}
    assert set(found.parsed.values()) == {0.1875}
    assert found.behind == 0.0
    assert found.cpu == {"redis": 3.0}
    seen.prices.pop()
    with pytest.raises(BenchmarkError, match="1 trades were never seen"):
        evaluate(sent, seen, lags, 1.0, 4.0, 4.0, 2, [], Idle(), 0.5)


class Clock:
    """Moves only by sleeping, and a little by being asked."""

    def __init__(self) -> None:
        self.now = 1_732_618_200.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_feed_keeps_its_pace_and_its_messages_can_be_read():
    clock, put = Clock(), []
    began = clock.now
    sent = pace(
        lambda shard, data: put.append((shard, data)),
        Feed(6, 2, 3),
        2,
        1_000.0,
        2.0,
        50,
        clock,
        clock.sleep,
    )
    assert len(sent) == 2_000
    assert [shard for shard, _ in put] == [0, 1] * 20
    assert clock.now - began == pytest.approx(2.0, abs=0.06)
    n = len(put)
    columns: list[Any] = [
        pa.array(["shard"] * n).dictionary_encode(),
        pa.array([str(number) for number in range(n)]),
        pa.array(np.zeros(n, np.int32)),
        pa.array(np.full(n, int(clock.now * 1e6))).view(TIMESTAMP),
        pa.nulls(n, pa.string()),
        pa.array([data for _, data in put], pa.binary()),
    ]
    outputs = DecodeTicks()(pa.table(columns, schema=RECORDS)).outputs
    assert list(outputs) == [decoded.TRADES]
    trades = outputs[decoded.TRADES]
    names = [name_of(symbol) for symbol in sent["symbol"].to_numpy()]
    assert trades["symbol"].to_pylist() == names
    assert trades["ts"].cast(pa.int64()).to_pylist() == sent["ts"].to_pylist()
    assert all(int(name[1:]) % 2 == shard for (shard, _), name in zip(put, names[::50], strict=True))


def test_calls_are_as_large_as_the_service_takes():
    records = [Record("a", b"x" * size) for size in [1 << 20] * 9 + [10] * 1_200]
    made = list(batches(iter(records)))
    assert [each for batch in made for each in batch] == records
    assert max(map(len, made)) == 500
    assert max(sum(each.size for each in batch) for batch in made) <= 4 << 20


def test_a_busy_tape_has_its_trades_in_its_minutes(tmp_path):
    calendar = load_calendar("XNYS", 2028)
    made = saved_tape(tmp_path, calendar, 20, 3_000, SESSIONS[0], 3)
    assert isinstance(saved_tape(tmp_path, calendar, 20, 3_000, SESSIONS[0], 3), tape.SavedTape)
    assert 2_000 < made.truth.number() < 4_500
    assert made.truth.last - made.truth.first < 3 * visible.MINUTE_US

"""The theorem on real servers: the lake of the stream is batch over its archive minus the late rows.

For minute rows as they come; for trades while servers are killed, shards split and merged, the job stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fibflow.io.aws import AwsConfig
from fibflow.io.dynamodb import PriceTable, TickTable
from fibflow.io.livestore import LiveStore
from fibflow.pipelines import exporter
from fibflow.runners.services.stack import Stack
from fibflow.tests.io.exporter.told import Told
from fibflow.tests.io.exporter.told import told as told_of
from fibflow.tests.io.kinesis.server import serving
from fibflow.tests.pipelines.live import (
    LATENESS_US,
    SHARDS,
    SYMBOLS,
    TIMEFRAMES,
    LiveRun,
    Market,
    Segment,
    Verdict,
    compare,
    differing,
    sql,
    wait_until,
)
from fibflow.transforms.timeframe import MINUTE_US

#: Half of Maundy Thursday in Stockholm, then the first session after the clocks went forward.
HALF_DAY_AND_DST = ("2024-03-28", "2024-04-02")
#: With the second of them end windows of 3, 5, 8 and 34 sessions.
WINDOWS_END = ("2024-05-10", "2024-05-13")
CORRECTED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(["redis", "moto", "flink", "beam"], slots=2) as running:
        yield running


@pytest.fixture(scope="module")
def kinesis() -> Iterator[str]:
    with serving("--quota", "reads") as url:
        yield url


def test_of_minutes_the_lake_is_batch_over_the_archive(stack: Stack, tmp_path: Path) -> None:
    market = Market.of("minutes", HALF_DAY_AND_DST, SYMBOLS, "XSTO")
    run = LiveRun(stack, tmp_path, market, "ticks-minutes", "minutes")
    run.create_stream()
    run.land(market.history)
    prices = ("--dynamodb", "live-prices", "--dynamodb-ticks", "live-ticks")
    made = run.command("pipelines.tables", *prices)
    assert made.returncode == 0, made.stderr
    run.submit(*prices)
    try:
        for segment in market.segments():
            run.play(segment)
        run.wait_for_end()
        wait_until(lambda: prices_agree(run), "DynamoDB holds the last prices that Redis does")
        told: Told = {}
        wait_until(lambda: tells_all(told, run), "Flink has all of its tasks' numbers")
    finally:
        run.cancel()
    found = compare(run)
    assert found.bars > 10_000
    assert (found.missing, found.surplus, found.different) == (0, 0, 0)
    assert min(found.late, found.revised, found.duplicates) > 0
    truth = market.tape.truth
    assert found.unreadable == truth.broken
    assert found.ticks == truth.readable
    assert found.ticks == found.used + found.duplicates + found.late
    check_told(told, run, found)


def check_told(told: Told, run: LiveRun, found: Verdict) -> None:
    """What Prometheus reads is what the lake has."""
    assert told["fibflow_stream_up"] == {("live",): 1.0}
    assert set(told["fibflow_kinesis_lag_seconds"].values()) == {0.0}
    assert len(told["fibflow_kinesis_lag_seconds"]) == SHARDS
    assert told["fibflow_stream_watermark_lag_seconds"]["live",] > 0
    commits = told["fibflow_stream_commit_seconds_count"]
    assert set(commits) == {(name,) for name in ("bronze.ticks", "silver.live", "late", "dead_letters")}
    assert min(told["fibflow_stream_checkpoint_bytes"][()], *commits.values()) > 0
    if told["fibflow_stream_restarts_total"]["live",]:
        return  # on a machine that cannot keep up: what was read again was counted again
    truth, live = run.market.tape.truth, run.table("silver.live")
    assert total(told, "ticks") == truth.readable
    assert total(told, "late") == found.late
    assert total(told, "duplicates") == found.duplicates
    assert total(told, "rejected") == truth.broken
    assert live is not None
    # Of a bar that went out several times a file keeps the last: ended, each revision, final.
    each = "select timeframe, max(revision) as times from live group by symbol, timeframe, ts"
    query = f"select timeframe, count(*) as least, sum(2 + times) as most from ({each}) group by timeframe"
    bounds = {row["timeframe"]: row for row in sql(query, live=live).to_pylist()}
    bars = {name: count for (name,), count in told["fibflow_stream_bars_total"].items()}
    assert set(bars) == set(bounds)
    assert all(bounds[name]["least"] <= bars[name] <= bounds[name]["most"] for name in bars)
    assert total(told, "bars_revised") >= found.revised


def exported(run: LiveRun) -> Told:
    """What Prometheus would read of the job now."""
    master = run.stack.address("job-manager")
    line = ["--flink-master", master, "--lake", str(run.lake), "--timeout", "60"]
    args = exporter.parser().parse_args(line)
    return told_of(exporter.exporter_of(args, {}).metrics())


def tells_all(told: Told, run: LiveRun) -> bool:
    """Ask the exporter, and return whether all that was read is counted; after a restart that begins anew."""
    told.clear()
    told.update(exported(run))
    restarts = told.get("fibflow_stream_restarts_total", {}).get(("live",))
    if restarts is None:
        return False
    return restarts > 0 or total(told, "ticks") >= run.market.tape.truth.readable


def total(told: Told, name: str) -> float:
    """The sum of a counter of the stream over its labels."""
    return sum(told.get(f"fibflow_stream_{name}_total", {}).values())


def prices_agree(run: LiveRun) -> bool:
    """Whether the last prices in DynamoDB are those in Redis, and ticks of theirs are there too."""
    aws = AwsConfig.resolve(run.env)
    with LiveStore(run.stack.env["REDIS_URL"]) as store:
        expected = store.last_prices()
    names = [str(name) for name in expected["symbol"].to_pylist()]
    found = PriceTable("live-prices", aws, timeout_s=20.0).read(names)
    if len(names) < SYMBOLS or not found.equals(expected.cast(found.schema)):
        return False
    ticks = TickTable("live-ticks", aws, timeout_s=20.0).read(names[0], 0, limit=1)
    columns = ["symbol", "ts", "price"]
    return ticks.select(columns).to_pylist() == found.select(columns).slice(0, 1).to_pylist()


def test_of_trades_it_is_so_through_crashes_splits_merges_and_a_savepoint(
    stack: Stack, kinesis: str, tmp_path: Path
) -> None:
    market = Market.of("trades", WINDOWS_END, SYMBOLS, "XSTO", seed=11)
    run = LiveRun(stack, tmp_path, market, "ticks-faults", "trades", kinesis=kinesis)
    run.create_stream()
    run.land(market.history)
    days = ",".join(timeframe.name for timeframe in TIMEFRAMES if not timeframe.is_intraday)
    done = run.command("pipelines.batch", "--lake", str(run.lake), "--timeframes", days, "--workers", "1")
    assert done.returncode == 0, done.stderr
    first = run.submit()
    begun, late_to_it, then, *rest = market.segments()
    try:
        run.play(begun)
        correct(run, market)
        run.play(late_to_it)
        wait_until(lambda: len(run.rest.checkpoints(first)) > 0, "a checkpoint")
        stack.kill9("task-manager")
        run.split_shard()
        run.play(Segment(then.of, then.messages, None))
        stack.start("task-manager-1")
        assert then.clock is not None
        run.wait_for_clock(then.clock - LATENESS_US - MINUTE_US)
        stack.kill9("worker-pool")
        stack.start("worker-pool")
        run.play(rest[0])
        stop = ("stop", "live", "--flink-master", stack.address("job-manager"), "--lake", str(run.lake))
        # It is refused until the job has come back from the crash.
        wait_until(lambda: run.command("pipelines.jobs", *stop).returncode == 0, "the job is stopped")
        run.merge_shards()
        run.play(Segment(rest[1].of, rest[1].messages, None))
        done = run.command("pipelines.jobs", "resume", "live", "--lake", str(run.lake))
        assert done.returncode == 0, done.stderr
        assert run.rest.job("live").id != first
        for segment in rest[2:]:
            run.play(segment)
        run.wait_for_end()
    finally:
        run.cancel()
    found = compare(run)
    assert found.bars > 10_000
    assert (found.missing, found.surplus, found.different) == (0, 0, 0)
    assert found.long == dict.fromkeys(("3d", "5d", "8d", "34d"), SYMBOLS)
    assert min(found.late, found.revised, found.duplicates) > 0
    assert found.unreadable == market.tape.truth.broken
    assert found.ticks == market.tape.truth.readable
    assert found.ticks == found.used + found.duplicates + found.late
    # The night after: official days are landed, and readers turn to batch over everything.
    run.land(market.official, "evening")
    done = run.command("pipelines.reconcile", "--lake", str(run.lake), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert differing(run.everything(), run.seen()) == (0, 0, 0)
    report = run.table("reconciliation")
    assert report is not None
    reasons = Counter(report["why"].to_pylist())
    assert set(reasons) <= {"late", "official", "not_covered"}
    assert min(reasons["late"], reasons["official"]) > 0


def correct(run: LiveRun, market: Market) -> None:
    """Land corrections of the session before the last one of history: open bars follow, without a restart."""
    day = market.calendar.days[market.last - 3].astype("datetime64[D]").astype(date)
    rows = market.history.filter(pc.equal(market.history["session"], pa.scalar(day)))
    highs = 1000 * rows["high"].to_numpy()
    told = dict(zip(rows["symbol"].to_pylist(), highs.tolist(), strict=True))

    def shown(timeframe: str) -> dict[str, float]:
        return {str(bar["symbol"]): bar["high"] for bar in run.open_bars(timeframe).to_pylist()}

    # The job has its history, and some ticks.
    wait_until(lambda: set(shown("34d")) == set(told), "there are open bars of 34 sessions")
    assert not set(shown("34d").values()) & set(told.values())
    run.land(rows.set_column(rows.schema.get_field_index("high"), "high", pa.array(highs)), "later")
    follow = "open bars follow the correction"
    wait_until(lambda: shown("5d") == shown("34d") == told, follow, CORRECTED_WITHIN_S)

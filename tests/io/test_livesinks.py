from __future__ import annotations

import socket
import threading
from dataclasses import replace

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from fibflow.io.dynamodb import PriceTable
from fibflow.io.dynamofeed import PriceFeed
from fibflow.io.lastprices import MINUTE as MINUTES
from fibflow.io.lastprices import TRADE
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livesinks import (
    LiveMarker,
    PricesOf,
    SendLastPrices,
    WriteClosedBars,
    WriteLastPrices,
    WriteOpenBars,
)
from fibflow.tests.io.livestores import (
    MINUTE,
    NO_PATIENCE,
    T0,
    again,
    bar,
    closed,
    fresh,
    rows,
    table,
)
from fibflow.tests.io.test_lastprices import RULE, filled, trade
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import MINUTE_INPUT, TRADE_INPUT

NOW_S = 1_800_000_000.5
A = bucket_of("A")


def now() -> float:
    return NOW_S


def run(elements: list, kind: type, *steps: beam.DoFn) -> dict[str, object]:
    """Run a chain of DoFns; return its counters, and of its distributions the greatest value."""
    pipeline = beam.Pipeline(FnApiRunner(), options=PipelineOptions([]))
    flow = pipeline | beam.Create(elements, reshuffle=False).with_output_types(kind)
    for step in steps:
        flow = flow | beam.ParDo(step)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace("live"))
    return {
        **{metric.key.metric.name: metric.committed for metric in found["counters"]},
        **{metric.key.metric.name: metric.committed.max for metric in found["distributions"]},
    }


def test_last_prices_of_trades_that_set_a_close_are_written(store):
    blocks = [
        filled(TRADE_INPUT, [trade("A", T0, 2, 5.0), trade("A", T0, 1, 4.0), trade("B", T0, 1, 1.0)]),
        filled(TRADE_INPUT, [trade("A", T0 + 1, 3, 9.0, rules=1), trade("B", T0 - 1, 9, 2.0)]),
        filled(TRADE_INPUT, []),
    ]
    counted = run(blocks, pa.Table, WriteLastPrices(again(store), TRADE, RULE, clock=now))
    assert rows(store.last_prices(), "symbol", "price", "ts") == [("A", 5.0, T0), ("B", 1.0, T0)]
    assert counted == {"prices_written": 2, "prices_latency_ms": int(NOW_S * 1_000) - T0 // 1_000}


def test_last_prices_of_minutes_are_written(store):
    blocks = [filled(MINUTE_INPUT, [{"symbol": "A", "ts": T0, "close": 7.0, "version": 1}])]
    run(blocks, pa.Table, WriteLastPrices(again(store), MINUTES))
    assert rows(store.last_prices(), "price", "ts", "source") == [(7.0, T0 + MINUTE - 1, MINUTES)]


def test_last_prices_go_to_dynamodb_beside_redis_and_alone(store, s3_server):
    blocks = [filled(TRADE_INPUT, [trade("A", T0, 2, 5.0), trade("A", T0, 1, 4.0), trade("B", T0, 1, 1.0)])]
    for number, sink in enumerate(
        (
            lambda feed: WriteLastPrices(again(store), TRADE, RULE, clock=now, beside=feed),
            lambda feed: SendLastPrices(PricesOf(TRADE, RULE), feed),
        )
    ):
        prices = PriceTable(f"sink-prices-{number}", s3_server, timeout_s=20.0)
        prices.create_tables()
        counted = run(blocks, pa.Table, sink(PriceFeed(prices, every_s=0.01)))
        assert counted["dynamodb_errors"] == 0
        assert rows(prices.read(["A", "B"]), "symbol", "price") == [("A", 5.0), ("B", 1.0)]
    assert rows(store.last_prices(), "symbol", "price") == [("A", 5.0), ("B", 1.0)]


def test_a_dynamodb_that_is_away_holds_no_price_back(store, s3_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = replace(s3_server, endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        feed = PriceFeed(PriceTable("sink-away", away, timeout_s=0.2), every_s=0.01)
        writer = WriteLastPrices(again(store), TRADE, RULE, clock=now, beside=feed)
        writer.setup()
        failed = threading.Event()
        shared_feed = writer._beside._feed
        assert shared_feed is not None
        for at in range(3):
            writer.start_bundle()
            writer.process(filled(TRADE_INPUT, [trade("A", T0 + at, 1, 5.0 + at)]))
            writer.finish_bundle()
            assert rows(store.last_prices(), "price") == [(5.0 + at,)]
        while not shared_feed.told().errors:
            failed.wait(0.01)
        writer.teardown()


@pytest.mark.parametrize(("source", "rule"), [(TRADE, 0), (MINUTES, RULE)])
def test_a_rule_is_for_trades(store, source, rule):
    with pytest.raises(ValueError, match="rule's bit for trades"):
        WriteLastPrices(store, source, rule)


def test_open_bars_are_written_as_they_are_let_out(store):
    stamp = int(NOW_S * 1_000_000)
    flushes = [
        (A, stamp - 2, False, True, table(bar("A", close=1.0), bar("A", "5m"))),
        (A, stamp - 1, False, False, table(bar("A", close=2.0))),
        (bucket_of("B"), stamp, False, True, table(bar("B"))),
        (A, stamp, False, True, table(bar("A", close=2.0))),
    ]
    counted = run(flushes, tuple[int, int, bool, bool, pa.Table], WriteOpenBars(again(store), clock=now))
    assert rows(store.open_bars(), "symbol", "timeframe", "close") == [("A", "1m", 2.0), ("B", "1m", 1.0)]
    assert counted["open_bars_written"] == 5
    assert counted["open_bars_latency_ms"] == 0


def test_closed_bars_are_written_and_open_ones_passed_over(store):
    blocks = [
        table(closed("A"), bar("A", ts=T0 + MINUTE)),
        table(closed("A", close=2.0, revision=1)),
        table(bar("B")),
    ]
    counted = run(blocks, pa.Table, WriteClosedBars(again(store), clock=now))
    assert rows(store.closed_bars("A", "1m"), "ts", "close", "revision") == [(T0, 2.0, 1)]
    assert counted == {
        "closed_bars_written": 1,
        "closed_bars_latency_ms": int(NOW_S * 1_000) - (T0 + MINUTE) // 1_000,
    }


def test_writing_the_same_again_leaves_the_same(store):
    bars = [table(closed("A"), closed("B", revision=1))]
    run(bars, pa.Table, WriteClosedBars(again(store), clock=now))
    before = store.closed_bars("A", "1m")
    assert run(bars, pa.Table, WriteClosedBars(again(store), clock=now))["closed_bars_written"] == 0
    assert store.closed_bars("A", "1m").equals(before)


def test_a_long_bundle_is_written_in_parts(store):
    names = pa.array([f"S{i:05d}" for i in range(3_000)])
    blocks = []
    for at in range(8):
        block = table(closed("A", ts=T0 + at * MINUTE)).take(pa.array([0] * len(names)))
        blocks.append(block.set_column(0, BAR_BATCH.field(0), names.dictionary_encode()))
    counted = run(blocks, pa.Table, WriteClosedBars(again(store), clock=now))
    assert counted["closed_bars_written"] == 24_000
    assert store.closed_bars("S02999", "1m").num_rows == 8


def test_a_redis_that_stays_away_ends_the_bundle_with_one_line(server):
    store = fresh(server, patience=NO_PATIENCE)
    writer = WriteClosedBars(again(store), clock=now)
    writer.setup()
    writer.start_bundle()
    writer.process(table(closed("A")))
    server.kill()
    try:
        with pytest.raises(LiveStoreError, match="Redis does not answer"):
            writer.finish_bundle()
    finally:
        server.start()
        writer.teardown()


def test_a_marker_is_asked_for_once_a_second(server):
    store = fresh(server)
    seconds = [0.0]
    marker = LiveMarker(again(store), clock=lambda: seconds[0])
    marker.open()
    before = marker.current()
    store.connection.ask(lambda client: client.flushall())
    assert marker.current() == before
    seconds[0] = 1.0
    assert marker.current() != before
    marker.close()

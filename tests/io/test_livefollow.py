from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibflow.io.livefollow import CLOSED, OPEN, PRICES, RESET, decode, follow, position, read
from fibflow.io.livestore import LiveStore, refill_closed
from fibflow.tests.io.livestores import (
    MINUTE,
    T0,
    Server,
    again,
    bar,
    closed,
    fresh,
    price,
    prices,
    rows,
    table,
)
from fibflow.transforms.openbars import Flush
from fibflow.transforms.schemas import BARS

NOW = 1_800_000_000_000_000


@pytest.fixture
def store(server: Server) -> Iterator[LiveStore]:
    with fresh(server) as made:
        made.marker()
        yield made


def soon(store: LiveStore, after, **options) -> list:
    return read(store, after, block_ms=1, **options)


def test_each_write_is_told_as_it_was_taken(store):
    start = position(store)
    store.write_prices(prices(price("A", 1.0), price("B", 2.0)))
    store.write_prices(prices(price("A", 9.0), price("B", 3.0, T0 + 1)))
    store.write_open([Flush(5, NOW, False, False, table(bar("A")))])
    store.write_closed(table(closed("B", ts=T0 + MINUTE), closed("B"), closed("A", revision=1)), NOW)
    told = soon(store, start)
    assert [update.kind for update in told] == [PRICES, PRICES, OPEN, CLOSED]
    assert rows(told[0].table, "symbol", "price") == [("A", 1.0), ("B", 2.0)]
    assert rows(told[1].table, "symbol", "price") == [("B", 3.0)]
    assert (told[2].bucket, told[2].whole) == (5, False)
    assert told[2].table.equals(table(bar("A")).cast(BARS))
    assert sorted(rows(told[3].table, "symbol", "ts", "revision")) == [
        ("A", T0, 1),
        ("B", T0, 0),
        ("B", T0 + MINUTE, 0),
    ]


def test_what_changes_nothing_is_not_told(store):
    store.write_prices(prices(price("A")))
    store.write_open([Flush(5, NOW, False, False, table(bar("A")))])
    store.write_closed(table(closed("A")), NOW)
    start = position(store)
    store.write_prices(prices(price("A")))
    store.write_open([Flush(5, NOW - 1, False, False, table(bar("A")))])
    store.write_closed(table(closed("A")), NOW)
    store.write_closed(table(closed("A")), 0)
    assert soon(store, start) == []


def test_a_bucket_without_open_bars_is_told(store):
    start = position(store)
    store.write_open([Flush(5, NOW, False, True, table())])
    (told,) = soon(store, start)
    assert (told.kind, told.bucket, told.whole, told.table.num_rows) == (OPEN, 5, True, 0)
    assert not told.of_days


def test_the_kind_of_open_bars_is_told(store):
    start = position(store)
    store.write_open([Flush(5, NOW, True, False, table(bar("A", "3d")))])
    (told,) = soon(store, start)
    assert (told.kind, told.of_days, rows(told.table, "timeframe")) == (OPEN, True, [("3d",)])


def test_filling_from_the_lake_is_not_told(store):
    start = position(store)
    refill_closed(store, [table(closed("A"))], owner="one")
    assert soon(store, start) == []


def test_a_reader_goes_on_where_it_was(store):
    start = position(store)
    for seq in range(5):
        store.write_prices(prices(price("A", seq=seq)))
    first = soon(store, start, count=2)
    rest = soon(again(store), first[-1].position, count=10)
    assert [rows(update.table, "seq") for update in [*first, *rest]] == [[(seq,)] for seq in range(5)]
    assert [update.position for update in islice(follow(store, start, block_ms=1), 5)] == [
        update.position for update in [*first, *rest]
    ]


def test_a_reader_that_fell_behind_reads_the_store_anew(server):
    store = fresh(server, backlog=1)
    store.marker()
    start = position(store)
    for tick in range(200):
        store.write_prices(prices(*(price(f"S{i}", ts=T0 + tick) for i in range(200))))
    (told,) = soon(store, start)
    assert told.kind == RESET
    assert told.position == position(store)
    assert soon(store, told.position) == []


def test_what_is_kept_for_readers_is_bounded_by_bytes(server):
    store = fresh(server, backlog=1_000_000)
    for tick in range(60):
        store.write_prices(prices(*(price(f"S{i}", ts=T0 + tick) for i in range(1_000))))
        store.write_closed(table(closed("A", ts=T0 + tick * MINUTE)), NOW)
    used = store.connection.ask(lambda client: client.memory_usage(store.key("push"), 0))
    assert used is not None
    assert used < 2_000_000
    small = fresh(server, backlog=1_000_000)
    for tick in range(300):
        small.write_closed(table(closed("A", ts=T0 + tick * MINUTE)), NOW)
    assert small.connection.ask(lambda client: client.xlen(small.key("push"))) == 301


def test_an_emptied_store_is_read_anew(store):
    store.write_prices(prices(price("A")))
    before = position(store)
    store.connection.ask(lambda client: client.flushall())
    (told,) = soon(store, before)
    assert (told.kind, told.position.generation) == (RESET, "")
    assert soon(store, told.position) == []
    store.write_prices(prices(price("A")))
    (again_told,) = soon(store, told.position)
    assert again_told.kind == RESET
    store.write_prices(prices(price("B")))
    assert [update.kind for update in soon(store, again_told.position)] == [PRICES]


def test_a_stream_that_lost_its_end_is_read_anew(store):
    store.write_prices(prices(price("A")))
    before = position(store)
    # What a failover to a replica that lags does.
    store.connection.ask(lambda client: client.xtrim(store.key("push"), maxlen=0))
    assert [update.kind for update in soon(store, before)] == [RESET]


def test_an_entry_can_be_read_by_a_client_of_ones_own(store, server):
    start = position(store)
    store.write_prices(prices(price("A", 2.5)))
    ((_, ((entry, fields),)),) = server.client.xread({store.key("push"): start.id})
    update = decode(entry.decode(), fields, start.generation)
    assert update == soon(store, start)[0]
    assert rows(update.table, "symbol", "price") == [("A", 2.5)]


def test_waiting_is_shorter_than_the_timeout(store):
    for block_ms in (0, 5_000):
        with pytest.raises(ValueError, match="between 0 and timeout_s"):
            read(store, position(store), block_ms=block_ms)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("price"), st.sampled_from("AB"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["open", "whole", "end"]), st.sampled_from("AB"), st.integers(0, 3)),
        st.tuples(st.just("close"), st.sampled_from("AB"), st.integers(0, 3)),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(0, 12))
def test_a_snapshot_and_what_follows_it_are_the_store(server, steps, start_at):
    store = fresh(server)
    store.marker()
    last: dict = {}
    closes: dict = {}
    opens: dict = {}
    start = position(store)
    for at, (kind, symbol, number) in enumerate(steps):
        if at == start_at:
            start = position(store)
            last = {row[0]: row for row in rows(store.last_prices())}
            opens = {row[:3]: row for row in rows(store.open_bars())}
            closes = {(name, row[2]): row for name in "AB" for row in rows(store.closed_bars(name, "1m"))}
        ts = T0 + number * MINUTE
        if kind == "price":
            store.write_prices(prices(price(symbol, float(at), ts)))
        elif kind == "close":
            store.write_closed(table(closed(symbol, ts=ts, close=float(at))), NOW)
        else:
            bucket = 1 if symbol == "A" else 2
            bars = table() if kind == "end" else table(bar(symbol, ts=ts, close=float(at)))
            store.write_open([Flush(bucket, NOW + at, False, kind != "open", bars)])
            if kind == "end":
                store.write_closed(table(closed(symbol, ts=ts, close=float(at))), NOW)
    for update in soon(store, start, count=1_000):
        if update.kind == PRICES:
            last.update({row[0]: row for row in rows(update.table)})
        elif update.kind == CLOSED:
            closes.update({(row[0], row[2]): row for row in rows(update.table)})
        elif update.kind == OPEN:
            owner = {1: "A", 2: "B"}[update.bucket]
            opens = {name: row for name, row in opens.items() if name[0] != owner}
            opens.update({row[:3]: row for row in rows(update.table)})
    assert sorted(last.values()) == rows(store.last_prices())
    for name in "AB":
        assert [closes[key] for key in sorted(closes) if key[0] == name] == rows(
            store.closed_bars(name, "1m")
        )
    # A reader drops an open bar that is not after a closed one, as the store's charts do.
    newest = {name: max((ts for symbol, ts in closes if symbol == name), default=-1) for name in "AB"}
    expected = {row[:3]: row for row in rows(store.open_bars())}
    assert {name: row for name, row in opens.items() if row[2] > newest[name[0]]} == {
        name: row for name, row in expected.items() if row[2] > newest[name[0]]
    }

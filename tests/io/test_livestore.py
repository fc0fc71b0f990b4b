from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibflow.io.liverecords import PRICES
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livestore import LiveStore, refill_closed
from fibflow.tests.io.livestores import (
    MINUTE,
    NO_PATIENCE,
    T0,
    again,
    bar,
    closed,
    fresh,
    price,
    prices,
    rows,
    table,
)
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.openbars import Flush
from fibflow.transforms.schemas import BARS

# The server outlives an example: each empties it first.
PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NOW = 1_800_000_000_000_000
SECOND = 1_000_000


def flush(*bars: dict, stamp: int = NOW, whole: bool = False, bucket: int | None = None) -> Flush:
    of_days = bool(bars) and bars[0]["timeframe"].endswith("d")
    at = bucket_of(bars[0]["symbol"]) if bucket is None else bucket
    return Flush(at, stamp, of_days, whole, table(*bars))


def open_closes(store: LiveStore, symbol: str = "A") -> list[tuple]:
    return rows(store.open_bars([symbol]), "timeframe", "ts", "close")


def closes(store: LiveStore, symbol: str = "A") -> list[tuple]:
    return rows(store.closed_bars(symbol, "1m"), "ts", "close", "revision")


# Last prices.


def test_a_last_price_moves_only_forward(store):
    assert store.write_prices(prices(price("A", 1.0, T0, 5), price("B", 2.0, T0, 1))) == 2
    assert store.write_prices(prices(price("A", 9.0, T0, 4), price("B", 3.0, T0 + 1, 0))) == 1
    assert store.write_prices(prices(price("A", 9.0, T0 - 1, 9))) == 0
    assert rows(store.last_prices(), "symbol", "price", "ts", "seq") == [
        ("A", 1.0, T0, 5),
        ("B", 3.0, T0 + 1, 0),
    ]


@PROPERTY
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from("AB"),
                st.sampled_from([T0, T0 + 1]),
                st.sampled_from([-1, 0, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]),
            ),
            max_size=2,
            unique_by=lambda row: row[0],
        ),
        max_size=5,
    )
)
def test_the_last_price_is_the_greatest_by_time_and_sequence(server, writes):
    store = fresh(server)
    for write in writes:
        store.write_prices(prices(*(price(symbol, float(seq), ts, seq) for symbol, ts, seq in write)))
    every = [row for write in writes for row in write]
    expected = [max(row for row in every if row[0] == symbol) for symbol in sorted({row[0] for row in every})]
    assert rows(store.last_prices(), "symbol", "ts", "seq") == expected


def test_last_prices_come_in_the_order_asked_for(store):
    store.write_prices(prices(*(price(symbol) for symbol in ("B", "A", "Ü:1"))))
    assert rows(store.last_prices(["Ü:1", "none", "A"]), "symbol") == [("Ü:1",), ("A",)]
    assert store.last_prices([]).equals(PRICES.empty_table())


def test_more_prices_than_one_call_takes_are_all_written(store):
    many = prices(*(price(f"S{i:05d}", float(i)) for i in range(7_000)))
    assert store.write_prices(many) == 7_000
    assert store.last_prices().equals(many)


# Open bars.


def test_open_bars_of_a_symbol_take_the_place_of_what_was_there(store):
    store.write_open([flush(bar("A", close=1.0), bar("B", close=1.0), bucket=bucket_of("A"))])
    assert store.write_open([flush(bar("A", close=2.0), bar("A", "5m"), stamp=NOW + 1)]) == 2
    assert open_closes(store) == [("1m", T0, 2.0), ("5m", T0, 1.0)]
    assert store.connection.ask(lambda client: client.hlen(store.key("open", bucket_of("A")))) == 2


def test_a_whole_flush_leaves_nothing_of_before_in_its_bucket_only(store):
    store.write_open([flush(bar("A"), bar("A", "5m"), bucket=1), flush(bar("B"), bucket=2)])
    store.write_open([flush(bar("A", close=5.0), stamp=NOW + 1, whole=True, bucket=1)])
    assert rows(store.open_bars(), "symbol", "timeframe", "close") == [("A", "1m", 5.0), ("B", "1m", 1.0)]
    store.write_open([Flush(2, NOW + 1, False, True, table())])
    assert rows(store.open_bars(), "symbol") == [("A",)]


def test_minutes_and_days_are_flushed_apart(store):
    store.write_open([flush(bar("A", "1m"), bar("A", "1h")), flush(bar("A", "1d"), bar("A", "5d"))])
    assert store.write_open([flush(bar("A", "1m", close=2.0), stamp=NOW + 2, whole=True)]) == 1
    assert store.write_open([flush(bar("A", "1d", close=3.0), stamp=NOW + 1)]) == 1
    assert open_closes(store) == [("1d", T0, 3.0), ("1m", T0, 2.0)]
    assert store.write_open([flush(bar("A", "1d", close=9.0))]) == 0
    assert rows(store.latest_bars("A", "1d"), "close") == [(3.0,)]
    assert rows(store.latest_bars("A", "1m"), "close") == [(2.0,)]
    assert rows(store.open_bars(["A"], ["1d"]), "close") == [(3.0,)]


def test_after_a_restore_the_open_bars_are_those_of_the_job_though_they_are_older(store):
    lost = [
        flush(bar("A", ts=T0 + MINUTE, close=9.0, volume=900.0)),
        flush(bar("A", "5m", close=9.0), stamp=NOW + 1),
    ]
    store.write_open(lost)
    store.write_open([flush(bar("A", ts=T0, close=3.0, volume=30.0), stamp=NOW + 2, whole=True)])
    assert open_closes(store) == [("1m", T0, 3.0)]


def test_a_late_retry_of_an_older_flush_changes_nothing(store):
    older = flush(bar("A", close=1.0))
    store.write_open([older])
    store.write_open([flush(bar("A", close=2.0), stamp=NOW + 1)])
    assert store.write_open([older]) == 0
    assert open_closes(store) == [("1m", T0, 2.0)]


def test_a_flush_may_be_written_twice(store):
    twice = flush(bar("A", close=1.0))
    store.write_open([twice, twice])
    assert open_closes(store) == [("1m", T0, 1.0)]


def test_several_windows_of_a_timeframe_are_open_at_once(store):
    minutes = [bar("A", ts=T0 + at * MINUTE, close=float(at)) for at in (2, 0, 1)]
    store.write_open([flush(bar("A", "5m", close=9.0), *minutes)])
    assert open_closes(store) == [
        ("1m", T0, 0.0),
        ("1m", T0 + MINUTE, 1.0),
        ("1m", T0 + 2 * MINUTE, 2.0),
        ("5m", T0, 9.0),
    ]
    assert rows(store.latest_bars("A", "1m", limit=2), "close") == [(1.0,), (2.0,)]
    store.write_closed(table(closed("A", ts=T0 + MINUTE)), NOW)
    assert rows(store.latest_bars("A", "1m"), "close") == [(1.0,), (2.0,)]


def test_open_bars_are_found_by_symbol_and_timeframe(store):
    bars = [bar(symbol, timeframe) for symbol in ("A", "B:C", "Z") for timeframe in ("1m", "5m")]
    for at in range(3):
        store.write_open([flush(*bars[2 * at : 2 * at + 2], stamp=NOW + at)])
    every = [(row["symbol"], row["timeframe"]) for row in bars]
    asked = {
        (None, None): every,
        (("B:C", "A", "none"), None): every[:4],
        (None, ("5m", "9h")): every[1::2],
        (("Z", "A"), ("5m",)): [every[1], every[5]],
        ((), ("5m",)): [],
        (("A",), ()): [],
    }
    for (symbols, timeframes), expected in asked.items():
        assert rows(store.open_bars(symbols, timeframes), "symbol", "timeframe") == expected
    assert store.open_bars().schema.equals(BARS)


# Closed bars.


def test_closed_bars_are_kept_by_time_up_to_so_many(server):
    store = fresh(server, keep=3)
    for minute in (0, 2, 1, 4, 3):
        store.write_closed(table(closed("A", ts=T0 + minute * MINUTE, close=float(minute))), NOW)
    assert rows(store.closed_bars("A", "1m"), "close") == [(2.0,), (3.0,), (4.0,)]
    assert store.write_closed(table(closed("A", ts=T0)), NOW) == 0
    assert rows(store.closed_bars("A", "1m", limit=2), "close") == [(3.0,), (4.0,)]


def test_a_revision_takes_the_place_of_its_bar_and_an_older_one_does_not(store):
    bars = [closed("A", ts=T0 + minute * MINUTE) for minute in range(200)]
    store.write_closed(table(*bars), NOW)
    for minute in (0, 100, 199):
        assert store.write_closed(table({**bars[minute], "revision": 1, "close": 5.0}), NOW) == 1
        assert store.write_closed(table(bars[minute]), NOW) == 0
    found = rows(store.closed_bars("A", "1m"), "close", "revision")
    assert len(found) == 200
    assert [at for at, row in enumerate(found) if row == (5.0, 1)] == [0, 100, 199]


def test_what_a_restored_job_writes_later_wins_though_its_revision_is_lower(store):
    store.write_closed(table(closed("A", close=9.0, revision=2, final=True)), NOW)
    store.write_closed(table(closed("A", close=3.0, revision=0)), NOW + SECOND)
    assert closes(store) == [(T0, 3.0, 0)]


def test_a_final_bar_stays_before_one_of_its_revision_that_is_not(store):
    store.write_closed(table(closed("A", final=True)), NOW)
    assert store.write_closed(table(closed("A", final=False)), NOW) == 0
    assert rows(store.closed_bars("A", "1m"), "final") == [(True,)]


def test_the_better_one_of_a_bar_that_is_twice_in_a_table_is_written(store):
    assert store.write_closed(table(closed("A", revision=1, close=2.0), closed("A")), NOW) == 1
    assert closes(store) == [(T0, 2.0, 1)]


WRITES = st.lists(
    st.tuples(
        st.sampled_from([0, NOW, NOW + SECOND]),
        st.lists(
            st.builds(
                closed,
                st.sampled_from("AB"),
                ts=st.integers(0, 25).map(lambda minute: T0 + minute * MINUTE),
                close=st.integers(1, 99).map(float),
                revision=st.integers(0, 2),
                final=st.booleans(),
            ),
            min_size=1,
            max_size=30,
        ),
    ),
    max_size=6,
)


@PROPERTY
@given(WRITES, st.integers(1, 24))
def test_closed_bars_are_those_of_a_plain_loop(server, writes, keep):
    store = fresh(server, keep=keep)
    lists: dict[str, dict] = {"A": {}, "B": {}}
    for written, bars in writes:
        store.write_closed(table(*bars), written)
        for symbol, held in lists.items():
            best: dict = {}
            for row in sorted((row for row in bars if row["symbol"] == symbol), key=_rank):
                best[row["ts"]] = row
            # More than a list takes: the oldest of them do not even come.
            for ts in sorted(best)[-keep:]:
                rank = (written, *_rank(best[ts]))
                if ts not in held or rank >= held[ts][0]:
                    held[ts] = rank, best[ts]
            for ts in sorted(held)[:-keep]:
                del held[ts]
    for symbol, held in lists.items():
        expected = table(*(held[ts][1] for ts in sorted(held))).cast(BARS)
        assert store.closed_bars(symbol, "1m").equals(expected)


def _rank(row: dict) -> tuple:
    return row["revision"], row["final"]


def test_many_lists_in_one_table_each_get_their_bars(store):
    bars = [
        closed(f"S{i:04d}", "1m", T0 + minute * MINUTE, float(i)) for i in range(1_200) for minute in (1, 0)
    ]
    assert store.write_closed(table(*bars), NOW) == 2_400
    for i in (0, 499, 500, 1_199):
        expected = [(T0, float(i)), (T0 + MINUTE, float(i))]
        assert rows(store.closed_bars(f"S{i:04d}", "1m"), "ts", "close") == expected


def test_a_chart_ends_with_the_open_bar_unless_it_has_closed_meanwhile(store):
    store.write_open([flush(bar("A", ts=T0 + MINUTE, close=7.0))])
    assert rows(store.latest_bars("A", "1m"), "ts", "complete") == [(T0 + MINUTE, False)]
    store.write_closed(table(closed("A")), NOW)
    assert rows(store.latest_bars("A", "1m"), "ts", "complete") == [(T0, True), (T0 + MINUTE, False)]
    assert rows(store.latest_bars("A", "1m", limit=1), "ts") == [(T0 + MINUTE,)]
    store.write_closed(table(closed("A", ts=T0 + MINUTE)), NOW)
    assert rows(store.latest_bars("A", "1m"), "ts", "complete") == [(T0, True), (T0 + MINUTE, True)]


def test_a_symbol_without_bars_has_none(store):
    assert store.closed_bars("A", "1m").equals(BARS.empty_table())
    assert store.latest_bars("A", "1m").equals(BARS.empty_table())
    with pytest.raises(ValueError, match="1 or more"):
        store.closed_bars("A", "1m", limit=0)


# Filling again.


def test_a_store_is_filled_once_and_the_bars_of_the_stream_stay(store):
    store.write_closed(table(closed("A", ts=T0 + MINUTE, close=2.0)), NOW)
    lake = [
        table(closed("A", ts=T0, close=1.0), closed("A", ts=T0 + MINUTE, close=9.0, revision=7)),
        table(bar("A", ts=T0 + 2 * MINUTE)),
    ]
    assert not store.status().filled
    assert refill_closed(store, iter(lake), owner="one") == 1
    assert store.status().filled
    assert closes(store) == [(T0, 1.0, 0), (T0 + MINUTE, 2.0, 0)]
    assert refill_closed(store, _never(), owner="two") is None


def test_only_one_fills_at_a_time(store):
    other = again(store)

    def lake() -> Iterator[pa.Table]:
        assert refill_closed(other, _never(), owner="two") is None
        yield table(closed("A"))

    assert refill_closed(store, lake(), owner="one") == 1


def test_who_lost_the_claim_stops(store):
    def lake() -> Iterator[pa.Table]:
        yield table(closed("A"))
        store.connection.ask(lambda client: client.set(store.key("fill"), "two"))
        yield table(closed("B"))
        raise AssertionError("it went on")

    assert refill_closed(store, lake(), owner="one") is None
    assert not store.status().filled


def _never() -> Iterator[pa.Table]:
    raise AssertionError("the lake was read")
    yield


def test_an_emptied_store_is_noticed_and_can_be_filled_again(store):
    refill_closed(store, [table(closed("A"))], owner="one")
    before = store.status()
    store.connection.ask(lambda client: client.flushall())
    assert store.status().generation is None
    store.write_prices(prices(price("A")))
    after = store.status()
    assert after.marker != before.marker
    assert not after.filled
    assert refill_closed(store, [table(closed("A"))], owner="one") == 1


def test_a_store_that_is_emptied_while_it_is_filled_is_not_called_full(store):
    def lake() -> Iterator[pa.Table]:
        yield table(closed("A"))
        store.connection.ask(lambda client: client.flushall())

    assert refill_closed(store, lake(), owner="one") is None
    assert not store.status().filled


def test_a_restart_changes_the_marker_and_an_open_connection_goes_on(server):
    store = fresh(server)
    before = store.marker()
    server.kill()
    with pytest.raises(LiveStoreError, match="Redis does not answer"):
        store.marker()
    server.start()
    assert store.marker() != before


def test_looking_makes_no_store(store):
    assert store.status().generation is None
    assert store.last_prices().num_rows == store.open_bars().num_rows == 0
    assert store.connection.ask(lambda client: client.dbsize()) == 0


# What lies there.


def test_every_key_begins_with_the_prefix_in_braces(store):
    store.write_prices(prices(price("A")))
    store.write_open([flush(bar("A"))])
    store.write_closed(table(closed("A")), NOW)
    store.claim_fill("one", 10)
    names = store.connection.ask(lambda client: client.keys())
    expected = {"meta", "push", "last", f"open:{bucket_of('A')}", "stamps", "closed:1m:A", "fill"}
    assert {name.decode() for name in names} == {"{test}:" + name for name in expected}


def test_what_lies_there_can_be_read_without_us(store):
    store.write_prices(prices(price("A", 2.5, T0, 3)))
    store.write_open([flush(bar("A", close=4.5))])
    store.write_closed(table(closed("A", close=3.5)), NOW)
    client = store.connection.ask(lambda client: client)
    assert struct.unpack("<qqddB", client.hget("{test}:last", "A")) == (T0, 3, 2.5, 100.0, 0)
    now_open = struct.unpack("<qq6dqiHBIH", client.hget("{test}:open:" + str(bucket_of("A")), "A"))
    assert now_open[:6] == (T0, T0 + MINUTE, 1.5, 9.25, 0.5, 4.5)
    (last,) = client.lrange("{test}:closed:1m:A", -1, -1)
    assert struct.unpack("<qq6dqiHBIH", last)[5:] == (3.5, 100.0, 1.25, 7, 0, 1, 1, NOW // SECOND, 1)
    assert client.hgetall("{test}:meta").keys() == {b"generation", b"layout", b"buckets"}


def test_two_stores_share_a_server(store):
    other = LiveStore(store.url, "other", patience=NO_PATIENCE)
    store.write_prices(prices(price("A")))
    assert other.last_prices().num_rows == 0
    assert other.status().generation is None


def test_a_store_of_another_job_is_refused(store):
    store.write_prices(prices(price("A")))
    other = LiveStore(store.url, "test", buckets=16, patience=NO_PATIENCE)
    for use in (other.status, other.marker, lambda: other.write_prices(prices(price("A")))):
        with pytest.raises(LiveStoreError, match=r"layout 3 and 256 buckets.*another prefix"):
            use()


def test_scripts_that_redis_has_forgotten_are_sent_again(store):
    store.write_prices(prices(price("A")))
    store.connection.ask(lambda client: client.script_flush())
    assert store.write_prices(prices(price("A", ts=T0 + 1))) == 1


def test_a_store_travels_to_workers_before_it_is_used(store):
    there = pickle.loads(pickle.dumps(again(store)))  # noqa: S301  # our own bytes
    there.write_prices(prices(price("A")))
    assert store.last_prices().num_rows == 1


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": 70_000}, {"buckets": 0}, {"backlog": 0}])
def test_a_store_has_sound_sizes(wrong):
    with pytest.raises(ValueError, match="keep takes 1 to 65535"):
        LiveStore("redis://localhost", **wrong)

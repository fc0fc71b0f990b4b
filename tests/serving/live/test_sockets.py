"""The protocol of ``/stocks``, with a real server, a real Redis and a plain client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibflow.serving import protocol
from fibflow.serving.app import create_app
from fibflow.serving.keys.store import id_of
from fibflow.serving.live import sockets
from fibflow.serving.live.fragments import BAR_MEMBERS
from fibflow.tests.io.livestores import MINUTE, T0, bar, closed, price, prices, table
from fibflow.tests.serving.conftest import NOW as WHEN
from fibflow.tests.serving.conftest import Keyed, make_keyed, now
from fibflow.tests.serving.live.opened import write_open
from fibflow.tests.serving.live.wires import Message, listening, wait_for, wire
from fibflow.tests.serving.servers import running

NOW = 1_800_000_000_000_000


def own(event: str, row: dict) -> dict:
    """A bar as our own channels show it."""
    values = {name: row[name] // 1_000 if name in ("ts", "end") else row[name] for name in BAR_MEMBERS}
    return {"ev": event, **values}


# The vendor's protocol.


def test_the_server_speaks_first_and_in_arrays(url):
    with wire(url) as client:
        assert client.frame() == [
            {"ev": "status", "status": "connected", "message": "Connected Successfully"}
        ]
        client.say("auth", "any key")
        assert client.frame() == [{"ev": "status", "status": "auth_success", "message": "authenticated"}]
        client.say("subscribe", "AM.AAPL,T.AAPL")
        told = client.statuses(2)
        assert told == [
            {"ev": "status", "status": "success", "message": "subscribed to: AM.AAPL"},
            {"ev": "status", "status": "success", "message": "subscribed to: T.AAPL"},
        ]
        client.say("unsubscribe", "T.AAPL")
        assert client.status() == ("success", "unsubscribed to: T.AAPL")


def test_a_closed_minute_is_an_am(url, store):
    with listening(url, "AM.AAPL") as client:
        write_open(
            store, bar("AAPL", "1d", T0 - MINUTE, end=T0 + 600 * MINUTE, open=7.5, volume=9_000.0, vwap=8.5)
        )
        store.write_closed(table(closed("AAPL", close=3.25), closed("MSFT"), closed("AAPL", "5m")), NOW)
        (told,) = client.take(1)
        assert told == {
            **{"ev": "AM", "sym": "AAPL", "v": 100, "av": 9000, "op": 7.5, "vw": 1.25},
            **{"o": 1.5, "c": 3.25, "h": 9.25, "l": 0.5, "a": 8.5, "z": 14},
            **{"s": T0 // 1_000, "e": T0 // 1_000 + 60_000},
        }


def test_the_day_is_known_from_before_the_server_came(serve, store):
    write_open(store, bar("AAPL", "1d", T0 - MINUTE, end=T0 + 600 * MINUTE, volume=9_000.0))
    with listening(serve(), "AM.*") as client:
        store.write_closed(table(closed("AAPL"), closed("MSFT")), NOW)
        assert [(one["sym"], one.get("av")) for one in client.take(2)] == [("AAPL", 9000), ("MSFT", None)]


def test_a_late_revision_is_sent_again_for_the_same_minute(url, store):
    with listening(url, "AM.AAPL") as client:
        store.write_closed(table(closed("AAPL", close=1.5)), NOW)
        store.write_closed(table(closed("AAPL", close=2.5, revision=1)), NOW + 1_000_000)
        assert [(one["s"], one["c"]) for one in client.take(2)] == [(T0 // 1_000, 1.5), (T0 // 1_000, 2.5)]


def test_a_last_price_that_a_trade_set_is_a_trade(url, store):
    with listening(url, "T.*") as client:
        store.write_prices(
            prices(price("A", 2.5, T0, 3), price("B", source="minute"), price("C", 4.0, T0, 5))
        )
        assert client.take(2) == [
            {"ev": "T", "sym": "A", "p": 2.5, "s": 100, "t": T0 // 1_000, "q": 3},
            {"ev": "T", "sym": "C", "p": 4, "s": 100, "t": T0 // 1_000, "q": 5},
        ]


def test_who_follows_all_and_one_gets_each_once(url, store):
    with listening(url, "AM.*", "AM.A", "P.A") as client:
        store.write_closed(table(closed("A"), closed("B")), NOW)
        store.write_prices(prices(price("A")))
        told = client.until(lambda found: any(one["ev"] == "P" for one in found))
        assert [(one["ev"], one.get("sym")) for one in told] == [("AM", "A"), ("AM", "B"), ("P", None)]


def test_what_is_not_followed_any_more_is_not_sent(url, store):
    with listening(url, "AM.A", "AM.B") as client:
        client.say("unsubscribe", "AM.A")
        assert client.status() == ("success", "unsubscribed to: AM.A")
        store.write_closed(table(closed("A"), closed("B")), NOW)
        assert [one["sym"] for one in client.take(1)] == ["B"]
        client.say("unsubscribe", "AM.B,AM.never")
        assert len(client.statuses(2)) == 2
        client.subscribe("P.C")
        store.write_closed(table(closed("B", ts=T0 + MINUTE)), NOW)
        store.write_prices(prices(price("C")))
        assert [one["ev"] for one in client.take(1)] == ["P"]


def test_frames_stay_small_and_hold_all(url, store):
    many = [closed(f"SYMBOL{place:05}") for place in range(5_350)]
    with listening(url, "AM.*", "B.1m.*") as client:
        store.write_closed(table(*many), NOW)
        sizes, told = list[tuple[int, int]](), list[Message]()
        while len(told) < 2 * len(many):
            text = client.socket.recv(timeout=20)
            sizes.append((len(text), len(json.loads(text))))
            told += json.loads(text)
        assert {one["sym"] for one in told if one["ev"] == "AM"} == {row["symbol"] for row in many}
        assert {one["symbol"] for one in told if one["ev"] == "B"} == {row["symbol"] for row in many}
        assert max(size for size, _ in sizes) <= 256 << 10
        assert max(count for _, count in sizes) <= 2_000


def test_each_client_gets_what_it_follows(url, store):
    with (
        listening(url, "AM.A") as one,
        listening(url, "AM.B", "AM.C") as two,
        listening(url, "AM.*") as three,
    ):
        store.write_closed(table(closed("A"), closed("B"), closed("C"), closed("D")), NOW)
        assert [told["sym"] for told in one.take(1)] == ["A"]
        assert sorted(told["sym"] for told in two.take(2)) == ["B", "C"]
        assert sorted(told["sym"] for told in three.take(4)) == ["A", "B", "C", "D"]


# Our own channels.


def test_closed_bars_of_any_timeframe_with_their_revision(url, store):
    with listening(url, "B.5m.A", "B.3d.*") as client:
        bars = [closed("A", "5m", revision=3, final=True), closed("B", "3d"), closed("B", "5m")]
        store.write_closed(table(*bars), NOW)
        told = sorted(client.take(2), key=lambda one: one["symbol"])
        assert told == [own("B", bars[0]), own("B", bars[1])]


def test_open_bars_as_they_grow(url, store):
    with listening(url, "O.1m.A") as client:
        for tick in range(3):
            write_open(store, bar("A", close=1.0 + tick), bar("A", "5m"), stamp=NOW + tick)
        assert [one["close"] for one in client.take(3)] == [1, 2, 3]


def test_prices_of_any_source(url, store):
    with listening(url, "P.A") as client:
        store.write_prices(prices(price("A", 2.5, T0, 9, "minute"), price("B")))
        assert client.take(1) == [
            {
                "ev": "P",
                "symbol": "A",
                "price": 2.5,
                "size": 100,
                "ts": T0 // 1_000,
                "seq": 9,
                "source": "minute",
            }
        ]


def test_a_subscription_begins_with_what_is_there(url, store):
    closed_ones = [closed("A", ts=T0), closed("A", ts=T0 + MINUTE), closed("B", ts=T0)]
    open_one = bar("A", ts=T0 + 2 * MINUTE)
    store.write_closed(table(*closed_ones), NOW)
    write_open(store, open_one, bar("A", "5m"))
    store.write_prices(prices(price("A", 2.5), price("B", 3.5)))
    with listening(url, "O.1m.A", "B.1m.A", "P.A", "AM.A") as client:
        told = client.take(3)
        assert told[:2] == [own("B", closed_ones[1]), own("O", open_one)]
        assert (told[2]["ev"], told[2]["price"]) == ("P", 2.5)
        write_open(store, bar("A", ts=T0 + 2 * MINUTE, close=9.0), stamp=NOW + 1)
        assert client.take(1) == [own("O", bar("A", ts=T0 + 2 * MINUTE, close=9.0))]


def test_of_all_symbols_too(url, store):
    store.write_closed(table(closed("A", ts=T0), closed("A", ts=T0 + MINUTE), closed("B", ts=T0)), NOW)
    write_open(store, bar("B", ts=T0 + MINUTE))
    store.write_prices(prices(price("A"), price("B")))
    with listening(url, "B.1m.*", "O.1m.*", "P.*") as client:
        told = client.take(5)
        assert sorted((one["ev"], one["symbol"], one["ts"]) for one in told) == [
            ("B", "A", (T0 + MINUTE) // 1_000),
            ("B", "B", T0 // 1_000),
            ("O", "B", (T0 + MINUTE) // 1_000),
            ("P", "A", T0 // 1_000),
            ("P", "B", T0 // 1_000),
        ]


def test_the_snapshot_and_what_follows_miss_nothing(url, store):
    """Prices move while clients come: each ends with the last one, however the two meet."""
    for place in range(0, 40, 2):
        store.write_prices(prices(price("A", 1.0 + place, T0 + place)))
        with listening(url, "P.A") as client:
            store.write_prices(prices(price("A", 2.0 + place, T0 + 1 + place)))
            told = list[Message]()
            while not told or told[-1]["price"] != 2 + place:
                told += client.frame()
            found = [one["price"] for one in told]
            # The second may be in the snapshot, and come after it too.
            assert found in ([1 + place, 2 + place], [2 + place], [2 + place, 2 + place])


def test_nothing_comes_after_the_snapshot_that_is_older(url, store):
    """However far the follower is behind when a client comes."""
    with listening(url, "P.*", "B.1m.*") as busy:
        for place in range(0, 200, 2):
            store.write_prices(prices(*(price(f"S{one}", 1.0 + place, T0 + place) for one in range(300))))
            if place % 20 == 0:
                with listening(url, "P.S1", "T.S1") as client:
                    store.write_prices(prices(price("S1", 2.0 + place, T0 + place + 1)))
                    found = list[Message]()
                    while not found or found[-1].get("price") != 2 + place:
                        found += [one for one in client.frame() if one["ev"] == "P"]
                    told = [one["price"] for one in found]
                    assert told[0] >= 1 + place
                    assert told == sorted(told)
        busy.until(lambda read: read[-1]["price"] >= 199 if read else False)


# Refusals.


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("A.AAPL", "no bars of seconds"),
        ("Q.*", "there is no Q here"),
        ("nonsense", "unknown channel"),
        ("B.7m.AAPL", "does not divide a day"),
    ],
)
def test_what_is_not_served_is_an_error_and_the_rest_is_taken(url, topic, says):
    with wire(url) as client:
        client.auth()
        wrong, right = client.subscribe(topic, "AM.AAPL")
        assert wrong.startswith(f"error: {topic}: ")
        assert says in wrong
        assert right == "success: subscribed to: AM.AAPL"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"auth"',
        "{}",
        '{"action":7}',
        '{"action":"subscribe","params":7}',
        '{"action":"subscribe","params":["AM.A"]}',
        b"\xff\x00",
        b'{"action":"subscribe","params":"AM.\xff"}',
        "[" * 3_000,
        json.dumps({"action": "subscribe", "params": "AM.A," * 20_000}),
        json.dumps({"action": "dance", "params": ""}),
        json.dumps({"action": "subscribe", "params": " , "}),
    ],
)
def test_what_cannot_be_read_is_an_error_and_no_crash(url, text):
    with wire(url) as client:
        client.auth()
        client.send(text)
        assert client.status()[0] == "error"
        assert client.subscribe("AM.A") == ["success: subscribed to: AM.A"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=20) | st.binary(max_size=20), max_size=5))
def test_whatever_is_said_the_server_goes_on(url, said):
    with wire(url) as client:
        client.auth()
        for text in said:
            client.send(text)
        client.say("subscribe", "AM.LAST")
        told = client.until(lambda found: bool(found) and found[-1]["message"] == "subscribed to: AM.LAST")
        assert all(one["ev"] == "status" for one in told)


def test_nothing_is_done_before_auth(url):
    with wire(url) as client:
        client.frame()
        client.say("subscribe", "AM.A")
        kind, message = client.status()
        assert kind == "error"
        assert '"action":"auth"' in message
        client.say("auth", "key")
        assert client.status() == ("auth_success", "authenticated")


def test_who_says_nothing_is_sent_away(serve, monkeypatch):
    monkeypatch.setattr(sockets, "AUTH_S", 0.05)
    with wire(serve()) as client:
        client.frame()
        assert client.status() == ("auth_timeout", "No authentication request received.")
        assert client.closed() == 1008


def test_who_says_too_much_is_sent_away(serve, store, monkeypatch):
    monkeypatch.setattr(sockets, "A_SECOND", 0)
    with listening(serve(), "AM.A") as client:
        told = list[Message]()
        while not told or told[-1]["status"] == "success":
            client.say("subscribe", "AM.A")
            told += client.frame()
        assert told[-1]["message"].startswith("too many messages")
        assert client.closed() == 1008


def test_too_many_topics_are_refused(serve, monkeypatch):
    monkeypatch.setattr(sockets, "MOST_TOPICS", 3)
    with wire(serve()) as client:
        client.auth()
        assert len(client.subscribe("AM.A", "AM.B")) == 2
        client.say("subscribe", "AM.C,AM.D")
        kind, message = client.status()
        assert (kind, "more than 3 topics" in message) == ("error", True)
        assert client.subscribe("AM.C") == ["success: subscribed to: AM.C"]


def test_without_a_live_store_topics_are_refused_with_a_reason(serve):
    with wire(serve(redis=None)) as client:
        assert client.auth() == ("auth_success", "authenticated")
        (told,) = client.subscribe("AM.AAPL")
        assert told == "error: AM.AAPL: there is no live store here: start the server with --redis"
        client.say("unsubscribe", "AM.AAPL")
        assert client.status()[0] == "success"


def test_a_connection_may_be_silent_for_as_long_as_it_likes(monkeypatch, serve, store):
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    with listening(serve(), "AM.A") as client:
        with pytest.raises(TimeoutError):
            client.socket.recv(timeout=0.2)
        store.write_closed(table(closed("A")), NOW)
        told = client.until(lambda found: any("sym" in one for one in found))
        assert [one["sym"] for one in told if "sym" in one] == ["A"]


# Keys.


@pytest.fixture
def keyed(open_settings, server, store, tmp_path) -> Iterator[tuple[str, Keyed]]:
    store.marker()
    live = replace(open_settings, redis=server.url, prefix=store.prefix)
    made = make_keyed(live, tmp_path / "keys.sqlite")
    with running(made.app) as url:
        yield url, made
    made.store.close()


@pytest.mark.parametrize("name", ["none", "unknown", "revoked", "expired", "history"])
def test_a_key_that_may_not_is_refused_by_a_message(keyed, name):
    url, made = keyed
    key = {"none": "", "unknown": "ff_nothing"}.get(name) or made.keys.get(name, "")
    with wire(url) as client:
        kind, message = client.auth(key)
        assert kind == "auth_failed"
        assert message
        assert not key or key not in message
        assert client.closed() == 1008


def test_a_key_for_live_data_is_let_in(keyed, store):
    url, made = keyed
    with listening(url, "AM.A", key=made.keys["live"]) as client:
        store.write_closed(table(closed("A")), NOW)
        assert [told["sym"] for told in client.take(1)] == ["A"]


def test_a_key_that_asks_too_often_is_to_come_again(keyed):
    url, made = keyed
    for _ in range(2):
        with wire(url) as client:
            assert client.auth(made.keys["slow"])[0] == "auth_success"
    with wire(url) as client:
        assert client.auth(made.keys["slow"])[0] == "error"
        assert client.closed() == 1013


def test_a_key_has_so_many_connections(keyed, monkeypatch):
    monkeypatch.setattr(sockets, "MOST_OF_A_KEY", 2)
    url, made = keyed
    with wire(url) as one, wire(url) as two, wire(url) as other, wire(url) as third:
        for client in (one, two):
            assert client.auth(made.keys["all"])[0] == "auth_success"
        assert other.auth(made.keys["live"])[0] == "auth_success"
        assert third.auth(made.keys["all"])[0] == "auth_success"
        assert third.status()[0] == "max_connections"
        assert third.closed() == 1008
        assert made.app.state.sockets.of_key.total() == 3
        one.socket.close()
        wait_for(lambda: made.app.state.sockets.of_key.total() == 2)
        with wire(url) as again:
            assert again.auth(made.keys["all"])[0] == "auth_success"
            assert again.subscribe("AM.A") == ["success: subscribed to: AM.A"]


def test_a_key_that_is_revoked_loses_its_connections(keyed, monkeypatch):
    monkeypatch.setattr(sockets, "LOOK_S", 0.01)
    made = keyed[1]
    app = create_app(made.app.state.services.settings, now)
    with running(app) as url, wire(url) as client, wire(url) as kept:
        assert client.auth(made.keys["all"])[0] == "auth_success"
        assert kept.auth(made.keys["live"])[0] == "auth_success"
        made.store.revoke(id_of(made.keys["all"]), WHEN)
        assert client.status() == ("force_disconnect", "this key is not valid any more")
        assert client.closed() == 1008
        assert kept.subscribe("AM.A") == ["success: subscribed to: AM.A"]


# The end.


def test_a_server_that_ends_closes_with_1012(open_settings, server, store):
    app = create_app(replace(open_settings, redis=server.url, prefix=store.prefix), now)
    with ExitStack() as connections:
        with running(app) as url:
            following = connections.enter_context(listening(url, "AM.*"))
            waiting = connections.enter_context(wire(url))
            waiting.frame()
        assert following.closed() == 1012
        assert waiting.closed() == 1012
    assert len(app.state.sockets) == 0

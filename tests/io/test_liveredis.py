from __future__ import annotations

import pytest

from fibflow.io.liveredis import Connection, LiveStoreError, Patience
from fibflow.io.livestore import LiveStore
from fibflow.tests.io.livestores import NO_PATIENCE, fresh, price, prices


class Clock:
    """Time that passes only in sleep; something may happen in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.events: dict[int, object] = {}

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        happens = self.events.get(len(self.waits))
        if callable(happens):
            happens()

    def patience(self, bound_s: float) -> Patience:
        return Patience(bound_s, first_s=1, most_s=4, sleep=self.sleep, clock=lambda: self.now)


def test_a_write_waits_until_redis_is_back(server):
    clock = Clock()
    with fresh(server, patience=clock.patience(60)) as store:
        store.write_prices(prices(price("A")))
        server.kill()
        clock.events[3] = server.start
        assert store.write_prices(prices(price("A"))) == 1
        assert clock.waits == [1, 2, 4]
        assert store.connection.errors == 3
        assert store.last_prices().num_rows == 1


def test_who_has_waited_long_enough_is_told_what_to_do(server):
    clock = Clock()
    with fresh(server, patience=clock.patience(10)) as store:
        server.kill()
        try:
            with pytest.raises(
                LiveStoreError, match=r"Redis does not answer \(.*\): start it, or set REDIS_URL"
            ):
                store.marker()
        finally:
            server.start()
        assert clock.waits == [1, 2, 4]


def test_a_full_redis_is_no_matter_of_waiting(server):
    with fresh(server) as store:
        server.client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(LiveStoreError, match="raise its maxmemory"):
                store.write_prices(prices(price("A")))
        finally:
            server.client.config_set("maxmemory", "256mb")


def test_a_wrong_password_is_no_matter_of_waiting_and_not_shown(server):
    clock = Clock()
    server.client.config_set("requirepass", "right")
    try:
        for user in ("", "me:secret@", ":secret@"):
            url = server.url.replace("redis://", f"redis://{user}")
            with (
                LiveStore(url, patience=clock.patience(60)) as store,
                pytest.raises(LiveStoreError, match="user or password") as told,
            ):
                store.status()
            assert "secret" not in str(told.value) + repr(store)
        assert clock.waits == []
    finally:
        server.client.execute_command("AUTH", "right")
        server.client.config_set("requirepass", "")


def test_a_password_comes_from_the_environment_unless_the_address_has_one(server, monkeypatch):
    server.client.config_set("requirepass", "right")
    try:
        for variable, address, said in (
            ("right", None, ""),
            ("wrong", "right", ""),
            ("wrong", None, "REDIS_PASSWORD"),
            ("", None, "REDIS_PASSWORD"),
        ):
            monkeypatch.setenv("REDIS_PASSWORD", variable)
            url = server.url.replace("redis://", f"redis://:{address}@") if address else server.url
            with LiveStore(url, patience=NO_PATIENCE) as store:
                if not said:
                    store.status()
                    continue
                with pytest.raises(LiveStoreError, match=said) as told:
                    store.status()
                assert "wrong" not in str(told.value).replace("wrong number", "")
    finally:
        server.client.execute_command("AUTH", "right")
        server.client.config_set("requirepass", "")


def test_what_redis_refuses_is_said_in_one_line(server):
    with fresh(server) as store:
        server.client.set(store.key("meta"), "not a hash")
        with pytest.raises(LiveStoreError, match=r"^Redis refuses: .*WRONGTYPE.*$"):
            store.marker()


def test_an_address_that_is_none_is_refused():
    # Python would show what it takes for the port.
    for url in ("http://localhost", "redis://:hush/1@localhost"):
        with pytest.raises(LiveStoreError, match="REDIS_URL is no address of Redis") as told:
            Connection(url, 1.0, NO_PATIENCE).ask(lambda client: client.ping())
        assert "hush" not in str(told.value)

"""Addresses of Redis and their passwords."""

import pickle

import pytest
import redis

from fibflow.io.livestore import LiveStore
from fibflow.io.redisaddress import split_password, without_password

SPLIT = [
    ("redis://localhost:6379/0", "redis://localhost:6379/0", None),
    ("rediss://ada@h/1?socket_timeout=3", "rediss://ada@h/1?socket_timeout=3", None),
    ("rediss://:hush@h:6379/0", "rediss://h:6379/0", "hush"),
    ("rediss://ada:h%40u:sh@h:6379", "rediss://ada@h:6379", "h@u:sh"),
    ("redis://ada:hu@sh@h", "redis://ada@h", "hu@sh"),
    ("redis://h/0?password=hush&db=3", "redis://h/0?db=3", "hush"),
    ("redis://ada:hush@h/0?db=3&password=other", "redis://ada@h/0?db=3", "hush"),
    ("unix://:hush@/run/redis.sock?db=2", "unix:///run/redis.sock?db=2", "hush"),
]


@pytest.mark.parametrize(("url", "rest", "password"), SPLIT)
def test_an_address_and_its_password(url, rest, password):
    assert split_password(url) == (rest, password)
    # Redis' own reader finds the same password, and the rest as it was.
    theirs, without = (redis.connection.parse_url(each) for each in (url, rest))
    assert theirs.get("password") == password
    assert without == {name: value for name, value in theirs.items() if name != "password"}


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("--redis=rediss://:hush@h/0", "--redis=rediss://h/0"),
        ("REDISS://:hush@h/0", "rediss://h/0"),
        ("redis://:hush@[h", "redis:"),
        ("--redis", "--redis"),
        ("kinesis://ticks?start=LATEST", "kinesis://ticks?start=LATEST"),
        ("--note=see redis://:x@h", "--note=see redis://:x@h"),
    ],
)
def test_arguments_of_a_command_line(argument, kept):
    assert without_password(argument) == kept


def test_no_address_is_told_without_showing_it():
    with pytest.raises(ValueError, match=r"^REDIS_URL is no address of Redis: write redis://") as told:
        split_password("redis://:hush@[h")
    assert told.value.__suppress_context__
    assert "hush" not in str(told.value)


def test_a_store_is_pickled_without_its_password():
    made = LiveStore("rediss://ada:hush@h/0", prefix="p")
    pickled = pickle.dumps(made)
    assert b"hush" not in pickled
    again = pickle.loads(pickled)  # noqa: S301 - our own
    assert (again.url, again.connection.url, again.prefix) == ("rediss://ada@h/0", "rediss://ada@h/0", "p")
    assert made.url == made.connection.url == "rediss://ada:hush@h/0"

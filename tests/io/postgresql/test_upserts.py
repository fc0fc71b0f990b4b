"""Bulk upserts against an oracle, and beside each other."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.postgresql import session
from fibflow.io.postgresql.ohlcv import RAW_OHLCV, upsert_ohlcv
from fibflow.io.postgresql.session import PostgresError, connect
from fibflow.io.postgresql.upserts import BadRows, Upserted, ordered, upsert
from fibflow.tests.io.postgresql.databases import bars, closes, execute, select, waits

KNOWN = datetime(2024, 6, 1, tzinfo=UTC)
EARLIER, LATER = KNOWN - timedelta(days=1), KNOWN + timedelta(days=1)

Rows = list[tuple[str, int, float | None]]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


class Oracle:
    """Rows by key, one after the other."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], tuple[float | None, int, int]] = {}

    def upsert(self, rows: Rows, known: int) -> Upserted:
        counts = dict.fromkeys(("new", "changed", "unchanged", "outdated"), 0)
        for key, value in {(symbol, day): value for symbol, day, value in rows}.items():
            stored = self.rows.get(key)
            if stored is None:
                counts["new"] += 1
                self.rows[key] = value, known, 0
            elif stored[0] == value:
                counts["unchanged"] += 1
            elif stored[1] > known:
                counts["outdated"] += 1
            else:
                counts["changed"] += 1
                self.rows[key] = value, known, stored[2] + 1
        return Upserted(**counts)


STEPS = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.sampled_from(["A", "B", "Ä", "a"]),
                st.integers(0, 3),
                st.sampled_from([None, 0.5, 1.0, 2.0]),
            ),
            max_size=10,
        ),
        st.integers(0, 3),
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(STEPS)
def test_any_calls_leave_and_tell_what_the_oracle_does(server_connection, steps):
    oracle = Oracle()
    for rows, known in steps:
        found = upsert_ohlcv(server_connection, bars(*rows), "1d", known=KNOWN + timedelta(days=known))
        assert found == oracle.upsert(rows, known)
    with server_connection.cursor() as cursor:
        cursor.execute(
            "SELECT symbol, extract(day FROM timestamp)::int - 2, close, extract(day FROM known)::int - 1, "
            "revision FROM raw_ohlcv"
        )
        stored = {(symbol, day): tuple(rest) for symbol, day, *rest in cursor.fetchall()}
    server_connection.rollback()
    assert stored == oracle.rows


@pytest.fixture(scope="module")
def server_connection(server):
    with closing(connect(server.make("migrated"))) as made:
        yield made


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["B", "A", "é", "z"]), st.integers(0, 3), st.floats(0, 9))))
def test_rows_are_ordered_by_key_and_the_last_of_a_key_stays(rows):
    table = bars(*rows).rename_columns(["symbol", "timestamp", "open", "high", "low", "close", "volume"])
    found = ordered(table, RAW_OHLCV)
    kept = {(symbol.encode(), day): value for symbol, day, value in rows}
    keys = zip(found["symbol"].to_pylist(), found["timestamp"].to_pylist(), strict=True)
    expected = sorted(kept)
    assert [str(symbol).encode() for symbol, _ in keys] == [symbol for symbol, _ in expected]
    assert found["close"].to_pylist() == [kept[key] for key in expected]


def test_twice_is_as_once(url):
    rows = bars(*((f"S{n % 50}", n // 50, n / 7) for n in range(5000)))
    assert upsert_ohlcv(url, rows, "1d") == Upserted(new=5000)
    before = select(url, "SELECT *, xmin FROM raw_ohlcv ORDER BY symbol, timestamp")
    assert upsert_ohlcv(url, rows, "1d") == Upserted(unchanged=5000)
    # Not one row was written again, or even locked.
    assert select(url, "SELECT *, xmin FROM raw_ohlcv ORDER BY symbol, timestamp") == before


def test_a_row_without_a_symbol_or_time_is_refused_and_nothing_is_kept(url):
    for rows in (bars(("A", 0, 1.0), ("", 1, 1.0)), bars(("A", 0, 1.0), (None, 1, 1.0))):
        with pytest.raises(BadRows, match=r"row 2 .* no symbol"):
            upsert_ohlcv(url, rows, "1d")
    timeless = bars(("A", 0, 1.0)).set_column(1, "ts", pa.array([None], pa.timestamp("us", "UTC")))
    with pytest.raises(BadRows, match=r"row 1 .* no timestamp"):
        upsert_ohlcv(url, timeless, "1d")
    with pytest.raises(PostgresError, match="refuses: invalid byte sequence"):
        upsert_ohlcv(url, bars(("A", 0, 1.0), ("B\0", 0, 1.0)), "1d")
    assert closes(url) == {}


def test_in_a_transaction_of_the_callers_nothing_is_kept_without_its_commit(url):
    with closing(connect(url)) as connection:
        assert upsert_ohlcv(connection, bars(("A", 0, 1.0)), "1d").new == 1
        assert upsert_ohlcv(connection, bars(("A", 0, 2.0)), "1d").changed == 1
        assert closes(url) == {}
        connection.commit()
        assert closes(url) == {("A", 0): 2.0}


def test_others_are_removed_where_the_rows_are_all_there_are_but_not_what_is_known_later(url):
    upsert_ohlcv(url, bars(("A", 0, 1.0), ("B", 0, 1.0)), "1d", known=KNOWN)
    upsert_ohlcv(url, bars(("C", 0, 1.0)), "1d", known=LATER)
    upsert_ohlcv(url, bars(("B", 0, 1.0)), "5m", known=KNOWN)
    rows = bars(("A", 0, 5.0)).rename_columns(
        ["symbol", "timestamp", "open", "high", "low", "close", "volume"]
    )
    with closing(connect(url)) as connection:
        done = upsert(connection, RAW_OHLCV, rows, KNOWN, {"interval": "1d"}, whole=True)
        connection.commit()
    assert done == Upserted(changed=1, gone=1)
    assert closes(url) == {("A", 0): 5.0, ("C", 0): 1.0}
    assert closes(url, "5m") == {("B", 0): 1.0}


# Writers at once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "known", "close", "expected"),
    [
        (1.0, EARLIER, 2.0, Upserted(outdated=1)),
        (1.0, LATER, 2.0, Upserted(changed=1)),
        (1.0, EARLIER, 1.0, Upserted(unchanged=1)),
        (1.0, LATER, 1.0, Upserted(unchanged=1)),
    ],
)
def test_a_row_that_another_is_about_to_commit_is_waited_for_and_judged(url, stored, known, close, expected):
    with ThreadPoolExecutor(1) as pool, closing(connect(url)) as first:
        upsert_ohlcv(first, bars(("A", 0, stored)), "1d", known=KNOWN)
        second = pool.submit(upsert_ohlcv, url, bars(("A", 0, close)), "1d", known=known)
        until(lambda: waits(url))
        first.commit()
        assert second.result(timeout=60) == expected
    assert closes(url) == {("A", 0): close if expected.changed else stored}


def test_writers_of_the_same_rows_in_other_orders_end_and_the_last_to_know_wins(url, monkeypatch):
    # Not by trying again: none is ever ended for another.
    monkeypatch.setattr(session, "_ATTEMPTS", 1)
    keys = [(f"S{n:02}", day) for n in range(40) for day in range(10)]

    def write(number: int) -> None:
        mine = random.Random(number).sample(keys, 300)
        upsert_ohlcv(
            url, bars(*((*key, float(number)) for key in mine)), "1d", known=KNOWN + timedelta(number)
        )

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, random.Random(1).sample(range(36), 36)))
    expected = {}
    for number in range(36):
        expected.update(dict.fromkeys(random.Random(number).sample(keys, 300), float(number)))
    assert closes(url) == expected


def test_a_transaction_that_the_server_ends_for_another_is_done_again(url):
    upsert_ohlcv(url, bars(("A", 0, 0.0), ("B", 0, 0.0)), "1d", known=EARLIER)
    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        # The other takes its locks the wrong way round, and waits longer before it looks for a deadlock.
        cursor.execute("SET deadlock_timeout = '60s'")
        cursor.execute("UPDATE raw_ohlcv SET close = 7 WHERE symbol = 'B'")
        ours = pool.submit(upsert_ohlcv, url, bars(("A", 0, 1.0), ("B", 0, 1.0)), "1d", known=KNOWN)
        until(lambda: waits(url))
        cursor.execute("UPDATE raw_ohlcv SET close = 7 WHERE symbol = 'A'")
        other.commit()
        assert ours.result(timeout=60) == Upserted(changed=2)
    assert closes(url) == {("A", 0): 1.0, ("B", 0): 1.0}


WRITER = """
import sys
from fibflow.io.postgresql.ohlcv import upsert_ohlcv
from fibflow.tests.io.postgresql.databases import bars
from fibflow.tests.io.postgresql.test_upserts import ROWS
upsert_ohlcv(sys.argv[1], bars(*ROWS), "1d")
"""
ROWS = [(f"S{n % 100:03}", n // 100, 1.0) for n in range(2000)]


def test_a_writer_that_is_killed_leaves_nothing_and_the_next_one_all(url):
    with closing(psycopg2.connect(url)) as holder, holder.cursor() as cursor:
        # It comes as far as the first row that another holds.
        cursor.execute(
            "INSERT INTO raw_ohlcv (symbol, timestamp, interval) VALUES ('S050', '2024-01-02', '1d')"
        )
        killed = subprocess.Popen([sys.executable, "-P", "-c", WRITER, url], stdout=subprocess.PIPE)
        until(lambda: waits(url))
        killed.kill()
        killed.communicate()
        holder.rollback()
    until(lambda: not waits(url))
    assert select(url, "SELECT count(*) FROM raw_ohlcv") == [(0,)]
    assert upsert_ohlcv(url, bars(*ROWS), "1d") == Upserted(new=2000)


def test_what_is_staged_does_not_stay(url):
    upsert_ohlcv(url, bars(("A", 0, 1.0)), "1d")
    with closing(connect(url)) as connection:
        upsert_ohlcv(connection, bars(("A", 0, 2.0)), "1d")
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'fibflow_staging%'")
            assert cursor.fetchone() == (0,)
    execute(url, "VACUUM raw_ohlcv")

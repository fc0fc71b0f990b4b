"""The schema up and down, on empty and on full databases, and over tables that are there already."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime

import psycopg2
import pytest

from fibflow.io.alerts.store import AlertStore
from fibflow.io.postgresql import migrate, watermarks
from fibflow.io.postgresql.migrate import Lossy
from fibflow.io.postgresql.ohlcv import upsert_ohlcv
from fibflow.io.postgresql.session import PostgresError
from fibflow.io.postgresql.symbols import SPLITS, upsert_reference, upsert_symbols
from fibflow.serving.keys.postgres import PostgresKeys
from fibflow.serving.keys.scope import Scope
from fibflow.serving.keys.store import issue
from fibflow.tests.io.postgresql.databases import GUARDED, PASSWORD, bars, execute, rows, select
from fibflow.tests.io.test_postgres import TABLE as BY_HAND
from fibflow.transforms import schemas
from fibflow.transforms.alerts.definition import Definition

NOW = datetime(2024, 1, 24, 18, tzinfo=UTC)
REVISIONS = ("r0001", "r0002", "r0003", "r0004", "r0005", "r0006")
ALERTS = (
    "alert_destinations",
    "alerts",
    "alert_changes",
    "alert_events",
    "alert_deliveries",
    "alert_tries",
)
CATALOGUE = """
SELECT 'column', table_name, column_name, data_type, is_nullable, column_default, ordinal_position::text
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'fibflow_schema_version'
UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '', '' FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'fibflow_schema_version'
UNION ALL SELECT 'trigger', event_object_table, trigger_name, event_manipulation, action_statement, '', ''
FROM information_schema.triggers WHERE trigger_schema = 'public'
UNION ALL SELECT 'function', routine_name, '', '', '', '', '' FROM information_schema.routines
WHERE routine_schema = 'public'
ORDER BY 1, 2, 3, 4
"""


def catalogue(url: str) -> list[tuple]:
    return select(url, CATALOGUE)


def key(seed: int = 1):
    return issue("Ada", frozenset([Scope.HISTORY]), NOW, random.Random(seed).randbytes).record


def fill(url: str) -> None:
    """Put a row into every table."""
    upsert_ohlcv(url, bars(("A", 0, 1.0), ("A", 1, 2.0)), "1d", known=NOW)
    upsert_symbols(url, rows(schemas.SYMBOLS, {"symbol": "A"}), run="r1")
    split = {"symbol": "A", "execution_date": NOW.date(), "split_from": 1.0, "split_to": 2.0}
    upsert_reference(url, SPLITS, rows(schemas.SPLITS, split))
    watermarks.advance(url, "job", "key", NOW, "r1")
    alerts = AlertStore(url)
    goes = alerts.add_destination("Ada", "webhook", "https://127.0.0.1/", NOW)
    alert = alerts.create("Ada", [Definition("A", "above", 1.0, destinations=(goes.id,))], NOW)[0]
    alerts.pause("Ada", alert.id, NOW)
    alerts.test_fire("Ada", NOW, random.Random(1).randbytes, alert=alert.id)
    alerts.close()
    execute(url, "INSERT INTO alert_tries (delivery, at) SELECT id, now() FROM alert_deliveries")
    store = PostgresKeys(url)
    store.add(key())
    store.close()


def test_every_step_up_and_down_on_an_empty_database(empty):
    assert migrate.current(empty) == migrate.State(None, "r0006", REVISIONS)
    shapes = [catalogue(empty)]
    for revision in REVISIONS:
        before = migrate.current(empty).revision
        assert migrate.upgrade(empty, "+1") == migrate.Moved(before, revision)
        shapes.append(catalogue(empty))
        assert shapes[-1] != shapes[-2]
    assert migrate.current(empty).pending == ()
    for revision in (*reversed(REVISIONS[:-1]), None):
        assert catalogue(empty) == shapes.pop()
        assert migrate.downgrade(empty, "-1").after == revision
    assert catalogue(empty) == shapes.pop() == []


def test_all_the_way_up_down_and_up_again(empty):
    assert migrate.upgrade(empty) == migrate.Moved(None, "r0006")
    shape = catalogue(empty)
    assert migrate.upgrade(empty) == migrate.Moved("r0006", "r0006")
    assert migrate.downgrade(empty, "base") == migrate.Moved("r0006", None)
    assert migrate.downgrade(empty, "base") == migrate.Moved(None, None)
    assert migrate.upgrade(empty).after == "r0006"
    assert catalogue(empty) == shape


def test_rows_are_not_thrown_away_unless_it_is_said(url):
    fill(url)
    held = select(url, "SELECT * FROM raw_ohlcv ORDER BY timestamp")
    with pytest.raises(Lossy) as raised:
        migrate.downgrade(url, "base")
    said = str(raised.value)
    for told in (
        "2 of raw_ohlcv",
        "1 of symbol_metadata",
        "1 of api_keys",
        "1 of symbol_splits",
        "1 of alerts",
        "--force",
    ):
        assert told in said
    assert migrate.current(url).revision == "r0006"
    assert select(url, "SELECT * FROM raw_ohlcv ORDER BY timestamp") == held
    # A step that loses nothing of these may be taken.
    execute(url, f"TRUNCATE symbol_splits, symbol_splits_history, {', '.join(ALERTS)}")
    assert migrate.downgrade(url, "r0004").lost == {}
    assert select(url, "SELECT * FROM raw_ohlcv ORDER BY timestamp") == held


def test_what_is_lost_by_force_is_told_and_the_way_up_is_open(url):
    fill(url)
    assert migrate.downgrade(url, "r0001", force=True).lost == {
        "symbol_metadata": 1,
        "symbol_metadata_history": 1,
        "data_ingestion_watermark": 1,
        "data_ingestion_watermark_history": 1,
        "api_keys": 1,
        "symbol_splits": 1,
        "symbol_splits_history": 1,
        **dict.fromkeys(ALERTS, 1),
    }
    assert select(url, "SELECT count(*) FROM raw_ohlcv") == [(2,)]
    assert migrate.upgrade(url) == migrate.Moved("r0001", "r0006")
    assert select(url, "SELECT count(*) FROM raw_ohlcv") == [(2,)]
    assert select(url, "SELECT count(*) FROM api_keys") == [(0,)]


def test_rows_that_come_while_it_is_asked_are_seen(url):
    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        cursor.execute("INSERT INTO symbol_metadata (symbol) VALUES ('A')")
        down = pool.submit(migrate.downgrade, url, "r0001")
        while not select(url, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            assert not down.done()
        other.commit()
        with pytest.raises(Lossy, match="1 of symbol_metadata"):
            down.result(timeout=60)


def test_several_at_once(empty):
    with ThreadPoolExecutor(4) as pool:
        moved = list(pool.map(lambda _: migrate.upgrade(empty), range(4)))
    assert sorted(str(one.before) for one in moved) == ["None", "r0006", "r0006", "r0006"]


def test_a_view_that_hangs_on_a_table_keeps_it(url):
    execute(url, "CREATE VIEW closes AS SELECT symbol, close FROM raw_ohlcv")
    with pytest.raises(PostgresError, match=r"cannot drop table raw_ohlcv .*drop that first"):
        migrate.downgrade(url, "base")
    assert migrate.current(url).revision == "r0006"


def test_revisions_that_are_not_there_or_lie_the_other_way(url):
    with pytest.raises(PostgresError, match=r"there is no revision r9: name one of base, r0001"):
        migrate.upgrade(url, "r9")
    with pytest.raises(PostgresError, match=r"no revision \+1"):
        migrate.upgrade(url, "+1")
    with pytest.raises(PostgresError, match=r"use pipelines\.database downgrade"):
        migrate.upgrade(url, "r0001")
    migrate.downgrade(url, "r0001")
    with pytest.raises(PostgresError, match=r"use pipelines\.database upgrade"):
        migrate.downgrade(url, "r0003")
    execute(url, "UPDATE fibflow_schema_version SET version_num = 'r0099'")
    for ask in (migrate.current, migrate.upgrade, lambda url: migrate.downgrade(url, "base")):
        with pytest.raises(PostgresError, match="revision r0099, which this release does not know"):
            ask(url)


# Tables that are there already -----------------------------------------------------------------------------


def test_keys_that_a_server_has_made_are_taken_over(empty):
    store = PostgresKeys(empty)
    store.add(key(1))
    version = store.version()
    migrate.upgrade(empty)
    assert store.all() == [key(1)]
    assert store.version() == version
    store.add(key(2))
    assert store.version() == version + 1
    assert store.revoke(key(1).id, NOW)
    store.close()
    with pytest.raises(Lossy, match="2 of api_keys"):
        migrate.downgrade(empty, "r0003")


def test_a_server_makes_the_same_tables_of_keys(empty, server):
    migrated = server.make("migrated")
    store = PostgresKeys(empty)
    store.add(key())
    store.close()
    own = catalogue(empty)
    assert own
    assert [row for row in catalogue(migrated) if row[1].startswith("api_keys")] == own


def test_a_server_needs_no_right_to_make_tables_where_they_are(server, url):
    execute(url, f"GRANT SELECT, INSERT, UPDATE ON api_keys, api_keys_version TO {GUARDED}")
    store = PostgresKeys(server.url(url.rpartition("/")[2], GUARDED, PASSWORD))
    store.add(key())
    assert store.all() == [key()]
    store.close()


def test_bars_made_by_hand_are_taken_over_and_give_way_to_what_comes(empty):
    execute(empty, BY_HAND)
    execute(
        empty,
        "INSERT INTO raw_ohlcv (symbol, timestamp, interval, close) VALUES ('A', '2024-01-02', '1d', 9)",
        "ALTER TABLE raw_ohlcv DROP COLUMN vwap, ADD COLUMN note text",
    )
    migrate.upgrade(empty)
    assert upsert_ohlcv(empty, bars(("A", 0, 1.0)), "1d", known=datetime(1999, 1, 1, tzinfo=UTC)).changed == 1
    assert select(empty, "SELECT close, vwap, note, revision FROM raw_ohlcv") == [(1.0, None, None, 1)]
    # A row that is put in by hand later is as new as it is.
    execute(empty, "INSERT INTO raw_ohlcv (symbol, timestamp, interval) VALUES ('B', '2024-01-02', '1d')")
    assert select(empty, "SELECT known > now() - interval '1 hour' FROM raw_ohlcv WHERE symbol = 'B'") == [
        (True,)
    ]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (BY_HAND.replace("close float8", "close numeric(18, 4)"), r"close is numeric\(18,4\), not double"),
        (BY_HAND.replace("timestamptz", "timestamp"), "timestamp is timestamp without time zone"),
        (
            BY_HAND.replace("PRIMARY KEY (symbol, timestamp, interval)", "PRIMARY KEY (symbol, timestamp)"),
            r"primary key is \(symbol, timestamp\), not \(symbol, timestamp, interval\)",
        ),
        (BY_HAND.replace("open float8", "opening float8"), "it has no column open"),
        (BY_HAND.replace("vwap float8", "feed text NOT NULL"), "feed may not be null and has no default"),
        ("CREATE VIEW raw_ohlcv AS SELECT 1 AS symbol", "it is no table"),
    ],
)
def test_what_does_not_fit_is_left_alone_and_told(empty, made, says):
    execute(empty, made)
    shape = catalogue(empty)
    with pytest.raises(PostgresError, match=says) as raised:
        migrate.upgrade(empty)
    assert "ALTER TABLE raw_ohlcv RENAME TO raw_ohlcv_old" in str(raised.value)
    assert catalogue(empty) == shape
    assert migrate.current(empty).revision is None


@pytest.mark.parametrize("there", ["alerts", "alert_requests"])
def test_tables_of_alerts_that_are_not_ours_are_left_alone_and_told(empty, there):
    execute(empty, f"CREATE TABLE {there} (id text)")
    with pytest.raises(PostgresError, match=f"there is a {there} already.*RENAME TO {there}_old"):
        migrate.upgrade(empty)
    assert migrate.current(empty).revision is None
    assert len(catalogue(empty)) == 1


# Shape -----------------------------------------------------------------------------------------------------


def test_timescaledb_can_make_a_hypertable_of_the_bars(url):
    """Its rules: the time is never null and in every unique index, no key leads there, no inheritance."""
    unique = """
        SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a
        ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = 'raw_ohlcv'::regclass AND i.indisunique GROUP BY i.indexrelid
    """
    assert [sorted(columns) for (columns,) in select(url, unique)] == [["interval", "symbol", "timestamp"]]
    column = "SELECT format_type(atttypid, atttypmod), attnotnull, attgenerated FROM pg_attribute "
    assert select(url, f"{column} WHERE attrelid = 'raw_ohlcv'::regclass AND attname = 'timestamp'") == [
        ("timestamp with time zone", True, "")
    ]
    assert select(url, "SELECT 1 FROM pg_constraint WHERE confrelid = 'raw_ohlcv'::regclass") == []
    assert select(url, "SELECT 1 FROM pg_inherits WHERE 'raw_ohlcv'::regclass IN (inhrelid, inhparent)") == []
    assert select(url, "SELECT relkind::text FROM pg_class WHERE oid = 'raw_ohlcv'::regclass") == [("r",)]
    assert select(url, "SELECT 1 FROM pg_trigger WHERE tgrelid = 'raw_ohlcv'::regclass") == []

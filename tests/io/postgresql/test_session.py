"""What cannot be reached or is refused: one line that says what to do, and no secret."""

from __future__ import annotations

import socket

import pytest

from fibflow.io.postgresql import migrate, watermarks
from fibflow.io.postgresql.ohlcv import upsert_ohlcv
from fibflow.io.postgresql.session import PostgresError, Unmigrated, connect, session
from fibflow.io.postgresql.symbols import upsert_symbols
from fibflow.tests.io.postgresql.databases import GUARDED, PASSWORD, bars, execute, select

ROWS = bars(("A", 0, 1.0))


def line_of(url: str, *secrets: str) -> str:
    """What is said where a write fails."""
    with pytest.raises(PostgresError) as raised:
        upsert_ohlcv(url, ROWS, "1d")
    said = str(raised.value)
    assert "\n" not in said
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    for secret in secrets:
        assert secret not in said
        assert secret not in repr(raised.value)
    return said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hush@127.0.0.1:{port}/fibflow",
        "postgresql+psycopg2://user:hush@127.0.0.1:{port}/fibflow",
        "postgresql://user:hu/sh@nowhere.invalid/x",
        "postgresql//user:hush@host",
        "hush",
        "postgresql://user:hush@127.0.0.1:portless/x",
        "postgresql://user:hush@127.0.0.1:{port}/x?hush=1",
        "postgresql://user:hush\0@127.0.0.1:{port}/x",
        "postgresql://user:hush@127.0.0.1:{port}/x?sslmode=hush",
        "host=127.0.0.1 port={port} password=hush",
    ],
)
def test_a_wrong_address_or_nobody_there(url):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        said = line_of(url.format(port=taken.getsockname()[1]), "hush", "hu/")
    assert "does not answer" in said or "postgresql://user@host:5432/database" in said


def test_a_wrong_password(server):
    said = line_of(server.url("migrated", GUARDED, "wrong-hush"), "wrong-hush", PASSWORD)
    assert f'refuses the password (password authentication failed for user "{GUARDED}")' in said
    assert "PGPASSWORD" in said


def test_no_password(server, monkeypatch, tmp_path):
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    assert "refuses the password (fe_sendauth: no password supplied)" in line_of(
        server.url("migrated", GUARDED)
    )


def test_a_password_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert select(server.url("migrated", GUARDED), "SELECT current_user") == [(GUARDED,)]


def test_no_such_database_or_user(server):
    assert 'database "nowhere" does not exist: create it' in line_of(server.url("nowhere"))
    assert 'role "nobody" does not exist' in line_of(server.url("migrated", "nobody", "hush"), "hush")


def test_no_rights(server, url):
    guarded = server.url(url.rpartition("/")[2], GUARDED, PASSWORD)
    said = line_of(guarded, PASSWORD)
    assert said.startswith("PostgreSQL refuses: permission denied for table raw_ohlcv; GRANT")
    execute(url, f"GRANT SELECT, INSERT, UPDATE ON raw_ohlcv TO {GUARDED}")
    assert upsert_ohlcv(guarded, ROWS, "1d").new == 1
    execute(
        url,
        f"GRANT SELECT, INSERT, UPDATE ON symbol_metadata TO {GUARDED}",
        f"GRANT INSERT ON symbol_metadata_history TO {GUARDED}",
    )
    assert upsert_symbols(guarded, ROWS.select(["symbol"])).new == 1


def test_no_rights_to_migrate(server, empty):
    with pytest.raises(PostgresError, match=r"permission denied for schema public; GRANT") as raised:
        migrate.upgrade(server.url(empty.rpartition("/")[2], GUARDED, PASSWORD))
    assert PASSWORD not in str(raised.value)
    assert migrate.current(empty).revision is None


def test_no_tables(empty):
    with pytest.raises(Unmigrated, match=r"raw_ohlcv.*does not exist; run pipelines\.database upgrade"):
        upsert_ohlcv(empty, ROWS, "1d")
    with pytest.raises(Unmigrated):
        watermarks.read(empty, "j", "k")


def test_a_database_that_takes_no_writes(url):
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    assert "name the primary in the URL" in line_of(url)


def test_a_server_that_goes_away_in_the_midst_and_comes_back(server, url):
    connection = connect(url)
    server.stack.kill9("postgres")
    try:
        with pytest.raises(PostgresError, match="does not answer") as raised, session(connection) as held:
            held.cursor().execute("SELECT 1")
        assert "\n" not in str(raised.value)
        assert "does not answer" in line_of(url)
        with pytest.raises(PostgresError, match="does not answer"):
            migrate.current(url)
    finally:
        server.stack.start()
    assert upsert_ohlcv(url, ROWS, "1d").new == 1


def test_what_a_driver_of_another_program_is_called_makes_no_difference(url):
    assert upsert_ohlcv(url.replace("postgresql://", "postgresql+psycopg2://"), ROWS, "1d").new == 1
    assert upsert_ohlcv(url.replace("postgresql://", "postgres://"), ROWS, "1d").unchanged == 1

"""A connection that is short of patience, and what is refused before a job begins."""

from __future__ import annotations

import pytest

from fibflow.io.alerts.link import Away, Circuit, Link, check
from fibflow.io.postgresql.session import PostgresError, Unmigrated
from fibflow.runners.services.process import free_ports
from fibflow.tests.io.postgresql.databases import GUARDED, PASSWORD, execute


def one(connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def test_one_connection_is_kept_and_opened_anew_when_it_was_lost(empty):
    seconds = [0.0]
    link = Link(empty, Circuit(1.0, lambda: seconds[0]), autocommit=True)
    first = link.ask(one)
    assert link.ask(one) == first
    execute(empty, f"SELECT pg_terminate_backend({first})")
    with pytest.raises(PostgresError, match=r"does not answer|is being stopped"):
        link.ask(one)
    seconds[0] = 2.0
    assert link.ask(one) != first
    link.close()


def test_after_a_failure_nobody_of_the_process_asks_for_a_while():
    seconds = [0.0]
    circuit = Circuit(1.0, lambda: seconds[0])
    url = f"postgresql://fibflow@127.0.0.1:{free_ports(['postgres'])['postgres']}/fibflow"
    links = [Link(url, circuit), Link(url, circuit)]
    with pytest.raises(PostgresError, match="does not answer"):
        links[0].ask(one)
    for link in links:
        with pytest.raises(Away):
            link.ask(one)
    seconds[0] = 1.0
    assert circuit.has_failed
    with pytest.raises(PostgresError, match="does not answer"):
        links[1].ask(one)


def test_an_answer_closes_the_circuit(empty):
    seconds = [0.0]
    circuit = Circuit(1.0, lambda: seconds[0])
    circuit.failed()
    seconds[0] = 1.0
    link = Link(empty, circuit)
    link.ask(one)
    assert not circuit.has_failed
    link.close()


def test_a_statement_that_takes_too_long_is_ended(empty):
    link = Link(empty, answer_s=0.05)

    def slow(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    with pytest.raises(PostgresError, match="a time limit"):
        link.ask(slow)


def test_the_password_comes_from_the_environment_and_is_in_no_message(server, url, monkeypatch):
    guarded = server.url(url.rpartition("/")[2], GUARDED)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    execute(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {GUARDED}")
    check(guarded)
    monkeypatch.setenv("PGPASSWORD", "another-secret")
    with pytest.raises(PostgresError, match="refuses the password") as refused:
        check(guarded)
    assert "another-secret" not in str(refused.value)
    assert GUARDED not in repr(Link(guarded))


def test_an_address_that_cannot_be_used_is_refused(server, empty):
    with pytest.raises(ValueError, match="holds a password: leave it out") as refused:
        check(server.url("x", GUARDED, PASSWORD))
    assert PASSWORD not in str(refused.value)
    with pytest.raises(ValueError, match="holds a password: leave it out"):
        check("postgresql://fibflow@localhost/x?password=secret")
    for address in ("redis://localhost", "postgresql://host/x?nonsense=1", "localhost"):
        with pytest.raises(ValueError, match="write postgresql://user@host:5432/database"):
            check(address)
    with pytest.raises(Unmigrated, match=r"run pipelines\.database upgrade first"):
        check(empty)
    with pytest.raises(PostgresError, match='database "nowhere" does not exist'):
        check(server.url("nowhere"))

"""What a live job with alerts lacks is one line and an exit code, before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fibflow.io import tables
from fibflow.runners.services.process import free_ports
from fibflow.tests.io.postgresql.databases import GUARDED, PASSWORD, Databases, databases
from fibflow.tests.pipelines.raws import DAYS, Bronze, Raw, rows_of
from fibflow.tests.pipelines.test_stream_errors import stream

ASKED = ("--source", "kinesis://with-alerts")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    with databases(tmp_path_factory.mktemp("postgresql")) as made:
        yield made


@pytest.fixture
def refused(s3_server: Any, tmp_path: Path) -> Any:
    """Run the command line with some alerts; its exit code and what it said."""
    client = s3_server.boto3_client("kinesis")
    # A list of streams comes in pages.
    with suppress(client.exceptions.ResourceInUseException):
        client.create_stream(StreamName="with-alerts", ShardCount=1)
    ports = free_ports(["rest", "pool"])
    flink = ("--flink-master", f"127.0.0.1:{ports['rest']}", "--worker-pool", f"127.0.0.1:{ports['pool']}")

    def run(alerts: str, *more: str) -> tuple[int, str]:
        return stream(s3_server, tmp_path / "lake", *ASKED, "--alerts", alerts, *more, *flink)

    return run


def test_a_database_that_does_not_answer(refused):
    code, said = refused(f"postgresql://fibflow@127.0.0.1:{free_ports(['postgres'])['postgres']}/fibflow")
    assert code == 1
    assert "PostgreSQL does not answer" in said


def test_a_database_that_is_not_migrated(refused, postgres):
    code, said = refused(postgres.make())
    assert code == 1
    assert "run pipelines.database upgrade first" in said


def test_a_password_in_the_address_is_refused_and_not_repeated(refused, postgres):
    code, said = refused(postgres.url("migrated", GUARDED, PASSWORD))
    assert code == 2
    assert "holds a password: leave it out, and give it in PGPASSWORD or ~/.pgpass" in said
    assert PASSWORD not in said


def test_what_is_no_address(refused):
    code, said = refused("localhost:5432")
    assert code == 2
    assert "--alerts: " in said
    assert "write postgresql://user@host:5432/database" in said


def test_closes_on_another_price_basis(refused, postgres, tmp_path):
    raw = Raw(tmp_path / "raw")
    raw.put("a.parquet", rows_of("A", DAYS))
    Bronze(str(tmp_path / "lake")).load(raw, "--price-basis", "split-adjusted")
    code, said = refused(postgres.make("migrated"))
    assert code == 1
    assert f"{tables.DAILY.name} was made with price_basis=split-adjusted" in said

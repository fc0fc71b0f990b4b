"""The outbox as the exporter sees it."""

from __future__ import annotations

import pytest

from fibflow.io.exporter import metrics
from fibflow.io.exporter.metrics import Sample
from fibflow.io.exporter.places import Outbox
from fibflow.io.postgres import PostgresError
from fibflow.tests.io.postgresql.databases import execute

# Without the event that it is about.
_ALONE = "SET session_replication_role = replica"
_WAITS = """
INSERT INTO alert_deliveries (event, destination, due) VALUES ('event', 1, now() - interval '90 seconds')
"""


def test_what_waits_in_the_outbox(url: str):
    assert list(Outbox(url).look()) == [
        Sample(metrics.OUTBOX_WAITING, 0),
        Sample(metrics.OUTBOX_OVERDUE, 0.0),
    ]
    execute(url, _ALONE, _WAITS)
    waiting, overdue = Outbox(url).look()
    assert waiting.value == 1
    assert 90 <= overdue.value < 600


def test_a_database_without_the_tables_says_so(empty: str):
    with pytest.raises(PostgresError, match=r"pipelines\.database upgrade"):
        list(Outbox(empty).look())

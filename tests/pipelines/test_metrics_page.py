"""docs/metrics.md against what the processes export: each metric of theirs is in its table, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fibflow.io.exporter.metrics import SPECS
from fibflow.io.ingest.status import Status as IngestStatus
from fibflow.io.notify.status import Status as NotifyStatus
from fibflow.serving import metrics as of_server

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `(fibflow_\w+)` \| ([^|]*)\| ([^|]*)\| ([^|]+)\| ([^|]+)\| ([^|]+)\|$", re.MULTILINE)
_NAME = re.compile(r"`(fibflow_\w+)`")


class Row(NamedTuple):
    """A line of the table; its labels in order."""

    name: str
    labels: tuple[str, ...]
    processes: frozenset[str]


def table() -> list[Row]:
    found = _ROW.findall(PAGE.read_text())
    return [
        Row(name, tuple(re.findall(r"`(\w+)`", labels)), frozenset(each.strip() for each in whose.split(",")))
        for name, labels, whose, *_ in found
    ]


def exported(text: bytes) -> set[str]:
    """The names of ours in Prometheus' text, also of those that have no sample yet."""
    names = set()
    for family in text_string_to_metric_families(text.decode()):
        if family.name.startswith("fibflow_") and not family.name.endswith("_created"):
            names.add(family.name + ("_total" if family.type == "counter" else ""))
    return names


def processes() -> dict[str, set[str]]:
    return {
        "exporter": {spec.name for spec in SPECS},
        "ingest": exported(IngestStatus(lambda: 0.0).metrics()),
        "notify": exported(NotifyStatus().metrics()),
        "server": exported(generate_latest(REGISTRY)),
    }


def test_the_table_has_each_metric_of_each_process_and_no_other():
    rows = table()
    assert len({row.name for row in rows}) == len(rows)
    for process, names in processes().items():
        assert {row.name for row in rows if process in row.processes} == names, process
        assert len(names) > 8
    assert {process for row in rows for process in row.processes} == set(processes())


def test_the_labels_are_those_that_there_are():
    of_rows = {row.name: row for row in table()}
    for spec in SPECS:
        assert of_rows[spec.name].labels == spec.labels
    collectors = (
        of_server.REQUESTS,
        of_server.SECONDS,
        of_server.IN_FLIGHT,
        of_server.BYTES,
        of_server.WEBSOCKETS,
        of_server.CACHE,
        of_server.STORE_UP,
        of_server.LAKE_VERSION,
        of_server.LAKE_AGE,
    )
    for each in collectors:
        (family,) = each.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        assert of_rows[name].labels == tuple(each._labelnames)


def test_what_the_text_speaks_of_is_in_the_table():
    rows = {row.name for row in table()}
    assert set(_NAME.findall(PAGE.read_text())) <= rows

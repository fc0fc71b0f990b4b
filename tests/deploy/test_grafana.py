"""Grafana's dashboards: as they are written, whole, and asking for what somebody tells."""

from __future__ import annotations

import json

import pytest
import yaml

from fibflow.deploy.watch.dashboards import DASHBOARDS, SCHEMA, render
from fibflow.tests.deploy.watching import WATCH, documented, metrics_of, promtool, unknown

FOLDER = WATCH / "grafana"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: Metrics that no panel shows: they say how the programs are made, not how they are.
UNSHOWN = {
    "fibflow_exporter_seconds",
    "fibflow_ingest_connections_total",
    "fibflow_ingest_dropped_status_total",
    "fibflow_ingest_dropped_too_large_total",
    "fibflow_ingest_frames_total",
    "fibflow_ingest_heartbeats_total",
    "fibflow_ingest_received_bytes_total",
    "fibflow_ingest_records_total",
    "fibflow_ingest_spool_skipped_bytes_total",
    "fibflow_ingest_spool_torn_bytes_total",
    "fibflow_ingest_taken_total",
    "fibflow_kinesis_open_shards",
    "fibflow_kinesis_throttled_total",
    "fibflow_notify_in_flight",
    "fibflow_outbox_waiting",
    "fibflow_session_seconds",
}


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def expressions():
    return [
        target["expr"] for name in DASHBOARDS for panel in read(name)["panels"] for target in panel["targets"]
    ]


def test_files_are_those_that_are_made():
    assert {path.stem for path in FOLDER.iterdir()} == set(DASHBOARDS)
    for name in DASHBOARDS:
        assert (FOLDER / f"{name}.json").read_text() == render(name), "run: python -m deploy.watch"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_whole(name):
    document = read(name)
    assert document["schemaVersion"] == SCHEMA
    assert (document["uid"], document["title"]) == (f"fibflow-{name}", DASHBOARDS[name][0])
    (variable,) = document["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    panels = document["panels"]
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"] == SOURCE
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert all(target["datasource"] == SOURCE and target["legendFormat"] for target in panel["targets"])
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_expressions_are_ones_that_prometheus_takes(tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "1m")}
        for number, text in enumerate(expressions())
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    code, told = promtool("check", "rules", path)
    assert code == 0, told
    assert f"{len(rules)} rules found" in told


def test_panels_show_all_that_is_told_and_nothing_else():
    asked = set()
    for text in expressions():
        assert not unknown(text), text
        asked |= metrics_of(text)
    shown = asked | {each.removesuffix(end) for each in asked for end in ("_bucket", "_sum", "_count")}
    told = {name for name in documented() if not name.endswith(("_bucket", "_sum", "_count"))}
    assert told - shown == UNSHOWN

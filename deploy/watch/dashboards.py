"""Grafana's dashboards. What they show stands here; ``render`` makes Grafana's form of it.

Lines across a panel are where an alarm of ``rules/`` begins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Of dashboards, as Grafana 11 writes it; later ones bring it up to theirs.
SCHEMA = 39
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24
_USERS = 'route!~"/readyz|/healthz|/metrics"'
_SHORT = 'route!~"/readyz|/healthz|/metrics|/v1/exports.*"'


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        shown: pairs (expression, legend).
        unit: Grafana's name of it.
        line: where an alarm begins; None for none.
        state: numbers of now instead of lines over time: 1 is well.
        note: what to know when it is read.
    """

    title: str
    shown: tuple[tuple[str, str], ...]
    unit: str = "short"
    line: float | None = None
    state: bool = False
    note: str = ""


def panel(title: str, *shown: tuple[str, str], **more: Any) -> Panel:
    """Return a panel."""
    return Panel(title, shown, **more)


def quantiles(metric: str, where: str = "") -> tuple[tuple[str, str], ...]:
    """Return half, nine tenths and 99 hundredths of a histogram."""
    rates = f"sum by (le) (rate({metric}_bucket{where}[$__rate_interval]))"
    return tuple((f"histogram_quantile({part}, {rates})", f"p{part * 100:g}") for part in (0.5, 0.9, 0.99))


STREAM = (
    panel(
        "State",
        ("fibflow_session_open", "session {{exchange}}"),
        ("fibflow_stream_up", "job {{job}}"),
        ("fibflow_exporter_up", "{{source}}"),
        state=True,
    ),
    panel(
        "Ticks a second",
        ("sum by (kind) (rate(fibflow_stream_ticks_total[$__rate_interval]))", "{{kind}}"),
        unit="cps",
    ),
    panel("Time behind", ("fibflow_stream_watermark_lag_seconds", "{{job}}"), unit="s", line=300),
    panel("Behind the newest record", ("fibflow_kinesis_lag_seconds", "{{shard}}"), unit="s", line=300),
    panel(
        "Refused messages a second",
        ("sum by (reason) (rate(fibflow_stream_rejected_total[$__rate_interval]))", "{{reason}}"),
        unit="cps",
    ),
    panel(
        "Late and twice, a second",
        ("sum(rate(fibflow_stream_late_total[$__rate_interval]))", "late"),
        ("sum(rate(fibflow_stream_duplicates_total[$__rate_interval]))", "duplicates"),
        unit="cps",
        note="Late rows are in the lake's table late; the daily run makes their bars anew.",
    ),
    panel(
        "Bars a second",
        ("sum by (timeframe) (rate(fibflow_stream_bars_total[$__rate_interval]))", "{{timeframe}}"),
        unit="cps",
    ),
    panel(
        "Revised bars a second",
        ("sum by (timeframe) (rate(fibflow_stream_bars_revised_total[$__rate_interval]))", "{{timeframe}}"),
        unit="cps",
    ),
    panel(
        "A commit takes",
        (
            "rate(fibflow_stream_commit_seconds_sum[$__rate_interval])"
            " / rate(fibflow_stream_commit_seconds_count[$__rate_interval])",
            "{{table}}",
        ),
        unit="s",
    ),
    panel(
        "Since the last commit",
        ("min by (table) (fibflow_lake_age_seconds)", "{{table}}"),
        unit="s",
        line=600,
    ),
    panel("Since the last checkpoint", ("fibflow_stream_checkpoint_age_seconds", "age"), unit="s", line=600),
    panel("A checkpoint takes", ("fibflow_stream_checkpoint_seconds", "seconds"), unit="s"),
    panel("State, in a checkpoint", ("fibflow_stream_checkpoint_bytes", "bytes"), unit="bytes"),
    panel(
        "Restarts and failed checkpoints, an hour",
        ("increase(fibflow_stream_restarts_total[1h])", "restarts"),
        ("increase(fibflow_stream_checkpoints_failed_total[1h])", "checkpoints"),
    ),
    panel(
        "Hours since the daily run and the quality report",
        ("(time() - fibflow_daily_last_success_timestamp_seconds) / 3600", "daily run"),
        ("(time() - fibflow_quality_timestamp_seconds) / 3600", "quality report"),
        unit="h",
    ),
    panel(
        "Quality",
        ("fibflow_quality_gaps", "gaps of {{timeframe}}"),
        ("fibflow_quality_quiet_symbols", "quiet symbols"),
        ("fibflow_daily_differences", "differences"),
        line=1,
    ),
)

SERVING = (
    panel("Stores", ("min by (store) (fibflow_store_up)", "{{store}}"), state=True),
    panel(
        "Requests a second",
        (f"sum by (route) (rate(fibflow_requests_total{{{_USERS}}}[$__rate_interval]))", "{{route}}"),
        unit="reqps",
    ),
    panel(
        "Statuses a second",
        (f"sum by (status) (rate(fibflow_requests_total{{{_USERS}}}[$__rate_interval]))", "{{status}}"),
        unit="reqps",
    ),
    panel(
        "Part that fails",
        (
            f'(sum(rate(fibflow_requests_total{{status=~"5..", {_USERS}}}[$__rate_interval])) or vector(0))'
            f" / sum(rate(fibflow_requests_total{{{_USERS}}}[$__rate_interval]))",
            "5xx",
        ),
        unit="percentunit",
        line=0.02,
    ),
    panel(
        "Seconds an answer, but of exports",
        *quantiles("fibflow_request_seconds", f"{{{_SHORT}}}"),
        unit="s",
        line=1,
    ),
    panel(
        "99 in 100 answers, by route",
        (
            "histogram_quantile(0.99, sum by (le, route)"
            f" (rate(fibflow_request_seconds_bucket{{{_USERS}}}[$__rate_interval])))",
            "{{route}}",
        ),
        unit="s",
    ),
    panel("Requests under way", ("sum(fibflow_requests_in_flight)", "requests")),
    panel("WebSockets", ("sum(fibflow_websocket_clients)", "open")),
    panel(
        "Bytes a second",
        ("sum by (route) (rate(fibflow_response_bytes_total[$__rate_interval]))", "{{route}}"),
        unit="Bps",
    ),
    panel(
        "Part that caches had",
        (
            'sum by (cache) (rate(fibflow_cache_total{result="hit"}[$__rate_interval]))'
            " / sum by (cache) (rate(fibflow_cache_total[$__rate_interval]))",
            "{{cache}}",
        ),
        unit="percentunit",
    ),
    panel("Versions read", ("max by (table) (fibflow_lake_version)", "{{table}}")),
    panel("Since the last commit", ("min by (table) (fibflow_lake_age_seconds)", "{{table}}"), unit="s"),
)

DELIVERY = (
    panel(
        "State",
        ("max(fibflow_ingest_feed_up)", "vendor"),
        ("min(fibflow_ingest_kinesis_up)", "Kinesis"),
        ("1 - max(fibflow_ingest_paused)", "reading"),
        ("min(fibflow_notify_postgresql_up)", "PostgreSQL"),
        state=True,
    ),
    panel(
        "Messages a second",
        ("sum(rate(fibflow_ingest_received_total[$__rate_interval]))", "received"),
        ("sum(rate(fibflow_ingest_sent_total[$__rate_interval]))", "sent"),
        ("sum(rate(fibflow_ingest_filled_total[$__rate_interval]))", "filled"),
        unit="cps",
    ),
    panel("Waits before it is sent", ("max(fibflow_ingest_behind_seconds)", "seconds"), unit="s", line=60),
    panel(
        "Part of the spool that is full",
        ("max(fibflow_ingest_spool_bytes / fibflow_ingest_spool_limit_bytes)", "spool"),
        unit="percentunit",
        line=0.5,
    ),
    panel(
        "Since the feed's own time and the last heartbeat",
        ("min(time() - fibflow_ingest_feed_time_seconds)", "feed"),
        ("min(time() - fibflow_ingest_heartbeat_time_seconds)", "heartbeat"),
        unit="s",
        note="While nothing trades the feed's time is of the last message.",
    ),
    panel(
        "Cuts and holes, an hour",
        ("sum(increase(fibflow_ingest_cuts_total[1h]))", "cuts"),
        ("sum(increase(fibflow_ingest_holes_total[1h]))", "holes"),
        ("sum(increase(fibflow_ingest_holes_unfilled_total[1h]))", "not filled"),
        ("max(fibflow_ingest_open_holes)", "being filled"),
    ),
    panel(
        "Kinesis refuses, a second",
        ("sum(rate(fibflow_ingest_throttled_total[$__rate_interval]))", "throttled"),
        ("sum(rate(fibflow_ingest_put_failures_total[$__rate_interval]))", "failed"),
        unit="cps",
    ),
    panel(
        "Deliveries a second",
        ("sum by (kind) (rate(fibflow_notify_delivered_total[$__rate_interval]))", "taken, {{kind}}"),
        ("sum by (kind) (rate(fibflow_notify_failed_total[$__rate_interval]))", "failed, {{kind}}"),
        unit="cps",
    ),
    panel("Deliveries that wait", ("max(fibflow_notify_waiting)", "outbox"), line=10_000),
    panel(
        "Past its turn, and since it was written",
        ("max(fibflow_outbox_overdue_seconds)", "past its turn"),
        ("max(fibflow_notify_oldest_waiting_seconds)", "oldest"),
        unit="s",
        line=300,
        note="The oldest may be one that is tried again later, and no fault of ours.",
    ),
    panel("Seconds from an event to its delivery", *quantiles("fibflow_notify_latency_seconds"), unit="s"),
    panel(
        "Given up, an hour; destinations",
        ("sum(increase(fibflow_notify_dead_total[1h]))", "given up"),
        ("sum(increase(fibflow_notify_disabled_total[1h]))", "disabled"),
        ("max(fibflow_notify_resting_destinations)", "resting"),
    ),
)

DASHBOARDS = {
    "stream": ("Fibflow: stream and lake", STREAM),
    "serving": ("Fibflow: serving", SERVING),
    "delivery": ("Fibflow: ingest and delivery", DELIVERY),
}


def render(name: str) -> str:
    """Return a dashboard as the text of its file."""
    title, panels = DASHBOARDS[name]
    document = {
        "uid": f"fibflow-{name}",
        "title": title,
        "tags": ["fibflow"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                }
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alarms",
                    "datasource": _SOURCE,
                    "enable": True,
                    "iconColor": "red",
                    "expr": 'ALERTS{alertname=~"Fibflow.*", alertstate="firing"}',
                    "titleFormat": "{{alertname}}",
                }
            ]
        },
        "panels": _laid_out(panels),
    }
    return json.dumps(document, indent=1) + "\n"


def _laid_out(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    across = _COLUMNS // _WIDTH
    return [
        _panel(number, each, (number % across) * _WIDTH, (number // across) * _HEIGHT)
        for number, each in enumerate(panels)
    ]


def _panel(number: int, given: Panel, x: int, y: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": given.unit}
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if given.state:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": 1}]
    elif given.line is not None:
        steps.append({"color": "red", "value": given.line})
        defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return {
        "id": number + 1,
        "title": given.title,
        "description": given.note,
        "type": "stat" if given.state else "timeseries",
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "instant": given.state,
                "range": not given.state,
            }
            for place, (expression, legend) in enumerate(given.shown)
        ],
    }

"""The results as text."""

from __future__ import annotations

from typing import Any

import pytest

from fibflow.benchmarks.serving import report

TOLD = {"processor": "one, 2 cores", "memory": "1 GiB"}
LAKE = {"rows": 226_095, "symbols": 54, "bytes": 10_219_111, "cores": 2, "arguments": "--workers 2"}
MEMORY = {"pss": 388_000_000, "rss": 621_000_000, "processes": 4}


def marks(p99: float) -> dict[str, float]:
    return {"p50": 0.01, "p90": 0.05, "p99": p99, "p100": 2 * p99}


def asked(p99: float = 0.1, failed: int = 0, wrong: int = 0) -> dict[str, Any]:
    kind = {"asked": 100, "answered": 100 - failed, "seconds": marks(p99), "bytes": 40_000.0}
    return {
        "kinds": {"bars": kind, "all": kind},
        "late": marks(0.001),
        "errors": {"bars: status 500: oh": failed} if failed else {},
        "failed": failed,
        "checked": 10,
        "wrong": wrong,
        "wrong_shown": ["bars: not what the lake holds: /x"] if wrong else [],
        "users": 1_000,
        "opened": 1_003,
    }


def open_part(**changes: Any) -> dict[str, Any]:
    about = {"every_s": 1.0, "seconds": 60.0, "warm_s": 10.0, "price": 0.19, "export": 0.01}
    cpu = {"server": 50.0, "users": 8.0, "redis": 0.5}
    part = {"about": about, "cpu": cpu, "wall": 60.0, "load": "0.10 0.20 0.30", "memory": MEMORY}
    return {**part, "runs": [asked(**changes)]}


def closed_part(failed: int = 0) -> dict[str, Any]:
    runs = [
        {**asked(), "ask": "history", "connections": 1, "rate": 300.0, "cpu": {"server": 4.5, "users": 1.0}},
        {**asked(failed=failed), "ask": "history", "connections": 8, "rate": 600.0, "cpu": {"server": 9.0}},
        {**asked(), "ask": "prices", "connections": 1, "rate": 0.0, "cpu": {}},
    ]
    return {"about": {"seconds": 15.0}, "runs": runs, "load": "0 0 0", "memory": MEMORY}


def sockets_part(p99: float = 0.2, **changes: int) -> dict[str, Any]:
    about = {
        "clients": 1_000,
        "wild": 20,
        "topics": 20,
        "minutes": 21,
        "warm_minutes": 1,
        "minute_s": 3.0,
    }
    run = {"bars": 5_000, "missing": 0, "twice": 0, "wrong": 0, "lost": 0, "lost_shown": ["closed with 1008"]}
    run |= {name: marks(p99) for name in ("stored", "stored_some", "stored_all", "began")}
    more = {"cpu": {"server": 2.1}, "writes": [0.1, 0.3], "load": "0 0 0", "memory": MEMORY, "symbols": 5_350}
    return {"about": about, "runs": [{**run, "clients": 1_000, **changes}], **more}


def points_part(cold: float = 0.02, warm: float = 0.004) -> dict[str, Any]:
    def reads(name: str, rows: list[int], factor: float) -> dict[str, Any]:
        found = {"timeframe": name, "rows": rows, "again": [0.001]}
        return found | {"cold": [cold * factor], "dropped": [0.01], "warm": [warm * factor, warm * factor]}

    runs = [reads("3d", [500, 500], 0.5), reads("34d", [400, 473], 1.0), reads("10d", [], 0.5)]
    return {"about": {"cold": 5, "warm": 20}, "runs": runs, "load": "0 0 0"}


def results(**parts: dict[str, Any]) -> dict[str, Any]:
    return {"lake": LAKE, "parts": parts}


def test_a_page_has_a_section_a_part_and_what_was_measured_on():
    found = report.page(
        results(points=points_part(), open=open_part(), closed=closed_part(), sockets=sockets_part()),
        "2026-11-29",
        TOLD,
    )
    heads = [line for line in found.splitlines() if line.startswith("#")]
    assert heads == [
        "# Benchmarks of the server",
        "## The machine",
        "## Users",
        "## At saturation",
        "## WebSockets",
        "## Point reads",
        "## Memory",
    ]
    assert "on 2026-11-29; do not edit" in found
    assert "- processor: one, 2 cores" in found
    assert "python -m serving --workers 2" in " ".join(found.split())
    assert max(len(line) for line in found.splitlines() if not line.startswith("|")) <= 120


def test_goals_are_said_reached_or_missed():
    assert "250 ms: 200 ms, reached" in report.open_(open_part(p99=0.2))
    assert "250 ms: 300 ms, missed" in report.open_(open_part(p99=0.3))
    assert "500 ms: 600 ms, missed" in report.sockets(sockets_part(p99=0.6))
    text = " ".join(report.points(points_part(cold=0.040, warm=0.004)).split())
    assert (
        "cold at most 30 ms, the median of the slowest of those that are stored: 40.0 ms (34d), missed"
        in text
    )
    assert (
        "warm at most 5 ms, the median of the slowest of those that are stored: 4.0 ms (34d), reached" in text
    )
    big = open_part() | {"memory": MEMORY | {"pss": 1_100_000_000}}
    assert "1.10 GB (PSS), missed" in report.open_(big)
    assert "| open | 4 | 1.10 GB | 621 MB | missed |" in report.memory({"open": big})


def test_errors_and_wrong_answers_are_said():
    text = " ".join(report.open_(open_part(failed=2, wrong=1)).split())
    assert "2, missed: 2 × bars: status 500: oh" in text
    assert "1 WRONG: bars: not what the lake holds: /x" in text
    assert "history, 8 connections: errors 3, missed" in report.closed(closed_part(failed=3))
    assert "clients lost 2 (closed with 1008): WRONG" in " ".join(
        report.sockets(sockets_part(lost=2)).split()
    )


def test_rates_are_told_as_ratios_to_one_connection_with_what_an_answer_costs():
    found = report.closed(closed_part())
    assert "| history | 8 | 600 | 2.00 | 10.0 | 100 | 1.00 | 0.00 | 0 |" in found
    assert "| prices | 1 | 0 | - |" in found


@pytest.mark.parametrize(
    ("parts", "right"),
    [
        ({"open": open_part(), "sockets": sockets_part(), "points": points_part()}, True),
        ({"open": open_part(failed=1)}, False),
        ({"open": open_part(wrong=1)}, False),
        ({"closed": closed_part(failed=1)}, False),
        ({"sockets": sockets_part(missing=1)}, False),
        ({"sockets": sockets_part(lost=1)}, False),
    ],
)
def test_a_run_is_right_where_nothing_failed(parts, right):
    assert report.is_right(parts) is right


def test_what_never_came_is_said_so():
    assert "never" in report.open_(open_part(p99=float("nan")))
    assert "nan" not in report.open_(open_part(p99=float("nan")))
    assert "never ms" not in report.open_(open_part(p99=float("nan")))

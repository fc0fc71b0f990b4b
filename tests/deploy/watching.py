"""The rules as documents, Prometheus' own tool, and what it makes of series and of what processes told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
WATCH = ROOT / "deploy" / "watch"
RUNBOOKS = ROOT / "docs" / "runbooks"
RULES = sorted((WATCH / "rules").glob("*.yaml"))
TESTS = sorted((WATCH / "tests").glob("*.yaml"))
#: Metrics of others: what they come from, and their names.
FOREIGN = {
    "kubelet": {"kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"},
    "node exporter": {"node_filesystem_avail_bytes", "node_filesystem_size_bytes"},
    "Prometheus": {"up"},
}
_ROW = re.compile(r"^\| (`fibflow_[^|]*) \| ([^|]*)\|[^|]*\| ([^|]*)\| ([^|]*)\|", re.MULTILINE)
_NAME = re.compile(r"`(fibflow_\w+)`")
_NOISE = re.compile(
    r'"[^"]*"|\{[^}]*\}|\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)|\[[^\]]*\]'
)
_WORD = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(\s*\()?")
_OPERATORS = {"and", "or", "unless", "bool", "offset", "by", "on", "without", "ignoring"}


class Rule(NamedTuple):
    """A rule and the file that it is in."""

    file: str
    name: str
    document: Mapping[str, Any]

    @property
    def is_alert(self) -> bool:
        """Whether it can fire."""
        return "alert" in self.document

    @property
    def runbook(self) -> str:
        """The page that it points to."""
        return self.document["annotations"]["runbook"]


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rules."""
    return tuple(
        Rule(path.name, rule.get("alert") or rule["record"], rule)
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    )


def alerts() -> list[Rule]:
    """Return those that can fire."""
    return [rule for rule in rules() if rule.is_alert]


@cache
def program() -> str:
    """Return where promtool is: ``make test`` puts it beside Python."""
    beside = Path(sys.executable).with_name("promtool")
    found = str(beside) if beside.exists() else shutil.which("promtool")
    assert found, "no promtool: `make test` installs it (Debian: it is in the package prometheus)"
    return found


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Return promtool's exit code, and all that it said."""
    told = subprocess.run(
        [program(), *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return told.returncode, told.stdout + told.stderr


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    plain = expression
    while (less := _NOISE.sub(" ", plain)) != plain:
        plain = less
    return {name for name, called in _WORD.findall(plain) if not called and name.lower() not in _OPERATORS}


@cache
def documented() -> frozenset[str]:
    """Return the metrics of docs/metrics.md, histograms and summaries with all that they are told as."""
    found: set[str] = set()
    for names, *rest in _ROW.findall((ROOT / "docs" / "metrics.md").read_text()):
        for name in _NAME.findall(names):
            found.add(name)
            text = " ".join(rest)
            if "histogram" in text:
                found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
            if "summary" in text:
                found |= {f"{name}_sum", f"{name}_count"}
    return frozenset(found)


def unknown(expression: str) -> set[str]:
    """Return the metrics of an expression that nothing tells."""
    recorded = {rule.name for rule in rules() if not rule.is_alert}
    return metrics_of(expression) - documented() - recorded - set().union(*FOREIGN.values())


def samples(text: str) -> dict[str, float]:
    """Return what a process told Prometheus, by series; what is there of one but for its value."""
    return {
        series(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("fibflow_") and not sample.name.endswith("_created")
    }


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return a series as promtool takes it."""
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def in_turn(before: Mapping[str, float], after: Mapping[str, float], first: int, then: int) -> dict[str, str]:
    """Return series of so many minutes of one look and then of another; a counter that grew goes on so."""
    found = {}
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        parts = [f"_x{first}" if was is None else f"{was:g}x{first - 1}"]
        if now is None:
            parts.append(f"_x{then}")
        elif was is not None and now > was and "_total" in name:
            parts.append(f"{now:g}+{now - was:g}x{then - 1}")
        else:
            parts.append(f"{now:g}x{then - 1}")
        found[name] = " ".join(parts)
    return found


def firing(
    folder: Path,
    given: Mapping[str, str],
    expected: Mapping[str, Sequence[str]],
    step: str = "1m",
    every: str = "1m",
    since: str = "",
    files: Sequence[Path] = RULES,
) -> tuple[int, str]:
    """Let promtool hold rules against series.

    Args:
        folder: for its file.
        given: series and values.
        expected: by time, such as ``9m``: which alarms fire, and no other.
        step: of values.
        every: how often rules are looked at.
        since: asked is what has fired in so long, such as ``9m``; empty for what fires at the time.
        files: of rules.

    Returns:
        promtool's exit code, 0 where it is so, and what it said.
    """
    fire = 'ALERTS{alertstate="firing"}'
    names = f"count by (alertname) ({f'max_over_time({fire}[{since}])' if since else fire})"
    document = {
        "rule_files": [str(path) for path in files],
        "evaluation_interval": every,
        "tests": [
            {
                "interval": step,
                "input_series": [{"series": name, "values": values} for name, values in given.items()],
                "promql_expr_test": [
                    {
                        "eval_time": at,
                        "expr": names,
                        "exp_samples": [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in those],
                    }
                    for at, those in expected.items()
                ],
            }
        ],
    }
    path = folder / "firing.yaml"
    path.write_text(json.dumps(document))
    return promtool("test", "rules", path)


@cache
def cases() -> tuple[Mapping[str, Any], ...]:
    """Return all of promtool's tests."""
    return tuple(case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"])

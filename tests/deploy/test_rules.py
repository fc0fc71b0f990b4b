"""Prometheus' alarms by its own tool: each fires on its fault, and none on a quiet weekend or a holiday."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import yaml

from fibflow.io.exporter.sessions import running_since
from fibflow.tests.deploy.aws import stacks
from fibflow.tests.deploy.watching import (
    ROOT,
    RULES,
    RUNBOOKS,
    TESTS,
    WATCH,
    alerts,
    cases,
    firing,
    metrics_of,
    promtool,
    rules,
    unknown,
)
from fibflow.transforms.calendar import load_calendar

QUIET = ("trading-day.yaml", "weekend.yaml")
HEADINGS = ["What it means", "What users see", "First looks", "Causes and mends", "Escalate"]
_COMMAND = re.compile(r"python -m (?:fibflow\.)?((?:pipelines|serving)[\w.]*)")
_FENCED = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]+)")


def test_the_rules_are_ones_that_prometheus_takes():
    code, told = promtool("check", "rules", *RULES)
    assert code == 0, told


def test_each_alarm_fires_on_its_fault_and_the_quiet_files_stay_quiet():
    code, told = promtool("test", "rules", *TESTS)
    assert code == 0, told


def test_the_configuration_is_one_that_prometheus_takes_with_all_rules():
    code, told = promtool("check", "config", WATCH / "prometheus.yaml")
    assert code == 0, told
    (given,) = yaml.safe_load((WATCH / "prometheus.yaml").read_text())["rule_files"]
    assert sorted(WATCH.glob(given)) == RULES


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.name)
def test_an_alarm_says_how_urgent_it_is_for_how_long_it_waits_and_what_to_do(rule):
    assert rule.name.startswith("Fibflow")
    assert rule.document["labels"]["severity"] in ("page", "ticket")
    assert "for" in rule.document
    assert set(rule.document["annotations"]) == {"summary", "runbook"}
    assert (ROOT / rule.runbook).exists()


def test_names_are_given_once():
    names = [rule.name for rule in rules()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_a_rule_asks_for_what_somebody_tells(rule):
    assert metrics_of(rule.document["expr"])
    assert not unknown(rule.document["expr"])


def test_what_is_no_metric_is_found():
    assert unknown('sum by (a) (rate(fibflow_nothing_total{b="c"}[5m])) > on() up') == {
        "fibflow_nothing_total"
    }


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.name)
def test_an_alarm_has_a_test_that_fires_it_and_one_that_does_not(rule):
    own = [
        bool(each.get("exp_alerts"))
        for case in cases()
        for each in case.get("alert_rule_test", ())
        if each["alertname"] == rule.name
    ]
    assert set(own) == {True, False}


@pytest.mark.parametrize("name", QUIET)
def test_a_quiet_file_has_all_that_alarms_ask_for(name):
    document = yaml.safe_load((WATCH / "tests" / name).read_text())
    assert {path.rpartition("/")[2] for path in document["rule_files"]} == {path.name for path in RULES}
    (case,) = document["tests"]
    (asked,) = case["promql_expr_test"]
    assert asked["expr"] == f'max_over_time(ALERTS{{alertstate="firing"}}[{asked["eval_time"]}])'
    assert asked["exp_samples"] == []
    told = {re.split(r"[{]", each["series"])[0] for each in case["input_series"]}
    recorded = {rule.name for rule in rules() if not rule.is_alert}
    for rule in alerts():
        assert metrics_of(rule.document["expr"]) - recorded <= told, rule.name


def test_nothing_fires_from_thanksgiving_to_the_monday_after(tmp_path):
    # A holiday, half a day, a weekend: Wednesday, 12:00, to Monday, 06:00, in New York, by the real calendar.
    begin = datetime(2024, 11, 27, 17, tzinfo=UTC).timestamp()
    step, count = 300, (4 * 24 + 18) * 12
    calendar = load_calendar("XNYS", 2026)
    since = [running_since(calendar, begin + number * step) for number in range(count)]
    runs = [each is not None for each in since]
    assert [sum(runs[at : at + 288]) for at in (0, 288, 576, 864)] == [96, 96, 60, 0]
    ticks = age = done = ended = 0
    told: dict[str, list[float]] = {name: [] for name in ("ticks", "age", "seconds", "daily")}
    for number, began in enumerate(since):
        at = number * step
        seconds = 0 if began is None else begin + at - began
        # Ticks come from five minutes after the begin on.
        quiet = began is None or seconds < step
        ticks, age = ticks + (0 if quiet else 50_000), (age + step if quiet else 4)
        if number and runs[number - 1] and not runs[number]:
            ended = at
        # The evening's run ends three quarters of an hour after a session; on the holiday there is none.
        if ended and at >= ended + 2_700:
            done = ended + 2_700
        for name, value in (("ticks", ticks), ("age", age), ("seconds", seconds), ("daily", done)):
            told[name].append(value)

    def values(numbers: Sequence[float]) -> str:
        return " ".join(f"{number:g}" for number in numbers)

    given = {
        'fibflow_session_open{exchange="XNYS"}': values(runs),
        'fibflow_session_seconds{exchange="XNYS"}': values(told["seconds"]),
        'fibflow_stream_up{job="live"}': f"1x{count}",
        'fibflow_stream_ticks_total{kind="minutes"}': values(told["ticks"]),
        'fibflow_stream_watermark_lag_seconds{job="live"}': values(told["age"]),
        "fibflow_stream_checkpoint_age_seconds": f"5x{count}",
        'fibflow_lake_age_seconds{table="bronze.ticks"}': values(told["age"]),
        'fibflow_lake_age_seconds{table="silver.live"}': values(told["age"]),
        "fibflow_daily_last_success_timestamp_seconds": values(told["daily"]),
        'fibflow_exporter_up{source="reports"}': f"1x{count}",
        "fibflow_ingest_feed_up": values(runs),
    }
    end = f"{count // 12 - 1}h"
    files = [WATCH / "rules" / name for name in ("stream.yaml", "lake.yaml", "ingest.yaml")]
    code, said = firing(tmp_path, given, {end: []}, "5m", "10m", end, files)
    assert code == 0, said
    # Without the evening's run of the half day it would be said.
    given["fibflow_daily_last_success_timestamp_seconds"] = f"32000x{count}"
    missed = {"58h": [], "63h": ["FibflowDailyMissing"]}
    code, said = firing(tmp_path, given, missed, "5m", "10m", files=files[1:2])
    assert code == 0, said


def test_runbooks_are_those_of_alarms_and_each_has_its_parts():
    of_aws = {
        name
        for alarm in stacks.template("alarms")["Resources"].values()
        for name in re.findall(r"docs/runbooks/([\w-]+\.md)", alarm["Properties"]["AlarmDescription"])
    }
    of_rules = {rule.runbook.rpartition("/")[2] for rule in alerts()}
    pages = {path.name for path in RUNBOOKS.glob("*.md")}
    assert pages == of_aws | of_rules
    listed = (ROOT / "docs" / "alarms.md").read_text()
    for name in pages:
        text = (RUNBOOKS / name).read_text()
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS, name
        assert f"runbooks/{name}" in listed, name
        for rule in alerts():
            assert (rule.name in text) == (rule.runbook.endswith(f"/{name}")), (name, rule.name)


def test_all_alarms_are_listed():
    listed = (ROOT / "docs" / "alarms.md").read_text()
    made = stacks.template("alarms")["Resources"].values()
    named = [alarm["Properties"]["AlarmName"]["Fn::Sub"] for alarm in made]
    for name in [*(rule.name for rule in alerts()), *(each.replace("${Name}-", "") for each in named)]:
        assert f"`{name}`" in listed, name


def test_commands_of_runbooks_are_ones_of_ours():
    known = "".join(
        path.read_text() for room in ("pipelines", "serving") for path in (ROOT / room).rglob("*.py")
    )
    found = 0
    for page in RUNBOOKS.glob("*.md"):
        for block in _FENCED.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                if not (called := _COMMAND.search(line)):
                    continue
                found += 1
                where = f"{page.name}: {line}"
                assert importlib.util.find_spec(f"fibflow.{called[1]}"), where
                for option in _OPTION.findall(line[called.end() :].split("#")[0].split("|")[0]):
                    assert f'"{option}"' in known, where
    assert found > 20

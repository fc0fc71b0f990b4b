"""Every operation keeps to its OpenAPI document, whatever it is asked: no 5xx, nothing undocumented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.serving.conftest import now
from fibflow.tests.serving.samples import BODY, EMPTY, OWN, SAMPLES
from fibflow.tests.serving.servers import running

EXAMPLES = 12


def _document() -> dict[str, Any]:
    return create_app(Settings(".", open_access=True), now).openapi()


LABELS = sorted(
    f"{method.upper()} {path}" for path, methods in _document()["paths"].items() for method in methods
)
load_all_checks()
CHECKED: Any = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
]


@pytest.fixture(scope="module")
def schema(live_settings: Settings, database: str) -> Iterator[schemathesis.BaseSchema]:
    with running(create_app(replace(live_settings, postgres=database), now)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
@pytest.mark.parametrize("label", LABELS)
def test_an_operation_keeps_to_its_document(schema, session, label, mode):
    operation = schema.find_operation_by_label(label)
    names = [parameter.name for parameter in operation.iter_parameters()]
    if mode is GenerationMode.NEGATIVE and not names and not operation.body:
        # There is nothing that could be wrong.
        return

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), right=st.sets(st.sampled_from(names or [""])))
    def ask(case: schemathesis.Case, right: set[str]) -> None:
        # Nonsense alone would never get behind the first check.
        for values in (case.path_parameters, case.query):
            for name in right.intersection(values or ()):
                values[name] = SAMPLES.get(name, "1")
        answer = case.call(session=session)
        case.validate_response(answer, checks=CHECKED)

    ask()


# Those of alerts are asked one after the other, in tests/serving/alerts: they need what others made.
@pytest.mark.parametrize("label", [label for label in LABELS if "/v1/alert" not in label])
def test_an_operation_that_is_asked_right_answers_as_documented(schema, session, label):
    operation = schema.find_operation_by_label(label)
    samples = {**SAMPLES, **OWN.get(label, {})}
    given_values: dict[str, dict[str, str]] = {"path": {}, "query": {}}
    for parameter in operation.iter_parameters():
        place = str(getattr(parameter.location, "value", parameter.location))
        if parameter.is_required or parameter.name in samples:
            given_values[place][parameter.name] = samples.get(parameter.name, "1")
    body = {"body": BODY, "media_type": "application/json"} if operation.body else {}
    case = operation.Case(path_parameters=given_values["path"], query=given_values["query"], **body)
    answer = case.call(session=session)
    assert answer.status_code == (404 if label in EMPTY else 200), answer.content[:300]
    case.validate_response(answer, checks=CHECKED)

"""The OpenAPI document."""

from __future__ import annotations

import pytest

from fibflow.serving.openapi import is_compatible, routes_of, scopes_of


@pytest.fixture
def document(client) -> dict:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def operations(document: dict):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_it_is_openapi_3_1_with_both_ways_to_send_a_key(document):
    assert document["openapi"].startswith("3.1")
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["type"], schemes["bearer"]["scheme"]) == ("http", "bearer")
    assert (schemes["apiKey"]["in"], schemes["apiKey"]["name"]) == ("query", "apiKey")


def test_data_needs_a_key_and_health_does_not(document):
    needing = {name for name, operation in operations(document) if operation.get("security")}
    assert {"GET /healthz", "GET /readyz", "GET /metrics"}.isdisjoint(needing)
    for name, operation in operations(document):
        if name.split()[1].startswith(("/v1", "/v2", "/v3")):
            assert operation["security"] == [{"bearer": []}, {"apiKey": []}], name
            assert {"401", "403", "429", "503"} <= operation["responses"].keys(), name


def test_errors_are_documented_in_the_form_in_which_they_come(document, open_app):
    compatible = {route.path for route in routes_of(open_app) if is_compatible(route)}
    for name, operation in operations(document):
        content = operation["responses"]["400"]["content"]
        assert "application/problem+json" in content, name
        assert ("application/json" in content) == (name.split()[1] in compatible), name
        assert "422" not in operation["responses"] or "requestBody" in operation, name


def test_every_operation_says_what_it_is(document):
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["operationId"], name
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))


def test_no_schema_is_missing(document):
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    assert set(references(document)) <= known


def test_every_route_of_data_asks_for_a_scope(open_app):
    free = {"/healthz", "/readyz", "/metrics"}
    found = [route for route in routes_of(open_app) if route.path not in free]
    assert len(found) > 25
    for route in found:
        assert scopes_of(route), route.path

"""What Prometheus reads of a scrape."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

#: By name, and by the values of the labels in the order of their names.
Told = dict[str, dict[tuple[str, ...], float]]


def told(text: bytes) -> Told:
    found: Told = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found

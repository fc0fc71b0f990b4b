"""Why an alert cannot be."""

from __future__ import annotations


class DefinitionError(ValueError):
    """An alert that cannot be: one line that says which field, and what to write instead."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason

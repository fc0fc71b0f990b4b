"""Versions that are over are forgotten with their rows, and stay so whatever the feed tells again."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from fibflow.transforms.partials import as_arrow, numbers


class Marks(Protocol):
    """What the head of a bucket keeps of the changes that came.

    Attributes:
        revision: the highest of all.
        forgotten: what that was when rows were last forgotten.
    """

    revision: int
    forgotten: int


def new_of(changes: pa.Table, marks: Marks) -> pa.Table:
    """Return the changes that are not among those that may be forgotten, and take note of all.

    Args:
        changes: one at least, with ``revision``.
        marks: moved on.
    """
    revision = numbers(changes, "revision")
    marks.revision = max(marks.revision, int(revision.max()))
    known = revision <= marks.forgotten
    return changes.filter(as_arrow(~known)) if known.any() else changes

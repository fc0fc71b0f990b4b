"""What goes wrong with a run of the benchmark."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A run cannot go on, or does not count; the message is one line."""

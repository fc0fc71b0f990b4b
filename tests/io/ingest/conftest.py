"""A Kinesis of our own, in its own process, and a way to it that can be closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fibflow.tests.io.kinesis.server import serving


@pytest.fixture(scope="session")
def kinesis_url() -> Iterator[str]:
    """No quotas, no faults; a test makes streams of names of its own."""
    with serving() as url:
        yield url

"""A Kinesis of our own, in its own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fibflow.io.aws import AwsConfig
from fibflow.tests.io.kinesis.server import config_of, serving


@pytest.fixture(scope="session")
def kinesis_server() -> Iterator[AwsConfig]:
    """No quotas, no faults; a test makes streams of names of its own."""
    with serving() as url:
        yield config_of(url)

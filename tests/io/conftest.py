"""What several tests of io stand on: a lake on either kind of storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from fibflow.io.lake import Lake


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "folder":
        return Lake(str(tmp_path))
    s3 = request.getfixturevalue("s3")
    return Lake(s3.uri("lake"), s3.aws)

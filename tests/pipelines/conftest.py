from __future__ import annotations

import pytest

from fibflow.tests.pipelines.raws import Bronze, Raw


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path / "raw")


@pytest.fixture
def bronze(tmp_path):
    return Bronze(str(tmp_path / "lake"))

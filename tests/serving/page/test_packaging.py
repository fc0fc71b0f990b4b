"""The page in the package that others install."""

import os
import subprocess
import sys
from pathlib import Path

from fibflow.serving.page import assets

ROOT = Path(__file__).resolve().parents[3]
SHOW = "from fibflow.serving.page import assets; print(assets.__file__, assets.load().version)"


def test_the_package_holds_the_page_with_the_library_and_its_licence(tmp_path):
    line = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    page = tmp_path / "fibflow" / "serving" / "page"
    assert {path.name for path in (page / "static").iterdir()} == {
        path.name for path in assets.STATIC.iterdir()
    }
    assert (page / "node_modules" / "lightweight-charts" / "LICENSE").is_file()
    shown = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    file, version = shown.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert version == assets.load().version

"""The drills' releases still fit the source, and their page says what came of them. No stack here."""

from __future__ import annotations

import subprocess
import sys
from itertools import count

import pytest

from fibflow.benchmarks.drills import report, trees
from fibflow.benchmarks.drills.notes import Notes
from fibflow.benchmarks.drills.trees import KEEPS_STATE, NEW_FORMAT, RENAMES, Change, Release


@pytest.fixture
def source(tmp_path):
    """A package with what the releases of a test change."""
    root = tmp_path / "source"
    for room in trees.ROOMS:
        (root / room / "__pycache__").mkdir(parents=True)
        (root / room / "__init__.py").write_text("")
    (root / "__init__.py").write_text('"""It."""\n\n__version__ = "0.1.0"\nMORE = 1\n')
    (root / "io" / "a.py").write_text("SIZE = 1\nOTHER = 2\n")
    return root


def test_a_release_is_what_programs_import(source, tmp_path):
    release = Release("9.9.9", "a size", [Change("io/a.py", "SIZE = 1\n", "SIZE = 7\n")])
    folder = trees.copy(release, tmp_path / "made", source)
    told = "import fibflow, fibflow.io.a as a; print(fibflow.__version__, fibflow.MORE, a.SIZE, a.OTHER)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", told], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("9.9.9 1 7 2\n", "")
    assert not list(folder.rglob("source/**/__pycache__"))
    assert (source / "io" / "a.py").read_text() == "SIZE = 1\nOTHER = 2\n"


@pytest.mark.parametrize(("old", "times"), [("SIZE = 3", 0), (" = ", 2)])
def test_a_text_that_is_not_there_once(source, tmp_path, old, times):
    with pytest.raises(ValueError, match=f"a.py holds '{old.strip()}' {times} times, not once"):
        trees.copy(Release("1", "", [Change("io/a.py", old, "")]), tmp_path / "made", source)


@pytest.mark.parametrize("release", [KEEPS_STATE, RENAMES, NEW_FORMAT])
def test_the_releases_fit_the_source(release):
    for change in release.changes:
        assert (trees.ROOT / change.file).read_text().count(change.old) == 1
        assert change.new != change.old


def made(name: str, **changes) -> Notes:
    notes = Notes(name, clock=count().__next__, bars=1234)
    with notes.step("`pipelines.jobs stop`"):
        pass
    notes.took("**downtime**", 12.34)
    for key, value in changes.items():
        setattr(notes, key, value)
    return notes


@pytest.mark.parametrize("changes", [{"bars": None}, {"wrong": 2}, {"problems": ["a tick is gone"]}])
def test_what_fails(changes):
    assert made("upgrade").passed
    notes = made("upgrade", **changes)
    assert not notes.passed
    found = report.table([made("restore"), notes])
    assert "| restore | 1,234 | 0 | passed |" in found
    assert "**failed**" in found
    assert ("- upgrade: a tick is gone" in found) == ("problems" in changes)


def test_a_step_that_fails_is_noted_too():
    notes = Notes("upgrade", clock=count().__next__)
    with pytest.raises(RuntimeError), notes.step("resume"):
        raise RuntimeError
    assert notes.steps == [("resume", 1)]


def test_the_page():
    drills = [
        made("upgrade"),
        made("breaking", lines=["jobs: this state"], facts=["a fact"]),
        made("restore"),
    ]
    text = report.page(drills, 20, "2026-11-30", 0.5)
    assert text.count("| `pipelines.jobs stop` | 1.0 |\n| **downtime** | 12.3 |") == 3
    assert "on 2026-11-30; do not edit" in text
    assert "```\njobs: this state\n```" in text
    assert "- a fact.\n" in text
    assert max(map(len, text.splitlines())) < 200
    assert "on 2026" not in report.page(drills, 20, None, 0.5)

"""Places at which a process is killed: named in the environment, or in a file that goes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fibflow.io.failpoints import FILE_VARIABLE, VARIABLE

PROGRAM = """
import sys
from fibflow.io.failpoints import hit
for word in sys.argv[1:]:
    hit(*word.split("/"))
    print(word, flush=True)
"""


def run(*words: str, **env: str) -> tuple[int, list[str]]:
    """Come to places, ``name`` or ``name/table``; return the exit code and those that were passed."""
    clean = {key: value for key, value in os.environ.items() if key not in (VARIABLE, FILE_VARIABLE)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *words],
        env=clean | env,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("wanted", "passed"),
    [
        ("a", []),
        ("b", ["a/t"]),
        ("a:2", ["a/t", "b/t"]),
        ("a/u", ["a/t", "b/t"]),
        ("b/t", ["a/t"]),
        ("b/u", ["a/t", "b/t", "a/u"]),
        ("c", ["a/t", "b/t", "a/u"]),
    ],
)
def test_a_process_dies_at_its_failpoint(wanted, passed):
    code, words = run("a/t", "b/t", "a/u", **{VARIABLE: wanted})
    assert words == passed
    assert code == (0 if len(passed) == 3 else -signal.SIGKILL)


def test_without_the_variables_nobody_dies():
    assert run("a/t", "b") == (0, ["a/t", "b"])


def test_the_first_to_die_takes_the_file_along(tmp_path: Path):
    file = tmp_path / "failpoint"
    env = {FILE_VARIABLE: str(file)}
    assert run("a/t", **env) == (0, ["a/t"])
    file.write_text("b/t\n")
    assert run("a/t", "b/u", "b/t", **env) == (-signal.SIGKILL, ["a/t", "b/u"])
    assert not file.exists()
    # Started again with the same environment, it lives.
    assert run("a/t", "b/t", **env) == (0, ["a/t", "b/t"])


def test_a_file_can_wait_for_the_nth_hit(tmp_path: Path):
    file = tmp_path / "failpoint"
    file.write_text("a:2")
    assert run("a", "a", "a", **{FILE_VARIABLE: str(file)}) == (-signal.SIGKILL, ["a"])

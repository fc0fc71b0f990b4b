"""What all command lines share."""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fibflow.io.aws import AwsError
from fibflow.io.files import InputError
from fibflow.io.lake import ConflictError, Lake, PropertyMismatch
from fibflow.io.manifest import PROGRESS
from fibflow.io.sinks import mark_progress
from fibflow.io.storage import LakeError, Storage
from fibflow.pipelines import cli
from fibflow.transforms.calendar import CalendarError
from fibflow.transforms.timeframe import TimeframeError


def ended(run, capsys):
    """The exit code of a command line, and its lines on standard output and error."""
    with pytest.raises(SystemExit) as found:
        cli.run_main(run, [])
    said = capsys.readouterr()
    return found.value.code, said.out.splitlines(), said.err.splitlines()


def raising(error):
    def run(argv):
        raise error

    return run


@pytest.mark.parametrize("code", [cli.OK, cli.FAILED])
def test_the_exit_code_is_the_runs(code, capsys):
    assert ended(lambda argv: code, capsys) == (code, [], [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (cli.UsageError("say more"), cli.USAGE),
        (TimeframeError("say more"), cli.USAGE),
        (CalendarError("say more"), cli.USAGE),
        (AwsError("say more"), cli.FAILED),
        (InputError("say more"), cli.FAILED),
        (LakeError("say more"), cli.FAILED),
        (ConflictError("say more"), cli.FAILED),
        (PropertyMismatch("say more"), cli.FAILED),
        (InputError("say\n  more\n"), cli.FAILED),
    ],
    ids=repr,
)
def test_a_known_error_is_one_line(error, code, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/batch.py"])
    assert ended(raising(error), capsys) == (code, [], ["batch: say more"])


def test_an_interrupt_is_one_line(capsys):
    code, out, err = ended(raising(KeyboardInterrupt()), capsys)
    assert (code, out) == (cli.FAILED, [])
    assert [line.partition(": ")[2] for line in err] == ["interrupted: run again"]


def test_an_unknown_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run_main(raising(ZeroDivisionError()), [])


def test_bad_usage_is_one_line(capsys):
    parser = cli.Parser(prog="pipelines.batch")
    cli.add_lake_arguments(parser)
    with pytest.raises(SystemExit) as found:
        parser.parse_args([])
    said = capsys.readouterr()
    assert found.value.code == cli.USAGE
    assert said.err.splitlines() == [
        "pipelines.batch: the following arguments are required: --lake (see --help)"
    ]


# Errors of workers -----------------------------------------------------------------------------------------


def test_the_cause_is_found_below_what_a_runner_raised():
    known, error = InputError("a.parquet: broken"), RuntimeError("[while running 'Scatter']")
    error.__cause__ = RuntimeError("in a worker")
    error.__cause__.__cause__ = known
    assert cli.cause_of(error) is known


def test_the_cause_is_found_where_an_error_came_while_another_was_handled():
    known, error = LakeError("the disk is full"), RuntimeError("stop")
    error.__context__ = known
    assert cli.cause_of(error) is known


def test_an_error_without_a_known_cause_is_its_own():
    error = RuntimeError("what?")
    assert cli.cause_of(error) is error


# AWS -------------------------------------------------------------------------------------------------------


def args(**given):
    settings = {"region": "eu-west-1", "endpoint_url": "http://127.0.0.1:9", "profile": None}
    return argparse.Namespace(**settings | given)


@pytest.mark.parametrize("uris", [("lake",), ("lake", None, "/some/folder"), ()])
def test_folders_need_no_aws(uris, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert cli.aws_of(args(), *uris) is None


@pytest.mark.parametrize("uris", [("s3://bucket/lake",), ("lake", None, "s3a://bucket/raw")])
def test_buckets_take_what_the_command_line_says_and_then_the_environment(uris, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = cli.aws_of(args(), *uris)
    assert found is not None
    assert (found.region, found.endpoint_url) == ("eu-west-1", "http://127.0.0.1:9")
    assert (found.access_key_id, found.secret_access_key) == ("key", "secret")


def test_lake_of():
    lake = cli.lake_of(args(lake="some/folder"))
    assert (str(lake.uri), lake.aws) == ("some/folder", None)


def test_run_ids_are_unique_and_hexadecimal():
    ids = {cli.new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{16}", run) for run in ids)


# Staging ---------------------------------------------------------------------------------------------------


def test_the_staging_place_of_a_local_runner_is_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with cli.staging_place(None, Lake("lake"), True, "run") as staging:
        staging.write("spill/a", b"rows")
        assert Path(staging.base).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_staging_place_goes_after_a_failure_too(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = cli.staging_place(None, Lake("lake"), True, "run")
    place.__enter__().write("spill/a", b"rows")
    error = InputError("broken")
    assert not place.__exit__(InputError, error, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "place"), [("here", "here/run"), (None, "lake/_staging/run")])
def test_workers_elsewhere_get_a_place_that_they_see(given, place, tmp_path):
    given = None if given is None else str(tmp_path / given)
    with cli.staging_place(given, Lake(str(tmp_path / "lake")), False, "run") as staging:
        assert staging.base == str(tmp_path / place)
        staging.write("spill/a", b"rows")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# Progress and the table ------------------------------------------------------------------------------------


def test_elsewhere_than_on_a_terminal_progress_is_plain_lines(tmp_path):
    said = io.StringIO()
    with cli.progress(Storage(str(tmp_path)), 4, "bars of about 10 rows", Console(file=said)):
        pass
    assert said.getvalue() == "bars of about 10 rows: 4 units\n"


def test_on_a_terminal_progress_is_a_bar(tmp_path):
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=100)
    staging = Storage(str(tmp_path))
    with cli.progress(staging, 2, "bars", console):
        mark_progress(staging, "gather-all-0")
    assert len(staging.names(PROGRESS)) == 1
    assert "2/2" in said.getvalue()


def test_progress_ends_with_a_failure_too(tmp_path):
    with (
        pytest.raises(InputError),
        cli.progress(Storage(str(tmp_path)), 0, "bars", Console(file=io.StringIO())),
    ):
        raise InputError("broken")


def test_the_table_at_the_end():
    said = io.StringIO()
    cli.print_table("batch 3d", [("rows read", "12"), ("seconds", "0.1")], Console(file=said, width=60))
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    assert lines[0].strip() == "batch 3d"
    assert [re.split(r"\s*│\s*", line)[1:3] for line in lines[2:-1]] == [
        ["rows read", "12"],
        ["seconds", "0.1"],
    ]

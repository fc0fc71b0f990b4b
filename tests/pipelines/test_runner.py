"""Where bounded pipelines run: what the command lines take, and the same tables from an embedded Flink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PortableOptions, StandardOptions

from fibflow.pipelines import batch, load
from fibflow.pipelines.cli import Parser, UsageError
from fibflow.pipelines.runner import Place, Runner, add_runner_arguments
from fibflow.runners import jobserver
from fibflow.tests.pipelines.lakes import Silver, World, fail
from fibflow.tests.pipelines.raws import Bronze


def place(*argv: str) -> Place:
    parser = Parser()
    add_runner_arguments(parser)
    return Place.of(parser.parse_args(argv))


CLUSTER = ("--runner", "flink", "--flink-master", "host:8081", "--worker-pool", "pool:50000")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((), Place("direct")),
        (("--runner", "flink-local"), Place("flink-local")),
        (
            ("--runner", "flink-local", "--job-endpoint", "host:1"),
            Place("flink-local", job_endpoint="host:1"),
        ),
        (CLUSTER, Place("flink", "host:8081", "pool:50000")),
        (
            ("--runner", "flink", "--job-endpoint", "host:1", "--worker-pool", "pool:50000"),
            Place("flink", worker_pool="pool:50000", job_endpoint="host:1"),
        ),
    ],
)
def test_a_command_line_names_a_place(argv, expected):
    assert place(*argv) == expected


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("--flink-master", "host:8081"), "runner direct takes no --flink-master"),
        (("--job-endpoint", "host:1"), "runner direct takes no --job-endpoint"),
        (("--runner", "flink-local", "--worker-pool", "p:1"), "runner flink-local takes no --worker-pool"),
        (("--runner", "flink", "--flink-master", "host:8081"), "runner flink needs --worker-pool host:port"),
        (("--runner", "flink", "--worker-pool", "p:1"), "runner flink needs --flink-master host:port"),
        ((*CLUSTER, "--job-endpoint", "host:1"), "runner flink needs --flink-master host:port, or"),
    ],
)
def test_a_place_that_cannot_be_is_refused(argv, why):
    with pytest.raises(UsageError, match=f"^{why}"):
        place(*argv)


@pytest.mark.parametrize("run", [batch.run, load.run])
def test_both_command_lines_refuse_it_before_they_start(tmp_path, run: Callable[..., int]):
    options = ("--lake", str(tmp_path), *(("--input", str(tmp_path)) if run is load.run else ()))
    failed = fail(run, *options, "--runner", "flink")
    assert failed.code == 2
    assert len(failed.lines) == 1
    assert "--worker-pool" in failed.lines[0]


def test_workers_that_see_this_machines_folders():
    assert Place("direct").local
    assert Place("flink-local").local
    assert not Place("flink", "host:8081", "pool:50000").local


def test_a_misspelt_option_of_beam_is_refused_before_anything_starts():
    with pytest.raises(UsageError, match=r"^unknown option --paralelism=2"):
        Runner(Place("flink-local"), ["--paralelism=2"])


def test_a_job_server_that_runs_is_used_and_beams_options_win():
    with Runner(
        Place("flink", worker_pool="pool:50000", job_endpoint="host:1"), ["--environment_type=LOOPBACK"]
    ) as runner:
        options = runner.options()
    assert options.view_as(StandardOptions).runner == "PortableRunner"
    assert options.view_as(PortableOptions).job_endpoint == "host:1"
    assert options.view_as(PortableOptions).environment_config == "pool:50000"
    assert options.view_as(PortableOptions).environment_type == "LOOPBACK"


def test_a_job_server_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with (
        Runner(Place("flink-local"), []) as runner,
        pytest.raises(jobserver.JobServerError, match=r"^Flink needs Java 17"),
    ):
        runner.options()


def children() -> set[str]:
    """The processes that threads of this one have started and that still run."""
    listed = (task / "children" for task in Path("/proc/self/task").iterdir())
    return {pid for children in listed for pid in children.read_text().split()}


def test_an_embedded_flink_makes_the_same_tables_and_is_gone_after(tmp_path):
    world = World.make(tmp_path)
    other, before = Silver(str(tmp_path / "other")), children()
    local = ("--runner", "flink-local")
    Bronze(other.uri).first(world.raw, *local)
    assert children() <= before
    assert Bronze(other.uri).values() == Bronze(world.lake.uri).values()
    with jobserver.start(logs=tmp_path / "logs") as server:
        other.batch(*local, "--job-endpoint", server.endpoint, "--workers", "2")
        assert other.bars() == world.lake.bars()
        # Nothing is new, and nothing needs a job server.
        assert other.batch(*local, "--job-endpoint", "localhost:1") == 0

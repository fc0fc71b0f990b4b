"""The images: what their Dockerfiles say, what their steps install, and Flink as it is laid out there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from fibflow.io.flinkrest import FlinkError, FlinkRest
from fibflow.runners import jobserver
from fibflow.runners.profiles import profile
from fibflow.runners.services import flinkhome
from fibflow.runners.services.process import HOST, Leash, Process, free_ports, speaks_grpc
from fibflow.runners.services.worker_pool import WorkerPool
from fibflow.tests.deploy.kubernetes import manifests

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "images"
IMAGES = ("pipelines", "serving", "flink")
SCRIPTS = sorted(FOLDER.glob("*.sh"))
LOCKED = re.compile(r"^([\w.-]+)==(\S+)(.*)$", re.DOTALL)
#: Java starts slowly where two cores do much else.
SECONDS = 180.0


def instructions(image: str) -> list[tuple[str, str]]:
    """Return (name, arguments) of each line of a Dockerfile, continued ones in one."""
    lines = (FOLDER / f"{image}.Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    whole = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in whole]


def stages(image: str) -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage, the first being its FROM."""
    made: list[list[tuple[str, str]]] = []
    for name, arguments in instructions(image):
        if name == "FROM":
            made.append([])
        if made:
            made[-1].append((name, arguments))
    return made


def locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Return (version, hashes) of each package of a lock."""
    found = {}
    for entry in re.split(r"\n(?=\S)", path.read_text().strip()):
        match = LOCKED.match(entry)
        assert match, entry
        found[match[1]] = match[2], frozenset(re.findall(r"sha256:[0-9a-f]{64}", match[3]))
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_two_stages_on_a_named_release_and_is_not_root(image):
    (name, base), *_ = instructions(image)
    assert (name, base) == ("ARG", "BASE=debian:12.12-slim")
    build, run = stages(image)
    assert [build[0], run[0]] == [("FROM", "${BASE} AS build"), ("FROM", "${BASE}")]
    users = [arguments for each, arguments in run if each == "USER"]
    assert users == ["10001:10001"]
    after = [each for each, _ in run[[each for each, _ in run].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)
    assert "HEALTHCHECK" in after
    assert "ENTRYPOINT" in after
    assert "ADD" not in {each for each, _ in instructions(image)}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_refers_to_files_that_exist(image):
    for name, arguments in instructions(image):
        if name == "COPY" and not arguments.startswith("--from"):
            assert (ROOT / arguments.split()[0]).exists()
        if name == "RUN":
            script = FOLDER / Path(arguments.split()[0]).name
            assert script in SCRIPTS
            assert os.access(script, os.X_OK)
        if name in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(arguments), list)


def test_images_start_as_the_tasks_of_the_stack_do():
    for image in ("pipelines", "serving"):
        said = dict(stages(image)[1])
        assert json.loads(said["ENTRYPOINT"]) == ["python", "-m"]
        assert "PYTHONSAFEPATH=1" in said["ENV"]
    entry = manifests.flink()["spec"]["flinkConfiguration"]["kubernetes.entry.path"]
    assert json.loads(dict(stages("flink")[1])["ENTRYPOINT"]) == [entry]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_that_bash_reads_and_stops_at_an_error(script):
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for named in re.findall(r"deploy/images/([\w.-]+\.\w+)", text):
        assert (FOLDER / named).exists() or named == "requirements.txt", named


@pytest.mark.parametrize("name", ["pipelines", "serving", "build"])
def test_what_is_installed_is_of_the_projects_lock(name):
    whole, ours = locked(ROOT / "requirements.lock"), locked(FOLDER / f"{name}.requirements.txt")
    assert ours.items() <= whole.items(), "run deploy/images/lock.sh"
    assert all(hashes for _, hashes in ours.values())


def test_the_packages_of_pipelines_are_those_that_users_install():
    text = (ROOT / "setup.py").read_text().partition("install_requires=[")[2].partition("    ],")[0]
    asked, ours = re.findall(r'^ {8}"([\w-]+)', text, re.M), locked(FOLDER / "pipelines.requirements.txt")
    assert asked
    assert set(asked) <= set(ours)
    assert not {"pytest", "moto", "mypy"} & set(ours)


def test_serving_loads_without_what_its_image_lacks():
    ours = set(locked(FOLDER / "serving.requirements.txt")) | {"fibflow"}
    owners = packages_distributions()
    lacking = {
        name
        for name, found in owners.items()
        if not {each.lower().replace("_", "-") for each in found} & ours and not name.startswith("_")
    }
    assert "apache_beam" in lacking
    program = (
        "import importlib, json, pkgutil, sys\n"
        "sys.modules.update(dict.fromkeys(json.load(sys.stdin)))\n"
        "import fibflow.serving as room\n"
        "for each in pkgutil.walk_packages(room.__path__, 'fibflow.serving.'):\n"
        "    if '.standin' not in each.name and not each.name.endswith('__main__'):\n"
        "        importlib.import_module(each.name)\n"
        "import fibflow.serving.__main__, fibflow.serving.keys.__main__\n"
    )
    command = [sys.executable, "-P", "-c", program]
    told = json.dumps(sorted(lacking))
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[-2000:]) == (0, "")


def test_flink_and_its_plugin_are_the_releases_of_the_project():
    script = (FOLDER / "build-flink.sh").read_text()
    assert f"\nflink={flinkhome.VERSION}\n" in script
    (digest,) = re.findall(
        r"apache-flink-libraries==\S+ --hash=sha256:(\w+)", (ROOT / "Makefile").read_text()
    )
    assert f"flink_sha256={digest}\n" in script


@pytest.mark.parametrize("status", [200, 503])
def test_health_is_what_the_address_says(status):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer((HOST, 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://{HOST}:{server.server_port}/healthz"
        assert _healthy(FIBFLOW_HEALTH=address) == (0 if status == 200 else 1)
        server.shutdown()
    assert _healthy(FIBFLOW_HEALTH=address) == 1
    assert _healthy(FIBFLOW_HEALTH="") == 0


def _healthy(**variables: str) -> int:
    command = [sys.executable, str(FOLDER / "healthy.py")]
    env = {**os.environ, **variables}
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Flink as the image has it."""
    place = tmp_path_factory.mktemp("image") / "flink"
    built = jobserver.build()
    subprocess.run([FOLDER / "lay-out-flink.sh", built, flinkhome.home(), place], check=True)
    for name in ("flink.sh", "log4j-console.properties"):
        shutil.copy(FOLDER / name, place)
    return place


def test_beams_jars_come_first_and_in_the_order_of_the_local_stack(home):
    laid = sorted(path.name for path in (home / "lib").glob("*.jar"))
    ours = [path.name for path in jobserver.taskmanager_jars()]
    assert [name.partition("-")[2] for name in laid[: len(ours)]] == ours
    assert laid[len(ours) :] == sorted(path.name for path in (flinkhome.home() / "lib").glob("*.jar"))
    sent = sorted(path.name for path in (home / "gradle" / "wrapper").glob("*.jar"))
    whole = [Path(jar).name for jar in jobserver.classpath().split(os.pathsep)]
    assert [name.partition("-")[2] for name in sent] == whole


def test_a_pipeline_runs_on_flink_from_the_image_with_what_the_manifest_sets(home, tmp_path):
    """Job manager, task manager, workers and job server, as pods run them; state and leaders on this disk."""
    ports = free_ports(["rest", "rpc", "metrics", "jobs", "workers"])
    settings = {
        **manifests.flink()["spec"]["flinkConfiguration"],
        "jobmanager.rpc.address": HOST,
        "jobmanager.rpc.port": str(ports["rpc"]),
        "jobmanager.memory.process.size": "1024m",
        "jobmanager.bind-host": HOST,
        "rest.address": HOST,
        "rest.bind-address": HOST,
        "rest.port": str(ports["rest"]),
        "rest.bind-port": str(ports["rest"]),
        "taskmanager.host": HOST,
        "taskmanager.bind-host": HOST,
        "taskmanager.memory.process.size": "1024m",
        "metrics.reporter.prom.port": str(ports["metrics"]),
        "high-availability.type": "NONE",
        "high-availability.storageDir": tmp_path.as_uri(),
        "state.checkpoints.dir": tmp_path.as_uri(),
        "state.savepoints.dir": tmp_path.as_uri(),
        "io.tmp.dirs": str(tmp_path),
        "blob.storage.directory": str(tmp_path),
    }
    conf = tmp_path / "conf"
    conf.mkdir()
    lines = (f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
    (conf / "config.yaml").write_text("".join(lines))
    variables = {"FLINK_HOME": str(home), "FLINK_CONF_DIR": str(conf), "JAVA": jobserver.java()}
    script, rest = str(home / "flink.sh"), f"{HOST}:{ports['rest']}"
    flink, leash, running = FlinkRest(rest), Leash(), []

    def start(name: str, *arguments: str) -> Process:
        process = Process(name, tmp_path, leash)
        running.append(process)
        process.start([script, name, *arguments], variables)
        return process

    def slots() -> int:
        try:
            return int(flink.overview()["slots-total"])
        except FlinkError:  # it does not answer yet
            return 0

    try:
        start("jobmanager", HOST)
        start("taskmanager").wait_until(lambda: slots() == int(manifests.VALUES["LANES"]), SECONDS)
        start("jobserver", rest, str(ports["jobs"])).wait_until(lambda: speaks_grpc(ports["jobs"]), SECONDS)
        pool = WorkerPool(ports["workers"], {})
        running.append(Process(pool.name, tmp_path, leash))
        running[-1].start(pool.command(1), pool.environment())
        running[-1].wait_until(lambda: pool.answers(1), SECONDS)
        options = profile(
            "flink", job_endpoint=f"{HOST}:{ports['jobs']}", worker_pool=pool.address, parallelism=1
        ).options
        with beam.Pipeline(options=PipelineOptions([*options, "--job_name=drill"])) as pipeline:
            squares = pipeline | beam.Create([1, 2, 3]) | beam.Reshuffle() | beam.Map(pow, 2)
            assert_that(squares, equal_to([1, 4, 9]))
        assert [(job.name, job.state) for job in flink.jobs()] == [("drill", "FINISHED")]
    finally:
        for process in reversed(running):
            process.stop(20.0)
        leash.close()


def test_flink_says_what_it_can_start(home):
    done = subprocess.run([home / "flink.sh", "neither"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "flink.sh: jobmanager, taskmanager or jobserver, not 'neither'\n"

"""The build of the job server, its command line and its process; jobs on it are in test_flink_local."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fibflow.runners import jobserver
from fibflow.runners.jobserver import JobServerError
from fibflow.runners.services import flinkhome

ROOT = Path(jobserver.__file__).parent.parent
MODULE = ROOT / "runners" / "flink"
MENDED = "org/apache/beam/runners/fnexecution/control/BundleCheckpointHandlers.class"


def pom(name: str) -> str:
    found = ET.parse(MODULE / "pom.xml").findtext(f".//{{*}}properties/{{*}}{name}")
    assert found is not None
    return found


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is the whole path but for the shell's own programs, with a Java 17 in it."""
    folder = tmp_path / "bin"
    script(folder / "java", "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2")
    for name in ("touch", "echo", "mkdir"):
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


@pytest.fixture
def module(tmp_path):
    folder = tmp_path / "module"
    (folder / "src" / "main" / "java").mkdir(parents=True)
    (folder / "pom.xml").write_text("<project/>")
    (folder / "src" / "main" / "java" / "One.java").write_text("class One {}")
    return folder


def builds(module: Path) -> int:
    told = module / "builds"
    return len(told.read_text().splitlines()) if told.exists() else 0


# Versions --------------------------------------------------------------------------------------------------


def test_python_and_the_jars_are_of_one_beam():
    [python] = re.findall(r'"apache-beam\[?.*?\]?==([^"]+)"', (ROOT / "setup.py").read_text())
    assert pom("beam.version") == python


def test_the_job_server_and_the_cluster_are_of_one_flink():
    assert pom("flink.version") == flinkhome.VERSION
    assert pom("flink.version").startswith(f"{pom('flink.line')}.")


# Java and Maven --------------------------------------------------------------------------------------------


def test_java_is_the_one_of_java_home(programs, tmp_path, monkeypatch):
    assert jobserver.java() == str(programs / "java")
    home = script(tmp_path / "jdk" / "bin" / "java", "echo 'openjdk version \"21\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert jobserver.java() == str(home)


@pytest.mark.parametrize(
    ("told", "is_what"), [('openjdk version "11.0.2"', "is 11"), ("what?", "of no known version")]
)
def test_a_java_that_is_too_old_is_refused(programs, told, is_what):
    script(programs / "java", f"echo '{told}' >&2")
    with pytest.raises(JobServerError, match=rf"^Flink needs Java 17 .*java is {is_what}|{is_what}$"):
        jobserver.java()


def test_a_missing_java_is_one_line(programs, tmp_path, monkeypatch):
    (programs / "java").unlink()
    with pytest.raises(JobServerError, match=r"^Flink needs Java 17 .*: found none on the path$"):
        jobserver.java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JobServerError, match=r"^Flink needs Java 17 .*: found none in JAVA_HOME$"):
        jobserver.java()


def test_a_missing_maven_is_one_line(programs, module):
    with pytest.raises(JobServerError, match=r"^Flink's job server is built with Maven .*: found no mvn$"):
        jobserver.build(module)


# The build -------------------------------------------------------------------------------------------------


def test_maven_runs_once_for_the_same_sources(programs, module):
    script(programs / "mvn", "echo once >> builds", "mkdir -p target/lib")
    assert jobserver.build(module) == module / "target"
    os.utime(module / "pom.xml", (1, 1))
    (programs / "mvn").unlink()
    assert jobserver.build(module) == module / "target"
    assert builds(module) == 1


@pytest.mark.parametrize("changed", ["pom.xml", "src/main/java/One.java", "src/main/java/Two.java"])
def test_maven_runs_again_for_other_sources_and_leaves_no_old_jar(programs, module, changed):
    script(programs / "mvn", "echo once >> builds", "mkdir -p target/lib")
    jobserver.build(module)
    (module / "target" / "lib" / "old.jar").touch()
    (module / changed).write_text("other")
    jobserver.build(module)
    assert builds(module) == 2
    assert not (module / "target" / "lib" / "old.jar").exists()


def test_a_build_that_fails_is_one_line_and_is_tried_again(programs, module):
    script(programs / "mvn", "echo once >> builds", "echo '[ERROR]'", "echo '[ERROR] no such part'", "exit 1")
    for _ in range(2):
        with pytest.raises(JobServerError, match=r"^the build .* failed: no such part \(see .*build\.log\)$"):
            jobserver.build(module)
    assert builds(module) == 2


def test_a_folder_without_a_pom_is_refused(tmp_path):
    with pytest.raises(JobServerError, match=r"holds no pom\.xml"):
        jobserver.build(tmp_path)


def test_the_modules_own_tests_pass(tmp_path):
    """They hold Beam's own class against ours."""
    maven = shutil.which("mvn")
    assert maven is not None
    ran = subprocess.run(
        [maven, "--batch-mode", "--no-transfer-progress", f"-Dbuild.folder={tmp_path}", "test"],
        cwd=MODULE,
        env={**os.environ, "MAVEN_OPTS": "-Xmx512m"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"Tests run: (\d\d), Failures: 0, Errors: 0, Skipped: 0", ran.stdout), ran.stdout


# Class paths -----------------------------------------------------------------------------------------------


def holders(jars: list[Path]) -> list[str]:
    return [jar.name for jar in jars if MENDED in zipfile.ZipFile(jar).namelist()]


def test_our_class_is_before_beams_on_both_class_paths():
    beams = f"beam-runners-java-fn-execution-{pom('beam.version')}.jar"
    jars = [Path(jar) for jar in jobserver.classpath().split(os.pathsep)]
    assert all(jar.is_file() for jar in jars)
    assert holders(jars) == [jars[0].name, beams]
    assert holders(list(jobserver.taskmanager_jars())) == [jars[0].name, beams]


def test_a_cluster_keeps_its_own_flink_and_its_own_logger():
    everything = {Path(jar).name for jar in jobserver.classpath().split(os.pathsep)}
    left_out = everything - {jar.name for jar in jobserver.taskmanager_jars()}
    assert {re.split(r"-\d", name)[0] for name in left_out} >= {"flink-core", "slf4j-api", "slf4j-simple"}
    assert all(name.startswith(("flink-", "slf4j-", "frocksdbjni-")) for name in left_out)


def test_all_beam_parts_but_one_are_of_the_version():
    named = [Path(jar).name for jar in jobserver.classpath().split(os.pathsep)]
    parts = [name for name in named if name.startswith("beam-") and "-vendor-" not in name]
    others = [name for name in parts if not name.endswith(f"-{pom('beam.version')}.jar")]
    assert others in ([], [f"beam-runners-java-job-service-{pom('beam.job-service.version')}.jar"])


# The process -----------------------------------------------------------------------------------------------


def test_the_command_line_says_what_it_is_given(tmp_path):
    line = jobserver.command(
        "host:8081",
        job_port=8099,
        artifacts=tmp_path / "a",
        heap_mb=300,
        flink_conf=tmp_path / "conf",
        java_options=["-Dgiven=1"],
    )
    place = line.index("org.apache.beam.runners.flink.FlinkJobServerDriver")
    assert line[place - 2 : place] == ["-cp", jobserver.classpath()]
    assert {"-Xmx300m", "-XX:MaxDirectMemorySize=300m", "-Dgiven=1"} <= set(line[:place])
    assert sum(option.startswith("--add-opens=java.base/") for option in line[:place]) == 4
    assert line[place + 1 :] == [
        "--flink-master=host:8081",
        "--job-host=localhost",
        "--job-port=8099",
        "--artifact-port=0",
        "--expansion-port=-1",
        f"--artifacts-dir={tmp_path / 'a'}",
        f"--flink-conf-dir={tmp_path / 'conf'}",
    ]


@pytest.mark.parametrize("how", ["java", "port"])
def test_a_server_that_does_not_start_says_why(tmp_path, how):
    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        given: dict[str, Any] = {
            "java": {"java_options": ["-XX:NoSuchOption=1"]},
            "port": {"job_port": held.getsockname()[1]},
        }[how]
        why = {"java": "Unrecognized VM option 'NoSuchOption=1'", "port": ".*Address already in use"}[how]
        ended = rf"^the Flink job server ended with exit code \d: {why} \(its log: .*/jobserver\.log\)$"
        with pytest.raises(JobServerError, match=ended), jobserver.start(logs=tmp_path, **given):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["jobserver.log"]

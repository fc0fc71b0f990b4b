"""Beam's job server for Flink: its build from Maven's parts, its command line, and its process.

``runners/flink`` is a small Maven module: the parts of Beam's Flink runner, and one class of ours that takes
the place of Beam's (its header says why, and when to remove it). Our jar comes first on every class path.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fibflow.runners.services import pids
from fibflow.runners.services.process import Leash

EMBEDDED = "[local]"
"""The Flink master that is a Flink inside the job server's own process."""

_MODULE = Path(__file__).parent / "flink"
_MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_OPENED = ("java.lang", "java.nio", "java.util", "sun.nio.ch")
_OURS = "fibflow-flink.jar"
_EMBEDDED = {
    # By default it would listen on all of the machine's addresses.
    "jobmanager.rpc.address": "localhost",
    "jobmanager.bind-host": "localhost",
    "taskmanager.host": "localhost",
    "taskmanager.bind-host": "localhost",
    "rest.address": "localhost",
    "rest.bind-address": "localhost",
    # RocksDB keeps a trace of each timer that fired: a source that polls sets one each time.
    "state.backend.rocksdb.timer-service.factory": "HEAP",
}
# Its Java does little, for a short time: the second compiler took half of the CPU time of small jobs.
_SHORT_LIVED = ("-XX:TieredStopAtLevel=1",)
_JAVA = 17
_READY = re.compile(r"JobService started on (\S+)")
_STARTS_WITHIN = 120.0
_STOPS_WITHIN = 20.0
_POLLS_EVERY = 0.05


class JobServerError(Exception):
    """The job server cannot be built or does not start: one line says what to do."""


@dataclass(frozen=True)
class JobServer:
    """A job server that takes jobs.

    Attributes:
        endpoint: ``host:port`` for Beam's ``--job_endpoint``.
        pid: of its JVM.
        log: the file that it and the embedded Flink log to.
    """

    endpoint: str
    pid: int
    log: Path


def java() -> str:
    """Return the path of a Java of version 17 or later.

    Raises:
        JobServerError: There is none in ``JAVA_HOME`` or on the path.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    need = f"Flink needs Java {_JAVA} (Debian: apt-get install openjdk-17-jdk-headless)"
    if found is None:
        raise JobServerError(f"{need}: found none {'in JAVA_HOME' if home else 'on the path'}")
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < _JAVA:
        raise JobServerError(f"{need}: {found} is {version[1] if version else 'of no known version'}")
    return found


def build(module: Path = _MODULE) -> Path:
    """Build the jars where the sources changed since the last build; return the folder that holds them.

    Args:
        module: The folder of ``pom.xml``.

    Raises:
        JobServerError: Java or Maven are missing, or the build failed.
    """
    target = module / "target"
    stamp = target / "built"
    wanted = _digest(module)
    if _reads(stamp) == wanted:
        return target
    java()
    maven = shutil.which("mvn")
    if maven is None:
        raise JobServerError(
            "Flink's job server is built with Maven (Debian: apt-get install maven): found no mvn"
        )
    target.mkdir(exist_ok=True)
    with (module / "target" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _reads(stamp) == wanted:
            return target
        # What an older pom named would stay on the class path.
        shutil.rmtree(target / "lib", ignore_errors=True)
        log = target / "build.log"
        with log.open("w") as out:
            made = subprocess.run(
                [maven, "--batch-mode", "--no-transfer-progress", "-Dmaven.test.skip=true", "package"],
                cwd=module,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if made.returncode:
            raise JobServerError(f"the build of the Flink job server failed: {_first_error(log)} (see {log})")
        stamp.write_text(wanted)
    return target


def classpath() -> str:
    """Return the job server's class path, ours first; builds the jars where needed."""
    return os.pathsep.join(str(jar) for jar in _jars())


def taskmanager_jars() -> tuple[Path, ...]:
    """Return the jars for the front of the class path of Flink's job and task managers, ours first.

    The job server sends these with each job anyway. A cluster that holds them (with
    ``classloader.resolve-order: parent-first``) loads their classes once, and not again for each job and
    restart. Flink's own jars are not among them, nor is a logger.
    """
    theirs = re.compile(r"(flink-|slf4j-|frocksdbjni-)")
    return tuple(jar for jar in _jars() if jar.name == _OURS or not theirs.match(jar.name))


def command(
    flink_master: str,
    *,
    job_port: int,
    artifacts: Path,
    host: str = "localhost",
    artifact_port: int = 0,
    expansion_port: int = -1,
    heap_mb: int = 1024,
    flink_conf: Path | None = None,
    java_options: Sequence[str] = (),
) -> list[str]:
    """Return the command line of the job server.

    Args:
        flink_master: `EMBEDDED`, or the ``host:port`` of a Flink cluster's REST interface.
        job_port: Where it takes jobs; 0 for a free one, which it logs.
        artifacts: The folder for files that jobs bring.
        host: The name that it listens on and tells to clients.
        artifact_port: Where it takes files; 0 for a free one.
        expansion_port: Of Java's expansion service; below 0 for none.
        heap_mb: The heap's limit, in MiB. Buffers outside the heap get as much at most.
        flink_conf: The folder of Flink's configuration, for jobs and for the embedded Flink.
        java_options: More options of the JVM.

    Raises:
        JobServerError: Java or Maven are missing, or the build failed.
    """
    return [
        java(),
        f"-Xmx{heap_mb}m",
        f"-XX:MaxDirectMemorySize={heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",
        *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED),
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
        *java_options,
        "-cp",
        classpath(),
        _MAIN,
        f"--flink-master={flink_master}",
        f"--job-host={host}",
        f"--job-port={job_port}",
        f"--artifact-port={artifact_port}",
        f"--expansion-port={expansion_port}",
        f"--artifacts-dir={artifacts}",
        *([f"--flink-conf-dir={flink_conf}"] if flink_conf is not None else []),
    ]


@contextmanager
def start(
    flink_master: str = EMBEDDED,
    *,
    logs: Path,
    job_port: int = 0,
    heap_mb: int = 1024,
    settings: Mapping[str, str | int] = MappingProxyType({}),
    java_options: Sequence[str] = (),
) -> Iterator[JobServer]:
    """Run a job server for the time of the ``with`` block; its jobs in an embedded Flink end with it.

    It ends with this process too, also when this is killed.

    Args:
        flink_master: See `command`.
        logs: The folder for its log, ``jobserver.log``; made where it is missing. Its temporary files are in
            there too while it runs.
        job_port: 0 for a free one.
        heap_mb: See `command`.
        settings: Flink's configuration, for jobs and for the embedded Flink. That one listens on the loopback
            address; Beam's own server does on all, and leaves no choice.
        java_options: See `command`.

    Yields:
        The server, which takes jobs.

    Raises:
        JobServerError: It cannot be built, or does not start.
    """
    embedded = flink_master == EMBEDDED
    work = logs.resolve() / "jobserver-work"
    log = logs / "jobserver.log"
    line = command(
        flink_master,
        job_port=job_port,
        artifacts=work / "artifacts",
        heap_mb=heap_mb,
        flink_conf=work / "conf",
        java_options=[f"-Djava.io.tmpdir={work}", *(_SHORT_LIVED if embedded else ()), *java_options],
    )
    for name in ("artifacts", "conf"):
        (work / name).mkdir(parents=True, exist_ok=True)
    said = {**(_EMBEDDED if embedded else {}), **settings}
    config = "".join(f"{name}: {json.dumps(value)}\n" for name, value in said.items())
    (work / "conf" / "config.yaml").write_text(config)
    leash = Leash()
    with log.open("w") as out:
        # A signal of the terminal is for us: we stop it when our jobs are through.
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        born = pids.birth(process.pid)
        if born is not None:
            leash.add(process.pid, born)
        yield JobServer(_wait_until_ready(process, log), process.pid, log)
    finally:
        _stop(process)
        leash.close()
        shutil.rmtree(work, ignore_errors=True)


def _jars() -> list[Path]:
    target = build()
    return [target / _OURS, *sorted((target / "lib").glob("*.jar"))]


def _digest(module: Path) -> str:
    """Return a digest of what the jars are made of: file times say nothing after a checkout."""
    if not (module / "pom.xml").is_file():
        raise JobServerError(f"{module} holds no pom.xml: the Flink job server is built from a checkout")
    digest = hashlib.sha256()
    for path in [module / "pom.xml", *sorted((module / "src" / "main").rglob("*.java"))]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(module)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _reads(stamp: Path) -> str | None:
    try:
        return stamp.read_text()
    except FileNotFoundError:
        return None


def _first_error(log: Path) -> str:
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("[ERROR]") and line != "[ERROR]":
            return line.removeprefix("[ERROR]").strip()
    return "Maven did not say why"


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        told = log.read_text(errors="replace")
        if ended:
            why = f"ended with exit code {process.returncode}"
            raise JobServerError(f"the Flink job server {why}: {_why(told)} (its log: {log})")
        if ready := _READY.search(told):
            return ready[1]
        time.sleep(_POLLS_EVERY)
    raise JobServerError(f"the Flink job server takes no jobs after {_STARTS_WITHIN:.0f} s (its log: {log})")


def _why(told: str) -> str:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("Caused by:")]
    errors = [line for line in lines if re.search("Exception|Error|Unrecognized|Invalid", line)]
    return (causes[-1:] or errors[:1] or lines[-1:] or ["it logged nothing"])[0]


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOPS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

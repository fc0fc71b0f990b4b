"""Flink's distribution, its configuration for the local stack, and the command lines of its Java programs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fibflow.runners.services.installed import java, package_folder
from fibflow.runners.services.jars import lay_out
from fibflow.runners.services.process import HOST, ServiceError

VERSION = "1.19.3"
# The cluster's processes are prepared side by side.
_writing = threading.Lock()
_TOOL_SECONDS = 60.0
_RESULT = "BASH_JAVA_UTILS_EXEC_RESULT:"

# What Flink's own scripts give Java 17: its serializers look into the library's classes.
_EXPORTS = (
    "java.base/sun.net.util",
    "java.rmi/sun.rmi.registry",
    *(f"jdk.compiler/com.sun.tools.javac.{part}" for part in ("api", "file", "parser", "tree", "util")),
    "java.security.jgss/sun.security.krb5",
)
_OPENS = (
    *(
        f"java.base/java.{part}"
        for part in ("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util")
    ),
    *(f"java.base/java.util.concurrent{part}" for part in ("", ".atomic", ".locks")),
    "java.base/sun.nio.ch",
)
_REPORTER_PORT = "metrics.reporter.prom.port"
_REPORTER = {
    "metrics.reporters": "prom",
    "metrics.reporter.prom.factory.class": "org.apache.flink.metrics.prometheus.PrometheusReporterFactory",
}
_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n
# Its warnings are about clients that went away.
logger.netty.name = org.jboss.netty.channel.DefaultChannelPipeline
logger.netty.level = OFF
"""


@dataclass(frozen=True)
class Cluster:
    """One local Flink cluster: where its files are and how large it is.

    Attributes:
        folder: Holds ``conf``, ``lib``, checkpoints, savepoints and working files.
        rest_port: The job manager's web interface and REST API.
        rpc_port: Where task managers find the job manager.
        slots: Slots of each task manager.
        jars: Returns jars to put before Flink's own, in this order; asked when the cluster is prepared.
        metrics: A port for each of its processes, by name, at which Prometheus finds the process's metrics.
            Flink's reporter listens there on all of the machine's addresses: it cannot be told otherwise.
    """

    folder: Path
    rest_port: int
    rpc_port: int
    slots: int = 2
    jars: Callable[[], Sequence[Path]] = tuple
    metrics: Mapping[str, int] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """The configuration folder."""
        return self.folder / "conf"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.folder / "checkpoints"

    @property
    def savepoints(self) -> Path:
        """Where savepoints go by default."""
        return self.folder / "savepoints"

    def settings(self) -> dict[str, str | int]:
        """Return Flink's configuration."""
        return {
            "jobmanager.rpc.address": HOST,
            "jobmanager.rpc.port": self.rpc_port,
            "jobmanager.bind-host": HOST,
            "jobmanager.memory.process.size": "1024m",
            "rest.address": HOST,
            "rest.bind-address": HOST,
            "rest.port": self.rest_port,
            "rest.bind-port": str(self.rest_port),
            "taskmanager.host": HOST,
            "taskmanager.bind-host": HOST,
            "taskmanager.memory.process.size": "2048m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.numberOfTaskSlots": self.slots,
            "parallelism.default": 1,
            # A task manager that is killed is noticed in seconds. One whose job manager is gone works on, in
            # its slots, until the timeout. A long pause of a process that lives is let pass.
            "heartbeat.interval": 2_000,
            "heartbeat.timeout": 12_000,
            # How long the slots of a job that was given up wait for it, and a task manager that found no job
            # manager until it looks again.
            "taskmanager.slot.timeout": "5 s",
            "cluster.registration.error-delay": 1_000,
            "state.backend.type": "rocksdb",
            "state.backend.incremental": "true",
            # RocksDB's own timers grow by some bytes a resume of a polling source.
            "state.backend.rocksdb.timer-service.factory": "HEAP",
            "state.checkpoints.dir": self.checkpoints.as_uri(),
            "state.checkpoints.num-retained": 3,
            "state.savepoints.dir": self.savepoints.as_uri(),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 1_000_000,
            "restart-strategy.fixed-delay.delay": "1 s",
            # The cluster has Beam's classes, the mended ones first: what comes with a job stays behind them.
            "classloader.resolve-order": "parent-first",
            # Who asks for metrics waits for the next ones no longer than this.
            "metrics.fetcher.update-interval": 2_000,
            **(_REPORTER if self.metrics else {}),
            "io.tmp.dirs": str(self.folder / "tmp"),
            "blob.storage.directory": str(self.folder / "tmp"),
        }

    def write(self) -> None:
        """Write the configuration, the jars and the working folders.

        Raises:
            ServiceError: the distribution is not installed.
        """
        with _writing:
            for folder in (self.conf, self.checkpoints, self.savepoints, self.folder / "tmp"):
                folder.mkdir(parents=True, exist_ok=True)
            lines = [f"{name}: {json.dumps(value)}\n" for name, value in self.settings().items()]
            (self.conf / "config.yaml").write_text("".join(lines))
            (self.conf / "log4j-console.properties").write_text(_LOGGING)
            lay_out(self.jars(), self.folder / "lib")

    def command(self, main: str, of: str, *arguments: str) -> list[str]:
        """Return the command line of one of Flink's main classes.

        Args:
            main: The class.
            of: Whose memory settings it gets: ``JM`` or ``TM``.
            *arguments: What the class gets besides.

        Raises:
            ServiceError: Flink refuses the configuration.
        """
        flags, memory = self._memory(of)
        jars = [*sorted((self.folder / "lib").glob("*.jar")), *_distribution_jars()]
        return [
            str(java()),
            *flags,
            *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS),
            *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS),
            "-XX:+UseParallelGC",
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            f"-Dlog4j.configurationFile=file:{self.conf / 'log4j-console.properties'}",
            *("-classpath", os.pathsep.join(map(str, jars)), main, "--configDir", str(self.conf)),
            *arguments,
            *memory,
        ]

    def reporter(self, process: str) -> tuple[str, ...]:
        """Return the arguments that give a process the port of its metrics."""
        port = self.metrics.get(process)
        return () if port is None else ("-D", f"{_REPORTER_PORT}={port}")

    def environment(self) -> dict[str, str]:
        """Return the variables of its programs."""
        return {
            "FLINK_CONF_DIR": str(self.conf),
            "FLINK_PLUGINS_DIR": str(home() / "plugins"),
        }

    def _memory(self, of: str) -> tuple[list[str], list[str]]:
        """Return the JVM's flags and the arguments that say the same, as Flink's scripts ask for them."""
        jars = [home() / "bin" / "bash-java-utils.jar", *_distribution_jars()]
        command = [
            str(java()),
            *("-cp", os.pathsep.join(map(str, jars)), "org.apache.flink.runtime.util.bash.BashJavaUtils"),
            *(f"GET_{of}_RESOURCE_PARAMS", "--configDir", str(self.conf)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False)
        results = [
            line.removeprefix(_RESULT).split()
            for line in done.stdout.splitlines()
            if line.startswith(_RESULT)
        ]
        if done.returncode or len(results) != 2:
            raise ServiceError(f"Flink refuses {self.conf}: {(done.stdout + done.stderr).strip()}")
        return results[0], results[1]


def home() -> Path:
    """Return Flink's distribution: ``FLINK_HOME``, else the package in this environment.

    Raises:
        ServiceError: there is none, or it has another version.
    """
    named = os.environ.get("FLINK_HOME")
    folder = Path(named) if named else package_folder("pyflink")
    if folder is None or not (folder / "lib" / f"flink-dist-{VERSION}.jar").exists():
        where = f"in FLINK_HOME={named}" if named else "here"
        advice = f"run `make setup`, or pip install --no-deps apache-flink-libraries=={VERSION}"
        raise ServiceError(f"no Flink {VERSION} {where}: {advice}")
    return folder


def _distribution_jars() -> list[Path]:
    return sorted((home() / "lib").glob("*.jar"))

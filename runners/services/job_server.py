"""Beam's job server for Flink: takes portable pipelines and submits them to the cluster."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from fibflow.runners import jobserver
from fibflow.runners.services.jars import lay_out
from fibflow.runners.services.process import HOST, Service, ServiceError, speaks_grpc

# A stack prepares its servers side by side, and several of them need the one build.
_building = threading.Lock()


class JobServer(Service):
    """A job server.

    Args:
        folder: Holds what pipelines stage.
        port: Its port.
        flink_master: ``host:port`` of a job manager's REST API, or `jobserver.EMBEDDED`.
        flink_conf: The folder of the cluster's configuration: jobs take their defaults from it.
    """

    name = "job-server"
    start_seconds = 120.0

    def __init__(self, folder: Path, port: int, flink_master: str, flink_conf: Path | None = None) -> None:
        self.folder = folder
        self.port = port
        self.flink_master = flink_master
        self.flink_conf = flink_conf

    def prepare(self) -> None:
        """Build the job server where its sources are newer.

        Raises:
            ServiceError: Java or Maven is missing, or the build failed.
        """
        for name in ("artifacts", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        cluster_jars()

    def command(self, start: int) -> list[str]:
        """Return the command line."""
        artifacts = self.folder / "artifacts"
        try:
            line = jobserver.command(
                self.flink_master,
                job_port=self.port,
                artifacts=artifacts,
                host=HOST,
                flink_conf=self.flink_conf,
                java_options=[f"-Djava.io.tmpdir={self.folder / 'tmp'}"],
            )
        except jobserver.JobServerError as error:
            raise ServiceError(str(error)) from error
        if self.flink_master != jobserver.EMBEDDED:
            # The cluster holds these jars. Beam would send all 200 MB with each job, in 15 s, except for
            # those below folders of these names (PipelineResources.isStageable).
            unsent = self.folder / "gradle" / "wrapper"
            place = line.index("-cp") + 1
            jars = lay_out([Path(jar) for jar in line[place].split(os.pathsep)], unsent)
            line[place] = os.pathsep.join(map(str, jars))
        return line

    def environment(self) -> dict[str, str]:
        """Return the folder of Flink's configuration."""
        return {"FLINK_CONF_DIR": str(self.flink_conf)} if self.flink_conf else {}

    def answers(self, start: int) -> bool:
        """Return whether it speaks gRPC."""
        return speaks_grpc(self.port)

    def exports(self) -> dict[str, str]:
        """Return ``BEAM_JOB_ENDPOINT``: the ``--job_endpoint`` of a pipeline."""
        return {"BEAM_JOB_ENDPOINT": self.address}


def cluster_jars() -> tuple[Path, ...]:
    """Return Beam's jars for the class path of a cluster, the mended class first; build them where needed.

    Raises:
        ServiceError: Maven is missing, or the build failed.
    """
    with _building:
        try:
            return jobserver.taskmanager_jars()
        except jobserver.JobServerError as error:
            raise ServiceError(str(error)) from error

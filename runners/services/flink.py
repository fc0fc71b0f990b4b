"""A Flink cluster: a job manager and its task managers, started as Flink's own scripts start them."""

from __future__ import annotations

from fibflow.runners.services.flinkhome import Cluster
from fibflow.runners.services.process import HOST, Service, http_json

_ENTRYPOINT = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_RUNNER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"


class JobManager(Service):
    """The cluster's head. Jobs are lost with it: they go on from a retained checkpoint or a savepoint.

    Args:
        cluster: The cluster.
    """

    name = "job-manager"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.port = cluster.rest_port

    def prepare(self) -> None:
        """Write the cluster's configuration."""
        self.cluster.write()

    def command(self, start: int) -> list[str]:
        """Return the command line, with the memory settings that Flink computes."""
        reporter = self.cluster.reporter(self.name)
        return self.cluster.command(_ENTRYPOINT, "JM", "--executionMode", "cluster", *reporter)

    def environment(self) -> dict[str, str]:
        """Return Flink's folders."""
        return self.cluster.environment()

    def answers(self, start: int) -> bool:
        """Return whether the REST API answers."""
        return http_json(self.address, "/overview") is not None

    def exports(self) -> dict[str, str]:
        """Return ``FLINK_REST_URL``."""
        return {"FLINK_REST_URL": f"http://{self.address}"}


class TaskManager(Service):
    """One of the cluster's workers. It picks its own ports, and registers with the job manager, at ``port``.

    Args:
        cluster: The cluster.
        number: Which one it is, 1 and up.
    """

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.name = f"task-manager-{number}"
        self.cluster = cluster
        self.port = cluster.rpc_port
        self.listens = False

    def prepare(self) -> None:
        """Write the cluster's configuration."""
        self.cluster.write()

    def command(self, start: int) -> list[str]:
        """Return the command line, with the memory settings that Flink computes."""
        named = "-D", f"taskmanager.resource-id={self._id(start)}"
        return self.cluster.command(_RUNNER, "TM", *named, *self.cluster.reporter(self.name))

    def environment(self) -> dict[str, str]:
        """Return Flink's folders."""
        return self.cluster.environment()

    def answers(self, start: int) -> bool:
        """Return whether the job manager has it."""
        known = http_json(f"{HOST}:{self.cluster.rest_port}", "/taskmanagers") or {"taskmanagers": []}
        return any(each["id"] == self._id(start) for each in known["taskmanagers"])

    def _id(self, start: int) -> str:
        # The job manager remembers one that was killed for a while: each start is somebody else.
        return f"{self.name}-{start}"

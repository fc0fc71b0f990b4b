"""Which servers a stack has, on which ports, and how it is remembered in its folder."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fibflow.runners.jobserver import EMBEDDED
from fibflow.runners.services.flink import JobManager, TaskManager
from fibflow.runners.services.flinkhome import Cluster
from fibflow.runners.services.job_server import JobServer, cluster_jars
from fibflow.runners.services.moto import Moto
from fibflow.runners.services.postgres import Postgres
from fibflow.runners.services.process import HOST, Service, ServiceError, free_ports
from fibflow.runners.services.redis import Redis
from fibflow.runners.services.worker_pool import WorkerPool

#: The kinds of servers, in the order in which a table lists them.
KINDS = ("redis", "postgres", "moto", "job-manager", "task-manager", "worker-pool", "job-server")
#: Names for several kinds at once.
GROUPS = {"flink": ("job-manager", "task-manager"), "beam": ("worker-pool", "job-server")}
#: What has a port to be chosen.
PORTS = (*(kind for kind in KINDS if kind != "task-manager"), "job-manager-rpc")
#: What has one only where it is named: Flink's reporters listen on all of a machine's addresses.
_METRICS = re.compile(r"(job-manager|task-manager-[1-9]\d*)-metrics")


@dataclass(frozen=True)
class Plan:
    """What a stack is made of.

    Attributes:
        kinds: Its kinds of servers, a part of `KINDS` in that order.
        ports: A port for each of `PORTS`; and, for Prometheus, of ``job-manager-metrics``,
            ``task-manager-1-metrics`` and up, where Flink's reporters are to be on.
        task_managers: How many task managers there are.
        slots: Slots of each.
    """

    kinds: tuple[str, ...]
    ports: Mapping[str, int] = field(default_factory=dict)
    task_managers: int = 1
    slots: int = 2

    def __post_init__(self) -> None:
        """Look whether it can be.

        Raises:
            ServiceError: an unknown port's name, no task manager or no slot.
        """
        unknown = sorted(name for name in self.ports if name not in PORTS and not _METRICS.fullmatch(name))
        if unknown:
            raise ServiceError(f"no port is called {unknown[0]}: choose from {', '.join(PORTS)}")
        if self.task_managers < 1 or self.slots < 1:
            raise ServiceError("a stack has at least one task manager with one slot")

    def with_free_ports(self) -> Plan:
        """Return this plan with a free port wherever none was chosen."""
        missing = [name for name in PORTS if name not in self.ports]
        return Plan(self.kinds, {**self.ports, **free_ports(missing)}, self.task_managers, self.slots)

    def services(self, folder: Path) -> dict[str, Service]:
        """Return the servers by name, in order; each keeps its files in ``folder/<kind>``."""
        ports = self.ports
        cluster = Cluster(
            folder / "flink",
            ports["job-manager"],
            ports["job-manager-rpc"],
            self.slots,
            cluster_jars,
            {name.removesuffix("-metrics"): port for name, port in ports.items() if _METRICS.fullmatch(name)},
        )
        data: list[Service] = [
            Redis(folder / "redis", ports["redis"]),
            Postgres(folder / "postgres", ports["postgres"]),
            Moto(ports["moto"]),
        ]
        reach = variables(each for each in data if each.name in self.kinds)
        flink = "job-manager" in self.kinds
        master = f"{HOST}:{ports['job-manager']}" if flink else EMBEDDED
        conf = cluster.conf if flink else None
        everything: list[Service] = [
            *data,
            JobManager(cluster),
            *(TaskManager(cluster, number) for number in range(1, self.task_managers + 1)),
            WorkerPool(ports["worker-pool"], reach),
            JobServer(folder / "job-server", ports["job-server"], master, conf),
        ]
        return {each.name: each for each in everything if kind_of(each.name) in self.kinds}


def kind_of(name: str) -> str:
    """Return the kind of a server: ``task-manager`` of ``task-manager-2``."""
    return "task-manager" if name.startswith("task-manager-") else name


def kinds_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds that names of kinds and of groups stand for, in order.

    Raises:
        ServiceError: an unknown name.
    """
    chosen: set[str] = set()
    for name in names:
        if name not in KINDS and name not in GROUPS:
            raise ServiceError(f"no service is called {name!r}: choose from {', '.join([*KINDS, *GROUPS])}")
        chosen.update(GROUPS.get(name, (name,)))
    return tuple(kind for kind in KINDS if kind in chosen)


def variables(services: Iterable[Service]) -> dict[str, str]:
    """Return the variables with which a program reaches the servers."""
    return {name: value for each in services for name, value in each.exports().items()}


def remember(
    folder: Path, plan: Plan, services: Mapping[str, Mapping[str, Any]], reach: Mapping[str, str]
) -> None:
    """Write what is known of a stack: ``stack.json`` for programs, ``stack.env`` for a shell to source.

    Args:
        folder: The stack's folder.
        plan: What it is made of.
        services: Each server's address, pid and log.
        reach: The variables with which a program reaches the servers.
    """
    text = json.dumps({"plan": asdict(plan), "services": services, "environment": reach}, indent=2)
    (folder / "stack.json").write_text(text + "\n")
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in reach.items()]
    (folder / "stack.env").write_text("".join(lines))


def recall(folder: Path) -> Plan | None:
    """Return the plan of the stack in a folder, or None where there is none.

    Raises:
        ServiceError: its file cannot be read.
    """
    path = folder / "stack.json"
    try:
        plan = json.loads(path.read_text())["plan"]
        return Plan(**{**plan, "kinds": tuple(plan["kinds"])})
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise ServiceError(f"{path} cannot be read: `down` the stack, and start it again") from error


def forget(folder: Path) -> None:
    """Remove what `remember` wrote."""
    for name in ("stack.json", "stack.env"):
        (folder / name).unlink(missing_ok=True)

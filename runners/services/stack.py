"""Several servers started, watched and stopped together, in one folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from fibflow.runners.services import plan as plans
from fibflow.runners.services.plan import KINDS, Plan
from fibflow.runners.services.process import Leash, Process, ServiceError, is_taken

Item = TypeVar("Item")
Result = TypeVar("Result")
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class State:
    """How a server of a stack is.

    Attributes:
        name: Its name: a kind's, or ``task-manager-1`` and up.
        state: ``up``; ``silent``: it runs and does not answer; or ``down``.
        pid: Its process while it runs.
        address: Where it answers, or empty.
        log: Its log.
    """

    name: str
    state: str
    pid: int | None
    address: str
    log: Path


class Stack:
    """The servers of one folder. As a context manager, for tests: starts them, and stops them at the end.

    What a stack starts dies with the process that made the stack, unless ``leashed`` is false. A name of a
    server is a kind's (`KINDS`), ``task-manager-1`` and up, or ``task-manager`` for all of these.

    Args:
        kinds: Kinds or groups of servers; all by default.
        folder: Where its files go; a temporary folder by default, which goes with the stack.
        ports: Ports by kind; free ones by default.
        task_managers: How many task managers.
        slots: Slots of each.
        leashed: Whether the servers end with this process.
    """

    def __init__(
        self,
        kinds: Iterable[str] = KINDS,
        *,
        folder: Path | None = None,
        ports: Mapping[str, int] | None = None,
        task_managers: int = 1,
        slots: int = 2,
        leashed: bool = True,
    ) -> None:
        self.plan = Plan(plans.kinds_of(kinds), dict(ports or {}), task_managers, slots).with_free_ports()
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="fibflow-stack-")) if folder is None else folder.resolve()
        self._leash = Leash() if leashed else None
        self._services = self.plan.services(self.folder)
        self._processes = {name: Process(name, self.folder, self._leash) for name in self._services}

    @classmethod
    def recall(cls, folder: Path) -> Self:
        """Return the stack that was started in a folder, and was not leashed.

        Raises:
            ServiceError: there is none, or its file cannot be read.
        """
        plan = plans.recall(folder)
        if plan is None:
            raise ServiceError(f"no stack in {folder}: `python -m runners.local up` starts one")
        return cls(
            plan.kinds,
            folder=folder,
            ports=plan.ports,
            task_managers=plan.task_managers,
            slots=plan.slots,
            leashed=False,
        )

    def __enter__(self) -> Self:
        """Start all servers; where one does not start, stop those that did."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all servers."""
        self.close()

    @property
    def env(self) -> dict[str, str]:
        """The variables with which a program reaches the servers."""
        return plans.variables(self._services.values())

    def address(self, name: str) -> str:
        """Return ``host:port`` of a server."""
        return self._services[self._one(name)].address

    def log(self, name: str) -> Path:
        """Return the log of a server."""
        return self._processes[self._one(name)].log

    def pid(self, name: str) -> int | None:
        """Return the process of a server while it runs."""
        return self._processes[self._one(name)].pid

    def states(self, *names: str) -> list[State]:
        """Return how the servers are, all by default."""
        return _each(self._state, self._chosen(names))

    def start(self, *names: str) -> list[str]:
        """Start the servers that are not up, side by side, and wait until they answer.

        Returns:
            The names of those that were started.

        Raises:
            ServiceError: some did not start: a line for each. The others run.
        """
        missing = [state.name for state in self.states(*names) if state.state != "up"]
        if any(name.startswith("task-manager") for name in missing) and "job-manager" not in self._services:
            raise ServiceError("a task manager needs a job manager: choose `flink`, which is both")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remember()  # whoever comes after a crash finds what was started
        errors = _each(self._launch, missing)
        launched = [name for name, error in zip(missing, errors, strict=True) if error is None]
        errors += _each(self._wait, launched)
        self._remember()
        failed = [str(error) for error in errors if error is not None]
        if failed:
            raise ServiceError("\n".join(failed))
        return missing

    def stop(self, *names: str) -> list[str]:
        """Stop servers, all by default, and return the names of those that ran."""
        return stop_together([self._processes[name] for name in self._chosen(names)])

    def kill9(self, name: str) -> None:
        """Kill a server and all that it started, as the end of its machine would."""
        for each in self._chosen((name,)):
            self._processes[each].kill()

    def restart(self, name: str) -> None:
        """Stop a server, start it again on the same port, and wait until it answers.

        Raises:
            ServiceError: it did not start.
        """
        self.stop(name)
        self.start(name)

    def close(self) -> None:
        """Stop all servers, and remove what only they needed."""
        self.stop()
        if self._leash:
            self._leash.close()
        tidy(self.folder)
        if self._temporary:
            shutil.rmtree(self.folder)

    def _launch(self, name: str) -> ServiceError | None:
        service, process = self._services[name], self._processes[name]
        try:
            service.prepare()
            process.kill()
            if service.listens and is_taken(service.port):
                raise ServiceError(
                    f"{name}: another program has port {service.port}: stop that, or choose another"
                )
            process.start(service.command(process.starts + 1), service.environment())
        except ServiceError as error:
            return error
        return None

    def _wait(self, name: str) -> ServiceError | None:
        service, process = self._services[name], self._processes[name]
        starts = process.starts
        try:
            process.wait_until(lambda: service.answers(starts), service.start_seconds)
        except ServiceError as error:
            return error
        return None

    def _state(self, name: str) -> State:
        service, process = self._services[name], self._processes[name]
        pid = process.pid
        state = "down" if pid is None else "up" if service.answers(process.starts) else "silent"
        return State(name, state, pid, service.address if service.listens else "", process.log)

    def _remember(self) -> None:
        known = {
            name: {
                "address": service.address if service.listens else None,
                "pid": self._processes[name].pid,
                "log": str(self._processes[name].log),
            }
            for name, service in self._services.items()
        }
        plans.remember(self.folder, self.plan, known, self.env)

    def _chosen(self, names: Iterable[str]) -> list[str]:
        wanted = list(names)
        for name in wanted:
            if not any(name in (each, plans.kind_of(each)) for each in self._services):
                raise ServiceError(f"this stack has no {name!r}: it has {', '.join(self._services)}")
        return [each for each in self._services if not wanted or {each, plans.kind_of(each)} & set(wanted)]

    def _one(self, name: str) -> str:
        found = self._chosen((name,))
        if len(found) > 1:
            raise ServiceError(f"which {name}: {' or '.join(found)}?")
        return found[0]


def stop_together(processes: Sequence[Process]) -> list[str]:
    """Stop processes side by side, and return the names of those that ran."""
    running = [process.name for process in processes if process.pid is not None]
    for process in processes:
        process.terminate()
    _each(lambda process: process.stop(_STOP_SECONDS), processes)
    return running


def tidy(folder: Path) -> None:
    """Remove what only running servers need. Data and logs stay."""
    for left in (folder / "flink" / "tmp", folder / "job-server", folder / "pids"):
        shutil.rmtree(left, ignore_errors=True)
    plans.forget(folder)


def _each(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    if not items:
        return []
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items))

"""The services as the stack starts them: by the commands and the variables of their task definitions."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from unittest.mock import patch

from fibflow.io.aws import AwsConfig
from fibflow.tests.deploy.aws.journal import Recorded
from fibflow.tests.vendors import Vendor, standin

KEY = "a-key-of-the-vendor"
#: A Sunday after the market's last session.
NOW = datetime(2024, 3, 17, 23, tzinfo=UTC)
LAST = date(2024, 3, 15)


@dataclass(frozen=True)
class Installed:
    """A stack on an emulator, and the vendor.

    Attributes:
        recorded: the emulator.
        outputs: of the stacks, by stack.
        vendor: the stand-in.
    """

    recorded: Recorded
    outputs: Mapping[str, Mapping[str, str]]
    vendor: Vendor

    @property
    def data(self) -> Mapping[str, str]:
        """What the stack of data gives."""
        return self.outputs["data"]

    def aws(self, who: str) -> AwsConfig:
        """Return how a service reaches AWS."""
        return self.recorded.of(who)

    def task(self, name: str) -> dict[str, Any]:
        """Return the container of a service, as the emulator registered it."""
        ecs = self.recorded.aws.boto3_client("ecs")
        told = ecs.describe_task_definition(taskDefinition=f"fibflow-{name}")["taskDefinition"]
        (container,) = told["containerDefinitions"]
        return container

    def arguments(self, name: str) -> list[str]:
        """Return the arguments of a service's command."""
        return self.task(name)["command"][1:]

    @contextmanager
    def acting(self, who: str, **more: str) -> Iterator[None]:
        """Give this process the variables of a service."""
        with patch.dict(os.environ, self.recorded.env(who) | more):
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "DATABASE_URL", "REDIS_URL"):
                os.environ.pop(name, None)
            yield


@contextmanager
def vendors() -> Iterator[Vendor]:
    """Run the vendor's stand-in."""
    market = {"symbols": 4, "first": date(2024, 1, 2), "last": LAST, "minutes": 0, "news": 2, "seed": 5}
    with standin(**market, key=KEY, clock=lambda: NOW) as running:
        yield running


def without(arguments: Sequence[str], *options: str) -> list[str]:
    """Return arguments without some options and their values."""
    left, skipping = [], False
    for each in arguments:
        if each.startswith("--"):
            skipping = each in options
        if not skipping:
            left.append(each)
    return left


class Line:
    """What a process prints, to wait for a part of it."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *command],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.said += line
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def end(self) -> int:
        """Tell it to end, and return its exit code."""
        self.process.terminate()
        code = self.process.wait(60)
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

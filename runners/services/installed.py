"""Where the programs of the servers are: in wheels of the environment, else on the path."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from fibflow.runners import jobserver
from fibflow.runners.services.process import ServiceError


def package_folder(package: str) -> Path | None:
    """Return the folder of an installed top-level package, without importing it, or None."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def program(names: tuple[str, ...], package: str, inside: str, advice: str) -> Path:
    """Return a program of a wheel, or one of these names on the path.

    Args:
        names: What it is called; the first is its name in the wheel.
        package: The wheel's package.
        inside: A pattern of the folder in it that holds the program.
        advice: What to install, for the error.

    Raises:
        ServiceError: it is in neither place.
    """
    folder = package_folder(package)
    found = sorted(folder.glob(f"{inside}/{names[0]}")) if folder else []
    if found:
        return found[0]
    for name in names:
        on_path = shutil.which(name)
        if on_path:
            return Path(on_path)
    raise ServiceError(f"no {names[0]} here: {advice}")


def java() -> Path:
    """Return the Java that ``JAVA_HOME`` names, else the one on the path.

    Raises:
        ServiceError: there is none, or it is too old.
    """
    try:
        return Path(jobserver.java())
    except jobserver.JobServerError as error:
        raise ServiceError(str(error)) from error

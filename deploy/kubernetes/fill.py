"""Fills the manifests: ``${NAME}`` becomes the value, ``$(NAME)`` is Kubernetes' own and stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ALWAYS = (
    "namespace.yaml",
    "accounts.yaml",
    "flink.yaml",
    "serving.yaml",
    "ingest.yaml",
    "notify.yaml",
    "exporter.yaml",
    "news.yaml",
)
_WANTED = re.compile(r"\$\{([A-Z_]+)\}")
# No quote, no space, no line break: a value cannot become more than a value.
_VALUE = re.compile(r"[A-Za-z0-9._:/*,@+-]+")


class FillError(Exception):
    """A manifest cannot be filled; one line says why."""


def read_values(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines; empty ones and those that begin with ``#`` say nothing.

    Raises:
        FillError: there is no such file, or a line is none.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise FillError(f"{path} cannot be read: copy deploy/kubernetes/values.env and fill it in") from error
    values = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not _VALUE.fullmatch(value):
            raise FillError(f"{path}, line {number}: write NAME=value, without spaces and quotes")
        values[name] = value
    return values


def filled(name: str, values: Mapping[str, str]) -> str:
    """Return a manifest with its values.

    Args:
        name: of the file, below this folder.
        values: what stands for each name.

    Raises:
        FillError: there is no such manifest, or a value is missing.
    """
    path = FOLDER / name
    if path.suffix != ".yaml" or not path.is_file() or FOLDER not in path.resolve().parents:
        raise FillError(f"there is no manifest {name}: see {FOLDER}")
    text = path.read_text()
    missing = sorted(set(_WANTED.findall(text)) - set(values))
    if missing:
        raise FillError(f"{name} needs {', '.join(missing)}: put it into the file of values")
    return _WANTED.sub(lambda match: values[match[1]], text)

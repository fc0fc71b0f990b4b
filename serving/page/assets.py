"""The page's files in memory, by name, with what a browser may keep of them.

All names are known beforehand, so no request can name another file. The files lie under a folder that is
named by their content: they may be kept for ever, and a page never mixes files of two versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
STATIC = HERE / "static"
#: The chart library as its npm package ships it, whole in one module.
LIBRARY = HERE / "node_modules/lightweight-charts/dist/lightweight-charts.standalone.production.mjs"
#: What the page's modules call the library.
LIBRARY_NAME = "lightweight-charts.js"
#: Where files lie, relative to the page.
FOLDER = "page"
INDEX = "index.html"

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class PageMissing(Exception):
    """The page cannot be shown here; says what to do, in one line."""


@dataclass(frozen=True)
class Asset:
    """A file: its bytes, its type, and a strong ETag of its content."""

    body: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> Asset:
        """Return a file with the type that its name's ending has."""
        return cls(body, CONTENT_TYPES[Path(name).suffix], f'"{_digest(body)}"')


@dataclass(frozen=True)
class Assets:
    """The page and its files.

    Attributes:
        version: names the content of all files.
        index: the page; its links lead to ``page/<version>/<name>``.
        files: by name.
    """

    version: str
    index: Asset
    files: Mapping[str, Asset]


def load(static: Path = STATIC, library: Path = LIBRARY) -> Assets:
    """Read the page's files.

    Args:
        static: the folder of the page's own files.
        library: the chart library's module.

    Raises:
        PageMissing: the library is not installed.
    """
    try:
        library_body = library.read_bytes()
    except OSError:
        raise PageMissing(
            "the page's chart library is not installed: run `make setup` in the checkout (it needs npm; "
            "Debian: sudo apt-get install npm), then load this page again"
        ) from None
    bodies = {LIBRARY_NAME: library_body}
    for path in sorted(static.iterdir()):
        if path.suffix in CONTENT_TYPES:
            bodies[path.name] = path.read_bytes()
    page = bodies.pop(INDEX)
    parts = (f"{name} {_digest(body)}\n" for name, body in sorted(bodies.items()))
    version = _digest("".join(parts).encode())
    return Assets(
        version,
        Asset.of(INDEX, page.replace(b"{{files}}", f"{FOLDER}/{version}".encode())),
        {name: Asset.of(name, body) for name, body in bodies.items()},
    )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:20]

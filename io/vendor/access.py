"""Where the vendor is, and with which key it is asked. Neither is ever written anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fibflow.io.vendor.errors import WrongKey

#: The vendor's own address.
OFFICIAL = "https://api.massive.com"
#: The variable that names another.
URL_VARIABLE = "FIBFLOW_VENDOR_URL"
#: The variables that may hold the key, the first one that does wins.
KEY_VARIABLES = ("MASSIVE_API_KEY", "POLYGON_API_KEY")

_FILE = "the file that --key-file names"
_HOW = f"set {' or '.join(KEY_VARIABLES)}, or name a file that holds the key with --key-file"


def vendor_key(environ: Mapping[str, str], key_file: str | None = None) -> str:
    """Return the key: of the file where one is named, else of the environment.

    Raises:
        WrongKey: there is none, or it can be none.
    """
    if key_file is not None:
        try:
            text = Path(key_file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            # Not its name: who mistakes the option gives the key itself.
            raise WrongKey(f"the vendor's key cannot be read: {_FILE}: {why}") from None
        where = _FILE
    else:
        where, text = next(
            ((name, environ[name]) for name in KEY_VARIABLES if environ.get(name, "").strip()), ("", "")
        )
    key = text.strip()
    if not key:
        raise WrongKey(f"there is no key of the vendor{f' in {where}' if where else ''}: {_HOW}")
    # It goes into a header, whose errors would show it.
    if not (key.isascii() and key.isprintable()) or any(mark.isspace() for mark in key):
        raise WrongKey(f"what {where} holds is no key of the vendor: one word of plain letters: {_HOW}")
    return key


def vendor_url(environ: Mapping[str, str], given: str | None = None) -> str:
    """Return the address without a slash at the end: the one given, the environment's, or the vendor's own.

    Raises:
        ValueError: it is no address of a server.
    """
    url = (given or environ.get(URL_VARIABLE) or OFFICIAL).strip().rstrip("/")
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(
            "the vendor's address (--vendor-url, or FIBFLOW_VENDOR_URL) has to read "
            "https://host, or http://host:port, with no name, password or query"
        )
    return url

"""Addresses of Redis, and the password that is not to be kept with a job."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

#: Names the variable of the password, for addresses without one.
PASSWORD = "REDIS_PASSWORD"
NO_ADDRESS = "REDIS_URL is no address of Redis: write redis://host:6379/0, rediss://... or unix:///..."
_ADDRESS = re.compile(r"(--[^=]*=)?((?:rediss?|unix)://.*)", re.DOTALL | re.IGNORECASE)


def split_password(url: str) -> tuple[str, str | None]:
    """Return an address without its password, and the password; None for none.

    Raises:
        ValueError: it is no address; one line that says what to do, and shows nothing of it.
    """
    try:
        parts = urlsplit(url)
        of_query = parse_qs(parts.query).get("password")
    except ValueError:
        raise ValueError(NO_ADDRESS) from None
    user, at, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    if not password and not of_query:
        return url, None
    fields = [each for each in parts.query.split("&") if unquote(each.partition("=")[0]) != "password"]
    # Not ``geturl``, which takes the slashes from an address without a host.
    rest = f"{parts.scheme}://{name}{at if name else ''}{host}{parts.path}"
    found = "?".join([rest, "&".join(fields)] if any(fields) else [rest])
    return found, unquote(password or (of_query or [""])[0])


def without_password(argument: str) -> str:
    """Return an argument of a command line; without its password where it is an address of Redis."""
    found = _ADDRESS.fullmatch(argument)
    if found is None:
        return argument
    option, url = found[1] or "", found[2]
    try:
        return option + split_password(url)[0]
    except ValueError:
        return option + url.partition("//")[0]

"""Values of paths and queries, as the vendor's clients write them. What is not asked about is ignored."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date

from fibflow.serving.history.query import instant_of
from fibflow.serving.problems import bad_request

#: Suffixes of a name that compare: ``ticker.gte``.
COMPARISONS = ("gt", "gte", "lt", "lte")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_LONGEST_TICKER = 64
_WHOLE = re.compile(r"-?[0-9]{1,21}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NS_A_US = 1_000
#: Instants lie within years 1 and 9999, UTC nanoseconds.
_EARLIEST, _LATEST = -62_135_596_800 * 10**9, 253_402_300_800 * 10**9

Params = Mapping[str, str]


def compared(*names: str) -> tuple[str, ...]:
    """Return names with all their comparisons."""
    return tuple(part for name in names for part in (name, *(f"{name}.{sign}" for sign in COMPARISONS)))


def flag(params: Params, name: str, default: bool) -> bool:
    """Read ``true`` or ``false``.

    Raises:
        Problem: it is neither.
    """
    text = params.get(name, "").strip().lower()
    if not text:
        return default
    if text not in _FLAGS:
        raise bad_request(f"{name}={_shown(text)} is neither true nor false")
    return _FLAGS[text]


def whole(params: Params, name: str, default: int, least: int, most: int) -> int:
    """Read a whole number in ``[least, most]``.

    Raises:
        Problem: it is none.
    """
    text = params.get(name, "").strip()
    return whole_of(text, name, least, most) if text else default


def whole_of(text: str, name: str, least: int, most: int) -> int:
    """Read a whole number in ``[least, most]``.

    Raises:
        Problem: it is none.
    """
    if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise bad_request(f"{name}={_shown(text)} has to be a whole number from {least} to {most}")
    return int(text)


def choice(params: Params, name: str, of: Collection[str], default: str) -> str:
    """Read one of some words.

    Raises:
        Problem: it is none of them.
    """
    text = params.get(name, "").strip().lower()
    if text and text not in of:
        raise bad_request(f"{name}={_shown(text)}: choose {', '.join(of)}")
    return text or default


def ticker_of(text: str) -> str:
    """Read a ticker.

    Raises:
        Problem: it is none.
    """
    if not text or len(text) > _LONGEST_TICKER or not text.isprintable():
        raise bad_request(f"a ticker has 1 to {_LONGEST_TICKER} printable characters")
    return text


def moment_of(text: str, name: str) -> int | date:
    """Read an instant: ``YYYY-MM-DD``, ISO 8601, or an epoch in ms, us or ns by its magnitude.

    Returns:
        UTC nanoseconds, or a date.

    Raises:
        Problem: it is none, or lies beyond the years 1 to 9999.
    """
    text = text.strip()
    if _WHOLE.fullmatch(text):
        number = int(text)
        size = abs(number)
        found = number * (1_000_000 if size < 10**14 else _NS_A_US if size < 10**17 else 1)
    else:
        instant = instant_of(text, name)
        if isinstance(instant, date):
            return instant
        found = instant * _NS_A_US
    if not _EARLIEST <= found < _LATEST:
        raise bad_request(f"{name}={_shown(text)} lies beyond the years 1 to 9999", f"bad_{name}")
    return found


@dataclass(frozen=True)
class Texts:
    """Conditions on a text.

    Attributes:
        equal: it is this; None for any.
        among: it is one of these; None for any.
        above, below: (bound, whether the bound itself is in); None for no bound.
    """

    equal: str | None
    among: frozenset[str] | None
    above: tuple[str, bool] | None
    below: tuple[str, bool] | None

    @classmethod
    def of(cls, params: Params, name: str) -> Texts:
        """Read ``name``, ``name.gt`` and the like, and ``name.any_of``."""
        above = _bound(params, name, "gt", "gte")
        below = _bound(params, name, "lt", "lte")
        listed = params.get(f"{name}.any_of")
        among = None if listed is None else frozenset(part.strip() for part in listed.split(","))
        return cls(params.get(name) or None, among, above, below)

    def hold(self, text: str) -> bool:
        """Return whether a text fits."""
        if self.equal is not None and text != self.equal:
            return False
        if self.among is not None and text not in self.among:
            return False
        if self.above is not None and not (text > self.above[0] or (self.above[1] and text == self.above[0])):
            return False
        return self.below is None or text < self.below[0] or (self.below[1] and text == self.below[0])


def _bound(params: Params, name: str, strict: str, loose: str) -> tuple[str, bool] | None:
    if text := params.get(f"{name}.{strict}"):
        return text, False
    if text := params.get(f"{name}.{loose}"):
        return text, True
    return None


def date_of(text: str, name: str) -> date:
    """Read ``YYYY-MM-DD``.

    Raises:
        Problem: it is no date.
    """
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise bad_request(f"{name}={_shown(text)} is no date: write YYYY-MM-DD", f"bad_{name}")


def dates_checked(params: Params, name: str) -> None:
    """Refuse comparisons of a date with what is none.

    Raises:
        Problem: it is none.
    """
    for key in compared(name):
        if text := params.get(key):
            date_of(text, key)


def _shown(text: str) -> str:
    return repr(text[:40])

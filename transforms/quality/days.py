"""Sessions that symbols lack, and symbols that have gone quiet, by what has been usual for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fibflow.transforms.calendar import Int64
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.quality.span import Bool, Roster, Span

#: The part of the sessions before the window with a row from which on a symbol is one that trades daily.
REGULAR = 0.9
#: A symbol with fewer sessions than that before the window is taken to trade daily.
NEW = 5
#: What happens by chance this seldom does not.
SELDOM = 0.01


@dataclass(frozen=True)
class Known:
    """What reference data says of symbols, by row; shape (symbols,) each.

    Attributes:
        gone: trades no more.
        renamed: the place of the session from which on its company trades under another name; the span's
            length, or more, for none.
    """

    gone: Bool
    renamed: Int64

    @classmethod
    def nothing(cls, symbols: int) -> Known:
        """Of symbols that nobody knows anything of."""
        return cls(np.zeros(symbols, np.bool_), np.full(symbols, np.iinfo(np.int64).max))


def known_of(symbols: pa.Table, renames: pa.Table, roster: Roster, span: Span) -> Known:
    """Return what reference data says of the symbols of a roster.

    Args:
        symbols: of ``schemas.SYMBOLS``.
        renames: of ``schemas.RENAMES``.
        roster: the symbols.
        span: the sessions.
    """
    known = Known.nothing(len(roster))
    last = int(span.days[-1])
    rows = roster.find(symbols["symbol"].combine_chunks())
    gone = ~_active(symbols, last, True)
    known.gone[rows[(rows >= 0) & gone]] = True
    at = roster.find(renames["old_symbol"].combine_chunks())
    days = _days(renames, "date", last + 1)
    good = np.flatnonzero((at >= 0) & (days <= last))
    # Of several the last one: who had the name before is of no account.
    good = good[np.argsort(days[good], kind="stable")]
    known.renamed[at[good]] = np.searchsorted(span.days, days[good])
    return known


def active_at(symbols: pa.Table, day: int) -> Any:
    """Return the symbols that reference data calls active and listed on a date (days since 1970)."""
    known = _active(symbols, day, False) & (_days(symbols, "listed", day) <= day)
    return symbols["symbol"].combine_chunks().filter(as_arrow(known))


def _active(symbols: pa.Table, day: int, unknown: bool) -> Bool:
    active: Any = symbols["active"]
    return np.asarray(active.fill_null(unknown)).astype(np.bool_) & (
        _days(symbols, "delisted", day + 1) > day
    )


def _days(rows: pa.Table, name: str, unknown: int) -> Int64:
    days: Any = rows[name].cast(pa.int32())
    return np.asarray(days.fill_null(unknown)).astype(np.int64)


class Life(NamedTuple):
    """When symbols should have traded.

    Attributes:
        alive: where a symbol is between its first and its last session, or its last one is not known;
            shape (symbols, sessions).
        quiet: symbols that stopped, shape (symbols,).
        silence: for how many sessions each has had nothing.
    """

    alive: Bool
    quiet: Bool
    silence: Int64


def life_of(has: Bool, known: Known, quiet_after: int) -> Life:
    """Return when symbols should have traded.

    A life begins with the first session that has something. It ends with the last one where the symbol is
    known to have gone; of one that was renamed, with the last one before: what has the name afterwards is
    another. Any other life goes on.

    Args:
        has: where there is anything of a symbol, shape (symbols, sessions).
        known: of the symbols.
        quiet_after: sessions without anything after which a symbol is quiet, if it is likely to be.
    """
    symbols, sessions = has.shape
    place = np.arange(sessions)
    before = place < known.renamed[:, None]
    ended = known.gone | (known.renamed < sessions)
    alive = _within(has & before, ended) & before
    alive |= _within(has & ~before, known.gone)
    last = np.where(has.any(1), sessions - 1 - has[:, ::-1].argmax(1), -1)
    silence = np.where(last >= 0, sessions - 1 - last, sessions)
    held = has.any(0)
    own = alive & held & (place <= last[:, None])
    lived = np.maximum(own.sum(1), 1)
    missed = (own & ~has).sum(1) / lived
    going_on = alive[:, -1] if sessions else np.zeros(symbols, np.bool_)
    quiet = going_on & (silence >= quiet_after) & (missed ** np.maximum(silence, 1) < SELDOM)
    return Life(alive, quiet, silence)


def _within(has: Bool, ended: Bool) -> Bool:
    """Where a life lies: from its first session on, to its last one where it has ended."""
    begun = np.logical_or.accumulate(has, axis=1)
    over = ~np.logical_or.accumulate(has[:, ::-1], axis=1)[:, ::-1]
    return begun & ~(over & ended[:, None])


def day_gaps(days: Bool, life: Life, judged: int) -> Bool:
    """Return the sessions of the window that symbols lack, shape (symbols, sessions).

    Only symbols that trade daily have gaps; what is missing since a symbol went quiet is none.

    Args:
        days: where there is a daily bar, shape (symbols, sessions).
        life: of the symbols.
        judged: the place of the first session of the window.
    """
    place = np.arange(days.shape[1])
    usual = life.alive & days.any(0) & (place < judged)
    lived = usual.sum(1)
    regular = (lived < NEW) | ((usual & days).sum(1) >= REGULAR * lived)
    regular &= days.any(1)
    stopped = life.quiet[:, None] & (place >= days.shape[1] - life.silence[:, None])
    found: Bool = life.alive & ~days & ~stopped & regular[:, None] & (place >= judged)
    return found

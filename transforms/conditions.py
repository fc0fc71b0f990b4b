"""What a trade counts towards, by its conditions.

The rules are the consolidated ones of the CTA and UTP plans, by the vendor's numbers for sale conditions
(Polygon/Massive, ``/v3/reference/conditions``: ``update_rules.consolidated``; the plans' own tables are in
the CTS and UTDF specifications). A trade counts towards what *all* of its conditions allow.

Where the plans say more than a table can:

- Conditions that may set the last price only if there is no other trade yet (5, 10, 22, 32, 33) never do.
- Outside regular hours condition 12 (form T), which only says that it is so, is passed over: there would be
  no prices before the open and after the close. Condition 13, which says that such a trade is reported late
  too, is not. A corrected consolidated close (38) counts within regular hours only: after them it is a price
  of the day, not of the minute that it is printed in.
- A condition that is not listed restricts nothing, as a new one does at the vendor until it has rules;
  ``unknown_codes`` counts those. A cancel or a correction is no condition: the trade counts as it came.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.accumulators import to_micro
from fibflow.transforms.partials import numbers
from fibflow.transforms.schemas import MINUTE_INPUT, TRADE_INPUT

UInt8 = npt.NDArray[np.uint8]
_MINUTE_US = 60_000_000


class Rule(enum.IntFlag):
    """What a trade counts towards, within regular hours and outside them."""

    HIGH_LOW = 1
    OPEN_CLOSE = 2
    VOLUME = 4
    EXTENDED_HIGH_LOW = 8
    EXTENDED_OPEN_CLOSE = 16
    EXTENDED_VOLUME = 32

    @property
    def extended(self) -> Rule:
        """The same rules outside regular hours."""
        return Rule(int(self) << _EXTENDED)


_EXTENDED = 3
#: What restricts nothing.
ALL = Rule(63)
_REGULAR = Rule.HIGH_LOW | Rule.OPEN_CLOSE | Rule.VOLUME

FORM_T = 12
ODD_LOT = 37
CORRECTED_CLOSE = 38

#: Count towards everything: regular sales (0), acquisitions, automatic executions, bunched trades, auctions
#: and other prints of an open or a close, crosses, distributions, sweeps, stopped stock, sold last, split
#: trades, yellow flag, exempt from trade-through.
_UNRESTRICTED = (0, 1, 3, 4, 6, 8, 9, 11, 14, 17, 18, 19, 23, 24, 25, 27, 28, 30, 31, 34, 35, 36, 41, 55)
#: The short sale restriction and financial status of the security, which no trade is judged by.
_STATUS = (57, 58, 59, 60, *range(62, 72))
#: Bunched sold, derivatively priced, prior reference price, sold out of sequence (also with stopped stock).
_NO_OPEN_CLOSE = (5, 10, 22, 32, 33)
#: Average price, cash sale, form T and the same out of sequence, next day, price variation, seller, odd lot,
#: contingent, qualified contingent.
_VOLUME_ONLY = (2, 7, FORM_T, 13, 20, 21, 29, ODD_LOT, 52, 53)
#: An exchange's official close and open: they repeat a price that trades have made.
_NOTHING = (15, 16)

#: By condition, the rules of ``update_rules.consolidated``.
CONSOLIDATED: dict[int, Rule] = {
    **dict.fromkeys((*_UNRESTRICTED, *_STATUS), _REGULAR),
    **dict.fromkeys(_NO_OPEN_CLOSE, Rule.HIGH_LOW | Rule.VOLUME),
    **dict.fromkeys(_VOLUME_ONLY, Rule.VOLUME),
    **dict.fromkeys(_NOTHING, Rule(0)),
    CORRECTED_CLOSE: Rule.HIGH_LOW | Rule.OPEN_CLOSE,
}
_OUTSIDE: dict[int, Rule] = {**CONSOLIDATED, FORM_T: _REGULAR, CORRECTED_CLOSE: Rule(0)}


def rule_of(codes: list[int]) -> Rule:
    """Return what a trade with these conditions counts towards."""
    inside = outside = _REGULAR
    for code in codes:
        inside &= CONSOLIDATED.get(code, _REGULAR)
        outside &= _OUTSIDE.get(code, _REGULAR)
    return inside | outside.extended


def rules_of(conditions: pa.DictionaryArray | pa.ChunkedArray) -> UInt8:
    """Return what each trade counts towards, as bits of ``Rule``.

    Args:
        conditions: the codes as in ``schemas.TRADES``, joined by commas, shape (n,); none where it is null.

    Returns:
        Shape (n,), uint8.

    Raises:
        ValueError: A code is no number.
    """
    parts = [_rules(chunk) for chunk in _chunks(conditions)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def unknown_codes(conditions: pa.DictionaryArray | pa.ChunkedArray) -> Counter[int]:
    """Count the trades that have a code with no rules here, by code."""
    found: Counter[int] = Counter()
    for chunk in _chunks(conditions):
        held = np.bincount(_indices(chunk), minlength=len(chunk.dictionary) + 1).tolist()
        for text, count in zip(chunk.dictionary.to_pylist(), held, strict=False):
            if count:
                found.update(dict.fromkeys(set(_codes(text)) - CONSOLIDATED.keys(), count))
    return found


def _chunks(conditions: Any) -> list[Any]:
    return conditions.chunks if isinstance(conditions, pa.ChunkedArray) else [conditions]


def _codes(text: str | None) -> list[int]:
    return [int(code) for code in text.split(",")] if text else []


def _indices(chunk: Any) -> npt.NDArray[Any]:
    """Return the numbers of the words; for null the one behind the last."""
    indices = chunk.indices
    return (indices.fill_null(len(chunk.dictionary)) if indices.null_count else indices).to_numpy()


def _rules(chunk: Any) -> UInt8:
    words = [int(rule_of(_codes(text))) for text in chunk.dictionary.to_pylist()]
    return np.array([*words, int(ALL)], np.uint8)[_indices(chunk)]


def trade_input(trades: pa.Table) -> pa.Table:
    """Return what the kernel takes of trades.

    Args:
        trades: of ``schemas.TRADES``.

    Returns:
        A table of ``schemas.TRADE_INPUT``, in the same order.
    """
    columns: dict[str, Any] = {name: trades[name] for name in trades.column_names}
    columns["volume"] = pa.array(to_micro(trades["size"].to_numpy()))
    columns["rules"] = pa.array(rules_of(trades["conditions"]))
    return pa.Table.from_arrays([columns[name] for name in TRADE_INPUT.names], schema=TRADE_INPUT)


def minute_input(aggregates: pa.Table) -> pa.Table:
    """Return what the kernel takes of minute aggregates; a stamp within a minute is that minute.

    Args:
        aggregates: of ``schemas.AGGREGATES``.

    Returns:
        A table of ``schemas.MINUTE_INPUT``, in the same order.
    """
    rows = aggregates.select(MINUTE_INPUT.names)
    at = rows.schema.get_field_index("ts")
    stamps = numbers(rows, "ts")
    within = stamps % _MINUTE_US
    if not within.any():
        return rows
    minutes = pa.array(stamps - within).view(rows.schema.field(at).type)
    return rows.set_column(at, rows.schema.field(at), minutes)

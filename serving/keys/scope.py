"""What a key may be used for."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What a key may be used for."""

    HISTORY = "history"
    LIVE = "live"
    EXPORT = "export"
    ALERTS = "alerts"

"""What is sent of an event, to webhooks and topics alike."""

from __future__ import annotations

import json
import math
from datetime import UTC
from typing import Any

from fibflow.io.alerts.model import Event


def as_json(event: Event) -> dict[str, Any]:
    """Return what is sent of an event, as JSON values; ``docs/notify.md`` says what they mean."""
    return {
        "id": event.id,
        "alert": str(event.alert),
        "version": event.version,
        "symbol": event.symbol,
        "price": _finite(event.price),
        "level": _finite(event.level),
        "operator": event.operator,
        "note": event.note,
        "ts": event.ts.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "test": event.test,
    }


def body_of(event: Event) -> bytes:
    """Return the bytes that are sent, and signed."""
    return json.dumps(as_json(event), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None

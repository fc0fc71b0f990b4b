"""The predecessor's words for alerts: names of attributes, conditions, states and frequencies, as ours."""

from __future__ import annotations

import re

from fibflow.io.alerts.model import ACTIVE, FIRED, PAUSED
from fibflow.transforms.alerts.definition import FREQUENCIES, OPERATORS

CONFIG, HISTORY = "config", "history"
_SHARED = {
    "owner": ("user_id", "owner", "owner_id", "user", "username", "account_id", "customer_id", "email"),
    "symbol": ("symbol", "ticker", "stock_symbol", "sym"),
    "operator": ("condition", "operator", "condition_type", "alert_type", "comparison", "direction", "type"),
    "note": ("note", "notes", "message", "description", "name", "label"),
}
_VALUES = ("threshold", "threshold_price", "price_threshold", "threshold_value", "target_price", "target")
PERCENTS = ("percent", "percentage", "percent_threshold", "threshold_percent")
#: Names of values that a percentage cannot have.
PRICES = ("threshold_price", "price_threshold", "target_price", "price")
#: By table and by what we make of them, the attributes that are looked for.
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    CONFIG: {
        "id": ("alert_id", "id", "alert", "config_id"),
        **_SHARED,
        "value": (*PERCENTS, *_VALUES, "value", "price"),
        "reference_price": ("reference_price", "base_price", "price_at_creation", "initial_price"),
        "state": ("status", "state", "alert_status", "is_active", "active", "enabled", "is_enabled"),
        "frequency": ("frequency", "repeat", "recurring", "is_recurring", "trigger_type"),
        "cooldown": ("cooldown_seconds", "cooldown_s", "cooldown"),
        "created": ("created_at", "created", "created_on", "creation_date", "timestamp"),
        "fired": ("triggered_at", "last_triggered_at", "last_triggered", "fired_at", "last_fired"),
        "firings": ("trigger_count", "triggered_count", "times_triggered"),
        "expires": ("expires_at", "expires", "expiration", "expiry", "valid_until"),
    },
    HISTORY: {
        "id": ("history_id", "event_id", "trigger_id", "notification_id", "id"),
        "alert": ("alert_id", "alert", "config_id"),
        **_SHARED,
        "ts": ("triggered_at", "fired_at", "trigger_time", "timestamp", "ts", "created_at", "sent_at"),
        "price": ("triggered_price", "trigger_price", "price_at_trigger", "current_price", "price"),
        "level": (*_VALUES, "value"),
    },
}
#: What the predecessor's words say, beside our own.
OPERATOR_WORDS = {
    **{name: name for name in OPERATORS},
    **dict.fromkeys(
        ("price_above", "gt", ">", "gte", ">=", "ge", "greater_than", "greater", "over", "up"), "above"
    ),
    **dict.fromkeys(
        ("price_below", "lt", "<", "lte", "<=", "le", "less_than", "less", "under", "down"), "below"
    ),
    **dict.fromkeys(("crosses_above", "cross_above", "crossing_up", "rises_above", "cross_up"), "crosses_up"),
    **dict.fromkeys(
        ("crosses_below", "cross_below", "crossing_down", "falls_below", "drops_below", "cross_down"),
        "crosses_down",
    ),
    **dict.fromkeys(("cross", "crossing"), "crosses"),
    **dict.fromkeys(
        ("percent_change", "pct_change", "percentage_change", "change_percent", "percentage", "pct", "%"),
        "percent",
    ),
    **dict.fromkeys(("percent_increase", "pct_up", "percentage_increase", "percent_gain"), "percent_up"),
    **dict.fromkeys(("percent_decrease", "pct_down", "percentage_decrease", "percent_loss"), "percent_down"),
}
#: Of each of ours, how it looks at prices and which way; and back. Several words tell one together where they
#: say the same, or one what the other leaves open.
SENSES = {
    **{"above": ("", "up"), "below": ("", "down"), "crosses": ("crosses", "")},
    **{"crosses_up": ("crosses", "up"), "crosses_down": ("crosses", "down"), "percent": ("percent", "")},
    **{"percent_up": ("percent", "up"), "percent_down": ("percent", "down")},
}
BY_SENSE = {sense: name for name, sense in SENSES.items()}
#: Attributes and words that cannot be passed over where others are known: they would change what is meant.
TELLING = ("direction", "comparison")
PERCENTISH = re.compile(r"percent|pct|%")
ENDED = "ended"
STATE_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on", "active", "enabled", "pending", "armed"), ACTIVE),
    **dict.fromkeys(("false", "0", "no", "off", "inactive", "disabled", "paused", "snoozed"), PAUSED),
    **dict.fromkeys(("triggered", "fired", "completed", "done", "sent"), FIRED),
    **dict.fromkeys(("deleted", "expired", "cancelled", "canceled", "archived"), ENDED),
}
#: Of several attributes that tell a state, the one that says most counts.
STATES = (ENDED, FIRED, PAUSED, ACTIVE)
FREQUENCY_WORDS = {
    **{name: name for name in FREQUENCIES if name != "bar"},
    **dict.fromkeys(("false", "0", "no", "one_time", "onetime", "single", "never"), "once"),
    **dict.fromkeys(("true", "1", "yes", "always", "recurring", "repeat", "every"), "every_time"),
    **dict.fromkeys(("once_per_day", "once_a_day", "day"), "daily"),
}

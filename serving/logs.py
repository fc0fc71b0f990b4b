"""Logs: a JSON object a line on standard error. No key and no password gets into one."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

_SECRETS = (
    (re.compile(r"fib_([0-9a-f]{16})_[A-Za-z0-9_-]+"), r"fib_\1_..."),
    (re.compile(r"((?:apikey|api_key|password|passwd|secret|token)=)[^&\s\"']+", re.IGNORECASE), r"\1..."),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^/\s:@]*:)[^/\s@]+@", re.IGNORECASE), r"\1...@"),
    (re.compile(r"(bearer\s+)[A-Za-z0-9._~+/=-]+", re.IGNORECASE), r"\1..."),
)


def scrubbed(text: str) -> str:
    """Return a text without what looks like a key or a password."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class JsonLines(logging.Formatter):
    """Formats records of ``logging``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": scrubbed(record.getMessage()),
        }
        if request_id := getattr(record, "request_id", None):
            told["request_id"] = request_id
        if record.exc_info and record.exc_info[0] is not None:
            told["error"] = scrubbed("".join(traceback.format_exception(*record.exc_info)))
        return orjson.dumps(told).decode()


def set_up(level: str = "WARNING") -> None:
    """Let all loggers of this process write lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It warns of each request that is none: whoever sends them would fill the log.
    logging.getLogger("uvicorn.error").setLevel(max(logging.ERROR, logging.getLogger().level))


def write(line: dict[str, Any]) -> None:
    """Write one line at once: shorter than 4 kB, it does not mix with those of other workers."""
    os.write(2, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

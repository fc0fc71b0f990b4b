"""The address of a stream, as command lines take it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from fibflow.io.kinesis.errors import KinesisError

TRIM_HORIZON = "TRIM_HORIZON"
LATEST = "LATEST"
SESSION = "SESSION"

_KEYS = ("start", "lanes", "poll", "rate", "stop")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class KinesisAddress:
    """A stream and how to read it: ``kinesis://NAME?start=LATEST&lanes=2``.

    Attributes:
        stream: name of the stream.
        start: ``TRIM_HORIZON`` (the oldest record kept), ``LATEST`` (what comes after the launch),
            ``SESSION`` (from the beginning of the running session's day, else as ``LATEST``), or the arrival
            time from which on to read, UTC microseconds.
        lanes: how many lanes read it; no more than it has shards.
        poll: seconds between two reads of a shard, 0.2 or more: the service allows five a second for all
            that read it.
        rate: bytes a second to read of a shard. The service allows 2,000,000; an emulator may give more.
        stop_at_end: stop where the stream ends for now; for tests and tools.
    """

    stream: str
    start: str | int = TRIM_HORIZON
    lanes: int = 1
    poll: float = 0.25
    rate: float = 2_000_000.0
    stop_at_end: bool = False

    @classmethod
    def parse(cls, text: str) -> KinesisAddress:
        """Read an address.

        Keys are ``start`` (``TRIM_HORIZON``, ``LATEST``, ``SESSION`` or an ISO time, UTC where it has no
        zone), ``lanes``, ``poll``, ``rate`` and ``stop=end``.

        Raises:
            KinesisError: The text is no address of a stream.
        """
        url = urlsplit(text)
        name = url.netloc
        if url.scheme != "kinesis" or url.path not in ("", "/") or url.fragment:
            raise KinesisError(f"{text!r} is no stream: write it as kinesis://NAME?start=LATEST&lanes=2")
        if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,128}", name):
            raise KinesisError(f"{text!r}: a stream's name has 1 to 128 letters, digits, '_', '.' or '-'")
        try:
            pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
        except ValueError as error:
            raise KinesisError(f"{text!r}: write options as key=value, joined by '&'") from error
        options = dict(pairs)
        for key in options:
            if key not in _KEYS:
                raise KinesisError(f"{text!r}: unknown option {key!r}: choose of {', '.join(_KEYS)}")
        if len(options) < len(pairs):
            raise KinesisError(f"{text!r}: an option is given twice")
        if options.get("stop", "end") != "end":
            raise KinesisError(f"{text!r}: stop takes 'end' only")
        return cls(
            stream=name,
            start=_start(text, options.get("start", TRIM_HORIZON)),
            lanes=int(_number(text, options, "lanes", 1, 1, whole=True)),
            poll=_number(text, options, "poll", 0.25, 0.2),
            rate=_number(text, options, "rate", 2_000_000, 1_000),
            stop_at_end="stop" in options,
        )


def _start(text: str, value: str) -> str | int:
    if value in (TRIM_HORIZON, LATEST, SESSION):
        return value
    try:
        # In a query the '+' of a zone reads as a blank.
        moment = datetime.fromisoformat(value.replace(" ", "+") if "T" in value else value)
    except ValueError as error:
        raise KinesisError(
            f"{text!r}: start is {TRIM_HORIZON}, {LATEST}, {SESSION} or a time such as 2024-03-08T14:30:00Z"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _number(
    text: str, options: dict[str, str], key: str, default: float, least: float, whole: bool = False
) -> float:
    value = options.get(key)
    if value is None:
        return default
    try:
        number = int(value) if whole else float(value)
    except ValueError:
        number = -1
    if not least <= number < 1e12:
        raise KinesisError(f"{text!r}: {key} is a {'whole ' if whole else ''}number of {least} or more")
    return number

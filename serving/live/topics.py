"""What a client of the WebSocket may subscribe to, and how the texts of that are read.

The vendor's: ``AM.<SYMBOL>`` bars of a minute, ``T.<SYMBOL>`` trades. Our own: ``B.<timeframe>.<SYMBOL>``
closed bars, ``O.<timeframe>.<SYMBOL>`` open bars, ``P.<SYMBOL>`` last prices, ``N.<SYMBOL>`` news,
``ALERT.<SYMBOL>`` what fires of one's own alerts. ``*`` is every symbol.
"""

from __future__ import annotations

from dataclasses import dataclass

from fibflow.transforms.timeframe import Timeframe, TimeframeError

MINUTES, TRADES = "AM", "T"
CLOSED, OPEN, LAST = "B", "O", "P"
NEWS, ALERTS = "N", "ALERT"
EVERY = "*"

_OF_BARS = (CLOSED, OPEN)
_PLAIN = (MINUTES, TRADES, LAST, NEWS, ALERTS)
#: Those that begin with what is there.
OWN = (CLOSED, OPEN, LAST)
_SECONDS = "A"
_NOT_HERE = {"Q", "LULD", "FMV", "NOI"}
_LONGEST_SYMBOL = 64
_SHOWN = 40


class TopicError(ValueError):
    """A topic cannot be subscribed to; one line that says what to do."""


@dataclass(frozen=True)
class Topic:
    """One subscription.

    Attributes:
        channel: ``AM``, ``T``, ``B``, ``O``, ``P``, ``N`` or ``ALERT``.
        timeframe: canonical; empty for channels without one.
        symbol: whose; ``*`` for all.
    """

    channel: str
    timeframe: str
    symbol: str

    @property
    def room(self) -> tuple[str, str]:
        """What topics of one kind share: the channel and the timeframe."""
        return self.channel, self.timeframe

    @property
    def is_wild(self) -> bool:
        """Whether it is of every symbol."""
        return self.symbol == EVERY


def split(params: str) -> list[str]:
    """Return the texts of a list with commas, in order, each once; empty ones are passed over."""
    return list(dict.fromkeys(text for part in params.split(",") if (text := part.strip())))


def parse(text: str) -> Topic:
    """Read a topic.

    Raises:
        TopicError: it is none, or is not served here.
    """
    channel, dot, rest = text.partition(".")
    if channel == _SECONDS:
        raise TopicError("there are no bars of seconds here: subscribe to AM (minutes) or T (trades)")
    if channel in _NOT_HERE:
        raise TopicError(f"there is no {channel} here: subscribe to AM, T, B, O, P, N or ALERT")
    if channel in _OF_BARS:
        name, dot, rest = rest.partition(".")
        try:
            timeframe = Timeframe.parse(name).name if dot else ""
        except TimeframeError as error:
            raise TopicError(str(error)) from None
        if not timeframe:
            raise TopicError(f"write {channel}.<timeframe>.<symbol>, such as {channel}.5m.AAPL")
    elif channel in _PLAIN:
        timeframe = ""
    else:
        raise TopicError(
            "unknown channel: subscribe to AM, T, B, O, P, N or ALERT, such as AM.AAPL or B.5m.AAPL"
        )
    if not dot or not rest:
        raise TopicError(f"no symbol: write {text[:_SHOWN].rstrip('.')}.AAPL, or * for all")
    if len(rest) > _LONGEST_SYMBOL or not rest.isprintable() or any(mark.isspace() for mark in rest):
        raise TopicError(f"no symbol has white space, or more than {_LONGEST_SYMBOL} characters")
    return Topic(channel, timeframe, rest)


def shown(text: str) -> str:
    """Return a topic as messages show it: cut where it is long."""
    return text if len(text) <= 2 * _LONGEST_SYMBOL else text[:_SHOWN] + "..."

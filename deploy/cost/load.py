"""What a system has to do in a month: the market's part, and the users'."""

from __future__ import annotations

from dataclasses import dataclass

#: Sessions of a month, and minutes of one's regular hours.
SESSIONS = 21
MINUTES = 390


@dataclass(frozen=True)
class Load:
    """What there is to do.

    Attributes:
        users: at work at once, in regular hours.
        symbols: that are followed.
        rows: of daily history.
        active: the part of the symbols that trade in a minute.
        questions: of a user, a second.
        answer_kb: of an answer, as it goes over the wire.
        cached: the part of the questions that the CDN answers by itself.
        messages: that a WebSocket brings a user, a second.
        message_bytes: of one.
        alerts: that fire for a user, a day.
        trades_gb: of trades that the feed brings a day; 0 where only minutes are received.
    """

    users: float
    symbols: int = 5_350
    rows: int = 22_609_541
    active: float = 0.6
    questions: float = 0.2
    answer_kb: float = 20.0
    cached: float = 0.7
    messages: float = 1.0
    message_bytes: int = 150
    alerts: float = 5.0
    trades_gb: float = 0.0

    @property
    def hours(self) -> float:
        """Hours of a month in which users are at work."""
        return SESSIONS * MINUTES / 60

    @property
    def requests(self) -> float:
        """Questions of a month."""
        return self.users * self.questions * self.hours * 3_600

    @property
    def pushed(self) -> float:
        """WebSocket messages of a month, to all users."""
        return self.users * self.messages * self.hours * 3_600

    @property
    def out_gb(self) -> float:
        """What users get in a month, GB."""
        return (self.requests * self.answer_kb * 1e3 + self.pushed * self.message_bytes) / 1e9

    @property
    def origin_gb(self) -> float:
        """What of that comes from the servers themselves, GB."""
        answered = self.requests * (1 - self.cached) * self.answer_kb * 1e3
        return (answered + self.pushed * self.message_bytes) / 1e9

    @property
    def feed_gb(self) -> float:
        """What the feed brings in a month, GB: a minute of a symbol is some 200 bytes."""
        return self.minute_bars * 200 / 1e9 + self.trades_gb * SESSIONS

    @property
    def minute_bars(self) -> float:
        """Minutes of all symbols in a month."""
        return self.symbols * self.active * MINUTES * SESSIONS

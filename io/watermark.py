"""The watermark of our unbounded sources."""

from __future__ import annotations

from apache_beam.io.iobase import WatermarkEstimator
from apache_beam.utils.timestamp import Timestamp


class SteppedWatermark(WatermarkEstimator):
    """A watermark that ``advance`` moves, and only forward. Its state is UTC microseconds."""

    def __init__(self, micros: int) -> None:
        self._micros = micros

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        """Pass it over: the timestamps of output follow the watermark."""

    def current_watermark(self) -> Timestamp:
        """Return the watermark."""
        return Timestamp(micros=self._micros)

    def get_estimator_state(self) -> int:
        """Return the watermark."""
        return self._micros

    def advance(self, micros: int | None) -> None:
        """Move it forward to a time; None and earlier times leave it."""
        if micros is not None:
            self._micros = max(self._micros, micros)

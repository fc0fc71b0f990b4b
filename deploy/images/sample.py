"""Write sixty made-up days of one symbol, up to the exchange's last session, as a raw file below a folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fibflow.transforms.calendar import load_calendar

SYMBOL, SESSIONS = "TRY", 60


def rows_until(now: float) -> list[str]:
    """Return lines of CSV, of the sessions that have ended at an instant, seconds since 1970."""
    calendar = load_calendar("XNYS")
    ended = calendar.days[calendar.day_ends <= now * 1e6][-SESSIONS:].astype("datetime64[D]")
    prices = (f"{day},{10 + n},{12 + n},{9 + n},{11 + n},{1000 * n + 1}" for n, day in enumerate(ended))
    return ["date,open,high,low,close,volume", *prices]


if __name__ == "__main__":
    place = Path(sys.argv[1]) / f"symbol={SYMBOL}"
    place.mkdir(parents=True)
    (place / "data.csv").write_text("\n".join(rows_until(time.time())))

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.vendor.files import DAILY, RawFolder
from fibflow.io.vendor.held import (
    Window,
    first_session,
    lake_session,
    minute_sessions,
    see_files,
    see_lake,
)
from fibflow.io.vendor.presence import BUSY, THIN, Presence
from fibflow.serving.standin.lakes import write_rows
from fibflow.tests.io.vendor.test_files import session
from fibflow.tests.pipelines.lakes import XNYS, sessions
from fibflow.tests.pipelines.raws import Bronze

DAYS = sessions("2023-12-27", "2024-01-05")
ASKED = datetime(2024, 1, 6, tzinfo=UTC)


def window(first: date = DAYS[0], last: date = DAYS[-1]) -> Window:
    bounds = np.array([first, last], "datetime64[D]").astype(np.int64)
    return Window(XNYS, *XNYS.positions(bounds).tolist())


def rows(*cells: tuple[str, date, int | None]) -> pa.Table:
    """Rows of bronze.daily: symbol, session, trades."""
    values = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    listed = [{"symbol": s, "session": d, "trade_count": n, **values} for s, d, n in cells]
    return pa.Table.from_pylist(listed, tables.DAILY.schema)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


def test_a_window_is_some_sessions_of_a_calendar():
    some = window(DAYS[1], DAYS[3])
    assert (len(some), some.dates) == (3, DAYS[1:4])
    asked = np.array([*DAYS, date(2024, 1, 1)], "datetime64[D]").astype(np.int64)
    assert some.positions(asked).tolist() == [-1, 0, 1, 2, *[-1] * (len(DAYS) - 3)]
    assert (some.starts < some.closes).all()
    assert (some.closes < some.ends).all()
    assert len(Window(XNYS, 5, 4)) == 0


def test_an_empty_lake_holds_nothing(lake, tmp_path):
    seen = Presence(len(DAYS))
    see_lake(seen, window(), lake)
    see_files(seen, window(), lake, RawFolder.at(str(tmp_path / "raw")))
    assert seen.names == []
    assert first_session(lake) is None
    assert len(lake_session(lake, window(), 0)) == 0
    assert minute_sessions(lake, window(), ["A"]) == {"A": set()}


def test_the_lake_is_seen_over_a_turn_of_the_year_and_within_the_window(lake):
    write_rows(lake, tables.DAILY, rows(("A", DAYS[0], 3), ("A", DAYS[2], None), ("B", DAYS[-1], 50)))
    seen = Presence(len(DAYS))
    see_lake(seen, window(), lake)
    assert seen.names == ["A", "B"]
    assert {(s, p): k for (s, p), k in np.ndenumerate(seen.cells) if k} == {
        (0, 0): THIN,
        (0, 2): BUSY,
        (1, len(DAYS) - 1): BUSY,
    }
    part = Presence(2)
    see_lake(part, window(DAYS[1], DAYS[2]), lake)
    assert part.cells.tolist() == [[0, BUSY]]
    assert first_session(lake) == (DAYS[0] - date(1970, 1, 1)).days
    assert lake_session(lake, window(), 2)["symbol"].to_pylist() == ["A"]


def test_files_are_seen_until_the_lake_has_them_and_again_when_they_change(lake, tmp_path):
    folder = RawFolder.at(str(tmp_path / "raw"))
    folder.write_session(DAYS[0], session(DAYS[0], A=1.0), ASKED, True, None)
    folder.write_range("B/C", DAYS[0], DAYS[2], session(DAYS[2], **{"B/C": 1.0}), ASKED)
    folder.storage.write(f"{DAILY}/date={DAYS[1]}.parquet", b"broken")

    def found():
        seen = Presence(len(DAYS))
        see_files(seen, window(), lake, folder)
        return {(seen.names[s], p) for (s, p), kind in np.ndenumerate(seen.cells) if kind}

    assert found() == {("A", 0), ("B/C", 2)}
    (tmp_path / "raw" / DAILY / f"date={DAYS[1]}.parquet").unlink()
    assert Bronze(lake.uri).first(folder.uri(DAILY)) == 0
    assert found() == set()
    folder.write_session(DAYS[0], session(DAYS[0], A=1.0, D=1.0), ASKED, True, None)
    assert found() == {("A", 0), ("D", 0)}
    assert folder.first() == DAYS[0]


def test_sessions_of_minutes(lake):
    values = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    stamps = [datetime(2023, 12, 28, 15, 0, tzinfo=UTC), datetime(2024, 1, 3, 1, 0, tzinfo=UTC)]
    listed = [{"symbol": s, "ts": ts, **values} for s in "AB" for ts in stamps]
    write_rows(lake, tables.MINUTES, pa.Table.from_pylist(listed[:-1], tables.MINUTES.schema))
    # In the evening of New York it is still the day before.
    assert minute_sessions(lake, window(), ["A", "B", "C"]) == {"A": {1, 3}, "B": {1}, "C": set()}

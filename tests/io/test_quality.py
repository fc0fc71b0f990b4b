"""The quality report reads its sessions and no more, and is whole whenever somebody reads it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.quality import FOLDER, LATEST, QualityReader, write_report
from fibflow.io.reference import RENAMES
from fibflow.io.reference import SYMBOLS as REFERENCE
from fibflow.io.storage import LakeError, Storage
from fibflow.tests.io.qualitylakes import SPAN, SYMBOLS, bars, cells, every_minute, put, put_days
from fibflow.tests.transforms.quality.worlds import MINUTE, XNYS, date_of, day_rows, minute_rows, span_until
from fibflow.transforms.quality.span import Span


def keys(parts: Iterable[pa.Table]) -> set[tuple[str, int]]:
    found: set[Any] = set()
    for part in parts:
        found |= set(zip(part["symbol"].to_pylist(), part["ts"].cast(pa.int64()).to_pylist(), strict=True))
    return found


def stamps(cells_: set[tuple[str, int, int]]) -> set[tuple[str, int]]:
    return {(symbol, int(SPAN.opens[place]) + minute * MINUTE) for symbol, place, minute in cells_}


def test_days_of_the_span_are_read_and_other_years_files_are_not(tmp_path):
    lake = Lake(str(tmp_path))
    put_days(lake)
    long_ago = span_until("2020-03-06")
    (old,) = put(lake, tables.DAILY, day_rows(long_ago, cells(long_ago)), "old")
    (tmp_path / "bronze.daily" / old).unlink()
    reader = QualityReader(lake)
    assert reader.newest(XNYS) == SPAN.last
    assert reader.calendar_name == "XNYS"
    rows = reader.days(SPAN)
    found = set(zip(rows["symbol"].to_pylist(), rows["session"].to_pylist(), strict=True))
    assert found == {(symbol, date_of(SPAN, place)) for symbol, place in cells()}
    assert len(rows) == len(found)
    short = Span.until(XNYS, SPAN.last, 2, 1)
    assert len(reader.days(short)) == 3 * len(SYMBOLS)


def test_minutes_come_before_and_in_the_window(tmp_path):
    lake = Lake(str(tmp_path))
    put_days(lake)
    official, live = every_minute("A", range(15, 25)), {("B", place, 1) for place in range(15, 25)}
    put(lake, tables.MINUTES, minute_rows(SPAN, official), "minutes")
    for number, month in enumerate(("2024-12", "2025-01")):
        part = {cell for cell in live if date_of(SPAN, cell[1]).isoformat().startswith(month)}
        rows = bars(minute_rows(SPAN, part), "1m")
        put(lake, tables.LIVE, rows, f"live{number}", timeframe="1m", period=month)
    reader = QualityReader(lake)
    span = SPAN.tail(3)
    assert keys(reader.minute_keys(span)) == stamps({cell for cell in official | live if 17 <= cell[1] < 20})
    assert keys(reader.official_minutes(span)) == stamps({cell for cell in official if cell[1] >= 20})
    assert keys(reader.minute_bars(span)) == stamps({cell for cell in live if cell[1] >= 20})
    assert list(reader.live_bars(span)) == []
    assert list(reader.minute_keys(SPAN.tail(0))) == []


def test_other_bars_of_the_stream_are_those_of_the_window(tmp_path):
    lake = Lake(str(tmp_path))
    rows = bars(minute_rows(SPAN, {("A", place, 0) for place in (3, 21, 22)}), "5m")
    put(lake, tables.LIVE, rows, "live", timeframe="5m", period="2024-12")
    reader = QualityReader(lake)
    assert not reader.has_days
    # The last session whose end the stream calls final.
    assert reader.newest(XNYS) == SPAN.first + 21
    (part,) = reader.live_bars(SPAN)
    assert keys([part]) == stamps({("A", 21, 0), ("A", 22, 0)})
    assert part["timeframe"].to_pylist() == ["5m", "5m"]
    assert list(reader.minute_bars(SPAN)) == []
    assert len(reader.days(SPAN)) == 0


def test_refused_rows_are_those_of_the_window_and_those_without_time(tmp_path):
    lake = Lake(str(tmp_path))
    put_days(lake)
    midnight = [np.datetime64(date_of(SPAN, place), "us").astype(int) for place in (19, 20, 24)]
    ts = [*map(int, midnight), SPAN.stop - 1, SPAN.stop]
    reasons = ["early", "negative_volume", "duplicate", "duplicate", "late"]
    for number in range(len(ts)):
        rows = pa.table({"ts": pa.array([ts[number]]), "reason": [reasons[number]], "run": ["r"]})
        put(lake, tables.DEAD_LETTERS, rows, f"dead{number}")
    without = pa.table({"reason": ["null_time", "unreadable", "null_time"], "run": ["r"] * 3})
    put(lake, tables.DEAD_LETTERS, without, "without")
    reader = QualityReader(lake)
    refused = Counter(map(str, reader.refused(SPAN)["reason"].to_pylist()))
    assert refused == {"duplicate": 2, "negative_volume": 1}
    assert reader.undated().to_pylist() == [
        {"reason": "null_time", "count": 2},
        {"reason": "unreadable", "count": 1},
    ]


def test_differences_are_counted_by_session_timeframe_and_reason(tmp_path):
    lake = Lake(str(tmp_path))
    put_days(lake)
    ts = [SPAN.start(place) for place in (19, 20, 20, 24)]
    rows = pa.table(
        {
            "run": ["r"] * 4,
            "session": [date_of(SPAN, place) for place in (19, 20, 20, 24)],
            "symbol": ["A", "A", "B", "A"],
            "timeframe": ["1m", "1m", "1m", "5d"],
            "ts": ts,
            "why": ["late", "late", "late", "unexplained"],
        }
    )
    put(lake, tables.RECONCILIATION, rows, "differences")
    assert QualityReader(lake).differences(SPAN).to_pylist() == [
        {"session": date_of(SPAN, 20), "timeframe": "1m", "why": "late", "count": 2},
        {"session": date_of(SPAN, 24), "timeframe": "5d", "why": "unexplained", "count": 1},
    ]


def test_a_lake_without_other_tables_has_none_of_their_rows(tmp_path):
    lake = Lake(str(tmp_path))
    put_days(lake)
    reader = QualityReader(lake)
    symbols, renames = reader.reference()
    assert (symbols.schema, len(symbols)) == (REFERENCE.schema, 0)
    assert (renames.schema, len(renames)) == (RENAMES.schema, 0)
    for rows in (reader.differences(SPAN), reader.refused(SPAN), reader.undated()):
        assert len(rows) == 0
    for parts in (reader.minute_keys(SPAN), reader.official_minutes(SPAN), reader.minute_bars(SPAN)):
        assert list(parts) == []


def test_no_lake_and_no_session_are_told(tmp_path):
    with pytest.raises(LakeError, match="there is nothing to look at"):
        QualityReader(Lake(str(tmp_path)))
    lake = Lake(str(tmp_path))
    rows = bars(minute_rows(SPAN, {("A", 3, 0)}), "5m")
    at = rows.schema.get_field_index("final")
    rows = rows.set_column(at, "final", pa.array([False]))
    put(lake, tables.LIVE, rows, "live", timeframe="5m", period="2024-12")
    with pytest.raises(LakeError, match="no session has ended"):
        QualityReader(lake).newest(XNYS)


def test_a_report_is_the_newest_and_that_of_its_day(anywhere):
    for number, day in enumerate(("2025-01-02", "2025-01-03", "2025-01-03")):
        places = write_report(anywhere, {"number": number}, day)
        assert [place.rpartition("/")[2] for place in places] == [f"{day}.json", LATEST]
    storage = Storage(anywhere.uri, anywhere.aws).child(FOLDER)
    assert sorted(storage.names("")) == ["2025-01-02.json", "2025-01-03.json", LATEST]
    found = [json.loads(storage.read(name) or b"") for name in sorted(storage.names(""))]
    assert found == [{"number": 0}, {"number": 2}, {"number": 2}]


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    lake = Lake(str(tmp_path))
    write_report(lake, {"number": 1}, "2025-01-02")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LakeError, match=r"cannot write to .*No space left"):
        write_report(lake, {"number": 2}, "2025-01-02")
    folder = Path(lake.uri) / FOLDER
    assert sorted(path.name for path in folder.iterdir()) == ["2025-01-02.json", LATEST]
    assert json.loads((folder / LATEST).read_text()) == {"number": 1}

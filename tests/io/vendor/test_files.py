from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibflow.io import tables
from fibflow.io.storage import LakeError, Storage
from fibflow.io.vendor import files
from fibflow.io.vendor.files import (
    DAILY,
    MINUTES,
    NO_TRADE,
    SESSION_ROWS,
    SYMBOL_MINUTES,
    RawFolder,
    SessionFile,
    session_path,
)
from fibflow.tests.pipelines.raws import Bronze

DAY, NEXT = date(2024, 3, 4), date(2024, 3, 5)
ASKED = datetime(2024, 3, 5, 6, tzinfo=UTC)


def session(day: date, **closes: float) -> pa.Table:
    rows = [
        {"symbol": s, "session": day, "open": c, "high": c, "low": c, "close": c, "volume": 10.5}
        for s, c in sorted(closes.items())
    ]
    return pa.Table.from_pylist(rows, SESSION_ROWS)


def minutes(symbol: str, *stamps: datetime) -> pa.Table:
    values = dict.fromkeys(("open", "high", "low", "close", "volume"), 2.0)
    return pa.Table.from_pylist([{"symbol": symbol, "ts": ts, **values} for ts in stamps], SYMBOL_MINUTES)


@pytest.fixture(params=["folder", "s3"])
def folder(request, tmp_path):
    if request.param == "folder":
        return RawFolder.at(str(tmp_path / "raw"))
    s3 = request.getfixturevalue("s3")
    return RawFolder.at(s3.uri("raw"), s3.aws)


def test_nothing_is_there_at_first(folder):
    assert folder.sessions(date.min, date.max) == {}
    assert folder.read_session(DAY) is None
    assert folder.months("A") == {}
    assert len(folder.read_month("A", "2024-03")) == 0
    assert len(folder.no_trade()) == 0
    assert folder.raw_files(DAILY) == []


def test_a_session_comes_back_with_what_is_known_of_it(folder):
    rows = session(DAY, A=1.0, B=2.0)
    folder.write_session(DAY, rows, ASKED, True, None)
    folder.write_session(NEXT, session(NEXT, A=3.0), ASKED, False, frozenset({"A", "Z"}))
    assert folder.read_session(DAY).equals(rows)
    found = folder.sessions(DAY, NEXT)
    assert found[DAY] == (True, None, 2, ASKED)
    assert found[NEXT] == (False, frozenset({"A", "Z"}), 1, ASKED)
    assert list(folder.sessions(NEXT, NEXT)) == [NEXT]
    folder.write_session(NEXT, session(NEXT, A=4.0), ASKED, True, None)
    assert folder.sessions(NEXT, NEXT)[NEXT].whole
    assert folder.read_session(NEXT)["close"].to_pylist() == [4.0]


@pytest.mark.parametrize(
    ("whole", "of", "asked", "covered"),
    [
        (True, None, None, True),
        (True, None, "AB", True),
        (True, "ABC", "AB", True),
        (True, "A", "AB", False),
        (True, "A", None, False),
        (False, None, "A", False),
    ],
)
def test_what_a_file_covers(whole, of, asked, covered):
    file = SessionFile(whole, of and frozenset(of), 0, ASKED)
    assert file.covers(asked and frozenset(asked)) == covered


def test_ranges_join_earlier_ones_of_the_same_name(folder):
    folder.write_range("A/B", DAY, NEXT, session(DAY, **{"A/B": 1.0}), ASKED)
    folder.write_range("A/B", DAY, NEXT, session(NEXT, **{"A/B": 2.0}), ASKED)
    (file,) = folder.raw_files(DAILY)
    assert file.symbol == "A/B"
    assert not file.is_daily_file
    assert file.path.endswith("/symbol=A%2FB/2024-03-04_2024-03-05.parquet")
    with folder.storage.filesystem.open_input_file(file.path) as source:
        rows = pq.read_table(source)
    assert rows["close"].to_pylist() == [1.0, 2.0]
    assert rows["date"].to_pylist() == [DAY, NEXT]


def test_months_of_minutes_come_back(folder):
    rows = minutes("A", datetime(2024, 3, 4, 15, 0, tzinfo=UTC), datetime(2024, 3, 4, 15, 1, tzinfo=UTC))
    folder.write_month("A", "2024-03", rows, ASKED, [DAY])
    assert folder.read_month("A", "2024-03").equals(rows)
    assert folder.months("A") == {"2024-03": frozenset({DAY})}
    assert folder.months("B") == {}


def test_what_did_not_trade_is_remembered_until_it_is_forgotten(folder, monkeypatch):
    monkeypatch.setattr(files, "_MOST_ASKED", 3)

    def said(number):
        return pa.table([[f"S{number}"], [DAY], [NEXT]], schema=NO_TRADE)

    for number in range(4):
        folder.add_no_trade(said(number))
    assert len(folder.no_trade()) == 4
    # Many files were made one.
    assert len(folder.storage.names("_asked")) == 1
    assert sorted(folder.no_trade()["symbol"].to_pylist()) == sorted(f"S{n}" for n in range(4))
    folder.forget_no_trade()
    assert len(folder.no_trade()) == 0


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nonsense" * 9])
def test_a_broken_file_counts_as_none_and_is_replaced(content, folder):
    folder.storage.write(session_path(DAY), content)
    assert folder.sessions(DAY, DAY) == {}
    assert folder.read_session(DAY) is None
    folder.write_session(DAY, session(DAY, A=1.0), ASKED, True, None)
    assert folder.sessions(DAY, DAY)[DAY].rows == 1


def test_somebody_elses_file_is_not_ours(folder):
    pq.write_table(session(DAY, A=1.0), sink := pa.BufferOutputStream())
    folder.storage.write(session_path(DAY), sink.getvalue().to_pybytes())
    folder.storage.write(f"{DAILY}/date=yesterday.parquet", b"")
    assert folder.sessions(DAY, DAY) == {}


def test_half_written_files_are_swept_when_they_are_old(tmp_path):
    folder = RawFolder.at(str(tmp_path))
    folder.write_session(DAY, session(DAY, A=1.0), ASKED, True, None)
    left = [tmp_path / DAILY / f".vendor-{n}" for n in range(2)]
    for path in left:
        path.write_bytes(b"half")
    os.utime(left[0], (0, 0))
    folder.sweep(datetime.now(UTC) - timedelta(hours=1))
    assert [path.exists() for path in left] == [False, True]
    assert len(folder.raw_files(DAILY)) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "raw").write_text("a file")
    with pytest.raises(LakeError, match="cannot write") as error:
        RawFolder(Storage(str(tmp_path / "raw"))).write_session(DAY, session(DAY, A=1.0), ASKED, True, None)
    assert "\n" not in str(error.value)


def test_load_lands_what_is_written(tmp_path):
    folder = RawFolder.at(str(tmp_path / "raw"))
    folder.write_session(DAY, session(DAY, A=1.0, B=2.0), ASKED, True, None)
    folder.write_session(NEXT, session(NEXT), ASKED, True, None)
    folder.write_range("C", DAY, NEXT, session(NEXT, C=3.0), ASKED)
    bronze = Bronze(str(tmp_path / "lake"))
    assert bronze.first(folder.uri(DAILY)) == 0
    assert sorted((r["symbol"], r["session"], r["close"], r["volume"]) for r in bronze.rows()) == [
        ("A", DAY, 1.0, 10.5),
        ("B", DAY, 2.0, 10.5),
        ("C", NEXT, 3.0, 10.5),
    ]
    assert bronze.dead() == []
    stamps = [datetime(2024, 3, 4, 15, n, tzinfo=UTC) for n in range(3)]
    folder.write_month("A", "2024-03", minutes("A", *stamps), ASKED, [DAY])
    assert bronze.first(folder.uri(MINUTES), "--kind", "minutes") == 0
    assert [r["ts"] for r in bronze.rows(tables.MINUTES)] == stamps


def test_files_have_no_more_than_they_say(tmp_path):
    folder = RawFolder.at(str(tmp_path))
    folder.write_session(DAY, session(DAY, A=1.0), ASKED, True, None)
    metadata = pq.read_metadata(tmp_path / session_path(DAY)).metadata or {}
    assert set(metadata) <= {b"fibflow.vendor", b"ARROW:schema"}
    assert b'"basis":"raw"' in metadata[b"fibflow.vendor"]
    assert [path.name for path in Path(tmp_path / DAILY).iterdir()] == ["date=2024-03-04.parquet"]
    assert np.isclose(
        pq.read_table(tmp_path / session_path(DAY), partitioning=None)["volume"][0].as_py(), 10.5
    )

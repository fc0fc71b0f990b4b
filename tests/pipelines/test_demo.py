import csv
import gzip
from collections import Counter
from importlib import resources

import numpy as np
import pytest

from fibflow.io import tables
from fibflow.io.bars import BarReader
from fibflow.io.lake import Lake
from fibflow.pipelines import demo
from fibflow.pipelines.cli import UsageError
from fibflow.tests.io.barlakes import XNYS


@pytest.fixture(scope="module")
def packaged():
    """The package's rows, read without its code."""
    source = resources.files("bokeh_sampledata") / "_data" / "stocks.csv.gz"
    with source.open("rb") as packed, gzip.open(packed, "rt", newline="") as text:
        return list(csv.DictReader(text))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "lake"
    assert demo.run(["--lake", str(folder), "--batch-only"]) == 0
    return folder


def test_every_row_of_the_package_is_landed(ran, packaged):
    lake = Lake(str(ran))
    names = ["symbol", "session", "open", "high", "low", "close", "volume"]
    rows, _ = lake.table(tables.DAILY).snapshot().read(names)
    found = sorted(tuple(row.values()) for row in rows.to_pylist())
    expected = sorted(
        (row["Ticker"], row["Date"], *(float(row[name.title()]) for name in names[2:])) for row in packaged
    )
    assert [(symbol, str(day), *values) for symbol, day, *values in found] == expected
    assert lake.table(tables.DAILY).properties[tables.PRICE_BASIS] == "raw"
    assert not lake.table(tables.DEAD_LETTERS).exists


def test_bars_are_those_of_the_rows(ran, packaged):
    rows = [row for row in packaged if row["Ticker"] == "AAPL"]
    days = np.array([row["Date"] for row in rows], "datetime64[D]").astype(np.int32)
    windows = Counter(((XNYS.positions(days) - XNYS.origin) // 5).tolist())
    bars = BarReader(Lake(str(ran))).bars("AAPL", "5d")
    assert bars["sessions"].to_pylist() == list(windows.values())
    assert BarReader(Lake(str(ran))).timeframes("FB") == ["3d", "5d", "8d", "13d", "21d", "34d"]
    last = rows[-windows[max(windows)] :]
    bar = bars.slice(len(bars) - 1).to_pylist()[0]
    assert bar["open"] == float(last[0]["Open"])
    assert bar["high"] == max(float(row["High"]) for row in last)
    assert bar["close"] == float(last[-1]["Close"])
    assert bar["volume"] == sum(float(row["Volume"]) for row in last)


def test_the_picture_is_there(ran):
    assert (ran / "AAPL-5d.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("day", "before"), [("2000-06-21", 2), ("2005-02-28", 2)])
def test_the_price_basis_is_what_the_demo_declares(packaged, day, before):
    """Over a split, prices halve from one day to the next: they are not adjusted."""
    closes = {row["Date"]: float(row["Close"]) for row in packaged if row["Ticker"] == "AAPL"}
    days = sorted(closes)
    previous = days[days.index(day) - 1]
    assert closes[previous] / closes[day] == pytest.approx(before, rel=0.1)
    assert demo.PRICE_BASIS == "raw"


def test_an_earlier_demo_is_replaced(tmp_path):
    folder = tmp_path / "lake"
    demo.fresh_folder(folder)
    (folder / "old").mkdir()
    (folder / "old" / "file").touch()
    demo.fresh_folder(folder)
    assert [path.name for path in folder.iterdir()] == [".made-by-fibflow-demo"]


def test_an_empty_folder_is_used(tmp_path):
    demo.fresh_folder(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_the_demo_did_not_make_stays(tmp_path, kind):
    place, kept = tmp_path / "place", tmp_path / "other" / "kept"
    kept.parent.mkdir()
    kept.touch()
    if kind == "folder":
        place.mkdir()
        kept = place / "kept"
        kept.touch()
    elif kind == "file":
        place.touch()
        kept = place
    else:
        demo.fresh_folder(tmp_path / "demo")
        place.symlink_to(tmp_path / "demo")
    with pytest.raises(UsageError, match="was not made by the demo and stays as it is: name another --lake"):
        demo.run(["--lake", str(place)])
    assert kept.exists()
    assert kind != "link" or (tmp_path / "demo" / ".made-by-fibflow-demo").exists()

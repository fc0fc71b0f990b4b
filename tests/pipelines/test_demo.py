import csv
import gzip
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fibflow.io import tables
from fibflow.io.bars import BarReader
from fibflow.io.lake import Lake
from fibflow.io.reference import SPLITS, SYMBOLS, read_reference
from fibflow.pipelines import demo
from fibflow.pipelines.cli import UsageError
from fibflow.tests.io.barlakes import XNYS

ROOT = Path(__file__).resolve().parents[2]
_WITHIN_S = 60.0


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


def closes_of(packaged, symbol):
    return {row["Date"]: float(row["Close"]) for row in packaged if row["Ticker"] == symbol}


@pytest.mark.parametrize(("symbol", "day"), demo.SPLITS)
def test_the_price_basis_is_what_the_demo_declares(packaged, symbol, day):
    """Over a split, prices halve from one day to the next: they are not adjusted."""
    closes = closes_of(packaged, symbol)
    days = sorted(closes)
    previous = days[days.index(day) - 1]
    assert closes[previous] / closes[day] == pytest.approx(2, rel=0.1)
    assert demo.PRICE_BASIS == "raw"


def test_no_split_is_left_out(packaged):
    found = []
    for symbol in demo.SYMBOLS:
        closes = closes_of(packaged, symbol)
        days = sorted(closes)
        found += [(symbol, day) for before, day in pairwise(days) if closes[before] / closes[day] > 1.8]
    # Apple's shares fell by half on 29 September 2000, after a warning.
    assert set(found) - {("AAPL", "2000-09-29")} == set(demo.SPLITS)


def test_names_and_splits_are_in_the_lake(ran):
    lake = Lake(str(ran))
    names, _ = read_reference(lake, SYMBOLS)
    known = zip(*(names[name].to_pylist() for name in ("symbol", "name", "exchange")), strict=True)
    assert {symbol: told for symbol, *told in known} == {key: list(told) for key, told in demo.NAMES.items()}
    splits, _ = read_reference(lake, SPLITS)
    days = [str(day) for day in splits["execution_date"].to_pylist()]
    assert list(zip(splits["symbol"].to_pylist(), days, strict=True)) == list(demo.SPLITS)
    assert set(splits["split_from"].to_pylist()) == {1.0}
    assert set(splits["split_to"].to_pylist()) == {2.0}


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


# Its end: the server


def test_without_a_terminal_no_server_is_left_running(ran, capsys):
    assert demo.serve(ran) == 0
    told = capsys.readouterr().out.strip()
    assert told == f"No terminal, so no server is left running. Start it with: make serve LAKE={ran}"


def test_at_a_terminal_the_lake_is_served_until_ctrl_c(ran):
    code = "import sys, pathlib; from fibflow.pipelines import demo; demo.serve(pathlib.Path(sys.argv[1]))"
    ours, theirs = os.openpty()
    # A shell that starts the tests in the background has them ignore interrupts, and all that they start.
    line = ["env", "--default-signal=INT", sys.executable, "-P", "-c", code, str(ran)]
    variables = {
        name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")
    }
    process = subprocess.Popen(
        line, stdout=theirs, stderr=theirs, cwd=ROOT, env=variables, start_new_session=True
    )
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            said = b""
            while (found := re.search(rb"serving at (http://\S+)\r", said)) is None:
                said += terminal.read(4096)
            url = found[1].decode()
            with urllib.request.urlopen(url) as page:
                assert b"<title>Fibflow</title>" in page.read()
            with urllib.request.urlopen(f"{url}/v1/bars?symbols=AAPL&timeframe=13d&limit=1") as answer:
                assert answer.status == 200
        finally:
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(_WITHIN_S) == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)

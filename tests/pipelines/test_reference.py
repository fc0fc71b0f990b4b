"""``python -m pipelines.reference``: files into the tables of reference data."""

from __future__ import annotations

import pytest

from fibflow.io.lake import Lake
from fibflow.io.reference import DIVIDENDS, RENAMES, SPLITS, SYMBOLS, read_reference
from fibflow.io.referencechanges import read_changes
from fibflow.io.tables import TABLES
from fibflow.io.vendor.errors import WrongKey
from fibflow.pipelines import reference
from fibflow.tests.pipelines.lakes import fail
from fibflow.tests.vendors import standin

TICKERS = "ticker,name,primary_exchange,currency_name\nAAPL,Apple Inc.,XNAS,usd\nMSFT,Microsoft,XNAS,usd\n"
ACTIONS = "ticker,execution_date,split_from,split_to,id\nAAPL,2020-08-31,1,4,E1\n"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tickers.csv").write_text(TICKERS)
    (tmp_path / "splits.csv").write_text(ACTIONS)
    return tmp_path


def load(place, *options):
    return reference.run(["--lake", str(place / "lake"), *options])


def both(place):
    return "--symbols", str(place / "tickers.csv"), "--splits", str(place / "splits.csv")


def cells(text):
    found = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line
    ]
    return dict(found)


def test_both_files_land_and_what_was_done_is_told(place, capsys):
    assert load(place, *both(place)) == 0
    told = cells(capsys.readouterr().out)
    assert (told["symbols read"], told["symbols new"], told["symbols as they were"]) == ("2", "2", "0")
    assert (told["splits new"], told["version of reference.splits"]) == ("1", "0")
    lake = Lake(str(place / "lake"))
    assert read_reference(lake, SYMBOLS)[0]["name"].to_pylist() == ["Apple Inc.", "Microsoft"]
    assert read_reference(lake, SPLITS)[0]["split_to"].to_pylist() == [4.0]


def test_a_second_run_does_nothing_and_a_changed_file_what_changed(place, capsys):
    load(place, *both(place))
    load(place, *both(place))
    lake = Lake(str(place / "lake"))
    assert [lake.table(spec).version for spec in (SYMBOLS, SPLITS)] == [0, 0]
    (place / "tickers.csv").write_text(TICKERS.replace("Apple Inc.", "Apple"))
    capsys.readouterr()
    load(place, "--symbols", str(place / "tickers.csv"))
    told = cells(capsys.readouterr().out)
    assert (told["symbols changed"], told["symbols as they were"]) == ("1", "1")
    assert [lake.table(spec).version for spec in (SYMBOLS, SPLITS)] == [1, 0]


def test_nothing_is_written_where_one_of_the_files_is_wrong(place):
    (place / "splits.csv").write_text(ACTIONS.replace(",4,", ",-4,"))
    failed = fail(reference.run, "--lake", str(place / "lake"), *both(place))
    assert failed.code == 1
    assert failed.lines[0].endswith("splits.csv: row 1: split_to is -4; it has to be above 0")
    assert not Lake(str(place / "lake")).table(SYMBOLS).exists


def test_without_a_file_the_usage_is_told(place):
    failed = fail(reference.run, "--lake", str(place / "lake"))
    assert failed.code == 2
    assert "name files (--symbols, --splits, --dividends, --renames), or ask with" in failed.lines[0]


def test_dividends_and_renames_come_from_files_too(place, capsys):
    (place / "paid.csv").write_text(
        "ticker,ex_dividend_date,cash_amount,frequency,type\nKO,2024-03-14,0.485,4,CD\n"
    )
    (place / "renames.csv").write_text("old_ticker,ticker,date\nFB,META,2022-06-09\n")
    assert load(place, "--dividends", str(place / "paid.csv"), "--renames", str(place / "renames.csv")) == 0
    assert cells(capsys.readouterr().out)["dividends new"] == "1"
    lake = Lake(str(place / "lake"))
    (paid,) = read_reference(lake, DIVIDENDS)[0].to_pylist()
    assert (paid["symbol"], str(paid["ex_dividend_date"]), paid["cash_amount"]) == ("KO", "2024-03-14", 0.485)
    assert (paid["frequency"], paid["dividend_type"], paid["id"]) == (4, "CD", "CD")
    (renamed,) = read_reference(lake, RENAMES)[0].to_pylist()
    assert (renamed["old_symbol"], renamed["symbol"]) == ("FB", "META")
    assert sorted(map(str, read_changes(lake)["table"].to_pylist())) == [
        "reference.dividends",
        "reference.renames",
    ]


def test_the_vendor_brings_all_and_a_second_time_nothing(place, capsys, monkeypatch):
    monkeypatch.setenv("MASSIVE_API_KEY", "secret-of-mine")
    with standin(symbols=10, key="secret-of-mine") as vendor:
        asked = "--from-vendor", "--vendor-url", vendor.url, "--rate", "1000"
        assert load(place, *asked) == 0
        told = cells(capsys.readouterr().out)
        lake = Lake(str(place / "lake"))
        known, _ = read_reference(lake, SYMBOLS)
        market = vendor.market
        assert market is not None
        columns = ["symbol", "name", "exchange", "active", "delisted", "composite_figi"]
        assert known.select(columns).to_pylist() == market.symbols.select(columns).to_pylist()
        for spec in (RENAMES, SPLITS, DIVIDENDS):
            names = [name for name in spec.schema.names if name not in ("cik", "id")]
            found, wanted = (read_reference(one, spec)[0].select(names) for one in (lake, vendor.lake))
            assert found.to_pylist() == wanted.to_pylist()
        assert told["symbols new"] == f"{len(known)}"
        assert len(read_reference(lake, SPLITS)[0]) == len(market.splits)
        versions = {name: lake.table(spec).version for name, spec in TABLES.items()}
        assert load(place, *asked) == 0
        assert versions == {name: lake.table(spec).version for name, spec in TABLES.items()}
        for file in (place / "lake").rglob("*"):
            assert not file.is_file() or b"secret-of-mine" not in file.read_bytes()
    monkeypatch.setenv("MASSIVE_API_KEY", "wrong-key")
    with standin(symbols=10, key="secret-of-mine") as vendor:
        with pytest.raises(WrongKey) as refused:
            load(place, "--from-vendor", "--vendor-url", vendor.url)
        assert "wrong-key" not in str(refused.value)

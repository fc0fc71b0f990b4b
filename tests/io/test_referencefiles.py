"""Files of symbols and splits: the vendors' names for columns, and one clear line for what is wrong."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibflow.io.files import InputError
from fibflow.io.referencefiles import read_splits, read_symbols

VENDOR = """\
ticker,name,market,locale,primary_exchange,type,active,currency_name,cik,composite_figi,last_updated_utc,list_date
AAPL,"Apple, Inc.",stocks,us,xnas,CS,true,USD,0000320193,BBG000B9XRY4,2024-01-02T03:04:05Z,1980-12-12
NA,Nano Labs,stocks,us,XNAS,ADRC,true,usd,,,,
GONE,Gone,stocks,us,XNYS,CS,false,usd,,,,1999-01-04
"""


@pytest.fixture
def put(tmp_path):
    def write(name, content):
        path = tmp_path / name
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_the_vendors_names_are_read(put):
    read = read_symbols(put("tickers.csv", VENDOR))
    rows = {row["symbol"]: row for row in read.rows.to_pylist()}
    assert read.given == 3
    assert rows["AAPL"] == {
        "symbol": "AAPL",
        "name": "Apple, Inc.",
        "type": "CS",
        "exchange": "XNAS",
        "currency": "usd",
        "active": True,
        "listed": date(1980, 12, 12),
        "cik": "0000320193",
        "composite_figi": "BBG000B9XRY4",
        "updated": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    # NA is a ticker, and nothing at all is null.
    assert rows["NA"]["cik"] is None
    assert rows["GONE"]["active"] is False


def test_parquet_csv_and_gzip_are_read_alike(put):
    columns = {
        "Symbol": ["A", "B"],
        "listing_date": pa.array([date(2020, 1, 2), None]),
        "active": pa.array([True, None]),
        "cik": [1, 2],
    }
    text = "Symbol;listing_date;active;cik\nA;2020-01-02;true;1\nB;;;2\n"
    read = [
        read_symbols(put("a.parquet", pa.table(columns))),
        read_symbols(put("a.csv", text)),
        read_symbols(put("a.csv.gz", gzip.compress(text.encode()))),
    ]
    assert read[0].rows.to_pylist() == read[1].rows.to_pylist() == read[2].rows.to_pylist()
    assert read[0].rows["listed"].to_pylist() == [date(2020, 1, 2), None]


def test_of_a_ticker_that_was_given_again_the_active_one_counts(put):
    rows = ("X,new,true,2020-01-02", "X,old,false,2022-01-03", "Y,a,,2001-01-02", "Y,b,,2002-01-02")
    text = "\n".join(("ticker,name,active,list_date", *rows))
    read = read_symbols(put("a.csv", text))
    assert (read.given, read.rows["name"].to_pylist()) == (4, ["new", "b"])
    delisted = "ticker,name,delisted_utc\nX,now,\nX,then,2019-05-06T00:00:00Z\n"
    assert read_symbols(put("b.csv", delisted)).rows["name"].to_pylist() == ["now"]


def test_splits_are_read(put):
    rows = ("E1,AAPL,2020-08-31,1,4", "E1,AAPL,2020-08-31,1.0,4", "E2,GE,2021-08-02,8,1")
    text = "\n".join(("id,ticker,execution_date,split_from,split_to", *rows))
    read = read_splits(put("splits.csv", text))
    assert read.given == 3
    assert read.rows.to_pylist() == [
        {
            "symbol": "AAPL",
            "execution_date": date(2020, 8, 31),
            "split_from": 1.0,
            "split_to": 4.0,
            "id": "E1",
        },
        {"symbol": "GE", "execution_date": date(2021, 8, 2), "split_from": 8.0, "split_to": 1.0, "id": "E2"},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no header line"),
        ("name\nx\n", r"no column for symbol \(symbol or ticker or sym\); the file has name"),
        ("ticker,name\n,x\n", "row 1: ticker is empty"),
        ("ticker,active\nA,true\nB,perhaps\n", "row 2: active is 'perhaps': write true or false"),
        ("ticker,list_date\nA,2020-13-01\n", "row 1: list_date is '2020-13-01': no date: write YYYY-MM-DD"),
        (
            "ticker,last_updated_utc\nA,yesterday\n",
            "row 1: last_updated_utc is 'yesterday': no time: write ISO 8601",
        ),
        ("ticker,ticker\nA,B\n", "several columns are named ticker; keep one of them"),
        ("ticker,name\nA\n", "it cannot be read: "),
    ],
)
def test_what_is_wrong_with_symbols_is_said_in_one_line(put, text, said):
    with pytest.raises(InputError, match=said) as error:
        read_symbols(put("a.csv", text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("A,2020-01-02,0,1", "row 1: split_from is 0; it has to be above 0"),
        ("A,2020-01-02,1,inf", "row 1: split_to is inf; it has to be above 0"),
        ("A,2020-01-02,one,1", "row 1: split_from is 'one': write a number"),
        ("A,,1,1", "row 1: execution_date is empty"),
        (
            "A,2020-01-02,1,2\nA,2020-01-02,1,3",
            "row 1: A has two different splits on 2020-01-02; keep one of them",
        ),
    ],
)
def test_what_is_wrong_with_splits_is_said_in_one_line(put, row, said):
    with pytest.raises(InputError, match=said):
        read_splits(put("a.csv", f"symbol,execution_date,split_from,split_to\n{row}\n"))


def test_a_file_that_is_not_there_or_of_another_kind_is_said(put, tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_symbols(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match=r"name a file that ends in \.parquet, \.csv or \.csv\.gz"):
        read_symbols(put("a.txt", "ticker\nA\n"))
    with pytest.raises(InputError, match="it cannot be read: "):
        read_symbols(put("a.parquet", b"PAR1 it is not"))


def test_a_file_in_a_bucket(s3):
    s3.put("tickers.csv", VENDOR.encode())
    assert read_symbols(s3.uri("tickers.csv"), s3.aws).given == 3
    with pytest.raises(InputError, match="there is no such file"):
        read_symbols(s3.uri("none.csv"), s3.aws)

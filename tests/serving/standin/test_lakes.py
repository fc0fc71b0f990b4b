"""Lakes of the stand-in: a market in one, another one seen through, changes and what takes them back."""

from __future__ import annotations

import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake, LakeError
from fibflow.io.reference import read_reference
from fibflow.serving.standin.lakes import Editor, seen_through, write_market
from fibflow.serving.standin.market import Market

ORDER = [("symbol", "ascending"), ("session", "ascending")]


@pytest.fixture(scope="module")
def source(tmp_path_factory, market) -> Lake:
    """Do not write to it."""
    return write_market(market, str(tmp_path_factory.mktemp("lakes") / "source"), market.sessions[-2:])


@pytest.fixture
def lake(source, tmp_path) -> Lake:
    return seen_through(source.uri, tmp_path / "lake")


def rows(lake: Lake, spec=tables.DAILY):
    found, _ = lake.table(spec).snapshot().read()
    return found.sort_by([(name, "ascending") for name in spec.sort_by])


def days(lake: Lake) -> list[dict]:
    return rows(lake).drop_columns(["source", "landed", "period"]).to_pylist()


def test_a_market_is_written_as_it_is(source, market):
    assert days(source) == market.daily.sort_by(ORDER).to_pylist()
    minutes = rows(source, tables.MINUTES)
    assert len(minutes) == sum(len(market.minutes(session)) for session in market.sessions[-2:])
    for spec, made in (
        (tables.SPLITS, market.splits),
        (tables.DIVIDENDS, market.dividends),
        (tables.RENAMES, market.renames),
    ):
        assert read_reference(source, spec)[0].to_pylist() == made.to_pylist()
    assert source.table(tables.DAILY).properties[tables.PRICE_BASIS] == "raw"


def test_what_is_seen_through_stays_as_it_was(source, lake, market):
    before = rows(source)
    version = source.table(tables.DAILY).version
    symbol = market.daily["symbol"][0].as_py()
    assert Editor(lake).correct(symbol, market.sessions[4], {"close": 1.25, "volume": 7}) == 1
    assert rows(source).equals(before)
    assert source.table(tables.DAILY).version == version
    assert not rows(lake).equals(before)


def test_a_correction_changes_one_day(source, lake, market):
    symbol, session = market.daily["symbol"][0].as_py(), market.sessions[4]
    editor = Editor(lake)
    editor.correct(symbol, session, {"close": 1.25, "trade_count": 3})
    for before, after in zip(days(source), days(lake), strict=True):
        if (before["symbol"], before["session"]) == (symbol, session):
            before = {**before, "close": 1.25, "trade_count": 3}
        assert before == after
    assert editor.correct("NOSUCH", session, {"close": 1.0}) == 0
    with pytest.raises(ValueError, match="clothes is no value of a day"):
        editor.correct(symbol, session, {"clothes": 1})


def test_what_is_hidden_is_gone_from_days_and_minutes(source, lake, market):
    symbol, (begin, end) = market.daily["symbol"][0].as_py(), market.sessions[-2:]
    assert Editor(lake).hide([symbol], begin, end) > 2
    expected = [row for row in days(source) if row["symbol"] != symbol or row["session"] < begin]
    assert days(lake) == expected
    assert symbol not in rows(lake, tables.MINUTES)["symbol"].to_pylist()
    assert symbol in rows(source, tables.MINUTES)["symbol"].to_pylist()


def test_a_part_of_a_session_is_hidden(source, lake, market):
    session = market.sessions[-1]
    Editor(lake).hide(None, session, session, share=0.5, seed=1)
    held, kept = ({row["symbol"] for row in days(one) if row["session"] == session} for one in (source, lake))
    assert kept < held
    assert kept
    others = [[row for row in days(one) if row["session"] != session] for one in (source, lake)]
    assert others[0] == others[1]


def test_all_is_taken_back(source, lake, market):
    editor = Editor(lake)
    symbol = market.daily["symbol"][0].as_py()
    for _ in range(2):
        editor.correct(symbol, market.sessions[4], {"close": 1.25})
        editor.hide(None, market.sessions[3], market.sessions[3])
        editor.hide([symbol])
        assert days(lake) != days(source)
        editor.heal()
        assert days(lake) == days(source)
        assert len(rows(lake, tables.MINUTES)) == len(rows(source, tables.MINUTES))
    editor.heal()
    assert days(lake) == days(source)


def test_a_lake_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(LakeError, match="there is no lake"):
        seen_through(str(tmp_path / "nowhere"), tmp_path / "lake")
    with pytest.raises(LakeError, match="in a folder"):
        seen_through("s3://bucket/lake", tmp_path / "lake")


def test_a_market_without_minutes(tmp_path, market):
    lake = write_market(Market.make(1, market.sessions[0], market.sessions[-1]), str(tmp_path / "lake"))
    assert not lake.table(tables.MINUTES).exists
    assert len(rows(lake)) > 10

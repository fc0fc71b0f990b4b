from __future__ import annotations

import random

import pyarrow as pa
import pytest
from apache_beam import pvalue
from hypothesis import given
from hypothesis import strategies as st

from fibflow.tests.transforms import correction_oracle, oracle
from fibflow.tests.transforms.streams import letters, minute, stream_table, trade
from fibflow.tests.transforms.tables import by_key, calendar, dicts, ny
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.corrections import CORRECTABLE, ApplyCorrections, apply_corrections
from fibflow.transforms.schemas import MINUTE_INPUT, TRADE_INPUT
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import parse_timeframes

XNYS = calendar("XNYS")
ORACLE = oracle.calendar("XNYS")
OPEN = ny("2024-07-02T09:30")
NEXT = ny("2024-07-03T09:30")
CANCELS = (7, 8, 10, 11)


def message(ts: int, seq: int, price: float, trade_id: str | None, code: int | None = 0, **options) -> dict:
    own = {"trade_id": trade_id, "exchange": options.pop("exchange", 4), "correction": code}
    return {**trade(options.pop("symbol", "A"), ts, seq, price, **options), **own}


def applied(rows: list[dict]) -> tuple[list[tuple], list[tuple]]:
    """Trades that count as (seq, ts, price, volume, rules), in order, and (reason, origin) of the others."""
    trades, lost = apply_corrections(stream_table(rows, CORRECTABLE), XNYS)
    assert trades.schema.equals(TRADE_INPUT)
    found = [(r["seq"], r["ts"], r["price"], r["volume"], r["rules"]) for r in dicts(trades)]
    return sorted(found), sorted((r["reason"], r["origin"].rpartition("/")[2]) for r in dicts(lost))


def prices(rows: list[dict]) -> dict[int, float]:
    return {seq: price for seq, _, price, _, _ in applied(rows)[0]}


# By brute force --------------------------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[dict]:
    numbers = random.Random(draw(st.integers(0, 2**32)))
    codes = draw(
        st.sampled_from([(0,), (0, 0, 0, 0, 12), (0, 0, 10), (0, None, 0, 1, 7, 8, 10, 11, 12, 12, 99)])
    )
    rows: list[dict] = []
    for number in range(draw(st.integers(0, 40))):
        if rows and numbers.random() < 0.2:
            rows.append({**numbers.choice(rows)})
        else:
            row = message(
                numbers.choice([OPEN, NEXT]) + numbers.randrange(600_000_000),
                numbers.randrange(30),
                numbers.choice([1.0, 2.5, 3.0]),
                numbers.choice(["1", "2", "3", "4", "", None]),
                numbers.choice(codes),
                symbol=numbers.choice("AAB"),
                exchange=numbers.choice([4, 4, 7, None]),
                shares=numbers.choice([1, 100]),
                rules=numbers.choice([63, 36]),
            )
            rows.append(row)
        # As it lies in the stream.
        rows[-1] |= {"sequence": str(10**55 + number // 3), "sub": 0, "place": number}
    return numbers.sample(rows, len(rows))


@given(streams())
def test_what_counts_is_that_of_the_oracle_in_any_order(rows):
    trades, lost = apply_corrections(stream_table(rows, CORRECTABLE), XNYS)
    counted, refused = correction_oracle.choose(rows, ORACLE)
    names = ("symbol", "ts", "seq", "price", "volume", "rules", "place")
    if any(row["correction"] in (1, 7, 8, 10, 11, 12) for row in rows):
        # Of symbols that no such message names, copies are left to the kernel.
        named = {row["symbol"] for row in rows if row["correction"] in (1, 7, 8, 10, 11, 12)}
        assert letters([r for r in dicts(trades) if r["symbol"] in named], *names) == letters(
            [r for r in counted if r["symbol"] in named], *names
        )
    told = [{**row, "reason": reason, "open": row["price"]} for reason, row in refused]
    assert letters(dicts(lost), "reason", "symbol", "ts", "open") == letters(
        told, "reason", "symbol", "ts", "open"
    )
    spec = BarSpec(parse_timeframes("1m,5m,1d"), XNYS, as_of=NEXT + 10**11)
    made, _ = aggregate_ticks(trades, spec)
    plain = [{name: row[name] for name in TRADE_INPUT.names} for row in counted]
    wanted, _ = aggregate_ticks(stream_table(plain, TRADE_INPUT), spec)
    assert by_key(made) == by_key(wanted)


# Case by case ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CANCELS)
def test_a_cancel_takes_out_its_trade_and_does_not_count_itself(code):
    rows = [
        message(OPEN, 1, 10.0, "7"),
        message(OPEN + 1, 2, 11.0, "8"),
        message(OPEN + 9, 3, 10.0, "7", code),
    ]
    found, lost = applied(rows)
    assert [seq for seq, *_ in found] == [2]
    assert lost == [("cancelled", "1"), ("cancelled", "3")]
    # The order of arrival says nothing: shards are read side by side.
    assert prices([{**rows[2], "place": 0, "sequence": "1"}, *rows[:2]]) == {2: 11.0}


@pytest.mark.parametrize(
    ("name", "other"),
    [("symbol", "B"), ("exchange", 5), ("trade_id", "8"), ("ts", NEXT), ("trade_id", None)],
)
def test_a_cancel_names_a_trade_by_symbol_session_exchange_and_id(name, other):
    cancel = {**message(OPEN + 9, 3, 10.0, "7", 10), name: other}
    found, lost = applied([message(OPEN, 1, 10.0, "7"), cancel])
    assert [seq for seq, *_ in found] == [1]
    assert lost == [("cancelled", "3")]


def test_a_correction_takes_the_place_of_its_trade():
    rows = [
        message(OPEN, 1, 10.0, "7", shares=5),
        message(OPEN + 1, 2, 11.0, "8"),
        message(OPEN + 120_000_000, 3, 12.0, "7", 12, shares=2, rules=36),
    ]
    found, lost = applied(rows)
    assert found[0] == (1, OPEN, 12.0, 2_000_000, 36)
    assert lost == [("corrected", "1"), ("corrected", "3")]


def test_the_correction_that_came_last_counts_and_its_copies_do_not():
    old, new = message(OPEN + 5, 3, 12.0, "7", 12), message(OPEN + 6, 4, 13.0, "7", 12)
    resent = {**old, "place": 99, "sequence": "9" * 56}
    assert prices([message(OPEN, 1, 10.0, "7"), new, old, resent]) == {1: 13.0}


def test_a_cancelled_trade_stays_so_whatever_corrects_it():
    rows = [message(OPEN, 1, 10.0, "7"), message(OPEN, 2, 10.0, "7", 10), message(OPEN, 3, 9.0, "7", 12)]
    assert prices(rows) == {}
    assert {reason for reason, _ in applied(rows)[1]} == {"cancelled"}


def test_a_correction_of_no_known_trade_is_the_trade():
    rows = [message(OPEN, 5, 12.0, "7", 12), message(OPEN + 1, 6, 13.0, "7", 12)]
    assert applied(rows[:1]) == ([(5, OPEN, 12.0, 100_000_000, 63)], [])
    assert applied(rows)[0] == [(5, OPEN, 13.0, 100_000_000, 63)]


def test_an_original_that_is_marked_counts_once_until_its_correction_comes():
    rows = [message(OPEN, 1, 10.0, "7"), message(OPEN, 2, 10.0, "7", 1)]
    assert prices(rows) == {1: 10.0}
    assert prices(rows[1:]) == {2: 10.0}
    assert prices([*rows, message(OPEN, 3, 9.0, "7", 12)]) == {1: 9.0}


def test_a_copy_of_a_cancelled_trade_does_not_count_for_it():
    rows = [
        message(OPEN, 1, 10.0, "7"),
        message(OPEN, 1, 10.0, None, number=2),
        message(OPEN, 3, 1.0, "7", 8),
    ]
    assert prices(rows) == {}


def test_trades_that_share_an_id_are_left_alone_where_nothing_names_it():
    rows = [message(OPEN, 1, 10.0, "7"), message(OPEN, 2, 11.0, "7"), message(OPEN, 3, 12.0, "8", 1)]
    assert prices(rows) == {1: 10.0, 2: 11.0, 3: 12.0}


@pytest.mark.parametrize("code", [None, 0, 99])
def test_without_cancels_and_corrections_rows_pass_as_they_are(code):
    table = stream_table([message(OPEN, 1, 10.0, "7", code)], CORRECTABLE)
    trades, lost = apply_corrections(table, XNYS)
    assert trades.equals(table.select(TRADE_INPUT.names))
    assert len(lost) == 0


def test_the_dofn_has_dead_letters_apart_and_passes_minutes():
    fn = ApplyCorrections(XNYS)
    cancelled = [message(OPEN, 1, 10.0, "7"), message(OPEN, 2, 10.0, "7", 10)]
    (told,) = fn.process(stream_table(cancelled, CORRECTABLE))
    assert isinstance(told, pvalue.TaggedOutput)
    assert told.tag == "dead_letters"
    assert told.value["reason"].to_pylist() == ["cancelled"] * 2
    rows = stream_table([minute("A", OPEN, 10.0, 1, 1)], MINUTE_INPUT)
    assert list(fn.process(rows)) == [rows]
    (kept,) = fn.process(stream_table(cancelled[:1], CORRECTABLE))
    assert isinstance(kept, pa.Table)

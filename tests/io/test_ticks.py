from __future__ import annotations

import json
import math
import pickle
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fibflow.io.jsonframes import frame
from fibflow.io.jsonspans import PAD, Text
from fibflow.io.tickcolumns import read
from fibflow.io.ticks import DecodeTicks, aggregates_of, archive, trades_of
from fibflow.transforms.schemas import AGGREGATES, DEAD_LETTERS, RECORDS, TICKS, TIMESTAMP, TRADES

# One reads all that it can where it stands, the other every message with a parser.
FAST = DecodeTicks(few_bytes=0, few_messages=0)
SLOW = DecodeTicks(few_bytes=1 << 40)
BOTH = pytest.mark.parametrize("decode", [FAST, SLOW], ids=["fast", "slow"])

ARRIVED = 1_732_890_700_000_000
T0 = 1_732_890_600_000
TRADE = {
    "ev": "T",
    "sym": "MSFT",
    "x": 4,
    "i": "12345",
    "z": 3,
    "p": 114.125,
    "s": 100,
    "c": [0, 12],
    "t": T0,
    "q": 3681328,
}
MINUTE = {
    "ev": "AM",
    "sym": "GTE",
    "v": 4110,
    "av": 9470157,
    "op": 0.4372,
    "vw": 0.4488,
    "o": 0.4488,
    "c": 0.4486,
    "h": 0.4489,
    "l": 0.4486,
    "a": 0.4352,
    "z": 685,
    "s": T0,
    "e": T0 + 60_000,
}


def records(*payloads: bytes | None, shards: list[str] | None = None) -> pa.Table:
    n = len(payloads)
    columns = {
        "shard": pa.array(shards or ["shard-0"] * n, pa.string()).dictionary_encode(),
        "sequence": pa.array([str(100 + k) for k in range(n)], pa.string()),
        "sub": pa.array(range(n), pa.int32()),
        "arrived": pa.array([ARRIVED + k for k in range(n)], pa.int64()).view(TIMESTAMP),
        "key": pa.array(["key"] * n, pa.string()),
        "data": pa.array(payloads, pa.binary()),
    }
    return pa.table(columns, schema=RECORDS)


def text(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def lines(*messages: object) -> bytes:
    return b"\n".join(text(message) for message in messages)


def plain(table: pa.Table) -> list[dict]:
    """Rows with times as microseconds and doubles by their bits, so that equal means equal."""
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        values = column.view(pa.int64()).to_pylist() if column.type == TIMESTAMP else column.to_pylist()
        columns[name] = [value.hex() if isinstance(value, float) else value for value in values]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def outputs(decode: DecodeTicks, *payloads: bytes | None) -> dict[str, list[dict]]:
    found = decode(records(*payloads)).outputs
    schemas = {"trades": TRADES, "minutes": AGGREGATES, "seconds": AGGREGATES, "dead_letters": DEAD_LETTERS}
    for tag, table in found.items():
        table.validate(full=True)
        assert table.schema == schemas[tag]
        assert len(table)
    return {tag: plain(table) for tag, table in found.items()}


def one(decode: DecodeTicks, message: object) -> dict:
    """The only row that a message makes."""
    ((_, rows),) = outputs(decode, text(message)).items()
    assert len(rows) == 1
    return rows[0]


def letters(decode: DecodeTicks, *payloads: bytes) -> list[tuple[str, str, bytes]]:
    rows = outputs(decode, *payloads).get("dead_letters", [])
    return [(row["reason"], row["origin"].removeprefix("kinesis:shard-0/"), row["payload"]) for row in rows]


# --- the messages -------------------------------------------------------------------------------------------


@BOTH
def test_a_trade_has_all_its_columns(decode):
    assert outputs(decode, text(TRADE)) == {
        "trades": [
            {
                "symbol": "MSFT",
                "ts": T0 * 1000,
                "seq": 3681328,
                "price": (114.125).hex(),
                "size": (100.0).hex(),
                "conditions": "0,12",
                "trade_id": "12345",
                "exchange": 4,
                "tape": 3,
                "correction": None,
                "shard": "shard-0",
                "sequence": "100",
                "sub": 0,
                "place": 0,
                "arrived": ARRIVED,
            }
        ]
    }


@BOTH
@pytest.mark.parametrize(("kind", "tag"), [("AM", "minutes"), ("A", "seconds")])
def test_an_aggregate_has_all_its_columns(decode, kind, tag):
    assert outputs(decode, text(MINUTE | {"ev": kind})) == {
        tag: [
            {
                "symbol": "GTE",
                "ts": T0 * 1000,
                "open": (0.4488).hex(),
                "high": (0.4489).hex(),
                "low": (0.4486).hex(),
                "close": (0.4486).hex(),
                "volume": (4110.0).hex(),
                "vwap": (0.4488).hex(),
                "trade_count": None,
                "version": ARRIVED,
                "shard": "shard-0",
                "sequence": "100",
                "sub": 0,
                "place": 0,
                "arrived": ARRIVED,
            }
        ]
    }


@BOTH
def test_what_is_optional_may_be_missing(decode):
    few = {key: TRADE[key] for key in ("ev", "sym", "p", "s", "t", "q")}
    row = one(decode, few)
    assert (row["conditions"], row["trade_id"], row["exchange"], row["tape"]) == ("", None, None, None)
    minute = one(decode, {key: MINUTE[key] for key in ("ev", "sym", "v", "o", "c", "h", "l", "s")})
    assert (minute["vwap"], minute["trade_count"], minute["version"]) == (None, None, ARRIVED)


@BOTH
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"ds": "0.125"}, {"size": (0.125).hex()}),
        ({"ds": "0.125", "s": None}, {"size": (0.125).hex()}),
        ({"ds": "1e-3"}, {"size": (0.001).hex()}),
        ({"ds": " 1"}, {"size": (100.0).hex()}),
        ({"ds": ""}, {"size": (100.0).hex()}),
        ({"ds": "1_0"}, {"size": (100.0).hex()}),
        ({"ds": 7}, {"size": (100.0).hex()}),
        ({"s": 0}, {"size": (0.0).hex()}),
        ({"s": 0.5}, {"size": (0.5).hex()}),
        ({"s": 1e2}, {"size": (100.0).hex()}),
        ({"p": 100}, {"price": (100.0).hex()}),
        ({"p": 1234.567890123456}, {"price": (1234.567890123456).hex()}),
        ({"p": 1e-07}, {"price": (1e-07).hex()}),
        ({"e": 8}, {"correction": 8}),
        ({"correction": 8}, {"correction": 8}),
        ({"correction": 8, "e": 1}, {"correction": 1}),
        ({"correction": 8, "e": None}, {"correction": 8}),
        ({"c": []}, {"conditions": ""}),
        ({"c": None}, {"conditions": ""}),
        ({"c": [14, 37, 41, 12, 10, 2]}, {"conditions": "14,37,41,12,10,2"}),
        ({"q": 1.0}, {"seq": 1}),
        ({"q": 2**62}, {"seq": 2**62}),
        ({"q": -5}, {"seq": -5}),
        ({"i": 5}, {"trade_id": None}),
        ({"i": ""}, {"trade_id": ""}),
        ({"i": "\ud800"}, {"trade_id": None}),
        ({"list": [1, 22, 333]}, {}),
        ({"list": ["a"]}, {}),
        ({"i": 'é\n"{}\\'}, {"trade_id": 'é\n"{}\\'}),
        ({"i": "0" * 99}, {"trade_id": "0" * 99}),
        ({"x": "4"}, {"exchange": None}),
        ({"x": 2**31}, {"exchange": None}),
        ({"z": True}, {"tape": None}),
        ({"sym": "X:BTC-USD"}, {"symbol": "X:BTC-USD"}),
        ({"sym": "O:SPY251219C00650000.AND.MORE"}, {"symbol": "O:SPY251219C00650000.AND.MORE"}),
        ({"sym": "Ü"}, {"symbol": "Ü"}),
        ({"trfi": 201, "trft": T0 - 2, "otc": True, "more": [1, {"of": "it"}]}, {}),
    ],
)
def test_a_trades_values_in_all_their_spellings(decode, changed, expected):
    assert one(decode, TRADE | changed) == one(SLOW, TRADE) | expected


@BOTH
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"dv": "4110.25"}, {"volume": (4110.25).hex()}),
        ({"n": 12}, {"trade_count": 12}),
        ({"n": -1}, {"trade_count": None}),
        ({"vw": 0}, {"vwap": None}),
        ({"vw": -1.5}, {"vwap": None}),
        ({"vw": 1e12}, {"vwap": None}),
        ({"vw": "1"}, {"vwap": None}),
        ({"ver": T0 + 61_000}, {"version": (T0 + 61_000) * 1000}),
        ({"ver": T0 * 1000 + 7}, {"version": T0 * 1000 + 7}),
        ({"ver": "soon"}, {"version": ARRIVED}),
        ({"v": 0}, {"volume": (0.0).hex()}),
    ],
)
def test_a_minutes_values_in_all_their_spellings(decode, changed, expected):
    assert one(decode, MINUTE | changed) == one(SLOW, MINUTE) | expected


@BOTH
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (T0, T0 * 1000),
        (T0 * 1000 + 1, T0 * 1000 + 1),
        (T0 * 10**6 + 1999, T0 * 1000 + 1),
        (float(T0), T0 * 1000),
        (0, 0),
        (10**13 - 1, None),
        (10**13, 10**13),
        (10**16 - 1, None),
        (10**16, 10**13),
    ],
)
def test_times_are_read_by_their_magnitude(decode, given, expected):
    row = one(decode, TRADE | {"t": given})
    if expected is None:
        assert row["reason"] == "time_out_of_range"
    else:
        assert row["ts"] == expected


@BOTH
def test_numbers_are_read_to_the_bit(decode):
    prices = [
        "0.1",
        "123456.7891",
        "99999999999.9999",
        "0.00012345",
        "90071992547.40993",
        "720575940379.27945",
        "0.72057594037927945",
        "1.00000000000000011",
    ]
    payload = b"\n".join(text(TRADE).replace(b"114.125", price.encode()) for price in prices)
    found = [row["price"] for row in outputs(decode, payload)["trades"]]
    assert found == [float(price).hex() for price in prices]


# --- refused ------------------------------------------------------------------------------------------------

HUGE = 10**400


@BOTH
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"sym": None}, "null_symbol"),
        ({"sym": ""}, "null_symbol"),
        ({"sym": 5}, "null_symbol"),
        ({"sym": "\ud800"}, "null_symbol"),
        ({"sym": "", "t": None}, "null_symbol"),
        ({"t": None}, "null_time"),
        ({"t": "now"}, "null_time"),
        ({"t": -1}, "null_time"),
        ({"t": 0.5}, "null_time"),
        ({"t": HUGE}, "null_time"),
        ({"t": (ARRIVED + 86_400_000_001)}, "time_out_of_range"),
        ({"t": 2**63 - 1}, "time_out_of_range"),
        ({"q": None}, "null_sequence"),
        ({"q": 2**63}, "null_sequence"),
        ({"p": None}, "null_price"),
        ({"p": "114.125"}, "null_price"),
        ({"p": True}, "null_price"),
        ({"p": [1]}, "null_price"),
        ({"p": HUGE}, "null_price"),
        ({"p": 0}, "non_positive_price"),
        ({"p": -114.125}, "non_positive_price"),
        ({"p": 1e12}, "price_out_of_range"),
        ({"s": None}, "null_volume"),
        ({"s": "100"}, "null_volume"),
        ({"s": -1}, "negative_volume"),
        ({"s": 1e11 + 1}, "volume_out_of_range"),
        ({"ds": "-0.5"}, "negative_volume"),
        ({"c": "12,37"}, "unreadable"),
        ({"c": ["12"]}, "unreadable"),
        ({"c": [1.5]}, "unreadable"),
        ({"c": [True]}, "unreadable"),
        ({"c": [[1]]}, "unreadable"),
        ({"c": [-1]}, "unreadable"),
        ({"ev": "Q"}, "unknown_event"),
        ({"ev": None}, "unknown_event"),
        ({"ev": ["T"]}, "unknown_event"),
    ],
)
def test_a_faulty_trade_is_refused_and_its_neighbours_stay(decode, changed, reason):
    bad = TRADE | changed
    found = outputs(decode, lines(TRADE, bad, TRADE))
    assert [row["place"] for row in found["trades"]] == [0, 2]
    (letter,) = found["dead_letters"]
    assert (letter["reason"], letter["origin"]) == (reason, "kinesis:shard-0/100/0/1")
    assert letter["payload"] == text(bad)


@BOTH
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"sym": ""}, "null_symbol"),
        ({"s": None}, "null_time"),
        ({"s": None, "o": None}, "null_time"),
        ({"s": 2**63 - 1, "o": None}, "time_out_of_range"),
        ({"o": None}, "null_price"),
        ({"l": 0}, "non_positive_price"),
        ({"h": 0.1}, "high_low_mismatch"),
        ({"l": 0.44865}, "high_low_mismatch"),
        ({"v": None}, "null_volume"),
        ({"v": -1}, "negative_volume"),
        ({"v": 1e12}, "volume_out_of_range"),
    ],
)
def test_a_faulty_minute_is_refused_with_its_values(decode, changed, reason):
    found = outputs(decode, lines(MINUTE, MINUTE | changed))
    assert len(found["minutes"]) == 1
    (letter,) = found["dead_letters"]
    assert (letter["reason"], letter["origin"]) == (reason, "kinesis:shard-0/100/0/1")
    assert letter["payload"] == text(MINUTE | changed)
    assert letter["close"] == (0.4486).hex()
    assert letter["symbol"] == (None if "sym" in changed else "GTE")


@BOTH
def test_how_far_ahead_a_message_may_be_is_the_callers(decode):
    message = text(TRADE | {"t": ARRIVED + 2})
    strict = DecodeTicks(1, few_bytes=decode.few_bytes, few_messages=decode.few_messages)
    assert [row[0] for row in letters(strict, message)] == ["time_out_of_range"]
    assert "trades" in outputs(decode, message)


# --- heartbeats and what is newest --------------------------------------------------------------------------


@BOTH
def test_newest_is_the_latest_accepted_time_or_heartbeat_of_each_shard(decode):
    def beat(ms: object) -> dict:
        return {"ev": "HB", "t": ms}

    payloads = [
        lines(TRADE, TRADE | {"t": T0 + 5}, TRADE | {"t": T0 + 9, "p": 0}),
        lines(beat(T0 + 7)),
        lines(MINUTE | {"s": T0 + 60_000}, beat(T0 + 1)),
        lines({"ev": "status", "status": "connected"}),
        lines(beat(None)),
        b"",
        lines(beat(10**16)),
    ]
    found = decode(records(*payloads, shards=["a", "b", "b", "c", "a", "d", "a"]))
    assert found.newest == {"a": (T0 + 5) * 1000, "b": (T0 + 60_000) * 1000}
    reasons = [row["reason"] for row in plain(found.outputs["dead_letters"])]
    assert reasons == ["non_positive_price", "null_time"]


@BOTH
def test_nothing_makes_nothing(decode):
    for payloads in ([], [b""], [b" \r\n\n"], [b"[]"], [b" [ ]\n"], [None], [text([{"ev": "status"}])]):
        found = decode(records(*payloads))
        assert (found.outputs, found.newest) == ({}, {})


# --- payloads -----------------------------------------------------------------------------------------------

A, B, C = (text(TRADE | {"q": n}) for n in (1, 2, 3))


@BOTH
@pytest.mark.parametrize(
    "payload",
    [
        b"\n".join([A, B, C]),
        b"\n".join([A, B, C]) + b"\n",
        b"\r\n".join([A, B, C]) + b"\r\n",
        b"\n\n" + b"\n \n".join([A, B, C]) + b"  ",
        b"[" + b",".join([A, B, C]) + b"]",
        b" [ " + b" , ".join([A, B, C]) + b" ] \n",
        b"[\n" + b",\n".join([A, B, C]) + b"\n]",
        b"[" + A + b"," + B + b"]\n[" + C + b"]",
        A + b"\n[" + B + b"," + C + b"]",
        json.dumps([TRADE | {"q": n} for n in (1, 2, 3)]).encode(),
        json.dumps([TRADE | {"q": n} for n in (1, 2, 3)], indent=1).encode(),
        "\n".join(json.dumps(TRADE | {"q": n}) for n in (1, 2, 3)).encode(),
    ],
)
def test_payloads_of_any_form_have_the_same_messages(decode, payload):
    found = outputs(decode, payload)
    assert found.keys() == {"trades"}
    assert [(row["seq"], row["place"]) for row in found["trades"]] == [(1, 0), (2, 1), (3, 2)]


@BOTH
def test_one_object_may_have_several_lines(decode):
    assert (
        one(decode, TRADE)
        == plain(decode(records(json.dumps(TRADE, indent=2).encode())).outputs["trades"])[0]
    )


@BOTH
@pytest.mark.parametrize(
    ("payload", "kept", "broken"),
    [
        (A + b"\n{\n" + C, [1, 3], [(1, b"{")]),
        (A + b"\n" + B[:-1] + b"\n" + C, [1, 3], [(1, B[:-1])]),
        (A + b"\n" + B + C, [1], [(1, B + C)]),
        (A + b"\nnonsense\n" + C, [1, 3], [(1, b"nonsense")]),
        (A + b"\n5\n" + C, [1, 3], [(1, b"5")]),
        (A + b"\n" + B.replace(b"100", b"NaN") + b"\n" + C, [1, 3], [(1, B.replace(b"100", b"NaN"))]),
        (A + b"\n" + B.replace(b"100", b"0100"), [1], [(1, B.replace(b"100", b"0100"))]),
        (A + b"\n" + B.replace(b"MSFT", b"MS\xffT"), [1], [(1, B.replace(b"MSFT", b"MS\xffT"))]),
        (A + b"\n" + B.replace(b"MSFT", b"MS\0T"), [1], [(1, B.replace(b"MSFT", b"MS\0T"))]),
        (A + b"\n" + B.replace(b",", b",\n", 1) + b"\n" + C, [1, 3], [(1, b'{"ev":"T",'), (2, B[10:])]),
        (b"[" + A + b"," + B + b"," + C, [1, 2, 3], []),
        (b"[" + A + b"," + B + b"," + C[:-2], [1, 2], [(2, C[:-2])]),
        (b"[" + A + b",5," + C + b"]", [1, 3], [(1, b"5")]),
        (b"[" + A + b"," + B[:-1] + b"?}, " + C + b"]", [1, 3], [(1, B[:-1] + b"?}")]),
        (b"[\n" + A + b",\n" + B[:-1] + b"?},\n" + C + b"\n]", [1, 3], [(1, B[:-1] + b"?}")]),
        (b"[" + A + b"\n" + B + b"]", [], [(0, A + b"\n" + B)]),
        (b"\xff\xfe\x00", [], [(0, b"\xff\xfe\x00")]),
        (b"[" * 100_000, [], [(0, b"[" * 99_999)]),
    ],
)
def test_what_is_broken_is_cut_out_and_the_rest_is_kept(decode, payload, kept, broken):
    found = outputs(decode, C, payload, A)
    assert [row["seq"] for row in found["trades"] if row["sequence"] == "101"] == kept
    assert [row["seq"] for row in found["trades"] if row["sequence"] != "101"] == [3, 1]
    assert letters(decode, C, payload, A) == [("unreadable", f"101/1/{place}", raw) for place, raw in broken]


@BOTH
def test_texts_may_look_like_the_end_of_a_message(decode):
    for odd in ('"},{"ev":"T', "}", "{", "},{", "}\n{", "[1]", ",", '","x":7,"i":"', "a:b", "\\"):
        message = TRADE | {"i": odd}
        for payload in (lines(message, TRADE), text([message, TRADE])):
            found = outputs(decode, payload)
            assert found.keys() == {"trades"}
            assert [row["trade_id"] for row in found["trades"]] == [odd, "12345"]


@BOTH
def test_the_last_of_two_equal_keys_counts(decode):
    twice = [
        text(TRADE)[:-1] + b',"p":7}',
        text(TRADE).replace(b'"sym"', b'"sym":"B","sym"'),
        text(TRADE)[:-1] + b',"ev":"status"}',
    ]
    found = outputs(decode, b"\n".join(twice))["trades"]
    assert [(row["price"], row["symbol"]) for row in found] == [
        ((7.0).hex(), "MSFT"),
        ((114.125).hex(), "MSFT"),
    ]


# --- a block ------------------------------------------------------------------------------------------------


def test_a_block_of_many_records_is_as_its_records_one_by_one():
    messages = [
        TRADE | {"q": n, "sym": f"S{n % 97}", "p": 1 + n / 100, "t": T0 + n} | ({"trfi": 2} if n % 5 else {})
        for n in range(6000)
    ]
    for n in range(0, len(messages), 7):
        messages[n] = {key: value for key, value in messages[n].items() if key != "c"}
    messages[1234] = MINUTE
    messages[2345] = {"ev": "?"}
    payloads = [lines(*messages[first : first + 60]) for first in range(0, 6000, 60)]
    payloads[50] = payloads[50].replace(b'"p":', b'"p"', 1)
    wide = [payload * 8 for payload in payloads]
    for block in (payloads, [payload.replace(b"\n", b"\n" * 300) for payload in payloads], wide):
        table = records(*block)
        whole, single = DecodeTicks()(table), [SLOW(table.slice(n, 1)) for n in range(len(table))]
        assert whole.newest == {"shard-0": max(part.newest["shard-0"] for part in single)}
        for tag, found in whole.outputs.items():
            parts = [part.outputs[tag] for part in single if tag in part.outputs]
            assert plain(found) == [row for part in parts for row in plain(part)]


def test_a_decoder_learns_new_fields_orders_and_spellings():
    decode = DecodeTicks(few_bytes=0)
    spaced = [json.dumps(TRADE | {"q": n}).encode() for n in range(100)]
    turned = [text({"ev": "T", **dict(reversed((TRADE | {"q": n}).items()))}) for n in range(100)]
    more = [text(TRADE | {"q": n} | ({"new": "x"} if n % 2 else {"other": 1.5})) for n in range(100)]
    for messages in (more, spaced, more, turned, spaced + more, more + turned):
        payload = b"\n".join(messages)
        assert outputs(decode, payload) == outputs(SLOW, payload)


def test_it_is_pickled_with_what_it_learnt():
    decode = DecodeTicks(5, few_bytes=0)
    payload = lines(*([TRADE] * 60))
    before = outputs(decode, payload)
    again = pickle.loads(pickle.dumps(decode))  # noqa: S301 - made by the test itself
    assert again == decode
    assert outputs(again, payload) == before


def test_records_may_be_a_slice_in_chunks():
    parts = [records(A, B), records(C, text(MINUTE))]
    table = pa.concat_tables(parts).slice(1, 3)
    found = FAST(table).outputs
    assert found["trades"]["seq"].to_pylist() == [2, 3]
    assert found["minutes"]["sequence"].to_pylist() == ["101"]


def test_plain_messages_are_read_where_they_stand():
    rare = {"trfi": 201, "trft": T0}
    messages = [
        TRADE | {"q": n, "p": 1 + n / 8, "i": str(n)} | (rare if n % 9 == 0 else {}) for n in range(300)
    ]
    messages += [MINUTE | {"sym": f"S{n}", "v": n} for n in range(100)]
    decode = DecodeTicks()
    for payload in (lines(*messages), text(messages), json.dumps(messages).encode(), lines(*messages)):
        decode(records(payload))
        found = decode(records(payload, payload.replace(b'"p":', b'"p":x', 1))).outputs
        assert (len(found["trades"]), len(found["minutes"])) == (599, 200)
        data = Text(np.frombuffer(payload, np.uint8))
        frames = frame(data, np.array([PAD]), np.array([PAD + len(payload)]))
        tables, left = read(data, frames, decode._layouts, 0)
        assert sorted((kind, len(table)) for kind, table in tables) == [("AM", 100), ("T", 300)]
        assert not len(left)


# --- properties ---------------------------------------------------------------------------------------------

JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        "",
        "x",
        "1.5",
        "-0.25",
        0,
        -1,
        0.5,
        1e300,
        2**31,
        2**63,
        2**64,
        10**17,
        [],
        [1],
        [14, 41],
        {},
        "é\\",
    ]
)
PRICES = st.floats(0.0001, 1e6) | st.integers(1, 500) | st.decimals(1, 999, places=4).map(float)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "sym": st.sampled_from(["A", "BRK.A", "GOOGL", "BACpL", "ABCDEFGHI", "X:BTC-USD"]),
    "x": st.integers(1, 21),
    "i": st.from_regex(r"[0-9A-Z-]{0,30}", fullmatch=True),
    "z": st.integers(1, 3),
    "p": PRICES,
    "s": st.integers(0, 10_000) | st.floats(0, 100),
    "ds": st.decimals(0, 100, places=6).map(str),
    "c": st.lists(st.integers(0, 71), max_size=5),
    "t": st.integers(T0, T0 + 10**5) | st.integers(T0 * 1000, T0 * 1000 + 10**6),
    "q": st.integers(0, 10**9),
    "e": st.integers(0, 12),
    "trfi": st.integers(200, 204),
    "otc": st.booleans(),
    "note": st.text(max_size=5),
}
BAR: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("o", "h", "l", "c", "vw", "a"), PRICES),
    "sym": FIELDS["sym"],
    "v": FIELDS["s"],
    "dv": FIELDS["ds"],
    "s": FIELDS["t"],
    "e": FIELDS["t"],
    "n": st.integers(-1, 100),
    "ver": FIELDS["t"],
}
NEEDED = {"T": ("sym", "p", "s", "t", "q"), "A": ("sym", "o", "h", "l", "c", "v", "s")}


@st.composite
def message(draw: st.DrawFn) -> bytes:
    """A message, most often a right one, in one of two spellings."""
    kind = draw(st.sampled_from(["T", "T", "T", "T", "AM", "A", "HB", "status", "Q"]))
    fields = {"T": FIELDS, "A": BAR, "AM": BAR}.get(kind, {"t": FIELDS["t"]})
    needed = NEEDED["T"] if kind == "T" else NEEDED["A"]
    given: dict[str, Any] = {"ev": kind}
    for key, values in fields.items():
        if key in needed or draw(st.booleans()):
            given[key] = draw(values)
    if kind in ("A", "AM") and draw(st.booleans()):
        prices = sorted(given[key] for key in "ohlc")
        given |= dict(zip("lohc", [prices[0], prices[1], prices[3], prices[2]], strict=True))
    if draw(st.integers(0, 9)) == 0:
        given[draw(st.sampled_from([*fields, "ev"]))] = draw(JUNK)
    if draw(st.integers(0, 9)) == 0:
        given.pop(draw(st.sampled_from(list(given))))
    return json.dumps(given, separators=draw(st.sampled_from([(",", ":"), (", ", ": ")]))).encode()


BROKEN = st.sampled_from(
    [
        b'{"ev":"T"?}',
        b'{"ev":"T",}',
        b'{"ev":"T" "sym":"A"}',
        b'{"p":NaN}',
        b'{"p":01}',
        b'{"p":1.}',
        b'{"i":"\xff"}',
    ]
)


@st.composite
def payload(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A payload and the messages in it."""
    pieces = draw(st.lists(message() | message() | BROKEN, max_size=8))
    if draw(st.booleans()):
        gap = draw(st.sampled_from([b",", b", ", b",\n"]))
        return b"[" + gap.join(pieces) + b"]" + draw(st.sampled_from([b"", b"\n"])), pieces
    gap = draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
    return gap.join(pieces) + draw(st.sampled_from([b"", gap])), pieces


# The oracle: `json.loads`, a message at a time, and the words of the data model.


def number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e308:
        return None
    return float(value)


def integer(value: object, bits: int = 64) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if -(2 ** (bits - 1)) <= value < 2 ** (bits - 1) else None


def decimal(value: object) -> float | None:
    spelt = isinstance(value, str) and re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", value)
    return float(str(value)) if spelt else None


def instant(value: object) -> int | None:
    found = integer(value)
    if found is None or found < 0:
        return None
    digits = len(str(found))
    return found * 1000 if digits <= 13 else found if digits <= 16 else found // 1000


def string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def first_of(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def expected_trade(given: dict) -> dict | str:
    conditions = given.get("c") if given.get("c") is not None else []
    if not isinstance(conditions, list) or any(type(code) is not int or code < 0 for code in conditions):
        return "unreadable"
    row = {
        "symbol": string(given.get("sym")) or None,
        "ts": instant(given.get("t")),
        "seq": integer(given.get("q")),
        "price": number(given.get("p")),
        "size": first_of(decimal(given.get("ds")), number(given.get("s"))),
        "conditions": ",".join(map(str, conditions)),
        "trade_id": string(given.get("i")),
        "exchange": integer(given.get("x"), 32),
        "tape": integer(given.get("z"), 32),
        "correction": integer(given.get("e"), 32),
    }
    faults = {
        "null_symbol": row["symbol"] is None,
        "null_time": row["ts"] is None,
        "time_out_of_range": (row["ts"] or 0) > ARRIVED + 86_400_000_000,
        "null_sequence": row["seq"] is None,
        "null_price": row["price"] is None,
        "non_positive_price": (row["price"] or 0) <= 0,
        "price_out_of_range": (row["price"] or 0) >= 1e12,
        "null_volume": row["size"] is None,
        "negative_volume": (row["size"] or 0) < 0,
        "volume_out_of_range": (row["size"] or 0) > 1e11,
    }
    return next((reason for reason, holds in faults.items() if holds), row)


def expected_aggregate(given: dict) -> dict | str:
    names = {"open": "o", "high": "h", "low": "l", "close": "c"}
    vwap, count = number(given.get("vw")), integer(given.get("n"))
    row = {
        "symbol": string(given.get("sym")) or None,
        "ts": instant(given.get("s")),
        **{name: number(given.get(key)) for name, key in names.items()},
        "volume": first_of(decimal(given.get("dv")), number(given.get("v"))),
        "vwap": vwap if vwap is not None and 0 < vwap < 1e12 else None,
        "trade_count": count if count is not None and count >= 0 else None,
        "version": instant(given.get("ver")),
    }
    prices = [row[name] for name in names]
    known = [price for price in prices if price is not None]
    faults = {
        "null_symbol": row["symbol"] is None,
        "null_time": row["ts"] is None,
        "time_out_of_range": (row["ts"] or 0) > ARRIVED + 86_400_000_000,
        "null_price": len(known) < 4,
        "non_positive_price": any(price <= 0 for price in known),
        "high_low_mismatch": len(known) == 4 and (row["high"] < max(known) or row["low"] > min(known)),
        "null_volume": row["volume"] is None,
        "negative_volume": (row["volume"] or 0) < 0,
        "volume_out_of_range": (row["volume"] or 0) > 1e11,
    }
    return next((reason for reason, holds in faults.items() if holds), row)


def refuse(constant: str) -> None:
    raise ValueError(constant)


def expected(piece: bytes) -> tuple[str, dict | str] | None:
    """The tag and the row of a message, or ``dead_letters`` and the reason; None for neither."""
    try:
        given = json.loads(piece.decode(), parse_constant=refuse)
    except ValueError:
        return "dead_letters", "unreadable"
    kind = given.get("ev")
    if kind == "HB":
        time = instant(given.get("t"))
        late = time is not None and time > ARRIVED + 86_400_000_000
        return (
            ("dead_letters", "null_time" if time is None else "time_out_of_range")
            if time is None or late
            else None
        )
    if kind == "status":
        return None
    if kind not in ("T", "A", "AM"):
        return "dead_letters", "unknown_event"
    row = expected_trade(given) if kind == "T" else expected_aggregate(given)
    if isinstance(row, str):
        return "dead_letters", row
    return {"T": "trades", "A": "seconds", "AM": "minutes"}[kind], row


@settings(deadline=None)
@given(st.lists(payload(), max_size=4))
@example([(b'{"p":01}\n' + A, [b'{"p":01}', A])])
def test_messages_are_what_a_parser_makes_of_each(block):
    table = records(*(payload for payload, _ in block))
    wanted: dict[str, list[tuple]] = {}
    for record, (_, pieces) in enumerate(block):
        for place, piece in enumerate(pieces):
            found = expected(piece)
            if found is None:
                continue
            tag, row = found
            at = (str(100 + record), record, place)
            if isinstance(row, str):
                wanted.setdefault(tag, []).append((row, f"kinesis:shard-0/{at[0]}/{at[1]}/{at[2]}", piece))
            else:
                arrived = ARRIVED + record
                if "version" in row:
                    row["version"] = first_of(row["version"], arrived)
                bits = {key: value.hex() if isinstance(value, float) else value for key, value in row.items()}
                whole = {**bits, "shard": "shard-0", "sequence": at[0], "sub": record, "place": place}
                wanted.setdefault(tag, []).append((*whole.values(), arrived))
    for decode in (FAST, SLOW, DecodeTicks(few_bytes=0, few_messages=3)):
        made = decode(table).outputs
        rows = {tag: [tuple(row.values()) for row in plain(rows)] for tag, rows in made.items()}
        if "dead_letters" in rows:
            letters_ = plain(made["dead_letters"])
            rows["dead_letters"] = [(row["reason"], row["origin"], row["payload"]) for row in letters_]
        assert rows == wanted


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A payload with some bytes changed, put in, doubled or taken out."""
    whole = bytearray(draw(payload())[0])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(whole)))
        length = draw(st.integers(0, 6))
        some = draw(
            st.sampled_from(
                [
                    b"",
                    b'"',
                    b",",
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b":",
                    b"\n",
                    b"\0",
                    b"0",
                    b".",
                    b" ",
                    b"\\",
                    b"\xc3",
                ]
            )
        )
        whole[at : at + length] = some * draw(st.integers(1, 2)) + draw(
            st.sampled_from([b"", bytes(whole[at : at + length])])
        )
    return bytes(whole)


@settings(deadline=None)
@given(st.lists(damaged(), max_size=4))
def test_whatever_the_bytes_both_ways_agree(payloads):
    table = records(*payloads)
    slow = SLOW(table)
    for decode in (FAST, DecodeTicks(few_bytes=0, few_messages=3)):
        found = decode(table)
        assert found.newest == slow.newest
        assert {tag: plain(rows) for tag, rows in found.outputs.items()} == {
            tag: plain(rows) for tag, rows in slow.outputs.items()
        }


# --- the archive --------------------------------------------------------------------------------------------


def test_the_archive_gives_back_what_was_decoded_to_the_bit():
    messages = [
        TRADE | {"p": math.pi, "ds": "0.000001", "e": 8},
        {key: TRADE[key] for key in ("ev", "sym", "p", "s", "t", "q")},
        MINUTE | {"n": 3, "ver": T0 + 60_001},
        MINUTE | {"ev": "A", "vw": None, "s": T0 + 86_400_000 - 1_800_000},
        {"ev": "?"},
    ]
    found = DecodeTicks()(records(lines(*messages), lines(*messages[:2]))).outputs
    ticks = archive(found)
    assert ticks.schema == TICKS
    assert ticks["kind"].to_pylist() == ["T"] * 4 + ["AM", "A"]
    assert ticks["period"].to_pylist() == ["2024-11-29"] * 5 + ["2024-11-30"]
    again = {
        "trades": trades_of(ticks),
        "minutes": aggregates_of(ticks, "AM"),
        "seconds": aggregates_of(ticks, "A"),
    }
    for tag, table in again.items():
        assert table.schema == found[tag].schema
        assert plain(table) == plain(found[tag])


def test_the_archives_period_is_the_date_in_utc():
    last = datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)
    times = [int(last.timestamp() * 1000), int(last.timestamp()) * 1_000_000 + 999_999, 1_709_251_200_000]
    found = DecodeTicks()(records(lines(*(TRADE | {"t": time} for time in times)))).outputs
    assert archive(found)["period"].to_pylist() == ["2024-02-29", "2024-02-29", "2024-03-01"]


def test_an_empty_archive_has_its_columns():
    assert archive({}).schema == TICKS
    assert archive({"dead_letters": DEAD_LETTERS.empty_table()}) == TICKS.empty_table()
    assert trades_of(TICKS.empty_table()) == TRADES.empty_table()
    assert aggregates_of(TICKS.empty_table(), "AM") == AGGREGATES.empty_table()


def test_there_are_two_kinds_of_aggregates():
    with pytest.raises(ValueError, match="take 'AM' or 'A'"):
        aggregates_of(TICKS.empty_table(), "T")

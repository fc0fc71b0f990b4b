"""Frames to messages: each of them once, as it came, in order, and with its symbol."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fibflow.io.ingest import messages as module
from fibflow.io.ingest.messages import NOBODY, frame_of, ticks_of
from fibflow.io.kinesis.packing import MOST_MESSAGE

SYMBOLS = ["A", "MSFT", "BRK.B", "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123", "Ü", 'Q"T', "TST\\A", "", "BAC/PRB"]
TIME = 1_700_000_000_000_000


def ticks(*frames):
    lengths = np.array([len(frame) for frame in frames], np.int64)
    return ticks_of(b"".join(frames), lengths, TIME)


def rows_of(found):
    return list(zip(found.table["symbol"].to_pylist(), found.table["message"].to_pylist(), strict=True))


@st.composite
def a_message(draw):
    """A message, as text, with the symbol that it names."""
    symbol = draw(st.sampled_from(SYMBOLS))
    kind = draw(st.sampled_from(["T", "AM", "A", "Q", "status"]))
    order = draw(st.sampled_from([("ev", "sym"), ("sym", "ev")]))
    fields = {"ev": kind, "sym": symbol}
    value = {name: fields[name] for name in order}
    value |= {
        "p": draw(st.sampled_from([1, 2.5, 1e-7])),
        "c": [0, 12],
        "i": draw(st.sampled_from(["7", "a,b", "}"])),
    }
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : "), (",\n", ":")]))
    text = json.dumps(value, separators=separators, ensure_ascii=draw(st.booleans()))
    return text, (None if kind == "status" else symbol)


@st.composite
def a_frame(draw):
    found = draw(st.lists(a_message(), min_size=1, max_size=6))
    comma = draw(st.sampled_from([",", ", ", ",\n"]))
    lead, end = draw(st.sampled_from([("[", "]"), ("[ ", " ]"), ("\n[", "]\n")]))
    return lead + comma.join(text for text, _ in found) + end, found


@settings(max_examples=60, deadline=None)
@given(st.lists(a_frame(), min_size=1, max_size=5))
@example([('[{"ev":"T","sym":"A"}]', [('{"ev":"T","sym":"A"}', "A")])])
def test_messages_are_those_of_the_frames_in_order(frames):
    found = ticks(*(text.encode() for text, _ in frames))
    expected = [one for _, of_frame in frames for one in of_frame]
    assert found.status == sum(symbol is None for _, symbol in expected)
    kept = [(symbol, text.encode().replace(b"\n", b" ")) for text, symbol in expected if symbol is not None]
    assert rows_of(found) == kept
    assert set(found.table["ts"].cast("int64").to_pylist()) <= {TIME}


def test_what_is_no_json_travels_for_the_stream_to_refuse():
    good = b'{"ev":"T","sym":"A","p":1}'
    found = ticks(
        b"[" + good + b"]",
        b"nonsense",
        b"[" + good + b',{"ev":"T","sym":"B","p":' + b"}," + good + b"]",
        b"[1,2]",
        b"",
        good + b"\n" + good,
    )
    assert rows_of(found) == [
        ("A", good),
        (NOBODY, b"nonsense"),
        ("A", good),
        ("B", b'{"ev":"T","sym":"B","p":}'),
        ("A", good),
        (NOBODY, b"1"),
        (NOBODY, b"2"),
        ("A", good),
        ("A", good),
    ]


def test_messages_of_the_plain_form_are_not_parsed(monkeypatch):
    def refuse(*_):
        raise AssertionError("parsed")

    monkeypatch.setattr(module, "load", refuse)
    monkeypatch.setattr(module, "messages", refuse)
    rows = [{"ev": kind, "sym": f"S{n}", "p": n / 2, "t": n} for n in range(500) for kind in ("T", "AM", "A")]
    found = ticks(frame_of(rows[:700]), frame_of(rows[700:]), json.dumps(rows).encode())
    assert found.table["symbol"].to_pylist() == [row["sym"] for row in rows] * 2


@pytest.mark.parametrize(("size", "dropped"), [(MOST_MESSAGE - 1, 0), (MOST_MESSAGE, 1)])
def test_what_no_record_can_hold_is_left_out_and_counted(size, dropped):
    small = b'{"ev":"T","sym":"A","p":1}'
    head = b'{"ev":"T","sym":"B","i":"'
    large = head + b"x" * (size - len(head) - 2) + b'"}'
    found = ticks(b"[" + small + b"," + large + b"," + small + b"]")
    assert found.too_large == dropped
    assert found.table["symbol"].to_pylist() == (["A", "A"] if dropped else ["A", "B", "A"])


def test_nothing_comes_of_nothing():
    assert ticks().table.num_rows == 0
    assert ticks(b"[]", b'[{"ev":"status","status":"success","message":"hello"}]')[1:] == (1, 0)

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fibflow.io.jsonframes import frame
from fibflow.io.jsonspans import PAD, Text
from fibflow.io.jsonwalk import BARE, LIST, TEXT, Layouts


def walk(
    layouts: Layouts, *messages: Any, few: int = 0, spaced: bool = False
) -> list[tuple[str, list, dict]]:
    """The kind, the rows and the raw values of what is found."""
    gaps = (", ", ": ") if spaced else (",", ":")
    raw = [one if isinstance(one, bytes) else json.dumps(one, separators=gaps).encode() for one in messages]
    text = Text(np.frombuffer(b"\n".join(raw), np.uint8))
    lengths = np.array([len(one) for one in raw])
    ends = np.cumsum(lengths + 1) - 1 + PAD
    found = []
    for walked in layouts.walk(text, ends - lengths, ends, ("T", "AM"), few):
        values = {
            key: [
                text.cut(start, end) if span.present is None or span.present[n] else None
                for n, (start, end) in enumerate(zip(span.starts.tolist(), span.ends.tolist(), strict=True))
            ]
            for key, span in walked.spans.items()
        }
        for key, span in walked.spans.items():
            assert span.form in (TEXT, LIST, BARE), key
            assert (np.diff(span.starts) > 0).all()
            assert (span.words == text.words[span.starts])[
                span.present if span.present is not None else ...
            ].all()
        found.append((walked.kind, walked.rows.tolist(), values))
    return found


ONE = {"ev": "T", "sym": "A", "p": 1.5, "c": [1, 2], "ok": True}


@pytest.mark.parametrize("spaced", [False, True])
def test_values_are_what_stands_between_the_keys(spaced):
    found = walk(Layouts(), ONE, ONE | {"sym": "", "p": 22, "c": []}, spaced=spaced)
    comma = b"1, 2" if spaced else b"1,2"
    assert found == [
        ("T", [0, 1], {"sym": [b"A", b""], "p": [b"1.5", b"22"], "c": [comma, b""], "ok": [b"true"] * 2})
    ]


def test_fields_may_be_missing_anywhere():
    messages = [
        ONE,
        {"ev": "T", "p": 2},
        {"ev": "T"},
        {"ev": "T", "new": 3, "sym": "B", "ok": False, "last": "z"},
        {"ev": "T", "sym": "C", "last": "y"},
    ]
    ((kind, rows, values),) = walk(Layouts(), *messages)
    assert (kind, rows) == ("T", [0, 1, 2, 3, 4])
    assert values == {
        "new": [None, None, None, b"3", None],
        "sym": [b"A", None, None, b"B", b"C"],
        "p": [b"1.5", b"2", None, None, None],
        "c": [b"1,2", None, None, None, None],
        "ok": [b"true", None, None, b"false", None],
        "last": [None, None, None, b"z", b"y"],
    }


@pytest.mark.parametrize(
    "odd",
    [
        b'{"ev":"T","sym":"B","p":2,"c":[1],"ok":true ,"x":{}}',
        b'{"ev":"T","p":2,"sym":"B"}',
        b'{"ev":"T","sym":"B","sym":"C"}',
        b'{"ev":"T","sym":"B","ev":"AM"}',
        b'{"ev":"T","sym":5}',
        b'{"ev":"T","sym":"B}',
        b'{"ev":"T","sym":"B" }',
        b'{"ev":"T","sym":"B","p":2,}',
        b'{"ev":"T","sym":"B"}}',
        b'{"ev":"T","sym":"' + b"B" * 99 + b'"}',
        b'{"sym":"B","ev":"T"}',
        b'{"ev":"Q","sym":"B"}',
        b'{"ev" :"T"}',
        b"{}",
    ],
)
def test_what_is_not_of_the_layout_is_left(odd):
    layouts = Layouts()
    for _ in range(2):
        assert [(kind, rows) for kind, rows, _ in walk(layouts, ONE, odd, ONE, ONE)] == [("T", [0, 2, 3])]


def test_few_messages_are_left_and_their_fields_are_known_the_next_time():
    layouts = Layouts()
    new = ONE | {"new": 1}
    assert walk(layouts, *[ONE] * 4, few=5) == []
    # The last one is not among those that the layout is learnt from.
    for expected in (41, 42):
        ((_, rows, _),) = walk(layouts, *[ONE] * 41, new, few=5)
        assert len(rows) == expected


def test_kinds_and_spellings_are_walked_apart():
    minute = {"ev": "AM", "o": 1}
    spaced = json.dumps(ONE).encode()
    found = walk(Layouts(), ONE, minute, spaced, ONE, minute)
    assert [(kind, rows) for kind, rows, _ in found] == [("T", [0, 3]), ("AM", [1, 4]), ("T", [2])]


def test_another_order_of_fields_is_learnt_anew():
    layouts = Layouts()
    turned = {"ev": "T", "p": 1, "sym": "A"}
    assert [rows for _, rows, _ in walk(layouts, ONE, ONE)] == [[0, 1]]
    assert [rows for _, rows, _ in walk(layouts, turned, turned, ONE)] == [[0, 1]]


def test_layouts_are_not_kept_without_end():
    layouts = Layouts()
    for n in range(40):
        kind = f"K{n}"
        raw = b'{"ev":"%s"}' % kind.encode()
        text = Text(np.frombuffer(raw, np.uint8))
        found = list(layouts.walk(text, np.array([PAD]), np.array([PAD + len(raw)]), (kind,), 0))
        assert len(found) == 1
    assert len(layouts.known) <= 16


def test_plain_messages_of_any_payload_are_framed():
    payloads = [b'{"a":1}\n{"b":2}\n', b"", b'[{"a":1},{"b":2}]', b'{"a":{"b":1}}', b' {"c":3}\r\n']
    data = b"".join(payloads)
    ends = np.cumsum([len(payload) for payload in payloads]) + PAD
    begins = np.concatenate([[PAD], ends[:-1]])
    text = Text(np.frombuffer(data, np.uint8))
    frames = frame(text, begins, ends)
    cut = [text.cut(*span) for span in zip(frames.starts.tolist(), frames.ends.tolist(), strict=True)]
    assert cut == [b'{"a":1}', b'{"b":2}', b'{"a":1}', b'{"b":2}', b'{"c":3}']
    assert frames.record.tolist() == [0, 0, 2, 2, 4]
    assert frames.place.tolist() == [0, 1, 0, 1, 0]
    assert frames.others.tolist() == [1, 3]
    assert frames.is_array.tolist() == [False, False, True, False, False]

from __future__ import annotations

import pytest

from fibflow.transforms.livecells import (
    NEVER,
    Head,
    StateError,
    check_format,
    decode_revisions,
    encode_revisions,
)


def test_a_head_comes_back():
    for head in (Head("1m"), Head("1m", "trades", 17, NEVER, ["A", 'quote"', "é", "\n"], ["shardId-0"])):
        assert Head.decode(head.encode()) == head


def test_revisions_come_back():
    for revisions in ({}, {(0, 60): {3: 1, 9: 7}, (7, -60): {0: 2**31 - 1}}):
        assert decode_revisions(encode_revisions(revisions)) == revisions


def test_another_format_says_what_to_do():
    with pytest.raises(StateError, match="state cell head has format 9, this release reads 1: resume with"):
        check_format(b"\x09...", "head")

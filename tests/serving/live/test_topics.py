from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.live.topics import Topic, TopicError, parse, split

SYMBOLS = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters=","),
    min_size=1,
    max_size=64,
)


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("AM.AAPL", Topic("AM", "", "AAPL")),
        ("AM.*", Topic("AM", "", "*")),
        ("T.BRK.B", Topic("T", "", "BRK.B")),
        ("P.X:BTCUSD", Topic("P", "", "X:BTCUSD")),
        ("N.BRK.B", Topic("N", "", "BRK.B")),
        ("B.5m.BRK.B", Topic("B", "5m", "BRK.B")),
        ("O.13d.*", Topic("O", "13d", "*")),
        ("B.60m.A", Topic("B", "1h", "A")),
    ],
)
def test_topics_are_read(text, topic):
    assert parse(text) == topic


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown channel"),
        ("AAPL", "unknown channel"),
        ("AM", "no symbol"),
        ("AM.", "no symbol"),
        ("am.AAPL", "unknown channel"),
        ("A.AAPL", "no bars of seconds"),
        ("Q.AAPL", "there is no Q here"),
        ("B.AAPL", "write B.<timeframe>.<symbol>"),
        ("B.5m", "write B.<timeframe>.<symbol>"),
        ("B.5m.", "no symbol"),
        ("B.*.AAPL", "unknown timeframe"),
        ("O.7m.AAPL", "does not divide a day"),
        ("AM.A B", "white space"),
        ("AM." + 65 * "A", "64 characters"),
        ("AM.A\0", "white space"),
    ],
)
def test_what_is_no_topic_is_refused_with_a_reason(text, says):
    with pytest.raises(TopicError, match=says.replace("<", "<")):
        parse(text)


@given(st.sampled_from(["AM", "T", "P", "N"]), SYMBOLS)
def test_any_symbol_can_be_followed(channel, symbol):
    assert parse(f"{channel}.{symbol}") == Topic(channel, "", symbol)


@given(st.sampled_from(["B", "O"]), st.sampled_from(["1m", "4h", "34d"]), SYMBOLS)
def test_of_any_timeframe(channel, timeframe, symbol):
    assert parse(f"{channel}.{timeframe}.{symbol}") == Topic(channel, timeframe, symbol)


@given(st.text(max_size=80))
def test_whatever_is_sent_is_a_topic_or_is_refused(text):
    refused, topic = "", None
    try:
        topic = parse(text)
    except TopicError as error:
        refused = str(error)
    assert bool(refused) != bool(topic)
    assert "\n" not in refused
    assert topic is None or (topic.symbol and topic.channel in ("AM", "T", "P", "B", "O"))


@given(st.lists(SYMBOLS))
def test_a_list_is_split_at_commas_each_text_once(texts):
    assert split(" , ".join(texts)) == list(dict.fromkeys(texts))

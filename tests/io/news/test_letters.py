from __future__ import annotations

import orjson

from fibflow.io.lake import Lake
from fibflow.io.news.articles import BAD_VALUES, NO_TIME, rows_of
from fibflow.io.news.letters import Letters
from fibflow.io.tables import DEAD_LETTERS
from fibflow.tests.io.news.samples import NOW, article

WRONG = [article(1, "soon"), article(2, title=5), "no article"]


def refused(*articles):
    return rows_of(articles, NOW)[1]


def test_what_is_refused_is_written_once_with_its_reason_and_all_of_it(tmp_path):
    lake = Lake(str(tmp_path))
    letters = Letters(lake)
    assert letters.write([], "none") == 0
    assert not lake.table(DEAD_LETTERS).exists
    assert letters.write(refused(*WRONG[:2]), "a") == 2
    assert letters.write(refused(*WRONG), "b") == 1
    # Another process finds what was written.
    assert Letters(lake).write(refused(*WRONG), "c") == 0
    rows, _ = lake.table(DEAD_LETTERS).snapshot().read()
    found = {row["payload"]: row for row in rows.to_pylist()}
    assert len(rows) == len(found) == 3
    told = [found[orjson.dumps(one)] for one in WRONG]
    assert [(row["reason"], row["symbol"], row["run"]) for row in told] == [
        (NO_TIME, "AAPL", "a"),
        (BAD_VALUES, "AAPL", "a"),
        (BAD_VALUES, None, "b"),
    ]
    assert {row["origin"] for row in told} == {"news"}
    assert [row["ts"] is None for row in told] == [True, False, True]


def test_a_long_one_is_cut(tmp_path):
    lake = Lake(str(tmp_path))
    long = refused(article(1, "soon", title="x" * 100_000))
    assert [Letters(lake).write(long, name) for name in "ab"] == [1, 0]
    rows, _ = lake.table(DEAD_LETTERS).snapshot().read()
    assert len(rows["payload"][0].as_py()) == 65_536

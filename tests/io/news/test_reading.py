"""Reading by symbol and time, against a plain list of all articles."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fibflow.io.lake import Lake
from fibflow.io.maintenance import compact
from fibflow.io.news.articles import json_of, published_of, us_of
from fibflow.io.news.reading import NewsReader, Wanted
from fibflow.io.news.table import NewsTable
from fibflow.io.storage import LakeError
from fibflow.io.tables import NEWS
from fibflow.tests.io.news.samples import article, by_id, drawn, rows

DAY = 86_400_000_000
FIRST = us_of(datetime(2024, 3, 1, tzinfo=UTC))


def place(one):
    instant = published_of(one["published_utc"])
    assert instant is not None
    return us_of(instant), one["id"]


def plain(known, wanted):
    """What a question asks for, and whether there is more, by looking at all."""
    found = [
        one
        for one in known
        if (wanted.fits is None or any(map(wanted.fits, one["tickers"])))
        and (wanted.start is None or place(one)[0] >= wanted.start)
        and (wanted.end is None or place(one)[0] < wanted.end)
    ]
    found.sort(key=place, reverse=wanted.descending)
    if wanted.after is not None:
        found = [
            one
            for one in found
            if (place(one) < wanted.after if wanted.descending else place(one) > wanted.after)
        ]
    return found[: wanted.limit], len(found) > wanted.limit


def read(reader, wanted):
    found, more = reader.read(reader.find(wanted))
    return json.loads(json_of(found)), more


def question(dice, known):
    kind = dice.choice(("all", "A", "BRK.B", "NOSUCH", "", "range", "some"))
    fits = {
        "all": None,
        "range": lambda name: "AA" <= name < "C",
        "some": lambda name: name in ("A", "Z", "NOSUCH"),
    }.get(kind, lambda name: name == kind)
    return Wanted(
        fits,
        kind if kind not in ("all", "range", "some") else None,
        dice.choice((None, FIRST + dice.randrange(90) * DAY)),
        dice.choice((None, FIRST + dice.randrange(90) * DAY)),
        dice.choice((1, 2, 7, 1_000)),
        dice.random() < 0.5,
        dice.choice((None, place(dice.choice(known)))),
    )


@pytest.mark.parametrize("files", ["as they come", "merged"])
def test_any_question_is_answered_as_by_looking_at_all(files, tmp_path):
    dice = random.Random(11)
    lake = Lake(str(tmp_path))
    reader = NewsReader(lake, 0.0)
    known: dict[str, Any] = {}
    for step in range(20):
        told = by_id(drawn(dice, dice.randrange(500)) for _ in range(dice.randrange(1, 40)))
        NewsTable(lake).write(rows(*told.values()), f"run{step}")
        known |= told
        if files == "merged" and step % 7 == 0:
            compact(lake.table(NEWS), 100, f"compact{step}")
        listed = list(known.values())
        for _ in range(60):
            wanted = question(dice, listed)
            assert read(reader, wanted) == plain(listed, wanted), wanted


def test_pages_go_over_instants_that_many_share(tmp_path):
    lake = Lake(str(tmp_path))
    made = [article(number, f"2024-05-0{1 + number // 40}T00:00:00Z") for number in range(100)]
    for part in range(4):
        NewsTable(lake).write(rows(*made[part::4]), f"run{part}")
    reader = NewsReader(lake, 0.0)
    for descending in (True, False):
        got, after, more = [], None, True
        while more:
            page, more = read(reader, Wanted(limit=7, descending=descending, after=after))
            got += page
            after = place(page[-1])
        assert got == sorted(made, key=place, reverse=descending)


def test_what_comes_later_is_seen_when_it_is_time(tmp_path):
    lake = Lake(str(tmp_path))
    at = [0.0]
    reader = NewsReader(lake, 10.0, lambda: at[0])
    assert read(reader, Wanted()) == ([], False)
    NewsTable(lake).write(rows(article(1)), "a")
    assert read(reader, Wanted()) == ([], False)
    at[0] = 100.0
    assert read(reader, Wanted()) == ([article(1)], False)


def test_the_same_articles_have_the_same_key_and_other_files_change_nothing_for_others(tmp_path):
    lake = Lake(str(tmp_path))
    reader = NewsReader(lake, 0.0)
    NewsTable(lake).write(rows(article(1, tickers=["A"]), article(2, tickers=["A"])), "a")
    wanted = Wanted(lambda name: name == "A", "A")
    key = reader.find(wanted).key
    NewsTable(lake).write(rows(article(3, tickers=["B"])), "b")
    assert reader.find(wanted).key == key
    NewsTable(lake).write(rows(article(2, tickers=["A"], title="Another")), "c")
    assert reader.find(wanted).key != key


def test_where_the_lake_cannot_be_read_what_was_known_stays(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    reader = NewsReader(lake, 0.0)
    NewsTable(lake).write(rows(article(1)), "a")
    assert read(reader, Wanted()) == ([article(1)], False)
    log = Path(lake.table(NEWS).storage.path("_delta_log"))
    (log / f"{1:020}.json").write_text("no commit")
    assert read(reader, Wanted()) == ([article(1)], False)
    with pytest.raises(LakeError):
        NewsReader(lake, 0.0).known()


def test_a_bucket_is_read_likewise(anywhere: Lake):
    made = [article(number, f"2024-0{1 + number % 5}-01T00:00:00Z") for number in range(30)]
    NewsTable(anywhere).write(rows(*made), "a")
    wanted = Wanted(lambda name: name == "AAPL", "AAPL", limit=12)
    assert read(NewsReader(anywhere, 0.0), wanted) == plain(made, wanted)

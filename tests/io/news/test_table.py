"""Articles in the lake: each id once, as it was told last, in few files, whoever else writes."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from fibflow.io.lake import Lake
from fibflow.io.maintenance import compact
from fibflow.io.news.articles import micros
from fibflow.io.news.table import NewsTable
from fibflow.io.tables import NEWS
from fibflow.tests.io.news.samples import article, by_id, drawn, rows
from fibflow.transforms.schemas import ARTICLES

AT = datetime(2024, 6, 1, 12, tzinfo=UTC)


def lake_at(folder) -> Lake:
    return Lake(str(folder), clock=lambda: AT)


def stored(lake: Lake) -> pa.Table:
    found, _ = lake.table(NEWS).snapshot().read()
    return found.sort_by([("published", "ascending"), ("id", "ascending")])


def counts(done):
    return done.new, done.late, done.changed, done.unchanged


def test_new_changed_late_and_unchanged(tmp_path):
    lake = lake_at(tmp_path)
    news = NewsTable(lake)
    assert news.newest() is None
    first = news.write(rows(article(1), article(2, "2024-05-31T11:00:00Z")), "a")
    assert (counts(first), first.version) == ((2, 0, 0, 0), 0)
    assert news.newest() == micros(rows(article(2, "2024-05-31T11:00:00Z"))["published"])[0]
    again = news.write(rows(article(1), article(2, "2024-05-31T11:00:00Z")), "b")
    assert (counts(again), again.version) == ((0, 0, 0, 2), 0)
    changed = article(1, title="Another", author=None)
    done = news.write(
        rows(changed, article(3, "2024-05-30T11:00:00Z"), article(4, "2024-05-31T12:00:00Z")), "c"
    )
    assert counts(done) == (2, 1, 1, 0)
    assert sum((first, again, done), type(done)()) == type(done)(4, 1, 1, 2, 1)
    found = stored(lake)
    assert found.select(ARTICLES.names).equals(
        rows(
            article(3, "2024-05-30T11:00:00Z"),
            changed,
            article(2, "2024-05-31T11:00:00Z"),
            article(4, "2024-05-31T12:00:00Z"),
        )
    )
    assert found["revision"].to_pylist() == [0, 1, 0, 0]
    seen, updated = (micros(found[name]).tolist() for name in ("seen", "updated"))
    assert [a == b for a, b in zip(seen, updated, strict=True)] == [True, False, True, True]
    # Each change has an instant of its own, later than all before, though the clock stands.
    assert len(set(updated)) == 4
    assert min(updated[0], updated[1], updated[3]) > updated[2]


def test_an_article_may_move_to_another_month(tmp_path):
    lake = lake_at(tmp_path)
    news = NewsTable(lake)
    news.write(rows(article(1, "2024-04-30T23:59:59Z"), article(2, "2024-04-30T23:00:00Z")), "a")
    done = news.write(rows(article(1, "2024-05-01T00:00:00Z")), "b")
    assert counts(done) == (0, 0, 1, 0)
    found = stored(lake)
    assert found["period"].to_pylist() == ["2024-04", "2024-05"]
    assert found["id"].to_pylist() == [article(2)["id"], article(1)["id"]]


def test_another_process_knows_what_was_written_and_compaction_disturbs_nobody(anywhere: Lake):
    news = NewsTable(anywhere)
    for number in range(6):
        news.write(rows(article(number, f"2024-05-0{number + 1}T00:00:00Z")), f"run{number}")
    compact(anywhere.table(NEWS), 1_000, "compact")
    assert len(anywhere.table(NEWS).snapshot()) == 1
    for writer in (news, NewsTable(anywhere)):
        assert counts(writer.write(rows(article(3, "2024-05-04T00:00:00Z")), "again")) == (0, 0, 0, 1)
    assert counts(news.write(rows(article(3, "2024-05-04T00:00:00Z", title="x")), "change")) == (0, 0, 1, 0)
    assert len(stored(anywhere)) == 6


def test_two_writers_at_once_lose_nothing(tmp_path):
    lake = lake_at(tmp_path)
    NewsTable(lake).write(rows(article(0)), "a")
    between: list[Any] = []

    class Late(Lake):
        """Lets another write between a look at the table and the commit."""

        def table(self, spec):
            made = super().table(spec)
            commit = made.commit

            def later(*args, **options):
                if not between:
                    between.append(NewsTable(lake).write(rows(article(1, title="theirs")), "b"))
                return commit(*args, **options)

            setattr(made, "commit", later)  # noqa: B010 # as a name it is a method
            return made

    done = NewsTable(Late(str(tmp_path), clock=lambda: AT)).write(
        rows(article(1, title="ours"), article(2)), "c"
    )
    assert counts(done) == (1, 0, 1, 0)
    assert stored(lake)["title"].to_pylist() == ["Title 0", "ours", "Title 2"]


def test_at_random_it_holds_what_was_told_last(tmp_path):
    dice = random.Random(5)
    lake = lake_at(tmp_path)
    news = NewsTable(lake)
    known: dict[str, Any] = {}
    for step in range(60):
        told = by_id(drawn(dice, dice.randrange(400)) for _ in range(dice.randrange(1, 25)))
        done = news.write(rows(*told.values()), f"run{step}")
        wanted = [(key not in known, known.get(key) == one) for key, one in told.items()]
        assert (done.new, done.unchanged) == (sum(new for new, _ in wanted), sum(same for _, same in wanted))
        assert done.new + done.changed + done.unchanged == len(told)
        known |= told
    order: Any = [("published", "ascending"), ("id", "ascending")]
    assert stored(lake).select(ARTICLES.names).equals(rows(*known.values()).sort_by(order))
    periods: Any = lake.table(NEWS).snapshot().files["partition.period"]
    files: list[Any] = periods.value_counts().to_pylist()
    assert all(one["counts"] <= 9 for one in files)


def test_one_at_a_time_a_month_has_few_files(tmp_path):
    lake = lake_at(tmp_path)
    news = NewsTable(lake)
    for number in range(70):
        news.write(rows(article(number, f"2024-05-01T00:{number % 60:02}:00Z")), f"run{number}")
    sizes = sorted(file.rows for file in lake.table(NEWS).snapshot().select())
    assert sizes == [2, 4, 64]


def test_from_when_on_history_was_asked_for_is_kept(tmp_path):
    news = NewsTable(lake_at(tmp_path))
    news.has_since(date(2024, 1, 1), "a")
    assert news.since is None
    news.write(rows(article(1)), "b")
    news.has_since(date(2024, 1, 1), "c")
    assert news.since == date(2024, 1, 1)
    assert counts(news.write(rows(article(1)), "d")) == (0, 0, 0, 1)

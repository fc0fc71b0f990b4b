from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io.lake import Lake
from fibflow.io.news.files import digests, rows_at, whole
from fibflow.io.news.table import NewsTable
from fibflow.io.storage import LakeError
from fibflow.tests.io.news.samples import article, rows

IDS = ["", "a", "b", "ab", "ba", "a" * 8, "a" * 9, "a" * 16, "a" * 17, "ü", "a\0", "\0", "x" * 40 + "y"]


def test_the_number_of_an_id_is_its_own_wherever_it_stands():
    made = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(5_000)]
    ids = [*IDS, *made, *(name[:20] for name in made)]
    found = digests(pa.array(ids))
    assert len(np.unique(found)) == len(set(ids))
    order = np.random.default_rng(0).permutation(len(ids))
    again = digests(
        pa.chunked_array([pa.array([ids[at] for at in order[:7]]), pa.array([ids[at] for at in order[7:]])])
    )
    assert (again == found[order]).all()
    assert (digests(pa.array(ids).slice(3, 9)) == found[3:12]).all()
    assert len(digests(pa.array([], pa.string()))) == 0
    assert len(digests(pa.chunked_array([], pa.string()))) == 0


def test_rows_come_from_their_places_over_several_row_groups(anywhere: Lake):
    table = NewsTable(anywhere).table
    made = [article(number, f"2024-05-01T00:{number // 60:02}:{number % 60:02}Z") for number in range(500)]
    NewsTable(anywhere).write(rows(*made), "run")
    [file] = table.snapshot().select()
    places = np.array([499, 0, 127, 128, 300, 0])
    found = rows_at(table.storage, file, places, ["title", "id"])
    assert found["title"].to_pylist() == [f"Title {place}" for place in places]
    all_rows, footer = whole(table.storage, file, ["id"])
    assert footer.num_row_groups == 8
    assert rows_at(table.storage, file, np.arange(500), ["id"], footer).equals(all_rows)
    assert len(rows_at(table.storage, file, np.zeros(0, np.int64))) == 0


def test_a_file_that_is_gone_is_told(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    NewsTable(lake).write(rows(article(1)), "run")
    table = lake.table(NewsTable(lake).table.spec)
    [file] = table.snapshot().select()
    (tmp_path / "lake" / "reference.news" / file.path).unlink()
    for read in (
        lambda: whole(table.storage, file, ["id"]),
        lambda: rows_at(table.storage, file, np.array([0])),
    ):
        with pytest.raises(LakeError, match=r"cannot read .*of reference\.news"):
            read()

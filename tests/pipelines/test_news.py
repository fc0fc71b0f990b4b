"""``python -m pipelines.news`` against the vendor's stand-in: faults, kills, changes, what comes late."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fibflow.io.failpoints import VARIABLE
from fibflow.io.lake import Lake
from fibflow.io.lease import Busy, locked
from fibflow.io.news import push
from fibflow.io.tables import NEWS
from fibflow.io.vendor.errors import NoAccess, VendorAway, WrongKey
from fibflow.pipelines import news
from fibflow.pipelines.vendors import vendor_of
from fibflow.tests.io.livestores import Server, fresh
from fibflow.tests.pipelines.lakes import command, fail
from fibflow.tests.vendors import Vendor, standin
from fibflow.transforms.schemas import ARTICLES

KEY = "a-key-that-nobody-may-see"
FIRST, LAST = date(2024, 1, 2), date(2024, 1, 31)
NOW = datetime(2024, 2, 1, 0, 30, tzinfo=UTC)
ORDER: Any = [("published", "ascending"), ("id", "ascending")]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MASSIVE_API_KEY", KEY)


@pytest.fixture
def vendor():
    with standin(symbols=12, first=FIRST, last=LAST, minutes=0, news=40, key=KEY) as made:
        yield made


def options(vendor: Vendor, folder: Path, *more: str) -> list[str]:
    return ["--lake", str(folder), "--vendor-url", vendor.url, "--rate", "10000", *more]


def poll(
    vendor: Vendor, folder: Path, *more: str, now: Callable[[], datetime] = lambda: NOW, wait=None
) -> int:
    return news.run(options(vendor, folder, *more), now, wait)


def stored(folder: Path):
    rows, _ = Lake(str(folder)).table(NEWS).snapshot().read()
    return rows.select(ARTICLES.names).sort_by(ORDER)


def cells(text: str) -> dict[str, str]:
    lines = [line.strip("│").split("│") for line in text.splitlines() if "│" in line]
    return {name.strip(): value.strip() for name, value in lines}


def told(article: dict, **members) -> dict:
    return {**article, **members}


def articles(vendor: Vendor) -> list[dict]:
    texts: list[Any] = vendor.news()["article"].to_pylist()
    return [json.loads(text) for text in texts]


def test_the_first_poll_brings_three_days_and_history_from_a_date_on(vendor, tmp_path, capsys):
    assert poll(vendor, tmp_path) == 0
    since = NOW - timedelta(days=3)
    all_of_it = vendor.news()
    assert stored(tmp_path)["id"].to_pylist() == [
        row["id"] for row in all_of_it.to_pylist() if row["published"] >= since
    ]
    capsys.readouterr()
    assert poll(vendor, tmp_path, "--from", str(FIRST)) == 0
    assert stored(tmp_path).equals(all_of_it)
    assert cells(capsys.readouterr().out)["asked for since"] == "2024-01-02 00:00 UTC"
    version = Lake(str(tmp_path)).table(NEWS).version
    vendor.forget()
    assert poll(vendor, tmp_path, "--from", str(FIRST)) == 0
    # It is known that history was asked for: a service may be started again with the same words.
    assert (Lake(str(tmp_path)).table(NEWS).version, vendor.names["news"]) == (version, 1)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


def test_with_all_faults_the_lake_has_what_the_vendor_has(tmp_path, capsys):
    faults = "429:0.1:seconds=0,500:0.1,cut:0.1,nonsense:0.1,partial:0.15:path=news,empty:0.05:path=news"
    with standin(symbols=12, first=FIRST, last=LAST, minutes=0, news=150, key=KEY, faults=faults) as vendor:
        tries = 0
        for _ in range(12):
            try:
                poll(vendor, tmp_path, "--from", str(FIRST))
            except VendorAway:
                tries += 1
        vendor.clear()
        poll(vendor, tmp_path)
        assert stored(tmp_path).equals(vendor.news())
        assert {"429", "500", "cut", "nonsense", "partial"} & set(vendor.answers)
        assert tries < 12


def test_killed_at_each_place_it_goes_on_without_duplicates(vendor, tmp_path):
    def process(failpoint: str, *more: str) -> int:
        done = subprocess.run(
            command("news", *options(vendor, tmp_path, "--from", str(FIRST), *more)),
            env={**os.environ, VARIABLE: failpoint},
            capture_output=True,
            text=True,
            check=False,
        )
        assert KEY not in done.stdout + done.stderr
        return done.returncode

    for place in ("before-commit", "after-commit", "after-news"):
        assert process(place) == -signal.SIGKILL
    assert process("") == 0
    assert stored(tmp_path).equals(vendor.news())
    version = Lake(str(tmp_path)).table(NEWS).version
    assert process("") == 0
    assert Lake(str(tmp_path)).table(NEWS).version == version


def test_changed_late_and_moved_articles_are_found(vendor, tmp_path, capsys):
    poll(vendor, tmp_path, "--from", str(FIRST))
    known = articles(vendor)
    dice = random.Random(3)
    recent = [one for one in known if one["published_utc"] >= "2024-01-30"]
    changed = [
        told(one, title="Corrected", tickers=["NEW", *one["tickers"]]) for one in dice.sample(recent, 5)
    ]
    late = [told(recent[0], id=f"late-{number}", published_utc="2024-01-30T01:02:03Z") for number in range(3)]
    bumped = told(known[0], published_utc="2024-01-31T23:59:59Z")
    assert vendor.publish(*changed, *late, bumped) == 9
    capsys.readouterr()
    poll(vendor, tmp_path)
    shown = cells(capsys.readouterr().out)
    assert (shown["new"], shown["older than the newest before"], shown["changed"]) == ("3", "3", "6")
    assert stored(tmp_path).equals(vendor.news())
    assert len(stored(tmp_path)) == len(known) + 3


def test_it_goes_on_until_it_is_told_to_end(vendor, tmp_path, capsys):
    poll(vendor, tmp_path, "--from", str(FIRST))
    capsys.readouterr()
    at, waited = [NOW], []
    template = articles(vendor)[-1]

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        at[0] += timedelta(seconds=60)
        turn = len(waited)
        if turn == 1:
            vendor.order("500", path="news", times=8)
        if turn == 2:
            vendor.publish(told(template, id="a", published_utc=f"{at[0]:%Y-%m-%dT%H:%M:%SZ}"))
        if turn == 3:
            vendor.publish(told(template, id="a", title="b", published_utc=f"{NOW:%Y-%m-%dT%H:%M:%SZ}"))
        return turn == 5

    # What the vendor is asked again for is waited for in no time.
    slept: list[float] = []
    original = vendor_of
    patch = pytest.MonkeyPatch()
    patch.setattr(news, "vendor_of", lambda args: original(args, sleep=slept.append))
    with patch.context():
        assert poll(vendor, tmp_path, "--every", "60", now=lambda: at[0], wait=wait) == 0
    patch.undo()
    said = capsys.readouterr()
    assert waited == [60.0] * 5
    assert len(slept) == 7
    assert "pipelines.news: news: " in said.err
    assert "the last of 8 attempts: run again later" in said.err
    lines = [line.partition(";")[0] for line in said.out.splitlines()]
    assert [line.split(":")[1].split(",")[0].strip() for line in lines] == ["1 new", "1 changed"]
    assert stored(tmp_path).equals(vendor.news())


def test_a_signal_ends_it(vendor, tmp_path):
    process = subprocess.Popen(
        command("news", *options(vendor, tmp_path, "--every", "3600")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not vendor.names["news"]:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "Traceback" not in out


def test_one_at_a_time(vendor, tmp_path):
    with locked(Lake(str(tmp_path)), "news", "another"), pytest.raises(Busy, match="news is at work already"):
        poll(vendor, tmp_path)


def test_what_is_new_is_told_to_the_live_store(vendor, tmp_path, server: Server, capsys):
    recent = [one for one in articles(vendor) if one["published_utc"] >= "2024-01-31T00:30:00"]
    with fresh(server) as store:
        redis = "--redis", server.url, "--prefix", "test"
        # What a poll without a live store brought is told by the next one with it.
        poll(vendor, tmp_path)
        poll(vendor, tmp_path, *redis)
        found = [json.loads(one.article) for one in push.read(store, push.START, 1, 10_000)]
        assert found == recent
        end = push.position(store)
        vendor.publish(told(recent[0], title="Corrected"))
        capsys.readouterr()
        poll(vendor, tmp_path, *redis)
        assert cells(capsys.readouterr().out)["told to the live store"] == "1"
        [changed] = push.read(store, end, 1)
        assert (changed.revision, json.loads(changed.article)["title"]) == (1, "Corrected")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--every", "0"], "--every is 0: give seconds, above 0 and up to 86400"),
        (["--every", "nan"], "--every is nan: give seconds"),
        (["--every", "5", "--once"], "not allowed with argument"),
        (["--from", "soon"], "'soon' is no date: write YYYY-MM-DD"),
        (["--rate", "0"], "--rate is 0: give calls a second"),
        (["--vendor-url", "nowhere"], "the vendor's address"),
    ],
)
def test_bad_usage_is_one_line(given, line, tmp_path):
    failed = fail(news.run, "--lake", str(tmp_path), *given)
    assert failed.code == 2
    assert line in failed.lines[-1]


def test_a_key_that_may_not_is_told_and_ends_it(vendor, tmp_path, monkeypatch):
    def never(seconds: float) -> bool:
        raise AssertionError("it went on")

    vendor.order("403", path="news", times=1)
    with pytest.raises(NoAccess, match=r"^news: the key's plan does not include them"):
        poll(vendor, tmp_path, "--every", "60", wait=never)
    monkeypatch.setenv("MASSIVE_API_KEY", "another")
    with pytest.raises(WrongKey):
        poll(vendor, tmp_path)

"""The command line of the stand-in: what it refuses, a process that serves and stops."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path

import massive
import pytest

from fibflow.serving.cli import UsageError
from fibflow.serving.standin.__main__ import parser, run, wanted_of
from fibflow.serving.standin.handle import started
from fibflow.serving.standin.make import Wanted
from fibflow.serving.standin.paces import FeedFault, FeedKind
from fibflow.tests.serving.standin.conftest import FIRST, LAST
from fibflow.tests.serving.standin.test_feed import script, wire


def test_what_a_command_line_asks_for(tmp_path):
    wanted, args = wanted_of([])
    assert wanted.play == {
        "session": None,
        "speed": 1.0,
        "rate": None,
        "minutes": True,
        "trades": 0,
        "tape": None,
    }
    assert (wanted.lake, wanted.key, wanted.plan, args.port) == (None, None, "all", 8100)
    line = f"--lake {tmp_path} --key k --plan basic --faults 429:0.1 --feed trades --rate 5 --play 2024-04-30"
    wanted, _ = wanted_of([*line.split(), "--now", "2024-04-30T18:00-04:00"])
    assert (wanted.lake, wanted.key, wanted.faults) == (str(tmp_path), "k", "429:0.1")
    assert wanted.clock() == datetime(2024, 4, 30, 22, tzinfo=UTC)
    assert wanted.play is not None
    assert wanted.play["session"] == "2024-04-30"
    assert (wanted.play["minutes"], wanted.play["trades"], wanted.play["rate"]) == (False, 8, 5.0)
    faults = wanted_of(["--feed-faults", "cut:at=5:length=3,slow:at=7:rate=2.5:seconds=1"])[0].feed_faults
    assert [FeedFault.of(told) for told in faults] == [
        FeedFault(FeedKind.CUT, 5, 3),
        FeedFault(FeedKind.SLOW, 7, seconds=1.0, rate=2.5),
    ]
    fastest = wanted_of(["--speed", "max"])[0].play
    assert fastest is not None
    assert fastest["speed"] is None
    assert wanted_of(["--no-play"])[0].play is None
    assert "secret" not in repr(Wanted(key="secret"))


@pytest.mark.parametrize(
    "line",
    [
        "--host 0.0.0.0",
        "--port 70000",
        "--symbols 0",
        "--trades 3",
        "--first 2024-02-01 --last 2024-01-01",
        "--lake /nowhere/at/all",
        "--speed often",
        "--speed 0x",
        "--rate 0",
        "--faults 501 --port 0",
        "--feed-faults cut --port 0",
        "--feed-faults cut:at=often --port 0",
        "--feed-faults cut:at=1:weight=2 --port 0",
        "--first 2024-01-02 --last 2024-01-03 --port 0",
    ],
)
def test_what_cannot_be_is_refused_with_a_line(line):
    with pytest.raises(UsageError) as caught:
        run(line.split())
    assert "\n" not in str(caught.value)


def test_help_names_every_kind_of_fault():
    told = " ".join(parser().format_help().split())
    assert "429 500 401 403 slow cut nonsense partial empty" in told


def test_a_process_that_serves_until_it_is_told_to_stop():
    wanted = Wanted(
        symbols=4,
        first=FIRST,
        last=LAST,
        minutes=1,
        seed=3,
        key="secret",
        faults="500:path=splits:times=1",
        play={"rate": 20_000.0},
        feed_faults=({"kind": "cut", "at": 300},),
    )
    with started(wanted) as vendor:
        client = massive.RESTClient("secret", base=vendor.url)
        assert len(client.get_grouped_daily_aggs("2024-03-04", adjusted=False)) == len(
            [day for day in vendor.days()["session"].to_pylist() if day == date(2024, 3, 4)]
        )
        assert len(list(client.list_splits())) == 1
        assert vendor.answers == {"200": 2, "500": 1}

        async def follow():
            async with wire(vendor, "AM.*", "secret") as found:
                return await found.rest()

        assert asyncio.run(follow()) == script(vendor, 0)[:300]
        folder = Path(vendor.lake.uri).parent
        assert folder.is_dir()
    assert not folder.exists()

"""Bars of both tables, as one reader gives them."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import coverage, snapshot, tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.readbars import LakeReader
from fibflow.io.snapshot import read_parts
from fibflow.io.storage import LakeError
from fibflow.io.streamcommit import StreamCommit
from fibflow.tests.io.streams import JOB, START, minute, table_of, write
from fibflow.transforms.schemas import BARS

MINUTE_US = 60_000_000
BEGIN = round(START.timestamp()) * 1_000_000


def bar(symbol: str, at: int, close: float, timeframe: str = "5m", **flags: Any) -> dict:
    """A bar whose window begins so many minutes after the start of the tests' time."""
    return {"symbol": symbol, "timeframe": timeframe, "ts": minute(at), "end": minute(at + 5)} | {
        "close": close,
        "complete": True,
        "final": True,
        "revision": 0,
        **flags,
    }


class Tables:
    """Commits to both tables of bars."""

    def __init__(self, lake: Lake, **terms: str) -> None:
        self.lake, self.terms, self.number, self.runs = lake, terms, 0, 0

    def batch(self, *bars: dict, covers: dict[str, coverage.Stretches] | None = None) -> None:
        table, files = self.lake.table(tables.BARS), []
        self.runs += 1
        for apart in (True, False):
            for name in {b["timeframe"] for b in bars}:
                own = [b for b in bars if (b["timeframe"], b["complete"]) == (name, apart)]
                if own:
                    own.sort(key=lambda b: (b["symbol"], b["ts"]))
                    rows = table_of(tables.BARS, {key: [b[key] for b in own] for key in own[0]})
                    partition = {"timeframe": name, "period": "all"}
                    files.append(table.writer().write(rows, partition, f"{self.runs}-{name}-{apart}"))
        told = coverage.changed(table.properties, tables.COVERED, covers or {})
        table.commit(
            files, base_version=table.version, scope=Scope(), run=str(self.runs), properties=self.terms | told
        )

    def live(self, *bars: dict) -> None:
        names = [field.name for field in BARS]
        rows = table_of(tables.LIVE, {key: [b[key] for b in bars] for key in bars[0] if key != "timeframe"})
        rows = rows.add_column(1, "timeframe", pa.array([b["timeframe"] for b in bars])).select(names)
        files = write(self.lake, tables.LIVE.name, rows.cast(BARS), self.lake.new_id())
        self.number = (
            StreamCommit(self.lake, tables.LIVE.name, JOB, self.terms).commit(self.number, files).number
        )


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def both(lake):
    return Tables(lake)


def seen(lake, timeframe="5m", **options):
    rows = LakeReader(lake).bars(None, timeframe, **options)
    return [(r["symbol"], (r["ts"] - START) // timedelta(minutes=1), r["close"]) for r in rows.to_pylist()]


def until(minutes):
    return BEGIN + minutes * MINUTE_US


# Precedence ------------------------------------------------------------------------------------------------


def test_batch_where_it_has_been_and_the_stream_after(lake, both):
    both.live(*(bar("A", at, 1.0) for at in (0, 5, 10, 15)))
    both.live(bar("A", 15, 1.5, revision=1), bar("B", 5, 1.0))
    assert seen(lake) == [("A", 0, 1.0), ("A", 5, 1.0), ("A", 10, 1.0), ("A", 15, 1.5), ("B", 5, 1.0)]
    both.batch(bar("A", -5, 2.0), bar("A", 0, 2.0), covers={"5m": ((until(-5), until(10)),)})
    # Batch has no bar of A at 5, nor of B: there is none.
    assert seen(lake) == [("A", -5, 2.0), ("A", 0, 2.0), ("A", 10, 1.0), ("A", 15, 1.5)]
    assert LakeReader(lake).bars("A", "5m").schema.equals(BARS)


def test_an_open_bar_of_batch_gives_way(lake, both):
    both.batch(bar("A", 0, 2.0, complete=False, final=False), bar("B", 0, 2.0, complete=False, final=False))
    both.live(bar("A", 0, 1.0))
    assert seen(lake) == [("A", 0, 1.0), ("B", 0, 2.0)]
    assert seen(lake, complete_only=True) == [("A", 0, 1.0)]
    assert LakeReader(lake).last("B", "5m", 1)["complete"].to_pylist() == [False]


def test_where_no_run_has_said_how_far_it_went_its_ended_bars_count(lake, both):
    both.live(bar("A", 0, 1.0), bar("A", 5, 1.0))
    both.batch(bar("A", 5, 2.0), bar("A", 10, 2.0))
    assert seen(lake) == [("A", 0, 1.0), ("A", 5, 2.0), ("A", 10, 2.0)]


def test_a_window_of_days_belongs_to_batch_when_it_had_ended(lake, both):
    long: dict[str, Any] = {"timeframe": "5d", "end": minute(7 * 1440)}
    both.live(bar("A", 0, 1.0, **long), bar("A", -9000, 1.0, timeframe="5d"))
    both.batch(
        bar("A", 0, 2.0, **long, complete=False, final=False), covers={"5d": ((None, until(5 * 1440)),)}
    )
    assert seen(lake, "5d") == [("A", 0, 1.0)]
    assert LakeReader(lake).last("A", "5d", 9)["close"].to_pylist() == [1.0]


def test_one_table_alone(lake, both):
    with pytest.raises(LakeError, match=r"there are no bars in .*: pipelines\.batch and pipelines\.stream"):
        LakeReader(lake).bars("A", "5m")
    both.live(bar("A", 0, 1.0))
    assert seen(lake) == [("A", 0, 1.0)]
    other = Lake(f"{lake.uri}-2")
    Tables(other).batch(bar("A", 0, 2.0))
    assert seen(other) == [("A", 0, 2.0)]
    assert LakeReader(other).last("A", "5m", 3)["close"].to_pylist() == [2.0]


def test_tables_that_were_made_in_different_ways_do_not_mix(lake):
    Tables(lake, **{tables.INTRADAY_ANCHOR: "open"}).batch(bar("A", 0, 2.0))
    Tables(lake, **{tables.INTRADAY_ANCHOR: "midnight"}).live(bar("A", 0, 1.0))
    with pytest.raises(LakeError, match=r"intraday_anchor=open, silver\.live with intraday_anchor=midnight"):
        LakeReader(lake).bars("A", "5m")


# Reading ---------------------------------------------------------------------------------------------------

BARS_OF = st.lists(
    st.tuples(
        st.sampled_from(["batch", "open", "live", "live", "commit"]),
        st.sampled_from("AB"),
        st.integers(0, 19),
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(BARS_OF, st.lists(st.integers(0, 20), max_size=4, unique=True), st.integers(0, 2**32))
def test_what_is_read_is_that_of_a_dictionary(tmp_path_factory, steps, cuts, seed):
    numbers = random.Random(seed)
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    both = Tables(lake)
    cuts = sorted(cuts)[: len(cuts) // 2 * 2]
    spans = tuple((until(5 * a), until(5 * b)) for a, b in zip(cuts[::2], cuts[1::2], strict=True))
    official: dict[tuple[str, int], dict] = {}
    streamed: dict[tuple[str, int], dict] = {}
    waiting: dict[tuple[str, int], dict] = {}
    for kind, symbol, number in [*steps, ("commit", "", 0)]:
        key, close = (symbol, 5 * number), numbers.random()
        if kind == "commit":
            if waiting:
                both.live(*waiting.values())
                streamed |= waiting
            waiting = {}
        elif kind == "live":
            old = waiting.get(key) or streamed.get(key)
            revision = 0 if old is None else old["revision"] + 1
            waiting[key] = bar(symbol, 5 * number, close, revision=revision, final=False)
        else:
            official[key] = bar(symbol, 5 * number, close, complete=kind == "batch", final=kind == "batch")
    both.batch(*official.values(), covers={"5m": spans})
    expected = {
        key: b
        for key, b in streamed.items()
        if not any(a <= until(key[1]) and until(key[1] + 5) <= z for a, z in spans)
    }
    expected |= {key: b for key, b in official.items() if b["complete"] or key not in expected}
    listed = [(key[0], key[1], expected[key]["close"]) for key in sorted(expected)]
    held = {symbol for symbol, _, _ in listed}
    reader = LakeReader(lake)
    if not listed:
        return
    assert seen(lake) == listed
    start, stop = sorted(numbers.randrange(0, 100) for _ in range(2))
    within = [row for row in listed if start <= row[1] < stop]
    assert seen(lake, start=minute(start), end=minute(stop)) == within
    view = reader.view()
    for symbol in held:
        own = [close for name, _, close in listed if name == symbol]
        inside = [close for name, at, close in listed if name == symbol and start <= at < stop]
        for n in (1, 3, 100):
            assert reader.last(symbol, "5m", n, columns=["close"])["close"].to_pylist() == own[-n:]
            for first in (True, False):
                ends = view.last(symbol, "5m", n, ["close"], start=until(start), end=until(stop), first=first)
                assert ends["close"].to_pylist() == (inside[:n] if first else inside[-n:])
        rows = reader.bars([symbol], "5m", columns=["close", "ts"], limit=2)
        assert (rows.column_names, rows["close"].to_pylist()) == (["close", "ts"], own[:2])


def test_a_point_read_opens_few_files(lake, both, monkeypatch):
    for at in range(0, 200, 5):
        both.live(bar("A", at, float(at)), bar("B", at, 0.0))
    both.batch(*(bar("A", at, 2.0) for at in range(0, 100, 5)), covers={"5m": ((until(0), until(100)),)})
    opened: list[Any] = []
    read = read_parts

    def counted(storage, spec, files, *rest):
        opened.extend(files if spec is tables.LIVE else [])
        return read(storage, spec, files, *rest)

    monkeypatch.setattr(snapshot, read.__name__, counted)
    assert LakeReader(lake).last("A", "5m", 3)["close"].to_pylist() == [185.0, 190.0, 195.0]
    assert len(opened) <= 4
    opened.clear()
    assert len(LakeReader(lake).last("A", "5m", 500)) == 40
    # Those of windows that batch has been through stay closed.
    assert len(opened) == 20


def test_as_it_was(tmp_path):
    clock = iter(START + timedelta(hours=n) for n in range(100))
    both = Tables(Lake(str(tmp_path), clock=lambda: next(clock)))
    both.live(bar("A", 0, 1.0))
    both.batch(bar("A", 0, 2.0))
    both.live(bar("A", 5, 1.0))
    stamps = [
        datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
        for spec in (tables.LIVE, tables.BARS)
        for commit in both.lake.table(spec).history()[::-1]
    ]
    reader = LakeReader(both.lake)
    assert [len(reader.bars("A", "5m", as_of=at)) for at in stamps] == [1, 2, 1]
    assert reader.bars("A", "5m", as_of=stamps[0])["close"].to_pylist() == [1.0]
    assert reader.bars("A", "5m", as_of=stamps[2])["close"].to_pylist() == [2.0]
    with pytest.raises(LakeError, match=r"there are no bars in .* at 2024"):
        reader.bars("A", "5m", as_of=START - timedelta(days=1))


def test_what_is_not_there_is_said(lake, both):
    both.live(bar("A", 0, 1.0), bar("B", 0, 1.0, timeframe="1h"))
    both.batch(bar("C", 0, 1.0, timeframe="5d"))
    reader = LakeReader(lake)
    assert reader.timeframes() == ["5m", "1h", "5d"]
    assert reader.timeframes("B") == ["1h"]
    assert len(reader.bars("A", "5m", minute(500))) == 0
    with pytest.raises(LakeError, match="no 30m bars in this lake; it has 5m, 1h, 5d"):
        reader.bars("A", "30m")
    with pytest.raises(LakeError, match="no bars of C 5m in this lake; it has 5d"):
        reader.last("C", "5m", 3)
    with pytest.raises(LakeError, match="no 5m bars of X, Y in this lake"):
        reader.bars(["X", "Y", "A"], "5m")
    with pytest.raises(ValueError, match="bars have no column 'nope'"):
        reader.last("A", "5m", 1, columns=["nope"])


def test_neither_beam_nor_pandas_is_imported(lake, both):
    both.live(bar("A", 0, 1.0), bar("B", 5, 1.0))
    both.batch(bar("A", 5, 2.0), covers={"5m": ((until(5), until(10)),)})
    script = (
        "import sys; from datetime import date\n"
        "from fibflow.io.readbars import LakeReader; from fibflow.io.lake import Lake\n"
        f"reader = LakeReader(Lake({str(lake.uri)!r}))\n"
        "assert reader.last('A', '5m', 500).num_rows == 2\n"
        "assert reader.bars(['A', 'B'], '5m', date(2024, 3, 11), complete_only=True).num_rows == 2\n"
        "print(*({'pandas', 'apache_beam', 'exchange_calendars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "", done.stderr
    assert done.returncode == 0, done.stderr


def test_bars_in_a_bucket(s3):
    both = Tables(Lake(s3.uri("lake"), s3.aws))
    both.live(bar("A", 0, 1.0), bar("A", 5, 1.0))
    both.batch(bar("A", 0, 2.0))
    assert seen(both.lake) == [("A", 0, 2.0), ("A", 5, 1.0)]

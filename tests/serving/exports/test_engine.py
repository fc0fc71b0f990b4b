"""DuckDB over the lake's files gives what ``io.readbars`` gives, whatever the blocks."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fibflow.io.lake import Lake
from fibflow.io.readbars import LakeReader
from fibflow.io.storage import LakeError
from fibflow.serving.exports.engine import Cancelled, Engine, Scan, Session
from fibflow.serving.exports.files import Stretch
from fibflow.tests.io.barlakes import commit_bars, daily_rows, make_bars
from fibflow.tests.io.test_readbars import BARS_OF, Tables, bar, until
from fibflow.transforms.schemas import BARS

#: An example takes a lake: to make it smaller takes minutes.
_WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.fixture(scope="module")
def engine():
    made = Engine(memory_mb=200)
    yield made
    made.close()


@pytest.fixture
def session(engine):
    made = engine.session()
    yield made
    made.close()


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


def stretch(lake, timeframe="5m", symbols=None, start=None, end=None, complete_only=False):
    return Stretch(LakeReader(lake).view(), timeframe, symbols, start, end, complete_only)


def read(session, asked, most_rows=10_000, columns=tuple(BARS.names)):
    """All blocks as one table; each is within its bounds."""
    scan = Scan.of(session, asked)
    parts = [pa.schema([BARS.field(name) for name in columns]).empty_table()]
    for block in scan.blocks(most_rows):
        found = scan.read(block, columns)
        # One symbol is cut by time, as if its bars were spread evenly.
        assert len(found) <= block.rows or block.start is not None
        parts.append(found)
    return pa.concat_tables(parts)


def same(session, asked, lake, most_rows=10_000):
    rows = read(session, asked, most_rows)
    # What the reader says of a range without rows is not asked here.
    expected = asked.view.read(
        BARS.names, asked.symbols, asked.timeframe, asked.start, asked.end, asked.complete_only
    )
    assert rows.combine_chunks().equals(expected.combine_chunks())
    return rows


@settings(max_examples=20, deadline=None, phases=_WITHOUT_SHRINKING)
@given(
    BARS_OF, st.lists(st.integers(0, 20), max_size=4, unique=True), st.integers(0, 2**32), st.integers(1, 9)
)
def test_any_two_tables_are_read_as_the_reader_reads_them(
    tmp_path_factory, engine, steps, cuts, seed, most_rows
):
    numbers = random.Random(seed)
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    both = Tables(lake)
    cuts = sorted(cuts)[: len(cuts) // 2 * 2]
    spans = tuple((until(5 * a), until(5 * b)) for a, b in zip(cuts[::2], cuts[1::2], strict=True))
    official: dict[tuple[str, int], dict] = {}
    waiting: dict[tuple[str, int], dict] = {}
    for kind, symbol, number in [*steps, ("commit", "", 0)]:
        key, close = (symbol, 5 * number), numbers.random()
        if kind == "commit":
            if waiting:
                both.live(*waiting.values())
            waiting = {}
        elif kind == "live":
            waiting[key] = bar(
                symbol, 5 * number, close, revision=numbers.randrange(3), final=numbers.random() < 0.5
            )
        else:
            official[key] = bar(symbol, 5 * number, close, complete=kind == "batch", final=kind == "batch")
    both.batch(*official.values(), covers={"5m": spans})
    with_session = engine.session()
    start, stop = sorted(until(numbers.randrange(0, 100)) for _ in range(2))
    for symbols in (None, ("A",), ("A", "B"), ("A", "X")):
        bounds = numbers.choice([(None, None), (start, None), (start, stop)])
        same(with_session, stretch(lake, "5m", symbols, *bounds, numbers.random() < 0.5), lake, most_rows)
    with_session.close()


def test_what_silver_bars_covers_alone_is_read_without_the_stream(lake, session):
    both = Tables(lake)
    both.live(bar("A", 0, 1.0), bar("A", 5, 1.0))
    both.live(bar("A", 10, 1.0))
    both.batch(bar("A", 0, 2.0), bar("A", 5, 2.0), covers={"5m": ((None, until(10)),)})
    scan = Scan.of(session, stretch(lake))
    # The first file of the stream holds only windows that batch speaks for.
    assert (len(scan.official.files), len(scan.streamed.files)) == (1, 1)
    alone = Scan.of(session, stretch(lake, end=until(10)))
    assert len(alone.streamed.files) == 0
    assert same(session, stretch(lake), lake)["close"].to_pylist() == [2.0, 2.0, 1.0]
    assert same(session, stretch(lake, end=until(10)), lake)["close"].to_pylist() == [2.0, 2.0]


def test_one_table_alone(lake, session):
    Tables(lake).live(bar("A", 0, 1.0), bar("B", 0, 1.0))
    assert len(same(session, stretch(lake), lake)) == 2
    other = Lake(f"{lake.uri}-2")
    Tables(other).batch(bar("A", 0, 2.0))
    assert len(same(session, stretch(other), other)) == 1
    assert len(same(session, stretch(other, "1h"), other)) == 0


DAYS = daily_rows(dict.fromkeys(("A", "AA", "B", "BRK.B", "Z", "a", "É"), ("2023-01-03", "2023-12-29")))


def test_real_bars_of_many_symbols_in_any_blocks(lake, session):
    commit_bars(lake, make_bars(DAYS, "3d,5d"))
    for most_rows in (30, 84, 200, 10_000):
        assert len(same(session, stretch(lake, "3d"), lake, most_rows)) == 7 * 84
    some = ("AA", "B", "Z", "É")
    assert same(session, stretch(lake, "3d", some), lake, 100)["symbol"].unique().to_pylist() == list(some)


def test_long_lists_of_names_are_no_text(lake, session):
    commit_bars(lake, make_bars(DAYS, "5d"))
    many = tuple(sorted(["A", "Z", *(f"N{number}'); DROP TABLE x; --" for number in range(500))]))
    assert same(session, stretch(lake, "5d", many), lake)["symbol"].unique().to_pylist() == ["A", "Z"]


def test_sessions_do_not_see_each_others_tables(lake, engine):
    commit_bars(lake, make_bars(DAYS, "3d"))
    nobody = [f"N{number}" for number in range(100)]
    asked = [stretch(lake, "3d", tuple(sorted([name, *nobody]))) for name in ("A", "B", "Z", "É")]

    def one(question: Stretch) -> list[Any]:
        session = engine.session()
        found = [read(session, question, 20)["symbol"].unique().to_pylist() for _ in range(3)]
        session.close()
        return found

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, asked))
    assert found == [[[name]] * 3 for name in ("A", "B", "Z", "É")]


HOSTILE = ["'; DROP TABLE x; --", "$first", '"', "\\", "%", "A' OR '1'='1", "*", "\U0001f600"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_symbol_is_data(lake, session, name):
    Tables(lake).batch(bar(name, 0, 1.0), bar("A", 0, 2.0))
    assert same(session, stretch(lake, symbols=(name,)), lake)["close"].to_pylist() == [1.0]
    assert len(same(session, stretch(lake, symbols=tuple(sorted(["A", name]))), lake)) == 2
    assert len(same(session, stretch(lake, name), lake)) == 0


def test_columns_come_in_their_order_and_with_their_types(lake, session):
    Tables(lake).batch(bar("A", 0, 2.0))
    for names in (("close", "symbol"), ("timeframe",), ("ts",), ("end", "ts", "vwap")):
        rows = read(session, stretch(lake), columns=names)
        assert rows.schema.equals(pa.schema([BARS.field(name) for name in names]))
        assert len(rows) == 1


def test_bounds_may_be_far_outside_of_time(lake, session):
    Tables(lake).batch(bar("A", 0, 2.0))
    assert len(read(session, stretch(lake, start=-(2**61), end=2**61))) == 1
    assert len(read(session, stretch(lake, start=2**61))) == 0


def test_one_symbols_many_bars_are_cut_by_time(lake, session):
    both = Tables(lake)
    both.batch(*(bar("A", 5 * number, float(number)) for number in range(100)))
    scan = Scan.of(session, stretch(lake))
    blocks = scan.blocks(30)
    assert len(blocks) == 4
    assert [len(scan.read(block, ["ts"])) for block in blocks] == [25, 25, 25, 25]
    same(session, stretch(lake), lake, 30)
    same(session, stretch(lake, start=until(7), end=until(322)), lake, 30)


def test_a_path_that_duckdb_would_take_for_a_pattern(tmp_path, session):
    lake = Lake(str(tmp_path / "a[1]*?"))
    both = Tables(lake)
    both.live(bar("A", 0, 1.0), bar("A", 5, 1.0))
    both.batch(bar("A", 0, 2.0))
    assert same(session, stretch(lake), lake)["close"].to_pylist() == [2.0, 1.0]


def test_a_bucket(s3, session):
    lake = Lake(s3.uri("lake"), s3.aws)
    both = Tables(lake)
    both.live(bar("A", 0, 1.0), bar("A", 5, 1.0), bar("B", 5, 1.0))
    both.live(bar("A", 5, 1.5, revision=1))
    both.batch(bar("A", 0, 2.0), bar("C", 0, 2.0))
    assert same(session, stretch(lake), lake)["close"].to_pylist() == [2.0, 1.5, 1.0, 2.0]
    assert len(same(session, stretch(lake, symbols=("A", "C"), start=until(5)), lake)) == 1


def test_files_that_are_gone_are_an_error_in_one_line(lake, session):
    Tables(lake).batch(bar("A", 0, 2.0))
    asked = stretch(lake)
    for path in Path(lake.uri).rglob("*.parquet"):
        path.unlink()
    with pytest.raises(LakeError, match="the lake's files cannot be read") as told:
        read(session, asked)
    assert "\n" not in str(told.value)


def test_a_question_ends_when_it_is_cancelled(engine):
    session = engine.session()
    started = threading.Event()

    def cancel() -> None:
        started.wait()
        while not done.wait(0.05):
            session.cancel()

    done = threading.Event()
    canceller = threading.Thread(target=cancel)
    canceller.start()
    started.set()
    with pytest.raises(Cancelled):
        session.ask("SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b", {}, {})
    done.set()
    canceller.join()
    with pytest.raises(Cancelled):
        session.ask("SELECT 1 AS a", {}, {})
    session.close()


def test_memory_and_files_are_bounded_and_nothing_comes_from_the_net(session: Session):
    def told(name):
        return session.ask("SELECT value FROM duckdb_settings() WHERE name = $name", {"name": name}, {})[0][
            0
        ].as_py()

    assert told("memory_limit") == "190.7 MiB"
    assert told("threads") == "1"
    assert told("max_temp_directory_size") == "976.5 MiB"
    assert told("autoload_known_extensions") == told("autoinstall_known_extensions") == "false"


def test_what_a_sort_puts_into_files_goes_with_the_database(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    text = (
        "SELECT count(*) AS n FROM "
        "(SELECT row_number() OVER (ORDER BY hash(range)) AS n FROM range(1500000)) WHERE n > 5"
    )
    small = Engine(memory_mb=20)
    session = small.session()
    assert session.ask(text, {}, {})["n"].to_pylist() == [1_499_995]
    session.close()
    small.close()
    assert list(tmp_path.iterdir()) == []
    smaller = Engine(memory_mb=20, temp_mb=1)
    session = smaller.session()
    with pytest.raises(LakeError):
        session.ask(text, {}, {})
    session.close()
    smaller.close()
    assert list(tmp_path.iterdir()) == []


def test_neither_beam_nor_pandas_is_imported(lake):
    both = Tables(lake)
    both.live(bar("A", 0, 1.0), bar("B", 5, 1.0))
    both.batch(bar("A", 5, 2.0), covers={"5m": ((until(5), until(10)),)})
    script = (
        "import sys\n"
        "from fibflow.io.readbars import LakeReader; from fibflow.io.lake import Lake\n"
        "from fibflow.serving.exports.engine import Engine, Scan\n"
        "from fibflow.serving.exports.files import Stretch\n"
        f"view = LakeReader(Lake({str(lake.uri)!r})).view()\n"
        "scan = Scan.of(Engine().session(), Stretch(view, '5m', ('A', 'B'), 0, 2**60, False))\n"
        "assert sum(len(scan.read(block, ['ts', 'timeframe'])) for block in scan.blocks(1)) == 2\n"
        "print(*({'pandas', 'apache_beam', 'exchange_calendars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr

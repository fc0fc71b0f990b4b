import csv
import io
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibflow.io import tables
from fibflow.io.bars import BarReader
from fibflow.io.lake import Lake, LakeError, Scope
from fibflow.pipelines import chart, inspect, show
from fibflow.pipelines.cli import UsageError
from fibflow.tests.io.barlakes import XNYS, commit_bars, daily_rows, make_bars, minute_rows
from fibflow.transforms.schemas import BARS, DEAD_LETTERS

START = datetime(2024, 6, 1, tzinfo=UTC)
DAILY = daily_rows({"A": ("2023-01-03", "2023-12-29"), "B&<b>": ("2023-06-01", "2023-12-29")})
MINUTES = minute_rows("A", ["2023-12-28T14:30", "2023-12-29T14:30"], 390)


@pytest.fixture
def lake(tmp_path):
    numbers = count()
    return Lake(str(tmp_path / "lake"), clock=lambda: START + timedelta(days=next(numbers)))


@pytest.fixture
def filled(lake):
    commit_bars(lake, [*make_bars(DAILY, "3d,5d"), *make_bars(MINUTES, "15m,1h")], "first")
    return lake


def look(lake, *arguments):
    return inspect.run(["--lake", str(lake.uri), *arguments])


@pytest.fixture
def printed(capsysbinary):
    return lambda: capsysbinary.readouterr().out.decode()


# --- bars --------------------------------------------------------------------------------------------


def cells(text):
    """The cells of the rows of a printed table."""
    return [[c.strip() for c in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]


def test_the_last_bars_as_a_table(filled, printed):
    assert look(filled, "bars", "A", "--timeframe", "5d", "--last", "3") == 0
    text = printed()
    assert "A 5d, times of America/New_York" in text
    bars = BarReader(filled).last("A", "5d", 3).to_pylist()
    assert [row[:7] for row in cells(text)] == [
        [
            f"{bar['ts']:%Y-%m-%d}",
            f"{bar['end']:%Y-%m-%d}",
            *(f"{bar[name]:.2f}" for name in ("open", "high", "low", "close")),
            f"{bar['volume']:,.0f}",
        ]
        for bar in bars
    ]
    assert [row[-1] for row in cells(text)] == ["final" if bar["complete"] else "open" for bar in bars]


def test_a_table_shows_twenty_unless_asked(filled, printed):
    look(filled, "bars", "A", "--timeframe", "3d")
    assert len(cells(printed())) == 20
    look(filled, "bars", "A", "--timeframe", "3d", "--end", "2024-01-01")
    assert len(cells(printed())) == BarReader(filled).bars("A", "3d").num_rows


def test_intraday_times_are_the_exchanges(filled, printed):
    look(filled, "bars", "A", "--timeframe", "1h", "--last", "1")
    assert "2023-12-29 15:00 │ 2023-12-29 16:00" in printed()


def test_bars_as_csv(filled, printed):
    assert look(filled, "bars", "A", "--timeframe", "1h", "--format", "csv", "--complete-only") == 0
    rows = list(csv.DictReader(io.StringIO(printed())))
    bars = BarReader(filled).bars("A", "1h", complete_only=True)
    assert list(rows[0]) == BARS.names
    assert [row["ts"] for row in rows] == [f"{ts:%Y-%m-%dT%H:%M:%SZ}" for ts in bars["ts"].to_pylist()]
    assert [float(row["vwap"]) for row in rows] == bars["vwap"].to_pylist()
    assert {row["complete"] for row in rows} == {"true"}


def test_bars_as_json(filled, printed):
    look(filled, "bars", "B&<b>", "--timeframe", "5d", "--format", "json", "--last", "4")
    rows = json.loads(printed())
    bars = BarReader(filled).last("B&<b>", "5d", 4)
    assert [datetime.fromisoformat(row.pop("ts")) for row in rows] == bars["ts"].to_pylist()
    assert [datetime.fromisoformat(row.pop("end")) for row in rows] == bars["end"].to_pylist()
    assert rows == bars.drop_columns(["ts", "end"]).to_pylist()


def test_a_files_suffix_is_its_format(filled, tmp_path, printed):
    bars = BarReader(filled).bars("A", "5d")
    for name in ("a.parquet", "a.csv", "a.json", "a.txt"):
        assert look(filled, "bars", "A", "--timeframe", "5d", "--output", str(tmp_path / name)) == 0
    assert printed() == ""
    assert pq.read_table(tmp_path / "a.parquet").equals(bars)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(bars) + 1
    assert len(json.loads((tmp_path / "a.json").read_text())) == len(bars)
    assert len(cells((tmp_path / "a.txt").read_text())) == 20


@pytest.mark.parametrize(
    ("arguments", "low", "high"),
    [
        (["--start", "2023-03-01", "--end", "2023-04-01"], "2023-03-01", "2023-04-01"),
        (["--start", "2023-03-01T05:00Z", "--end", "2023-04-01"], "2023-03-01", "2023-04-01"),
        (["--start", "2023-03-01T00:00-05:00", "--end", "2023-04-01T00:00"], "2023-03-01", "2023-04-01"),
        (["--end", "2023-02-01"], "2022-12-01", "2023-02-01"),
        (["--start", "2023-12-01"], "2023-12-01", "2024-01-01"),
    ],
)
def test_ranges(filled, printed, arguments, low, high):
    look(filled, "bars", "A", "--timeframe", "5d", "--format", "csv", *arguments)
    found = [row["ts"] for row in csv.DictReader(io.StringIO(printed()))]
    every = [f"{ts:%Y-%m-%dT%H:%M:%SZ}" for ts in BarReader(filled).bars("A", "5d")["ts"].to_pylist()]
    assert found == [ts for ts in every if low <= ts < high]
    look(filled, "bars", "A", "--timeframe", "5d", "--format", "csv", "--last", "2", *arguments)
    assert [row["ts"] for row in csv.DictReader(io.StringIO(printed()))] == found[-2:]


def test_as_of_a_version_or_a_time(lake, printed):
    for number, rows in enumerate((DAILY.slice(0, 100), DAILY.slice(0, 200))):
        bars = make_bars(rows, "5d")
        removed = lake.table(tables.BARS)
        if number:
            old = removed.snapshot().select()
            removed.commit([], old, base_version=0, scope=Scope(), run="away")
        commit_bars(lake, bars, f"run{number}")
    everything = ["bars", "A", "--timeframe", "5d", "--format", "csv"]

    def ending(*arguments):
        look(lake, *everything, *arguments)
        return list(csv.DictReader(io.StringIO(printed())))[-1]["ts"]

    first, second = ending("--as-of", "0"), ending()
    assert first < second
    assert ending("--as-of", "2") == second
    stamp = lake.table(tables.BARS).history()[-1]["timestamp"]
    then = datetime.fromtimestamp(stamp / 1000, UTC)
    assert ending("--as-of", f"{then:%Y-%m-%d}") == first
    assert ending("--as-of", f"{then:%Y-%m-%dT%H:%M:%S}") == first
    with pytest.raises(LakeError, match="no version as old as 2020"):
        ending("--as-of", "2020-01-01")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bars", "X", "--timeframe", "5d"], "no bars of X 5d in this lake; the symbol is not in it"),
        (["bars", "A", "--timeframe", "8d"], "no 8d bars in this lake; it has 15m, 1h, 3d, 5d"),
        (["bars", "A", "--timeframe", "5d", "--end", "1999-01-01"], "no bars of A 5d are in that range"),
        (["versions", "--table", "bronze.daily"], "there is no table bronze.daily in"),
        (["vacuum", "--table", "bronze.ledger"], "there is no table bronze.ledger in"),
        (
            ["bars", "A", "--timeframe", "5d", "--output", "no/folder/a.csv"],
            "cannot write no/folder/a.csv: No",
        ),
        (
            ["chart", "A", "--timeframe", "5d", "--output", "no/folder/a.png"],
            "cannot write no/folder/a.png: No",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(filled, arguments, message):
    with pytest.raises(LakeError) as error:
        look(filled, *arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "arguments", [["tables"], ["versions"], ["dead-letters"], ["compact"], ["bars", "A", "--timeframe", "5d"]]
)
def test_a_lake_that_is_not_there(lake, arguments):
    with pytest.raises(LakeError, match=r"pipelines\.batch"):
        look(lake, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bars", "A", "--timeframe", "5d", "--format", "parquet"], "name a file with --output"),
        (["chart", "A", "--timeframe", "5d", "--output", "a.gif"], "ends in .png, .svg, .html"),
        (["vacuum", "--retention-days", "-1"], "--retention-days -1: name a number of days"),
        (["vacuum", "--retention-days", "nan"], "--retention-days nan: name a number of days"),
    ],
)
def test_bad_usage(filled, arguments, message):
    with pytest.raises(UsageError) as error:
        look(filled, *arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["bars", "A"], "required: --timeframe"),
        (["bars", "A", "--timeframe", "7m"], "timeframe 7m does not divide a day"),
        (["bars", "A", "--timeframe", "5d", "--last", "0"], "'0' is no number above 0"),
        (["bars", "A", "--timeframe", "5d", "--start", "3/11/2024"], "'3/11/2024' is no time"),
        (["bars", "A", "--timeframe", "5d", "--as-of", "yesterday"], "'yesterday' is no time"),
        (["compact", "--apply", "--dry-run"], "not allowed with"),
        (["nope"], "invalid choice: 'nope'"),
    ],
)
def test_a_line_that_cannot_be_parsed(filled, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        look(filled, *arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_exit_codes_of_the_command(filled, tmp_path):
    def ran(*arguments):
        command = [sys.executable, "-m", "fibflow.pipelines.inspect", "--lake", str(filled.uri), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    code, out, err = ran("bars", "A", "--timeframe", "5d", "--format", "csv", "--last", "2")
    assert (code, len(out.splitlines()), err) == (0, 3, "")
    code, out, err = ran("bars", "X", "--timeframe", "5d")
    assert (code, out, err) == (1, "", "inspect: no bars of X 5d in this lake; the symbol is not in it\n")
    code, out, err = ran("chart", "A", "--timeframe", "5d", "--output", "a.gif")
    assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_a_reader_that_has_seen_enough_is_no_error(filled, form):
    command = [sys.executable, "-m", "fibflow.pipelines.inspect", "--lake", str(filled.uri)]
    arguments = ["bars", "A", "--timeframe", "15m", "--format", form]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


# --- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeframe", ["5d", "15m"])
def test_pictures(filled, tmp_path, timeframe, printed):
    for suffix in ("png", "svg", "html"):
        output = tmp_path / f"a.{suffix}"
        assert look(filled, "chart", "A", "--timeframe", timeframe, "--output", str(output)) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert str(output) in printed()


def test_the_same_bars_give_the_same_picture(filled, tmp_path):
    for suffix in ("png", "svg", "html"):
        files = [tmp_path / f"{number}.{suffix}" for number in range(2)]
        for file in files:
            look(filled, "chart", "A", "--timeframe", "5d", "--output", str(file))
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_page_needs_nothing_else_and_escapes_names(filled, tmp_path):
    output = tmp_path / "b.html"
    look(filled, "chart", "B&<b>", "--timeframe", "5d", "--last", "7", "--output", str(output))
    page = output.read_text()
    assert "<title>B&amp;&lt;b&gt; 5d</title>" in page
    assert "<b>" not in page
    assert "src=" not in page
    assert "<link" not in page
    (found,) = [line for line in page.splitlines() if line.startswith("const bars = ")]
    values = json.JSONDecoder().raw_decode(found.removeprefix("const bars = "))[0]
    bars = BarReader(filled).last("B&<b>", "5d", 7).to_pylist()
    assert len(values) == 7
    assert values[-1].startswith(f"{bars[-1]['ts']:%Y-%m-%d}   open {bars[-1]['open']:g}   high ")
    assert [line.endswith("(not ended)") for line in values] == [not bar["complete"] for bar in bars]


def pixels(path):
    from matplotlib import image

    return np.asarray(image.imread(path))[..., :3]


def test_windows_that_have_not_ended_are_hollow(filled, tmp_path):
    bars = BarReader(filled).last("A", "5d", 1)
    inks = []
    for name, complete in (("open", False), ("done", True)):
        at = bars.schema.get_field_index("complete")
        one = bars.set_column(at, "complete", pa.array([complete]))
        output = tmp_path / f"{name}.png"
        chart.candlesticks(one, "A", "5d", XNYS, output)
        picture = pixels(output)
        inks.append(int((np.ptp(picture, axis=2) > 0.3).sum()))
    assert inks[0] < inks[1] / 3


@pytest.mark.parametrize("value", [0.0, 1e-8, 12.5, 1e9])
def test_a_bar_without_range_or_volume_can_be_drawn(filled, tmp_path, value):
    bars = BarReader(filled).last("A", "5d", 2).to_pylist()
    flat = [
        bar | dict.fromkeys(("open", "high", "low", "close"), value + 0.01) | {"volume": 0.0} for bar in bars
    ]
    chart.candlesticks(pa.Table.from_pylist(flat, BARS), "A", "5d", XNYS, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def marks(first, last, step):
    times: np.ndarray = np.arange(
        np.datetime64(first, "us"), np.datetime64(last, "us"), np.timedelta64(step, "m")
    )
    hours = (times - times.astype("datetime64[D]")).astype("timedelta64[h]").astype(int)
    intraday = step < 1440
    kept = times[np.is_busday(times.astype("datetime64[D]")) & ((hours >= 9) & (hours < 16) | (not intraday))]
    return chart.time_marks(kept, intraday), kept


@pytest.mark.parametrize(
    ("first", "last", "step", "expected"),
    [
        (
            "2024-03-11",
            "2024-03-12",
            30,
            ["11 Mar 2024", "10:00", "11:00", "12:00", "13:00", "14:00", "15:00"],
        ),
        ("2024-03-11", "2024-03-14", 15, ["11 Mar 2024", "12:00", "12 Mar", "12:00", "13 Mar", "12:00"]),
        ("2024-03-11", "2024-03-23", 60, ["11 Mar 2024", "12 Mar", "13 Mar", "14 Mar", "15 Mar", "18 Mar"]),
        ("2024-03-11", "2024-03-30", 1440, ["11 Mar 2024", "18 Mar", "25 Mar"]),
        ("2023-11-20", "2024-05-30", 1440, ["Dec 2023", "Jan 2024", "Feb", "Mar", "Apr", "May"]),
        ("2010-10-01", "2013-03-01", 7200, ["Oct 2010", "Jan 2011", "Apr", "Jul", "Oct"]),
        ("2000-02-22", "2013-03-01", 48960, ["2000", "2002", "2004", "2006", "2008", "2010", "2012"]),
    ],
)
def test_dates_of_the_axis(first, last, step, expected):
    found, times = marks(first, last, step)
    assert [text for _, text in found][: len(expected)] == expected
    assert len(times) > len(found)
    places = [at for at, _ in found]
    assert places == sorted(set(places))
    assert len(places) <= 10


def test_numbers_are_short():
    texts = [chart.short_number(value) for value in (0, 950, 1500, 2.5e6, 3e9, 4e12)]
    assert texts == ["0", "950", "1.5K", "2.5M", "3B", "4T"]


# --- tables ------------------------------------------------------------------------------------------


def test_tables(filled, printed):
    assert look(filled, "tables") == 0
    text = printed()
    snapshot = filled.table(tables.BARS).snapshot()
    (row,) = cells(text)
    assert row[1:3] == [f"{snapshot.rows:,}", str(len(snapshot))]
    assert row[4:] == ["0", "anchor exchange, calendar XNYS, price_basis raw"]


def test_versions(filled, printed):
    commit_bars(filled, make_bars(minute_rows("C", ["2023-12-28T14:30"], 390), "15m"), "second")
    assert look(filled, "versions") == 0
    rows = cells(printed())
    assert [row[0] for row in rows] == ["1", "0"]
    assert rows[0][3:] == ["second", "+1 -0", "26", "everything"]
    assert rows[1][1].startswith("2024-06-0")
    look(filled, "versions", "--limit", "1")
    assert "first" not in printed()


def dead_letters(lake, counts):
    rows = [
        {
            "reason": reason,
            "origin": f"file-{number}",
            "symbol": "A" if number % 2 else "B",
            "close": -1.0,
            "ts": START,
        }
        for reason, n in counts.items()
        for number in range(n)
    ]
    table = lake.table(tables.DEAD_LETTERS)
    file = table.writer().write(pa.Table.from_pylist(rows, DEAD_LETTERS), {}, "rows")
    table.commit([file], base_version=-1, scope=Scope(), run="run")


def test_dead_letters(lake, printed, tmp_path):
    dead_letters(lake, {"duplicate": 1500, "non_positive_price": 3})
    assert look(lake, "dead-letters", "--limit", "4", "--output", str(tmp_path / "all.csv")) == 0
    text = printed()
    assert "duplicate          │ 1,500" in text
    assert "non_positive_price │     3" in text
    # A frequent reason does not hide the others.
    assert text.count("file-") == 4
    assert "4 of 1,503" in text
    assert "2024-06-01 00:00:00" in text
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1504
    look(lake, "dead-letters", "--reason", "non_positive_price", "--symbol", "A")
    assert "1 of 1" in printed()
    look(lake, "dead-letters", "--symbol", "C")
    assert "no such row was refused" in printed()


def test_no_dead_letters(filled, printed):
    assert look(filled, "dead-letters") == 0
    assert printed() == "no row was refused\n"


def test_compaction_is_tried_first(filled, printed):
    for number in range(3):
        commit_bars(
            filled, make_bars(minute_rows(f"N{number}", ["2023-12-28T14:30"], 390), "15m"), f"n{number}"
        )
    table = filled.table(tables.BARS)
    before = BarReader(filled).bars(None, "15m")
    for arguments in (["compact"], ["compact", "--dry-run"], ["compact", "--table", "silver.bars"]):
        assert look(filled, *arguments) == 0
        text = printed()
        assert "would be merged" in text
        assert "4 to 1" in text
        assert table.version == 3
    assert look(filled, "compact", "--apply") == 0
    assert "│ 4 to 1" in printed()
    assert table.version == 4
    assert len(table.snapshot()) == 4
    assert BarReader(filled).bars(None, "15m").equals(before)


def test_vacuum_is_tried_first(filled, printed):
    table = filled.table(tables.BARS)
    orphan = Path(table.storage.path("timeframe=5d/period=all/orphan.parquet"))
    orphan.write_bytes(b"what a killed run left")
    long_ago = time.time() - 40 * 86_400
    os.utime(orphan, (long_ago, long_ago))
    assert look(filled, "vacuum", "--retention-days", "50", "--apply") == 0
    assert look(filled, "vacuum") == 0
    text = printed()
    assert "would be deleted; --apply does it (older than 30 days)" in text
    assert "1 │ 22 B" in text
    assert orphan.exists()
    assert look(filled, "vacuum", "--apply") == 0
    assert not orphan.exists()
    assert len(BarReader(filled).bars("A", "5d"))


def test_exported_strings_may_be_dictionaries(tmp_path):
    text = pa.array(["a,b", None, 'say "x"']).dictionary_encode()
    table = pa.table({"t": text, "at": pa.array([0, None, 1_500_000], pa.timestamp("us", "UTC"))})
    for form in ("csv", "json"):
        with show.exporting(tmp_path / form, table.schema, form) as export:
            export.write(table)
            export.write(table.slice(0, 0))
            export.write(table.slice(0, 1))
    rows = list(csv.reader(io.StringIO((tmp_path / "csv").read_text())))
    assert rows[1:] == [
        ["a,b", "1970-01-01T00:00:00.000000Z"],
        ["", ""],
        ['say "x"', "1970-01-01T00:00:01.500000Z"],
        ["a,b", "1970-01-01T00:00:00Z"],
    ]
    assert [row["t"] for row in json.loads((tmp_path / "json").read_text())] == [
        "a,b",
        None,
        'say "x"',
        "a,b",
    ]

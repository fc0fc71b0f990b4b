"""``python -m pipelines.database``: the schema up and down, import and export."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from fibflow.pipelines import cli, database
from fibflow.tests.io.postgresql.databases import GUARDED, Databases, closes, databases, execute, select
from fibflow.tests.io.postgresql.test_importing import OLD
from fibflow.tests.pipelines.lakes import Failed, command
from fibflow.tests.pipelines.raws import DAYS, Bronze, Raw, rows_of


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Databases]:
    with databases(tmp_path_factory.mktemp("database")) as made:
        yield made


@pytest.fixture
def url(server, monkeypatch) -> str:
    made = server.make("migrated")
    monkeypatch.setenv("DATABASE_URL", made)
    return made


@pytest.fixture
def told(capsys, monkeypatch):
    """What the command printed, by name."""
    monkeypatch.setenv("COLUMNS", "300")

    def read() -> dict[str, str]:
        lines = capsys.readouterr().out.splitlines()
        cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
        return dict(cells)

    return read


def fail(capsys, *argv: str) -> Failed:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run_main(database.run, list(argv), database.KNOWN_ERRORS)
    assert isinstance(ended.value.code, int)
    return Failed(ended.value.code, capsys.readouterr().err.splitlines())


def test_up_where_it_is_and_down(server, monkeypatch, told):
    url = server.make()
    monkeypatch.setenv("DATABASE_URL", url)
    assert database.run(["current"]) == 0
    assert told()["to come"] == "r0001, r0002, r0003, r0004, r0005, r0006"
    assert database.run(["upgrade", "--to", "r0002"]) == 0
    assert (told()["revision now"], database.run(["upgrade"])) == ("r0002", 0)
    told()
    database.run(["current"])
    assert told() | {"seconds": ""} == {
        "revision": "r0006",
        "this release's": "r0006",
        "to come": "nothing",
        "seconds": "",
    }
    assert database.run(["downgrade", "--to", "base"]) == 0
    assert told()["revision now"] == "none"


def test_down_on_a_full_database_only_by_force(url, told, capsys):
    execute(url, "INSERT INTO symbol_metadata (symbol) VALUES ('A')")
    failed = fail(capsys, "downgrade", "--to", "base")
    assert failed.code == 1
    assert len(failed.lines) == 1
    assert "1 of symbol_metadata, 1 of symbol_metadata_history" in failed.lines[0]
    assert database.run(["downgrade", "--to", "base", "--force"]) == 0
    assert told()["rows lost of symbol_metadata"] == "1"


def test_import_tells_what_it_took_and_what_it_left(server, url, told, monkeypatch):
    old = server.make()
    execute(old, OLD)
    monkeypatch.setenv("FIBFLOW_IMPORT_URL", old)
    assert database.run(["import", "--schema", "old", "--dry-run"]) == 0
    dry = told()
    assert dry["raw_ohlcv: columns left aside"] == "id, created_at"
    assert "num_trades as trade_count" in dry["raw_ohlcv: read"]
    assert closes(url) == {}
    for new, same in (("3", "0"), ("0", "3")):
        assert database.run(["import", "--schema", "old", "--price-basis", "raw"]) == 0
        done = told()
        assert (done["raw_ohlcv: read rows"], done["raw_ohlcv: new"]) == ("7", new)
        assert done["raw_ohlcv: as they were"] == same
        assert done["raw_ohlcv: refused, unknown_interval"] == "1"
    assert select(url, "SELECT count(*) FROM symbol_metadata") == [(2,)]


def test_import_of_one_table_under_another_name_with_a_column_of_another(url, tmp_path):
    (tmp_path / "bars.csv").write_text("symbol,date,o,h,l,px,v\nA,2024-01-02,1,2,1,1.5,100\n")
    options = ["--table", "raw_ohlcv=bars", "--column", "raw_ohlcv.close=px", "--interval", "1d"]
    assert database.run(["import", "--from", str(tmp_path), "--price-basis", "raw", *options]) == 0
    assert list(closes(url).values()) == [1.5]


def test_export_of_a_lake(url, tmp_path, told):
    raw = Raw(tmp_path / "raw")
    raw.put("a.parquet", rows_of("A", DAYS))
    Bronze(str(tmp_path / "lake")).first(raw)
    told()
    assert database.run(["export", "--lake", str(tmp_path / "lake")]) == 0
    first = told()
    assert (first["compared"], first["raw_ohlcv: new"]) == ("everything", str(len(DAYS)))
    assert database.run(["export", "--lake", str(tmp_path / "lake")]) == 0
    assert told()["compared"].startswith("what was landed since version")
    assert database.run(["export", "--lake", str(tmp_path / "lake"), "--full"]) == 0
    assert told()["raw_ohlcv: as they were"] == str(len(DAYS))
    assert sorted(closes(url).values()) == [10.5 + number for number in range(len(DAYS))]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["import"], "name what to import with --from"),
        (["import", "--from", "x", "--table", "bars=b"], "--table bars: ours are symbol_metadata"),
        (["import", "--from", "x", "--table", "bars"], "write OURS=THEIRS"),
        (["import", "--from", "x", "--column", "close=px"], "write TABLE.OURS=THEIRS"),
        (
            ["import", "--from", "host=127.0.0.1 port=1 password=hush"],
            "--from is no place: write postgres",
        ),
        (["import", "--from", "password = 'hush' dbname=x"], "--from is no place: write postgres"),
        (["import", "--from", "postgresql:/me:hush@host/x"], "--from is no place: write postgres"),
        (["import", "--from", "mysql://me:hush@host/x"], "--from is no place: write postgres"),
        (["downgrade"], "--to"),
        (["sideways"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_bad_usage_is_one_line(url, capsys, argv, says):
    failed = fail(capsys, *argv)
    assert failed.code == 2
    assert len(failed.lines) == 1
    assert says in failed.lines[0]
    assert "hush" not in failed.lines[0]


def test_bars_are_not_imported_without_their_price_basis(url, tmp_path, capsys):
    (tmp_path / "raw_ohlcv.csv").write_text("symbol,date,o,h,l,c,v,interval\nA,2024-01-02,1,2,1,1.5,100,1d\n")
    failed = fail(capsys, "import", "--from", str(tmp_path))
    assert failed.code == 2
    assert "--price-basis" in failed.lines[0]


@pytest.mark.parametrize("scheme", ["PostgreSQL", "POSTGRES", "Postgresql+psycopg2"])
def test_a_scheme_in_capitals_is_postgresql_too(url, capsys, scheme):
    failed = fail(capsys, "import", "--from", f"{scheme}://me:hush-hush@127.0.0.1:1/market")
    assert failed.code == 1
    assert failed.lines[0].endswith("run again")
    assert "PostgreSQL does not answer" in failed.lines[0]
    assert "hush" not in failed.lines[0]


def test_no_database_named(monkeypatch, capsys):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    failed = fail(capsys, "current")
    assert (failed.code, len(failed.lines)) == (2, 1)
    assert "--postgres, or in DATABASE_URL" in failed.lines[0]


def test_a_wrong_password_is_one_line_and_is_not_told(server):
    """As the shell sees it: nothing else is printed, not by libraries either."""
    url = server.url("migrated", GUARDED, "hush-hush-hush")
    environment = {**os.environ, "DATABASE_URL": url}
    done = subprocess.run(command("database", "upgrade"), env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "refuses the password" in done.stderr
    assert "hush" not in done.stderr

"""``python -m pipelines.alerts``: the predecessor's brought over, ours listed, old ones forgotten."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fibflow.io.alerts import predecessorwords
from fibflow.io.alerts.model import Alert
from fibflow.io.alerts.predecessor import Reading, Refused
from fibflow.io.alerts.predecessorwords import CONFIG, HISTORY
from fibflow.io.alerts.store import AlertStore
from fibflow.pipelines import alerts, cli
from fibflow.runners.services.process import free_ports
from fibflow.tests.io.alerts.alerts import NOW, above, fired, write
from fibflow.tests.io.postgresql.databases import Databases, databases, select
from fibflow.tests.pipelines.lakes import Failed, command
from fibflow.transforms.alerts.definition import OPERATORS

_numbers = itertools.count(1)
OLD = datetime(2024, 3, 1, 15, 30, tzinfo=UTC)
SECONDS = int(OLD.timestamp())


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Databases]:
    with databases(tmp_path_factory.mktemp("alerts")) as made:
        yield made


@pytest.fixture
def url(server, monkeypatch) -> str:
    made = server.make("migrated")
    monkeypatch.setenv("DATABASE_URL", made)
    return made


@pytest.fixture
def store(url) -> Iterator[AlertStore]:
    made = AlertStore(url)
    yield made
    made.close()


Put = Callable[[Sequence[dict[str, Any]]], str]


@pytest.fixture
def put(s3, monkeypatch) -> Put:
    """Makes a table of DynamoDB that holds items, and returns its name; each item has a key of its own."""
    from boto3.dynamodb.types import TypeSerializer

    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    client = s3.aws.boto3_client("dynamodb")
    encode = TypeSerializer().serialize

    def make(items: Sequence[dict[str, Any]]) -> str:
        table = f"alerts-{next(_numbers)}"
        client.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        for number, item in enumerate(items):
            whole = {"pk": f"{number:06}", **item}
            client.put_item(TableName=table, Item={name: encode(value) for name, value in whole.items()})
        return table

    return make


@pytest.fixture
def told(capsys, monkeypatch):
    """What the command printed, by name, and the lines about what was refused."""
    monkeypatch.setenv("COLUMNS", "300")

    def read() -> tuple[dict[str, str], list[str]]:
        printed = capsys.readouterr()
        cells = [
            [cell.strip() for cell in line.strip("│").split("│")]
            for line in printed.out.splitlines()
            if "│" in line
        ]
        return dict(cells), sorted(printed.err.splitlines())

    return read


def fail(capsys, *argv: str) -> Failed:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run_main(alerts.run, list(argv), alerts.KNOWN_ERRORS)
    assert isinstance(ended.value.code, int)
    return Failed(ended.value.code, capsys.readouterr().err.splitlines())


CONFIGS = [
    {
        "alert_id": "a1",
        "user_id": "ada",
        "symbol": "AAPL",
        "condition": "above",
        "threshold": Decimal("187.25"),
        "is_active": True,
        "created_at": OLD.isoformat(),
        "message": "watch out",
    },
    {
        "alertId": "a2",
        "userId": "ada",
        "ticker": "MSFT",
        "alertType": "PRICE_BELOW",
        "targetPrice": "$1,300.50",
        "status": "triggered",
        "createdAt": Decimal(SECONDS * 1000),
        "triggeredAt": "2024-03-02T10:00:00Z",
        "region": "eu",
    },
    {
        "id": "a3",
        "owner": "bob",
        "symbol": "TSLA",
        "operator": ">",
        "value": Decimal(200),
        "enabled": "false",
        "created": str(SECONDS),
        "recurring": True,
    },
    {
        "alert_id": "a4",
        "user_id": "bob",
        "symbol": "NVDA",
        "type": "percent_change",
        "threshold": Decimal(-5),
    },
]
HISTORIES = [
    {
        "history_id": "h1",
        "alert_id": "a1",
        "user_id": "ada",
        "triggered_at": Decimal(SECONDS),
        "triggered_price": Decimal("188.5"),
        "threshold": Decimal("187.25"),
        "symbol": "AAPL",
    },
    {"alert_id": "a1", "timestamp": Decimal(SECONDS + 60), "price": Decimal(189)},
    {"alert_id": "a2", "timestamp": "2024-03-02T10:00:00+00:00", "price": Decimal("1300.25")},
]


def brief(alert: Alert) -> tuple[Any, ...]:
    wanted = alert.definition
    return alert.origin, alert.state, wanted.symbol, wanted.operator, wanted.value, wanted.frequency


def test_alerts_and_what_fired_come_over_once(url, store, put, told):
    config, history = put(CONFIGS), put(HISTORIES)
    argv = ["import", "--config-table", config, "--history-table", history]
    assert alerts.run(argv, NOW) == 0
    said, refused = told()
    assert refused == []
    assert (said["config: items"], said["config: new"], said["config: known before"]) == ("4", "4", "0")
    assert (said["history: items"], said["history: new"]) == ("3", "3")
    first, second = store.find("ada")
    assert brief(first) == ("a1", "active", "AAPL", "above", 187.25, "once")
    assert (first.definition.note, first.created, first.firings, first.fired) == ("watch out", OLD, 2, None)
    assert brief(second) == ("a2", "fired", "MSFT", "below", 1300.5, "once")
    assert (second.created, second.firings, second.fired) == (OLD, 1, datetime(2024, 3, 2, 10, tzinfo=UTC))
    third, fourth = store.find("bob")
    assert brief(third) == ("a3", "paused", "TSLA", "above", 200.0, "every_time")
    assert brief(fourth) == ("a4", "active", "NVDA", "percent_down", 5.0, "once")
    assert (fourth.definition.reference, first.basis) == ("previous_close", date(2026, 1, 5))
    events = store.events("ada")
    assert [(each.ts, each.price, each.level, each.symbol, each.note) for each in events] == [
        (OLD, 188.5, 187.25, "AAPL", "watch out"),
        (OLD + timedelta(minutes=1), 189.0, None, "AAPL", "watch out"),
        (datetime(2024, 3, 2, 10, tzinfo=UTC), 1300.25, None, "MSFT", ""),
    ]
    assert {each.id for each in events} == {
        "import-h1",
        "import-a1-2024-03-01T15:31:00+00:00",
        "import-a2-2024-03-02T10:00:00+00:00",
    }
    assert store.follow(0) == []
    # Once more, after one was changed here.
    store.pause("ada", first.id, NOW)
    before = store.find("ada"), store.find("bob"), events
    assert alerts.run(argv, NOW) == 0
    said, _ = told()
    assert (said["config: new"], said["config: known before"]) == ("0", "4")
    assert (said["history: new"], said["history: known before"]) == ("0", "3")
    assert (store.find("ada"), store.find("bob"), store.events("ada")) == before


def test_a_dry_run_says_how_items_are_understood_and_writes_nothing(url, put, told, monkeypatch):
    config, history = put([*CONFIGS, {"alert_id": "a5"}]), put(HISTORIES)
    monkeypatch.delenv("DATABASE_URL")
    argv = ["import", "--config-table", config, "--history-table", history, "--dry-run"]
    assert alerts.run(argv, NOW) == 0
    said, refused = told()
    assert said["config: id"] == "alert_id (3), alertId (1), id (1)"
    assert said["config: operator"] == "condition (1), alertType (1), operator (1), type (1)"
    assert said["config: left aside"] == "pk (5), region (1)"
    assert said["config: expires"] == "none"
    assert (said["config: would be taken"], said["history: would be taken"]) == ("4", "3")
    assert said["config: refused, it names no owner"] == "1"
    assert refused == ["refused: config a5: it names no owner: say whose such are with --owner"]
    assert select(url, "SELECT count(*) FROM alerts") == [(0,)]


GOOD = CONFIGS[0]
BAD: dict[str, dict[str, Any]] = {
    "it has no id": {"alert_id": None},
    "its condition 'near' is not known: say what it is with --condition OURS=THEIRS": {"condition": "near"},
    "it has no condition": {"condition": ""},
    "it has no threshold": {"threshold": None},
    "its threshold is no number: 'high'": {"threshold": "high"},
    "its threshold is no number: 'True'": {"threshold": True},
    "value: give a finite number above 0": {"threshold": Decimal(-1)},
    "symbol: give one of 1 to 64 characters without white space": {"symbol": ""},
    "its created_at is no time: 'lately'": {"created_at": "lately"},
    "its is_active is not known: 'maybe'": {"is_active": "maybe"},
    "its frequency is not known: 'hourly'": {"frequency": "hourly"},
    "it was deleted, or has expired": {"status": "EXPIRED"},
    "expires: it has passed: give a later instant, or none": {"expires_at": Decimal(SECONDS)},
    "note: give at most 128 characters, none of them NUL": {"message": "x" * 129},
    "its note holds what no text may": {"message": "\0"},
    "its id is longer than 1,024 bytes": {"alert_id": "é" * 513},
    "its owner is longer than 1,024 bytes": {"user_id": "x" * 1_025},
    "it says that it fired more than 1,000,000,000,000 times": {"trigger_count": Decimal("1e30")},
    "its threshold is no number: '190,50'": {"threshold": "190,50"},
    "its expires_at is no time: '99999999'": {"expires_at": "99999999"},
    "its created_at is no time: '9999-12-31T23:59:59-12:00'": {"created_at": "9999-12-31T23:59:59-12:00"},
    "its condition is percent_up, and its threshold is below 0": {
        "condition": "pct_up",
        "threshold": Decimal(-5),
    },
    "its condition and type contradict each other: name the right one with --column operator=": {
        "type": "crosses_below"
    },
}


def test_what_is_refused_is_told_with_its_reason_and_never_dropped(url, store, put, told, tmp_path):
    items = [{**GOOD, "alert_id": f"b{number}", **part} for number, part in enumerate(BAD.values())]
    items += [GOOD, {**GOOD, "user_id": "bob"}, {**GOOD, "symbol": "X"}]
    history = [
        {**HISTORIES[0], "alert_id": "zz"},
        {**HISTORIES[0], "history_id": "h2", "alert_id": None},
        {**HISTORIES[0], "history_id": "h3", "triggered_at": None},
        {**HISTORIES[0], "history_id": "h4", "triggered_price": None},
        {**HISTORIES[0], "history_id": "h5", "user_id": None},
        HISTORIES[0],
    ]
    path = tmp_path / "refused.jsonl"
    tables = ["--config-table", put(items), "--history-table", put(history)]
    assert alerts.run(["import", *tables, "--refused", str(path)], NOW) == 0
    said, lines = told()
    written = [json.loads(line) for line in path.read_text().splitlines()]
    reasons = {(one["table"], one["reason"]) for one in written}
    assert reasons == {
        *((CONFIG, reason) for reason in BAD),
        (CONFIG, "another item has its owner and id"),
        (HISTORY, "it names no alert"),
        (HISTORY, "it does not say when it fired"),
        (HISTORY, "it does not say at which price it fired"),
        (HISTORY, "another item has its id"),
        (HISTORY, "its alert was not imported, or several owners have one of this id"),
    }
    assert len(written) == len(BAD) + 1 + 6
    assert len(lines) == 21
    assert lines[0] == "refused: 10 more; see --refused's file"
    total = sum(int(rows) for name, rows in said.items() if name.startswith("config: refused"))
    assert total + int(said["config: new"]) == int(said["config: items"]) == len(items)
    assert (said["history: items"], said["history: new"]) == ("6", "0")
    assert [each.origin for each in store.find("ada")] == ["a1"]
    assert len(store.find("bob")) == 1


def test_columns_and_conditions_are_named_where_they_are_not_known(url, store, put, told):
    config = put([{"Nr": "1", "sym": "A", "Rule": "hits", "LIMIT": Decimal(5), "name": "n"}])
    history = put([{"nr": "h", "of": "1", "at": Decimal(SECONDS * 1_000_000), "px": Decimal(6)}])
    argv = [
        *("import", "--config-table", config, "--history-table", history, "--owner", "ada"),
        *("--column", "config.id=Nr", "--column", "operator=Rule", "--column", "value=LIMIT"),
        *("--column", "history.id=nr", "--column", "alert=of", "--column", "ts=at", "--column", "price=px"),
        *("--condition", "crosses=HITS"),
    ]
    assert alerts.run(argv, NOW) == 0
    assert told()[1] == []
    (alert,) = store.find("ada")
    assert brief(alert) == ("1", "active", "A", "crosses", 5.0, "once")
    (event,) = store.events("ada")
    assert (event.id, event.ts, event.price, event.operator) == ("import-h", OLD, 6.0, "crosses")


def test_more_items_than_a_page(url, store, put, told):
    # DynamoDB gives a megabyte a page.
    padding = "x" * 300_000
    items = [{**GOOD, "alert_id": str(number), "blob": padding} for number in range(9)]
    assert alerts.run(["import", "--config-table", put(items)], NOW) == 0
    assert told()[0]["config: new"] == "9"
    assert len(store.find("ada")) == 9


def test_without_a_history_the_items_tell_how_often_they_fired(url, store, put, told):
    item = {**GOOD, "trigger_count": Decimal(7), "last_triggered": OLD.isoformat(), "is_active": False}
    assert alerts.run(["import", "--config-table", put([item])], NOW) == 0
    (alert,) = store.find("ada")
    assert (alert.state, alert.firings, alert.fired) == ("fired", 7, OLD)


@pytest.mark.parametrize("theirs", sorted(predecessorwords.OPERATOR_WORDS))
@pytest.mark.parametrize("shape", [str.upper, lambda word: word.replace("_", "-"), lambda word: f" {word} "])
def test_every_word_for_a_condition_is_one_of_ours(theirs, shape):
    item = {**GOOD, "condition": shape(theirs), "threshold": Decimal(5)}
    assert Reading(CONFIG).alert(item, NOW).definition.operator in OPERATORS


@pytest.mark.parametrize(
    ("told", "means"),
    [
        (Decimal(SECONDS), OLD),
        (Decimal(SECONDS * 1_000), OLD),
        (Decimal(SECONDS * 1_000_000), OLD),
        (Decimal(SECONDS * 1_000_000_000), OLD),
        (Decimal(f"{SECONDS}.5"), OLD + timedelta(seconds=0.5)),
        (str(SECONDS), OLD),
        ("2024-03-01T10:30:00-05:00", OLD),
        ("2024-03-01 15:30:00", OLD),
        ("2024-03-01", datetime(2024, 3, 1, tzinfo=UTC)),
        ("20240301", datetime(2024, 3, 1, tzinfo=UTC)),
        (Decimal(20240301), datetime(2024, 3, 1, tzinfo=UTC)),
        (" 202403011530 ", OLD),
        ("20240301153001", OLD + timedelta(seconds=1)),
        (Decimal(0), None),
    ],
)
def test_times_of_any_spelling(told, means):
    assert Reading(CONFIG).alert({**GOOD, "created_at": told}, NOW).created == means


@pytest.mark.parametrize(
    ("part", "state"),
    [
        ({}, "active"),
        ({"is_active": Decimal(1)}, "active"),
        ({"is_active": None}, "active"),
        ({"is_active": False}, "paused"),
        ({"is_active": False, "status": "Triggered"}, "fired"),
        ({"is_active": False, "triggered_at": OLD.isoformat()}, "fired"),
        ({"is_active": False, "triggered_at": OLD.isoformat(), "frequency": "daily"}, "paused"),
        ({"is_active": True, "status": "paused"}, "paused"),
        ({"status": "triggered", "is_recurring": True, "enabled": True}, "active"),
        ({"status": "triggered", "recurring": True, "triggered_at": OLD.isoformat()}, "active"),
        ({"status": "triggered", "frequency": "daily", "is_active": False}, "paused"),
        ({"status": "triggered", "frequency": "once"}, "fired"),
        ({"triggered_at": OLD.isoformat()}, "active"),
    ],
)
def test_the_state_that_says_most_counts(part, state):
    assert Reading(CONFIG).alert({**GOOD, **part}, NOW).state == state


def test_a_percentage_is_of_the_price_that_is_told_or_of_the_previous_close():
    item = {**GOOD, "condition": "pct_up", "threshold": Decimal(5), "base_price": Decimal(80)}
    wanted = Reading(CONFIG).alert(item, NOW).definition
    assert (wanted.operator, wanted.reference, wanted.reference_price) == ("percent_up", "creation_price", 80)
    with pytest.raises(Refused, match="no price falls by 100 percent"):
        Reading(CONFIG).alert({**item, "condition": "pct_down", "threshold": Decimal(100)}, NOW)


@pytest.mark.parametrize(
    ("words", "means"),
    [
        ({"alert_type": "percent_change"}, "percent_up"),
        ({"condition": "below", "alert_type": "percentage"}, "percent_down"),
        ({"condition": "percent_change", "direction": "down", "type": "email"}, "percent_down"),
        ({"condition": "percent_change", "direction": "sideways"}, None),
        ({"condition": None, "alert_type": "percent_change", "direction": "below"}, "percent_down"),
        ({"condition": "crossing", "direction": "above"}, "crosses_up"),
        ({"condition": "above", "alert_type": "price_above", "type": "email"}, "above"),
        ({"condition": "pct_up", "direction": "below"}, None),
        ({"condition": "percent_change", "type": "crossing"}, None),
        ({"condition": "above", "direction": "<"}, None),
        ({"condition": "above", "alert_type": "Percent Move"}, None),
    ],
)
def test_words_of_several_attributes_are_taken_together_or_refused(words, means):
    item = {**GOOD, "threshold": Decimal(5), **words}
    if means is None:
        with pytest.raises(Refused, match=r"contradict each other|is not known"):
            Reading(CONFIG).alert(item, NOW)
    else:
        assert Reading(CONFIG).alert(item, NOW).definition.operator == means


def test_only_what_decides_counts_as_taken():
    reading = Reading(CONFIG)
    reading.alert({**GOOD, "type": "email", "direction": "above", "price": Decimal(5)}, NOW)
    assert {ours: name for ours, name in reading.taken if ours == "value"} == {"value": "threshold"}
    assert {name for ours, name in reading.taken if ours == "operator"} == {"condition", "direction"}
    assert set(reading.aside) == {"type", "price"}


@pytest.mark.parametrize(
    ("condition", "values", "value"),
    [
        ("percent_change", {"price": 190, "percent": 5}, 5),
        ("percent_change", {"threshold": 6, "percentage": 5}, 5),
        ("percent_change", {"price": 190, "threshold": 5}, 5),
        ("percent_change", {"price": 190, "target_price": 200}, None),
        ("above", {"price": 190, "percent": 5}, 190),
        ("above", {"percent": 5}, None),
    ],
)
def test_a_percentage_is_no_price_and_a_price_no_percentage(condition, values, value):
    told = {name: Decimal(number) for name, number in values.items()}
    item = {**GOOD, "threshold": None, "condition": condition, **told}
    if value is None:
        with pytest.raises(Refused, match="it has no threshold"):
            Reading(CONFIG).alert(item, NOW)
    else:
        assert Reading(CONFIG).alert(item, NOW).definition.value == value


@pytest.mark.parametrize(
    ("told", "means"),
    [
        ("1,300.50", 1300.5),
        ("$ 12,345,678", 12_345_678.0),
        ("190.5%", 190.5),
        ("190,50", None),
        ("0,125", None),
        ("1300,500", None),
        ("1,30", None),
        ("1.300,50", None),
    ],
)
def test_commas_are_of_thousands(told, means):
    item = {**GOOD, "threshold": told}
    if means is None:
        with pytest.raises(Refused, match="its threshold is no number"):
            Reading(CONFIG).alert(item, NOW)
    else:
        assert Reading(CONFIG).alert(item, NOW).definition.value == means


# What is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["import"], "name a table with --config-table or --history-table"),
        (["import", "--config-table", "t", "--column", "colour=c"], "--column colour=c: ours are, of config"),
        (["import", "--config-table", "t", "--column", "lake.id=c"], "--column lake.id=c: ours are"),
        (["import", "--config-table", "t", "--column", "history.state=c"], "--column history.state=c: ours"),
        (["import", "--config-table", "t", "--column", "id"], "--column id: write OURS=THEIRS"),
        (["import", "--config-table", "t", "--condition", "near=x"], "--condition near=x: ours are above"),
        (["import", "--config-table", "t", "--zone", "Mars/Base"], "--zone Mars/Base is none"),
        (["list", "--symbol", "A"], "--symbol goes with --owner"),
        (["list", "--limit", "0"], "--limit is 0: give 1 or more"),
        (["purge", "--before", "2099-01-01"], "--before 2099-01-01 lies ahead"),
        (["purge", "--before", "soon"], "'soon' is no date"),
        ([], "COMMAND"),
    ],
)
def test_bad_usage_is_one_line(url, capsys, argv, says):
    failed = fail(capsys, *argv)
    assert (failed.code, len(failed.lines)) == (2, 1)
    assert says in failed.lines[0]


def test_without_a_database_nothing_is_done(monkeypatch, capsys):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    failed = fail(capsys, "list")
    assert (failed.code, len(failed.lines)) == (2, 1)
    assert "name the database with --postgres, or in DATABASE_URL" in failed.lines[0]


def test_what_is_not_there_is_one_line(server, url, put, capsys, monkeypatch, tmp_path):
    put([])
    failed = fail(capsys, "import", "--config-table", "nothing")
    assert (failed.code, len(failed.lines)) == (1, 1)
    assert "DynamoDB table nothing: there is no such table" in failed.lines[0]
    failed = fail(capsys, "import", "--config-table", "no name")
    assert (failed.code, len(failed.lines)) == (1, 1)
    failed = fail(capsys, "import", "--config-table", "t", "--refused", str(tmp_path / "none" / "f"))
    assert "cannot be written: No such file" in failed.lines[0]
    monkeypatch.setenv("DATABASE_URL", server.make())
    failed = fail(capsys, "import", "--config-table", put(CONFIGS))
    assert "run pipelines.database upgrade first" in failed.lines[0]
    port = free_ports(["none"])["none"]
    failed = fail(capsys, "list", "--postgres", f"postgresql://u:hush@127.0.0.1:{port}/d")
    assert failed.code == 1
    assert "PostgreSQL does not answer" in failed.lines[0]
    assert "hush" not in failed.lines[0]


def test_a_dynamodb_that_is_away_is_one_line(url, capsys, monkeypatch, s3):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    port = free_ports(["none"])["none"]
    away = ("--endpoint-url", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("fibflow.io.alerts.scan._ATTEMPTS", 1)
    failed = fail(capsys, "import", "--config-table", "t", *away)
    assert (failed.code, len(failed.lines)) == (1, 1)
    assert "DynamoDB does not answer" in failed.lines[0]


# What is there ---------------------------------------------------------------------------------------------


def test_alerts_are_listed(url, store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    made = store.create("ada", [above("AAPL", 187.25, note="[red]watch"), above("MSFT")], NOW)
    store.create("bob", [above("TSLA", frequency="bar", timeframe="5m")], NOW)
    write(url, fired(made[0]))
    assert alerts.run(["list"]) == 0
    shown = capsys.readouterr().out
    for word in (
        "ada",
        "bob",
        "AAPL",
        "above 187.25",
        "fired",
        "2026-01-05T15:00:03Z",
        "[red]watch",
        "bar of 5m",
    ):
        assert word in shown
    assert alerts.run(["list", "--owner", "ada", "--symbol", "MSFT"]) == 0
    shown = capsys.readouterr().out
    assert "MSFT" in shown
    assert "AAPL" not in shown
    assert alerts.run(["list", "--limit", "1"]) == 0
    assert f"there are more: --after {made[0].id}" in capsys.readouterr().out
    assert alerts.run(["list", "--after", str(made[1].id)]) == 0
    assert "TSLA" in capsys.readouterr().out


def test_what_is_old_is_forgotten(url, store, told):
    alert = store.create("ada", [above()], NOW)[0]
    write(url, fired(alert))
    store.delete("ada", alert.id, NOW)
    assert alerts.run(["purge", "--before", "2026-01-05"], NOW) == 0
    assert told()[0] == {
        f"{what} forgotten": "0" for what in ("events", "deliveries", "tries", "alerts", "versions")
    }
    assert alerts.run(["purge", "--before", "2026-01-06"], NOW + timedelta(days=1)) == 0
    assert told()[0] == {
        "events forgotten": "1",
        "deliveries forgotten": "0",
        "tries forgotten": "0",
        "alerts forgotten": "1",
        "versions forgotten": "1",
    }


def test_as_a_program(url, store):
    store.create("ada", [above()], NOW)
    env = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(command("alerts", "list"), capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "above 10" in done.stdout
    for name in ("import", "list", "purge"):
        helped = subprocess.run(command("alerts", name, "--help"), capture_output=True, text=True, env=env)
        assert "--postgres" in helped.stdout

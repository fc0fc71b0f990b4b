import gzip
import json
import subprocess
import sys
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.kinesis.records import decompress, user_records
from fibflow.pipelines import cli, playback, replay, tape
from fibflow.tests.pipelines.raws import Row
from fibflow.transforms.calendar import load_calendar

DAY = date(2024, 1, 3)
DAYS = "2024-01-03,2024-01-04"


@pytest.fixture
def lake(raw, bronze):
    rows = [Row(s, date(2024, 1, d), 10.0 * n) for n, s in enumerate("ABC", 1) for d in (2, 3, 4)]
    raw.put("all.parquet", rows)
    bronze.first(raw)
    return bronze


def lines_of(folder):
    parts = [decompress(path.read_bytes()) for path in sorted(folder.iterdir())]
    return [json.loads(line) for line in b"".join(parts).splitlines()]


def test_the_lakes_days_are_played(lake, tmp_path, capsys):
    to = f"file:{tmp_path / 'out'}"
    assert replay.run(["--lake", lake.uri, "--sessions", DAYS, "--symbols", "C,A", "--to", to]) == 0
    lines = lines_of(tmp_path / "out")
    trades = [line for line in lines if line["ev"] == "T"]
    assert {line["sym"] for line in trades} == {"A", "C"}
    assert lines[-1]["ev"] == "HB"
    openings = {line["p"] for line in trades if 25 in line.get("c", [])}
    assert openings == {10.0, 30.0}
    told = capsys.readouterr().out
    assert ["T", "on", "time", f"{len(trades):,}"] in [
        line.replace("│", "").split() for line in told.splitlines()
    ]


def test_the_lakes_minutes_are_played(raw, bronze, tmp_path):
    ts = np.datetime64("2024-01-03T14:30", "us") + np.arange(5) * np.timedelta64(1, "m")
    columns = {"symbol": ["A"] * 5, "timestamp": pa.array(ts).cast(pa.timestamp("us", "UTC"))}
    prices = {name: [10.0 + n for n in range(5)] for name in ("open", "high", "low", "close")}
    raw.put("m.parquet", pa.table({**columns, **prices, "volume": [200] * 5}))
    assert bronze.first(raw, "--kind", "minutes") == 0
    options = ["--lake", bronze.uri, "--of", "minutes", "--sessions", "2024-01-03", "--feed", "minutes"]
    assert replay.run([*options, "--to", f"file:{tmp_path / 'out'}"]) == 0
    minutes = [line for line in lines_of(tmp_path / "out") if line["ev"] == "AM"]
    assert [(m["o"], m["h"], m["l"], m["c"], m["v"]) for m in minutes] == [
        (price, price, price, price, 200) for price in prices["open"]
    ]


def options_of(*more):
    return ["--synthetic", "6", "--sessions", DAYS, "--trades", "60", "--seed", "3", *more]


WRONG = [
    *("--late", "0.05", "--too-late", "0.02", "--duplicates", "0.03", "--resent", "0.1", "--broken", "0.03"),
    *("--shuffle", "2", "--heartbeat", "600"),
]


def sent_of(messages):
    """What a sink gets: messages, and times of heartbeats; of several in a row the last one."""
    columns = messages["message"].to_pylist(), messages["ts"].cast(pa.int64()).to_pylist()
    all_of_them = [ts if message is None else message for message, ts in zip(*columns, strict=True)]
    following = [*all_of_them[1:], None]
    return [
        message
        for message, after in zip(all_of_them, following, strict=True)
        if not (isinstance(message, int) and isinstance(after, int))
    ]


def made(*more):
    """The tape of a command line, by the library."""
    args = replay.parser().parse_args([*options_of(*more), "--to", "file:x"])
    return replay.tape_of(args).messages


def test_every_option_reaches_the_tape(tmp_path):
    more = [*WRONG, "--feed", "both", "--seconds", "--no-stamps", "--no-final-heartbeat"]
    disorder = tape.Disorder(2, 0.05, 0.02, 0.03, 0.1, 0.03, heartbeat=600)
    days = np.array(DAYS.split(","), "datetime64[D]").astype(np.int32)
    expected = tape.make(
        tape.synthetic_daily(6, days, np.random.default_rng([3, 5])),
        load_calendar(),
        feed="both",
        trades=60,
        seconds=True,
        stamped=False,
        disorder=disorder,
        seed=3,
        final_heartbeat=False,
    )
    assert made(*more).equals(expected.messages)
    replay.run([*options_of(*more), "--save", str(tmp_path / "a")])
    assert tape.SavedTape(tmp_path / "a").truth == expected.truth


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_a_folder_holds_the_messages_in_order(tmp_path, codec):
    folder = tmp_path / "out"
    assert replay.run(options_of(*WRONG, "--compression", codec, "--to", f"file:{folder}")) == 0
    [path] = folder.iterdir()
    assert path.name == "ticks-000000.ndjson" + {"none": "", "gzip": ".gz", "zstd": ".zst"}[codec]
    found = decompress(path.read_bytes()).split(b"\n")
    messages = made(*WRONG)
    assert found.pop() == b""
    assert found == [
        b'{"ev":"HB","t":%d}' % (m // 1000) if isinstance(m, int) else m for m in sent_of(messages)
    ]
    if codec == "gzip":
        assert gzip.decompress(path.read_bytes()) == b"\n".join([*found, b""])


def test_files_of_a_folder_are_cut(tmp_path):
    sink = playback.FileSink(tmp_path / "out", messages=10)
    table = pa.table({"message": pa.array([b"%d" % n for n in range(25)])})
    sink.put(table)
    sink.put(table.slice(0, 3))
    sink.heartbeat(5_000)
    sink.close()
    files = [path.read_bytes().split() for path in sorted((tmp_path / "out").iterdir())]
    assert [len(lines) for lines in files] == [10, 10, 9]
    assert files[2] == [b"20", b"21", b"22", b"23", b"24", b"0", b"1", b"2", b'{"ev":"HB","t":5}']


@pytest.fixture
def kinesis(s3_server, monkeypatch):
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server.endpoint_url),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ):
        monkeypatch.setenv(name, value)
    return s3_server.boto3_client("kinesis")


def records_of(client, stream):
    """The user records of each shard, in order."""
    shards = {}
    for shard in client.list_shards(StreamName=stream)["Shards"]:
        iterator = client.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        found = []
        while True:
            answer = client.get_records(ShardIterator=iterator, Limit=10_000)
            found += answer["Records"]
            if not answer["Records"]:
                break
            iterator = answer["NextShardIterator"]
        shards[shard["ShardId"]] = [
            payload for record in found for _, payload in user_records(record["PartitionKey"], record["Data"])
        ]
    return shards


@pytest.mark.parametrize(
    "more",
    [(), ("--compression", "gzip", "--per-record", "7"), ("--aggregate", "--compression", "zstd")],
    ids=["plain", "gzip", "aggregate"],
)
def test_a_stream_gets_every_message(kinesis, more, request):
    stream = f"ticks-{request.node.callspec.id}"
    sent = [*options_of(*WRONG), *more, "--to", f"kinesis://{stream}", "--create-stream", "3"]
    assert replay.run(sent) == 0
    shards = records_of(kinesis, stream)
    assert len(shards) == 3
    messages = made(*WRONG)
    found = []
    for payloads in shards.values():
        lines = [line for payload in payloads for line in payload.split(b"\n")]
        beats = [json.loads(line)["t"] for line in lines if line.startswith(b'{"ev":"HB"')]
        assert beats == [ts // 1000 for ts in sent_of(messages) if isinstance(ts, int)]
        found.append([line for line in lines if not line.startswith(b'{"ev":"HB"')])
        if more[:1] == ("--compression",):
            assert max(payload.count(b"\n") for payload in payloads) <= 6
    assert sorted(line for of_shard in found for line in of_shard) == sorted(
        message for message in messages["message"].to_pylist() if message
    )
    for symbol in set(messages["symbol"].to_pylist()) - {None}:
        of = [
            m
            for s, m in zip(messages["symbol"].to_pylist(), messages["message"].to_pylist(), strict=True)
            if s == symbol
        ]
        wanted = set(of)
        assert [[line for line in lines if line in wanted] for lines in found].count([]) == 2
        assert of in [[line for line in lines if line in wanted] for lines in found]


def test_a_stream_that_is_there_is_used(kinesis):
    kinesis.create_stream(StreamName="there", ShardCount=1)
    for more in ((), ("--create-stream", "5")):
        assert replay.run([*options_of("--to", "kinesis://there", "--heartbeat", "3600"), *more]) == 0
    assert len(records_of(kinesis, "there")) == 1


def test_a_stream_that_is_not_there(kinesis):
    with pytest.raises(
        KinesisError, match="kinesis://nowhere: there is no such stream: check its name, the acc"
    ):
        replay.run(options_of("--to", "kinesis://nowhere"))


def test_a_service_that_is_not_there(kinesis):
    nobody = ["--endpoint-url", "http://127.0.0.1:1"]
    with pytest.raises(KinesisError, match="kinesis://x: the service cannot be reached"):
        replay.run([*options_of("--to", "kinesis://x"), *nobody])


class Waiting:
    """A client whose stream is being made until so many looks."""

    class exceptions:
        ResourceInUseException = KeyError

    def __init__(self, looks):
        self.looks = looks

    def create_stream(self, StreamName, ShardCount):
        raise KeyError

    def describe_stream_summary(self, StreamName):
        self.looks -= 1
        return {"StreamDescriptionSummary": {"StreamStatus": "CREATING" if self.looks > 0 else "ACTIVE"}}


def test_a_stream_that_is_being_made_is_waited_for():
    time = Time()
    replay.make_ready(Waiting(5), "x", 1, time.clock, time.sleep)
    assert time.now == 4
    with pytest.raises(KinesisError, match="kinesis://x is CREATING for too long"):
        replay.make_ready(Waiting(1000), "x", None, time.clock, time.sleep)


class Time:
    """A clock that only sleeping moves, by a little more than asked."""

    def __init__(self):
        self.now = 0.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


class Noted:
    """A sink that notes when messages came."""

    def __init__(self, time):
        self.time, self.came, self.flushed, self.closed = time, [], 0, False

    def put(self, messages):
        self.came += [(message, self.time.now) for message in messages["message"].to_pylist()]

    def heartbeat(self, ts):
        self.came.append((ts, self.time.now))

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed = True

    def rows(self):
        return []


def played(due):
    time = Time()
    sink = Noted(time)
    of = tape_of_messages()
    told: list[int] = []
    playback.play(of, sink, time.clock, time.sleep, None if due is None else due(of.sent), told.append)
    assert sink.closed
    assert told[-1] == len(of)
    if due is None:
        assert [message for message, _ in sink.came] == sent_of(of.messages)
    return dict(sink.came), of, sink


def tape_of_messages():
    return replay.tape_of(replay.parser().parse_args([*options_of(*WRONG), "--to", "file:x"]))


def test_at_most_speed_nothing_waits():
    came, _, sink = played(None)
    assert max(came.values()) == 0
    assert sink.flushed == 0


def lateness(came, of, due):
    """How long after it was due each message came, seconds; of those that came twice, the later one."""
    messages = of.messages["message"].to_pylist()
    whole = {message: at for message, at in zip(messages, due, strict=True) if message is not None}
    return np.array([came[message] - at for message, at in whole.items()])


def test_at_a_rate_messages_come_when_they_are_due():
    came, of, sink = played(lambda sent: playback.at_rate(len(sent), 50.0))
    late = lateness(came, of, np.arange(len(of)) / 50)
    assert late.min() >= -1e-9
    assert late.max() <= 2 * playback.STEP
    assert sink.flushed > 10


@pytest.mark.parametrize("speed", [1.0, 3600.0])
def test_at_a_speed_event_time_passes_that_much_faster(speed):
    came, of, _ = played(lambda sent: playback.at_speed(sent, speed))
    gaps = np.diff(of.sent / 1e6)
    assert gaps.max() > 3_600
    late = lateness(came, of, np.append([0.0], np.cumsum(np.minimum(gaps, playback.LONGEST_SILENCE))) / speed)
    assert late.min() >= -1e-6
    assert late.max() <= 2 * playback.STEP


def test_speed_and_rate_are_options(tmp_path):
    for number, pace in enumerate((["--speed", "60x"], ["--rate", "100"])):
        time = Time()
        to = f"file:{tmp_path / str(number)}"
        assert replay.run([*options_of("--to", to), *pace], clock=time.clock, sleep=time.sleep) == 0
        assert time.now > 5
    one, other = ([line for line in lines_of(tmp_path / name) if line["ev"] == "T"] for name in "01")
    assert one == other


def test_a_saved_tape_is_played_again(tmp_path):
    first, again, saved = tmp_path / "a", tmp_path / "b", tmp_path / "t.arrow"
    assert replay.run(options_of(*WRONG, "--to", f"file:{first}", "--save", str(saved))) == 0
    assert replay.run(["--tape", str(saved), "--to", f"file:{again}"]) == 0
    assert lines(first) == lines(again)


def lines(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--synthetic", "2", "--sessions", DAYS], "name where to play it with --to"),
        (
            ["--synthetic", "2", "--sessions", DAYS, "--to", "s3://x"],
            "--to is s3://x: write it as kinesis://",
        ),
        (["--synthetic", "2", "--to", "file:x"], "--sessions is missing"),
        (["--synthetic", "2", "--to", "file:x", "--sessions", "soon"], "'soon' is no date: write YYYY-MM-DD"),
        (["--tape", "t", "--to", "file:x", "--sessions", DAYS], "--tape is played as it is"),
        (["--synthetic", "2", "--sessions", DAYS, "--symbols", "A", "--to", "file:x"], "leave --symbols"),
        (
            ["--synthetic", "2", "--sessions", DAYS, "--create-stream", "2", "--to", "file:x"],
            "--create-stream needs --to kinesis://NAME",
        ),
        (["--lake", "nowhere", "--sessions", DAYS, "--to", "file:x"], "pipelines.load makes it"),
        (["--synthetic", "2", "--sessions", "2024-01-06", "--to", "file:x"], "2024-01-06 is no session"),
        (["--synthetic", "2", "--sessions", DAYS, "--late", "2", "--to", "file:x"], "give a part from 0"),
    ],
)
def test_what_cannot_be_played(options, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cli.UsageError, match=line):
        replay.run(options)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--sessions", "2024-01-05"], "bronze.daily has no rows of these sessions"),
        (["--sessions", "2024-01-06"], "2024-01-06 is no session of XNYS"),
        (["--sessions", DAYS, "--symbols", "A,Q,Z"], "bronze.daily has no rows of Q, Z in these sessions"),
        (["--sessions", DAYS, "--of", "minutes"], "there is no table bronze.minutes"),
    ],
)
def test_what_a_lake_does_not_have(lake, options, line, tmp_path):
    with pytest.raises(cli.UsageError, match=line):
        replay.run(["--lake", lake.uri, "--to", f"file:{tmp_path / 'out'}", *options])


def test_a_folder_with_something_in_it_stays(tmp_path):
    (tmp_path / "kept").touch()
    with pytest.raises(cli.UsageError, match="is not empty: name another folder"):
        replay.run(options_of("--to", f"file:{tmp_path}"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--rate", "0"], "0 is not more than 0"),
        (["--speed", "fast"], "'fast' is no number"),
        (["--per-record", "none"], "'none' is no whole number from 1 on"),
        (["--rate", "5", "--speed", "2x"], "not allowed with"),
    ],
)
def test_options_that_are_no_numbers(options, line, capsys):
    with pytest.raises(SystemExit) as left:
        replay.run([*options_of("--to", "file:x"), *options])
    assert left.value.code == cli.USAGE
    [said] = capsys.readouterr().err.splitlines()
    assert line in said


def test_as_a_command(kinesis, tmp_path):
    command = [sys.executable, "-P", "-m", "fibflow.pipelines.replay"]
    done = subprocess.run([*command, "--tape", "none", "--to", "file:x"], capture_output=True, cwd=tmp_path)
    assert done.returncode == cli.USAGE
    assert done.stderr == b"replay: there is no tape none: --save makes one\n"
    done = subprocess.run(
        [*command, *options_of("--to", "kinesis://none")], capture_output=True, cwd=tmp_path
    )
    assert done.returncode == cli.FAILED
    assert done.stderr == (
        b"replay: kinesis://none: there is no such stream: check its name, the account and AWS_REGION\n"
    )

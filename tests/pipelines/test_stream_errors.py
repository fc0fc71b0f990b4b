"""What a live job lacks is one line and an exit code, before anything is submitted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fibflow.io.aws import AwsConfig
from fibflow.io.redisaddress import PASSWORD
from fibflow.pipelines.cli import UsageError
from fibflow.pipelines.stream import run
from fibflow.runners.services.process import free_ports

ROOT = Path(__file__).resolve().parents[2]


def stream(aws: AwsConfig | None, lake: Path, *arguments: str) -> tuple[int, str]:
    """Run the command line; its exit code and what it said on standard error."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    env |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "HOME": str(lake.parent)}
    env["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    if aws is not None:
        env |= {
            "AWS_ENDPOINT_URL": str(aws.endpoint_url),
            "AWS_REGION": str(aws.region),
            "AWS_ACCESS_KEY_ID": str(aws.access_key_id),
            "AWS_SECRET_ACCESS_KEY": str(aws.secret_access_key),
        }
    line = [sys.executable, "-P", "-m", "fibflow.pipelines.stream", "--lake", str(lake)]
    line += ["--bars-from", "trades", *arguments]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    said = [text for text in done.stderr.splitlines() if not text.startswith("WARNING:root:crcmod")]
    assert len(said) <= 2, done.stderr
    return done.returncode, " ".join(said)


@pytest.fixture
def flink() -> tuple[str, ...]:
    """A cluster's addresses at which nobody answers."""
    ports = free_ports(["rest", "pool"])
    return (
        *("--flink-master", f"127.0.0.1:{ports['rest']}"),
        *("--worker-pool", f"127.0.0.1:{ports['pool']}"),
    )


def test_a_stream_that_is_not_there(s3_server, tmp_path, flink):
    code, said = stream(s3_server, tmp_path / "lake", "--source", "kinesis://nothing", *flink)
    assert code == 1
    assert "there is no such stream" in said


def test_no_credentials(tmp_path, flink):
    code, said = stream(None, tmp_path / "lake", "--source", "kinesis://ticks", *flink)
    assert code == 1
    assert "no AWS credentials found" in said


@pytest.mark.parametrize("kept", ["redis://:hush@h", "redis://h?password=hush"])
def test_the_password_of_redis_is_taken_off_the_command_line(kept, monkeypatch, capsys):
    monkeypatch.setenv(PASSWORD, "")
    argv = ["--source", "kinesis://ticks", "--bars-from", "trades", "--lake", "lake", "--redis", kept]
    with pytest.raises(UsageError, match="needs --flink-master"):
        run(argv)
    assert os.environ[PASSWORD] == "hush"
    said = capsys.readouterr().err
    assert "the workers take it from REDIS_PASSWORD" in said
    assert "hush" not in said


def test_flink_that_does_not_answer(s3_server, tmp_path, flink):
    s3_server.boto3_client("kinesis").create_stream(StreamName="errors", ShardCount=1)
    code, said = stream(s3_server, tmp_path / "lake", "--source", "kinesis://errors", *flink)
    assert code == 1
    assert "cannot be reached" in said
    assert "--flink-master" in said


def test_a_savepoint_that_is_none(s3_server, tmp_path, flink):
    given = ("--savepoint", (tmp_path / "savepoint-1").as_uri())
    code, said = stream(s3_server, tmp_path / "lake", "--source", "kinesis://ticks", *flink, *given)
    assert code == 1
    assert "savepoint-1" in said


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--source", "kinesis://ticks?lanes=none"), "lanes"),
        (("--source", "kinesis://ticks", "--timeframes", "5m,3d"), "3d"),
        (
            ("--source", "kinesis://ticks", "--runner", "flink-local", "--savepoint", "file:///x"),
            "flink-local",
        ),
        (("--source", "kinesis://ticks", "--misspelt"), "--misspelt"),
    ],
)
def test_requests_that_cannot_be_met(s3_server, tmp_path, arguments, what):
    code, said = stream(
        s3_server, tmp_path / "lake", *arguments, "--flink-master", "h:1", "--worker-pool", "h:2"
    )
    assert code != 0
    assert what in said


def test_a_table_of_dynamodb_that_is_not_there(s3_server, tmp_path, flink):
    s3_server.boto3_client("kinesis").create_stream(StreamName="priced", ShardCount=1)
    given = ("--source", "kinesis://priced", "--dynamodb", "nowhere")
    code, said = stream(s3_server, tmp_path / "lake", *given, *flink)
    assert code == 1
    assert "DynamoDB table nowhere: there is no such table" in said
    assert "pipelines.tables" in said

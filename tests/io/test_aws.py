from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from apache_beam.io.aws.s3io import S3IO
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from deltalake import DeltaTable, write_deltalake

from fibflow.io.aws import AwsConfig, AwsError, explain_s3_error

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "env-secret"}


@pytest.fixture
def files(tmp_path):
    """Variables that name a config file and a credentials file with two profiles."""
    config = tmp_path / "config"
    config.write_text(
        "[default]\nregion = eu-west-1\n"
        "[profile work]\nregion = eu-central-1\nendpoint_url = http://work:1\nservices = local\n"
        "[profile half]\naws_access_key_id = AKIDHALF\n"
        "[services local]\nkinesis =\n    endpoint_url = http://kinesis:2\n"
    )
    credentials = tmp_path / "credentials"
    credentials.write_text(
        "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = default-secret\n"
        "[work]\naws_access_key_id = AKIDWORK\naws_secret_access_key = work-secret\n"
        "aws_session_token = work-token\n"
    )
    return {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}


def test_the_default_profile_is_found(files):
    aws = AwsConfig.resolve(files)
    assert (aws.region, aws.access_key_id, aws.secret_access_key) == (
        "eu-west-1",
        "AKIDDEFAULT",
        "default-secret",
    )
    assert aws.session_token is None
    assert aws.endpoint_for("s3") is None
    assert not aws.rotating


def test_keys_of_the_environment_go_before_the_profile_it_names(files):
    aws = AwsConfig.resolve({**files, **KEYS, "AWS_PROFILE": "work", "AWS_SESSION_TOKEN": "t"})
    assert (aws.access_key_id, aws.session_token, aws.region) == ("AKIDENV", "t", "eu-central-1")


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_profile_gives_keys_region_and_endpoints(files, how):
    if how == "argument":
        aws = AwsConfig.resolve({**files, **KEYS}, profile="work")
    else:
        aws = AwsConfig.resolve({**files, "AWS_PROFILE": "work"})
    assert (aws.access_key_id, aws.secret_access_key, aws.session_token) == (
        "AKIDWORK",
        "work-secret",
        "work-token",
    )
    assert aws.region == "eu-central-1"
    assert aws.endpoint_for("s3") == "http://work:1"
    assert aws.endpoint_for("kinesis") == "http://kinesis:2"


@pytest.mark.parametrize(
    ("env", "region"),
    [
        ({"AWS_REGION": "a-1", "AWS_DEFAULT_REGION": "b-1"}, "a-1"),
        ({"AWS_DEFAULT_REGION": "b-1"}, "b-1"),
        ({}, None),
        ({"AWS_ENDPOINT_URL_S3": "http://localhost:1"}, "us-east-1"),
    ],
)
def test_the_region(env, region):
    assert AwsConfig.resolve({**KEYS, **env}).region == region
    assert AwsConfig.resolve({**KEYS, **env}, region="z-1").region == "z-1"


def test_endpoints():
    both = {**KEYS, "AWS_ENDPOINT_URL": "http://all:1", "AWS_ENDPOINT_URL_S3": "http://s3:2"}
    aws = AwsConfig.resolve(both)
    assert [aws.endpoint_for(s) for s in ("s3", "kinesis", "sns")] == [
        "http://s3:2",
        "http://all:1",
        "http://all:1",
    ]
    one = AwsConfig.resolve({**KEYS, "AWS_ENDPOINT_URL": "http://all:1"})
    assert (one.endpoint_url, one.service_endpoints) == ("http://all:1", ())
    given = AwsConfig.resolve(both, endpoint_url="https://given")
    assert given.endpoint_for("s3") == given.endpoint_for("kinesis") == "https://given"
    assert (
        AwsConfig.resolve({**both, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}).endpoint_for("s3") is None
    )


def test_the_process_environment_is_the_default(files, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**files, "AWS_PROFILE": "work", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    aws = AwsConfig.resolve()
    assert (aws.access_key_id, aws.region, aws.endpoint_for("s3")) == (
        "AKIDWORK",
        "eu-central-1",
        "http://work:1",
    )
    monkeypatch.setenv("AWS_REGION", "x-1")
    assert AwsConfig.resolve().region == "x-1"


def test_a_role_of_the_process_is_renewed_at_use(files, monkeypatch, tmp_path):
    count = tmp_path / "count"
    program = tmp_path / "role.sh"
    program.write_text(
        f"echo x >> {count}\n"
        'echo \'{"Version": 1, "AccessKeyId": "AKIDROLE\'$(wc -l < ' + str(count) + ")'\","
        ' "SecretAccessKey": "s", "SessionToken": "t", "Expiration": "2001-01-01T00:00:00Z"}\'\n'
    )
    config = tmp_path / "role-config"
    config.write_text(f"[profile role]\nregion = eu-west-1\ncredential_process = /bin/sh {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", files["AWS_SHARED_CREDENTIALS_FILE"])
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AwsError, match=r"cannot be read: .*expired"):
        AwsConfig.resolve(profile="role")
    program.write_text(program.read_text().replace("2001", "2999"))
    aws = AwsConfig.resolve(profile="role")
    assert aws.rotating
    assert aws.session_token == "t"
    assert aws.current().access_key_id != aws.access_key_id
    assert aws.boto3_client("s3").meta.region_name == "eu-west-1"
    assert "s3_access_key_id" in aws.beam_options()
    gone = AwsConfig(
        region="eu-west-1", access_key_id="k", secret_access_key="s", profile="gone", rotating=True
    )
    assert gone.current() is gone


def test_nothing_secret_is_shown():
    aws = AwsConfig.resolve({**KEYS, "AWS_SESSION_TOKEN": "the-token", "AWS_REGION": "a-1"})
    assert "a-1" in repr(aws)
    for secret in ("AKIDENV", "env-secret", "the-token"):
        assert secret not in repr(aws)
        assert secret not in str(aws)
    assert pickle.loads(pickle.dumps(aws)) == aws  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        ({}, {"profile": "nobody"}, "nobody"),
        ({"AWS_PROFILE": "nobody"}, {}, "set AWS_PROFILE to a profile that exists"),
        ({"AWS_ACCESS_KEY_ID": "AKIDENV"}, {}, "AWS_SECRET_ACCESS_KEY"),
        ({}, {"profile": "half"}, "aws_secret_access_key"),
        (KEYS, {"endpoint_url": "localhost:9000"}, "http://host:port"),
        ({**KEYS, "AWS_ENDPOINT_URL": "nonsense"}, {}, "'nonsense' is no endpoint"),
    ],
)
def test_a_wrong_set_up_is_one_line(files, env, arguments, message):
    with pytest.raises(AwsError, match=message) as caught:
        AwsConfig.resolve({**files, **env}, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "use", ["pyarrow_filesystem", "delta_storage_options", "beam_options", "boto3_client"]
)
def test_what_is_missing_is_said_at_use(use):
    arguments = ("s3",) if use == "boto3_client" else ()
    with pytest.raises(AwsError, match="AWS_ACCESS_KEY_ID"):
        getattr(AwsConfig.resolve({}), use)(*arguments)
    with pytest.raises(AwsError, match="AWS_REGION"):
        getattr(AwsConfig.resolve(KEYS), use)(*arguments)


def test_delta_options():
    options = AwsConfig.resolve(
        {**KEYS, "AWS_SESSION_TOKEN": "t", "AWS_REGION": "a-1"}
    ).delta_storage_options()
    assert options == {
        "aws_region": "a-1",
        "aws_access_key_id": "AKIDENV",
        "aws_secret_access_key": "env-secret",
        "aws_session_token": "t",
        "aws_conditional_put": "etag",
    }
    options = AwsConfig.resolve(KEYS, endpoint_url="https://s3.local").delta_storage_options()
    assert (options["aws_endpoint"], options["aws_allow_http"]) == ("https://s3.local", "false")


def test_all_four_clients_reach_the_same_bucket(s3):
    s3.put("hello.txt", b"hello")
    with s3.aws.pyarrow_filesystem().open_input_stream(f"{s3.bucket}/hello.txt") as stream:
        assert stream.read() == b"hello"
    options = PipelineOptions.from_dictionary(s3.aws.beam_options())
    assert options.view_as(S3Options).s3_endpoint_url == s3.aws.endpoint_url
    with S3IO(options=options).open(s3.uri("hello.txt")) as stream:
        assert stream.read() == b"hello"
    write_deltalake(s3.uri("t"), pa.table({"n": [1]}), storage_options=s3.aws.delta_storage_options())
    assert s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="t/_delta_log/")["KeyCount"] == 1


def test_commits_at_the_same_moment_all_land(s3):
    options = s3.aws.delta_storage_options()
    write_deltalake(s3.uri("t"), pa.table({"n": [0]}), storage_options=options)
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda n: write_deltalake(
                    s3.uri("t"), pa.table({"n": [n]}), mode="append", storage_options=options
                ),
                range(1, 9),
            )
        )
    table = DeltaTable(s3.uri("t"), storage_options=options)
    assert table.version() == 8
    assert set(table.to_pyarrow_table()["n"].to_pylist()) == set(range(9))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation", "no such bucket"),
        ("AWS Error UNKNOWN (HTTP status 301) during HeadObject", "set AWS_REGION"),
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", "s3:ListBucket"),
        ("An error occurred (InvalidAccessKeyId) when calling", "AWS_PROFILE"),
        ("AWS Error UNKNOWN (HTTP status 400): ExpiredToken", "log in again"),
        ("AWS Error NETWORK_CONNECTION during HeadBucket: curlCode: 7, Couldn't connect", "AWS_ENDPOINT_URL"),
        ("something else\nand its details", "something else"),
        ("", "OSError"),
    ],
)
def test_errors_are_explained_in_one_line(text, advice):
    line = explain_s3_error(OSError(text), "s3://b/k")
    assert line.startswith("s3://b/k: ")
    assert advice in line
    assert "\n" not in line

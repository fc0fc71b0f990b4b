from __future__ import annotations

import os
from dataclasses import replace

import pyarrow.fs as pafs
import pytest

from fibflow.io.aws import AwsConfig, AwsError
from fibflow.io.files import InputError, RawFile, filesystem_for, list_raw, precedence_key

LAYOUT = {
    "symbol=AAPL/data.parquet": ("AAPL", False),
    "symbol=AAPL/date=2024-03-11.parquet": ("AAPL", True),
    "symbol=BRK%2FB/data.parquet": ("BRK/B", False),
    "ticker=X/part.parquet": ("X", False),
    "symbol=__HIVE_DEFAULT_PARTITION__/data.parquet": (None, False),
    "year=2024/month=03/Data.PARQUET": (None, False),
    "year=2024/date=03-11/a.csv": (None, False),
    "csv/date=2024-03-11.csv.gz": (None, True),
    "empty.parquet": (None, False),
}
LEFT_OUT = (
    "_delta_log/00.parquet",
    "year=2024/_temporary/x.parquet",
    "symbol=AAPL/.data.parquet.crc",
    ".hidden.parquet",
    "_SUCCESS",
    "manifest.json",
    "notes.gz",
)


def body(key):
    return b"" if key == "empty.parquet" else key.encode()


@pytest.fixture(params=["folder", "file://", "s3"])
def place(request, tmp_path):
    """(uri, aws, base) of the layout on a folder and in a bucket."""
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        for key in (*LAYOUT, *LEFT_OUT):
            s3.put(f"raw/{key}", body(key))
        s3.client.put_object(Bucket=s3.bucket, Key="raw/symbol=AAPL/")
        return s3.uri("raw"), s3.aws, f"{s3.bucket}/raw"
    for key in (*LAYOUT, *LEFT_OUT):
        path = tmp_path / "r a%w" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body(key))
    base = (tmp_path / "r a%w").as_posix()
    return (base if request.param == "folder" else (tmp_path / "r a%w").as_uri()), None, base


def test_raw_files_are_found_and_described(place):
    uri, aws, base = place
    files = list_raw(uri, aws)
    assert files == list_raw(uri + "/", aws)
    assert [f.path for f in files] == sorted(f"{base}/{key}" for key in LAYOUT)
    for file in files:
        key = file.path[len(base) + 1 :]
        assert (file.symbol, file.is_daily_file) == LAYOUT[key]
        assert file.size == len(body(key))
        assert file.modified > 1_600_000_000_000_000
        assert file.is_parquet == key.lower().endswith(".parquet")


def test_a_part_of_the_layout_and_one_file(place):
    uri, aws, base = place
    (part,) = list_raw(f"{uri}/symbol=BRK%252FB" if uri.startswith("file:") else f"{uri}/symbol=BRK%2FB", aws)
    assert part.symbol == "BRK/B"
    (one,) = list_raw(f"{uri}/symbol=AAPL/data.parquet", aws)
    assert (one.path, one.symbol) == (f"{base}/symbol=AAPL/data.parquet", "AAPL")


def test_modification_times_are_microseconds(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    assert list_raw(str(tmp_path))[0].modified == 1_700_000_000_123_456


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.csv").write_text("x")
    raw = tmp_path / "raw" / "deep"
    raw.mkdir(parents=True)
    (raw / "symbol=A").symlink_to(tmp_path / "elsewhere")
    (raw / "up").symlink_to(tmp_path / "raw")
    (file,) = list_raw(str(tmp_path / "raw"))
    assert (file.path, file.symbol) == (f"{raw}/symbol=A/data.csv", "A")


def test_relative_and_home_paths(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [list_raw(uri)[0].path for uri in ("in", "./in", "~/in")] == [f"{tmp_path}/in/a.csv"] * 3


def test_precedence():
    old, new = RawFile("b", 1, 10, None, False), RawFile("a", 1, 20, None, False)
    daily = RawFile("a/date=1", 1, 5, None, True)
    same = RawFile("c", 1, 20, None, False)
    assert sorted([daily, same, new, old], key=precedence_key) == [old, new, same, daily]


def test_filesystems():
    aws = AwsConfig(region="us-east-1", access_key_id="k", secret_access_key="s")
    filesystem, path = filesystem_for("s3://bucket/a/b/", aws)
    assert isinstance(filesystem, pafs.S3FileSystem)
    assert path == "bucket/a/b"
    assert filesystem_for("s3a://bucket", aws)[1] == "bucket"
    filesystem, path = filesystem_for("/a/b/")
    assert isinstance(filesystem, pafs.LocalFileSystem)
    assert path == "/a/b"
    assert filesystem_for("/")[1] == "/"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "no bucket is named"),
        ("s3:///key", "no bucket is named"),
        ("gs://bucket/x", "gs:// is not supported"),
    ],
)
def test_a_wrong_uri(uri, message):
    with pytest.raises(InputError, match=message):
        filesystem_for(uri)


def one_line(uri, aws=None):
    with pytest.raises(InputError) as caught:
        list_raw(uri, aws)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{uri}: ")
    return str(caught.value)


def test_nothing_to_read_on_a_folder(tmp_path):
    assert "no such folder" in one_line(f"{tmp_path}/missing")
    assert "no .parquet, .csv or .csv.gz file" in one_line(str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    assert "no .parquet, .csv or .csv.gz file" in one_line(str(tmp_path))
    assert "no .parquet, .csv or .csv.gz file" in one_line(f"{tmp_path}/a.txt")


def test_a_folder_without_permission(tmp_path, monkeypatch):
    # The tests may run as root, whom no mode keeps out: the system's answer is given in its stead.
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"no permission to read {tmp_path}" in one_line(str(tmp_path))


def test_nothing_to_read_in_a_bucket(s3):
    s3.put("a/b.txt", b"x")
    assert "no such folder" in one_line(s3.uri("missing"), s3.aws)
    assert "no .parquet" in one_line(s3.uri("a"), s3.aws)
    assert "no .parquet" in one_line(s3.uri(), s3.aws)
    assert "no such bucket" in one_line("s3://no-bucket-of-ours", s3.aws)
    assert "no such bucket" in one_line("s3://no-bucket-of-ours/raw", s3.aws)


def test_a_bucket_out_of_reach(s3):
    nowhere = replace(s3.aws, endpoint_url="http://127.0.0.1:9")
    assert "endpoint cannot be reached" in one_line(s3.uri(), nowhere)
    with pytest.raises(AwsError, match="no AWS credentials"):
        list_raw(s3.uri(), AwsConfig.resolve({}))

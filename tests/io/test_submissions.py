import json
from dataclasses import replace

import pytest

from fibflow.io import submissions
from fibflow.io.storage import LakeError, Storage
from fibflow.io.submissions import Submission

ARGV = ["--lake", "x", "--job", "live", "--source", "kinesis://a?start=LATEST"]


@pytest.fixture(params=["folder", "s3"])
def lake(request, tmp_path):
    if request.param == "folder":
        return Storage(str(tmp_path / "lake"))
    s3 = request.getfixturevalue("s3")
    return Storage(s3.uri("lake"), s3.aws)


def test_what_was_submitted_is_read_again(lake):
    assert submissions.read(lake, "live") is None
    assert submissions.names(lake) == []
    made = submissions.submitted(lake, "live", ARGV, "file:///c", "a1", 5)
    assert made == Submission("live", tuple(ARGV), "file:///c", 5, ("a1",))
    assert submissions.read(lake, "live") == made
    submissions.submitted(lake, "b-2", [], "s3://c", "z", 6)
    assert submissions.names(lake) == ["b-2", "live"]


def test_earlier_jobs_of_the_name_stay(lake):
    for number in range(25):
        made = submissions.submitted(lake, "live", [str(number)], "file:///c", f"a{number}", number)
    assert made.jobs == tuple(f"a{number}" for number in range(5, 25))
    assert made.argv == ("24",)
    again = submissions.submitted(lake, "live", [], "file:///c", "a20", 30)
    assert again.jobs[-2:] == ("a24", "a20")
    assert len(again.jobs) == 20


def test_a_stops_savepoint_is_kept_until_the_next_submission(lake):
    assert submissions.stopped(lake, "live", "file:///s") is None
    made = submissions.submitted(lake, "live", ARGV, "file:///c", "a1", 5)
    stopped = submissions.stopped(lake, "live", "file:///s")
    assert stopped == replace(made, savepoint="file:///s")
    assert submissions.read(lake, "live") == stopped
    assert submissions.submitted(lake, "live", ARGV, "file:///c", "a2", 6).savepoint is None


def test_no_password_of_redis_is_kept(lake):
    argv = ["--redis", "rediss://:hush@h/0", "--redis=redis://ada:hush@h", "--lake", "x"]
    submissions.submitted(lake, "live", argv, "file:///c", "a1", 5)
    kept = lake.read("_jobs/live.json")
    assert kept is not None
    assert b"hush" not in kept
    found = submissions.read(lake, "live")
    assert found is not None
    assert found.argv == ("--redis", "rediss://h/0", "--redis=redis://ada@h", "--lake", "x")
    # As an earlier release left it.
    lake.write("_jobs/live.json", kept.replace(b"rediss://h", b"rediss://:hush@h"))
    submissions.stopped(lake, "live", "file:///s")
    assert submissions.read(lake, "live") == replace(found, savepoint="file:///s")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101])
def test_what_is_no_name(lake, name):
    with pytest.raises(LakeError, match="is no name of a job: use letters, digits"):
        submissions.read(lake, name)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1}', b'{"format": 1, "argv": 3, "jobs": []}'])
def test_a_file_that_cannot_be_read(lake, content):
    lake.write("_jobs/live.json", content)
    with pytest.raises(LakeError, match=r"_jobs/live\.json cannot be read: submit the job anew"):
        submissions.read(lake, "live")


def test_a_file_of_another_release(lake):
    lake.write("_jobs/live.json", json.dumps({"format": 2}).encode())
    with pytest.raises(LakeError, match="is of another release"):
        submissions.read(lake, "live")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "_jobs").touch()
    with pytest.raises(LakeError, match=r"cannot write _jobs/live\.json of"):
        submissions.submitted(Storage(str(tmp_path)), "live", [], "file:///c", "a", 1)

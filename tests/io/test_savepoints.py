import os

import pytest

from fibflow.io import savepoints
from fibflow.io.savepoints import Kept, SavepointError
from fibflow.io.storage import LakeError

JOB, OTHER = "a" * 32, "b" * 32


def written(folder, at):
    folder.mkdir(parents=True)
    (folder / "_metadata").write_bytes(b"x")
    os.utime(folder / "_metadata", (at, at))
    return folder.as_uri()


@pytest.mark.parametrize("spelling", ["{}", "file://{}", "file:{}", "{}/", "file://{}/_metadata"])
def test_a_savepoint_by_any_spelling(tmp_path, spelling):
    uri = written(tmp_path / "savepoint-1", 1_700_000_000)
    assert savepoints.check(spelling.format(tmp_path / "savepoint-1")) == Kept(
        uri, None, 1_700_000_000_000_000
    )


def test_a_checkpoint_says_whose_it_is(tmp_path):
    uri = written(tmp_path / JOB / "chk-7", 1_700_000_000)
    assert savepoints.check(uri).job == JOB


def test_what_is_no_savepoint(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(
        SavepointError, match=r"there is no savepoint .*/none: pipelines\.jobs checkpoints lists"
    ):
        savepoints.check(str(tmp_path / "none"))
    for name in ("half", "file"):
        with pytest.raises(
            SavepointError, match=r"is no savepoint, or one that was never completed \(no file _meta"
        ):
            savepoints.check(str(tmp_path / name))
    with pytest.raises(LakeError, match="gopher://a is no folder and no s3:// address"):
        savepoints.check("gopher://a")


def test_the_newest_whole_checkpoint_goes_first(tmp_path):
    one = written(tmp_path / JOB / "chk-9", 1_000)
    two = written(tmp_path / JOB / "chk-10", 2_000)
    other = written(tmp_path / OTHER / "chk-3", 1_500)
    same = written(tmp_path / OTHER / "chk-4", 2_000)
    (tmp_path / JOB / "chk-11").mkdir()  # under way when the job ended
    written(tmp_path / JOB / "shared", 9_000)
    written(tmp_path / ("c" * 32) / "chk-1", 9_000)
    found = savepoints.retained(tmp_path.as_uri(), [JOB, OTHER, "d" * 32])
    assert [kept.uri for kept in found] == [two, same, other, one]
    assert [kept.job for kept in found] == [JOB, OTHER, OTHER, JOB]
    assert found[0].written == 2_000_000_000
    assert savepoints.retained(str(tmp_path / "nowhere"), [JOB]) == []


def test_in_a_bucket(s3):
    s3.put(f"kept/{JOB}/chk-2/_metadata", b"x")
    s3.put(f"kept/{JOB}/chk-3/part", b"x")
    s3.put("savepoints/savepoint-1/_metadata", b"x")
    [kept] = savepoints.retained(s3.uri("kept"), [JOB, OTHER], s3.aws)
    assert (kept.uri, kept.job) == (s3.uri(f"kept/{JOB}/chk-2"), JOB)
    assert savepoints.check(kept.uri, s3.aws) == kept
    assert savepoints.check(s3.uri("savepoints/savepoint-1/"), s3.aws).job is None
    with pytest.raises(SavepointError, match="there is no savepoint s3://"):
        savepoints.check(s3.uri("savepoints/savepoint-2"), s3.aws)
    with pytest.raises(SavepointError, match="is no savepoint, or one that was never completed"):
        savepoints.check(s3.uri(f"kept/{JOB}/chk-3"), s3.aws)

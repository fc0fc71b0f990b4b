import json
from dataclasses import replace

import pytest

from fibflow.io import statelayouts, submissions
from fibflow.io.statelayouts import Layout, LayoutMismatch
from fibflow.io.storage import LakeError, Storage

JOB, OTHER, ALIKE = "a1b2c3" + "0" * 26, "d" * 32, "a1b2c3" + "1" * 26
LAYOUT = Layout(
    "0.1.0",
    {"--buckets": "16", "--lateness": "15"},
    ("Kinesis/Impulse", "Tables/Impulse"),
    {
        "Bars/Live": {"key": "VarIntCoder", "cell head": "value", "cell base": "value", "format": "1-ab"},
        "Files": {"key": "BytesCoder", "timer due": "processing_time"},
    },
)


def changed(**of_bars):
    """The layout with parts of a step in the place of others; None: without it."""
    parts = {**LAYOUT.steps["Bars/Live"], **{name.replace("_", " "): is_ for name, is_ in of_bars.items()}}
    own = {name: is_ for name, is_ in parts.items() if is_ is not None}
    return replace(LAYOUT, steps={**LAYOUT.steps, "Bars/Live": own})


def refusal(kept, job):
    with pytest.raises(LayoutMismatch) as refused:
        statelayouts.check(kept, job, "live")
    [line] = str(refused.value).splitlines()
    return line


@pytest.fixture(params=["folder", "s3"])
def lake(request, tmp_path):
    if request.param == "folder":
        return Storage(str(tmp_path / "lake"))
    s3 = request.getfixturevalue("s3")
    return Storage(s3.uri("lake"), s3.aws)


def test_it_is_found_by_what_flink_calls_its_folders(lake):
    assert statelayouts.of_savepoint(lake, "file:///s/savepoint-a1b2c3-0123456789ab") is None
    statelayouts.keep(lake, JOB, LAYOUT)
    statelayouts.keep(lake, OTHER, replace(LAYOUT, release="other"))
    for uri in ("file:///s/savepoint-a1b2c3-0123456789ab", f"s3://b/c/{JOB}/chk-7/"):
        assert statelayouts.of_savepoint(lake, uri) == LAYOUT
    for uri in (
        "s3://b/backup",
        "file:///s/savepoint-ffffff-0123456789ab",
        f"s3://b/{ALIKE}/chk-7",
        "/chk-7",
    ):
        assert statelayouts.of_savepoint(lake, uri) is None
    # Two jobs that both may have written it: nobody knows.
    statelayouts.keep(lake, ALIKE, LAYOUT)
    assert statelayouts.of_savepoint(lake, "file:///s/savepoint-a1b2c3-0123456789ab") is None
    # No job is called by what is kept.
    submissions.submitted(lake, "live", [], "file:///c", JOB, 1)
    assert submissions.names(lake) == ["live"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "cannot be read: move it away"),
        (b'{"format": 1, "sources": 3}', "cannot be read: move it away"),
        (json.dumps({"format": 2}).encode(), "is of another release: resume with that release"),
    ],
)
def test_what_cannot_be_read(tmp_path, content, line):
    lake = Storage(str(tmp_path))
    lake.write(f"_jobs/layouts/{JOB}.json", content)
    with pytest.raises(LakeError, match=line):
        statelayouts.of_savepoint(lake, f"/c/{JOB}/chk-1")


@pytest.mark.parametrize(
    "job",
    [
        replace(LAYOUT, release="0.2.0"),
        # What the state lacks begins empty.
        changed(cell_more="value", timer_more="event_time"),
        replace(LAYOUT, steps={**LAYOUT.steps, "Alerts": {"key": "VarIntCoder"}}),
        replace(LAYOUT, options={**LAYOUT.options, "--more": "1"}),
    ],
)
def test_what_keeps_the_state(job):
    statelayouts.check(LAYOUT, job, "live")


@pytest.mark.parametrize(
    ("job", "phrase"),
    [
        (changed(format="2-cd"), "step Bars/Live: format is 2-cd, was 1-ab"),
        (changed(cell_base=None, cell_ground="value"), "step Bars/Live: cell base is gone"),
        (changed(cell_base="bag"), "step Bars/Live: cell base is bag, was value"),
        (changed(key="StrUtf8Coder"), "step Bars/Live: key is StrUtf8Coder, was VarIntCoder"),
        (replace(LAYOUT, steps={"Files": LAYOUT.steps["Files"]}), "step Bars/Live is gone"),
        (
            replace(LAYOUT, sources=("Tables/Impulse", "Kinesis/Impulse")),
            "it reads from Tables/Impulse, Kinesis/Impulse, the state is of Kinesis/Impulse, Tables/Impulse",
        ),
    ],
)
def test_code_that_would_not_read_it_is_refused(job, phrase):
    line = refusal(LAYOUT, job)
    assert line.startswith(
        f"this state of job live was written by other code and cannot be read by this one ({phrase}): "
        "resume with the code that wrote it, or make its bars anew: pipelines.stream without --savepoint, "
        "with --job NEW --replaces live"
    )
    assert "written by Fibflow 0.1.0 and cannot" in refusal(LAYOUT, replace(job, release="0.2.0"))


def test_options_that_decide_what_it_means_are_refused():
    line = refusal(LAYOUT, replace(changed(format="2"), options={"--buckets": "32"}))
    assert line.startswith(
        "this state of job live was made with --buckets 16 (not 32); --lateness 15 (not none): resume with "
        "what it was made with, or make its bars anew"
    )


def test_a_long_list_is_cut():
    job = changed(format=None, key=None, cell_head=None, cell_base=None)
    assert "is gone; step Bars/Live: format is gone; and 1 more)" in refusal(LAYOUT, job)

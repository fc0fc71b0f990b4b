"""A lock in a lake: one holder at a time, and none that outlives its process for long."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from fibflow.io.aws import AwsError
from fibflow.io.lake import Lake
from fibflow.io.lease import Busy, locked
from fibflow.io.storage import Storage

HOLD = """
import sys
from fibflow.io.lake import Lake
from fibflow.io.lease import locked
with locked(Lake(sys.argv[1]), "daily", "run one"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_one_at_a_time_and_again_after_its_end(anywhere):
    clock = Clock()
    for _ in range(3):
        with locked(anywhere, "daily", "run one", clock=clock):
            refusal = pytest.raises(Busy, match=r"^daily is at work already \(run one, process \d+ on ")
            with refusal as refused, locked(anywhere, "daily", "run two", clock=clock):
                pass
            assert "\n" not in str(refused.value)
            with locked(anywhere, "other", "run three", clock=clock):
                pass


def test_an_error_gives_it_back(anywhere):
    with pytest.raises(ZeroDivisionError), locked(anywhere, "daily", "run one"):
        raise ZeroDivisionError
    with locked(anywhere, "daily", "run two"):
        pass


def test_a_process_that_dies_leaves_a_folder_at_once(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    line = [sys.executable, "-P", "-c", HOLD, lake.uri]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"run one, process {process.pid}"), locked(lake, "daily", "two"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with locked(lake, "daily", "two"):
        pass


def test_a_lease_that_nobody_renews_ends(s3):
    lake, clock = Lake(s3.uri("lake"), s3.aws), Clock()
    held = locked(lake, "daily", "run one", clock=clock, lease_s=1_000.0)
    held.__enter__()
    clock.now += 999.0
    with pytest.raises(Busy, match="run one"), locked(lake, "daily", "run two", clock=clock):
        pass
    clock.now += 2.0
    with locked(lake, "daily", "run two", clock=clock):
        with pytest.raises(Busy, match="run two"), locked(lake, "daily", "run three", clock=clock):
            pass
        # Who lost it gives back what is no more its own.
        held.__exit__(None, None, None)
        with pytest.raises(Busy, match="run two"), locked(lake, "daily", "run three", clock=clock):
            pass


def test_of_many_at_once_one_gets_it(s3):
    lake = Lake(s3.uri("lake"), s3.aws)
    with locked(lake, "daily", "before"):
        pass
    got: list[int] = []
    refused: list[str] = []
    start, end = threading.Barrier(4), threading.Event()

    def attempt(number: int) -> None:
        start.wait()
        try:
            with locked(lake, "daily", f"run {number}"):
                got.append(number)
                end.wait(30)
        except Busy as error:
            refused.append(str(error))
            if len(refused) == 3:
                end.set()

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)


def test_credentials_that_are_gone_for_a_while_end_no_lease(s3, monkeypatch):
    lake = Lake(s3.uri("lake"), s3.aws)
    written = Storage.write
    failures, renewed = [AwsError("no credentials"), RuntimeError("no idea")], threading.Event()

    def write(storage: Storage, relative: str, content: bytes) -> None:
        if failures:
            raise failures.pop()
        written(storage, relative, content)
        renewed.set()

    monkeypatch.setattr(Storage, "write", write)
    with locked(lake, "daily", "run one", lease_s=0.4):
        assert renewed.wait(30)
        assert failures == []
    with locked(lake, "daily", "run two"):
        failures.append(AwsError("no credentials"))
    assert failures == []

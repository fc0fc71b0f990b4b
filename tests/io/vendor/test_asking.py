from __future__ import annotations

import threading

import pytest

from fibflow.io.vendor.asking import MOST_FAILED, Failed, ask_all
from fibflow.io.vendor.errors import NoAccess, Unreachable, VendorAway, VendorError, WrongKey


def test_all_are_asked_and_those_that_fail_are_named():
    done, ticks = [], []

    def ask(question):
        if question % 10 == 3:
            raise VendorError(f"no {question}")
        done.append(question)

    failed = ask_all(range(40), ask, 4, lambda: ticks.append(1))
    assert sorted(done) == [n for n in range(40) if n % 10 != 3]
    assert sorted(failed) == sorted(Failed(str(n), f"no {n}") for n in (3, 13, 23, 33))
    assert len(ticks) == 40


def test_no_more_at_once_than_asked_for():
    together = threading.Barrier(3)
    running, most, lock = 0, 0, threading.Lock()

    def ask(question):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        # They do run at once: each waits for two others.
        together.wait(30)
        with lock:
            running -= 1

    assert ask_all(range(9), ask, 3) == []
    assert most == 3


def test_it_gives_up_where_nothing_comes_back():
    asked = []

    def ask(question):
        asked.append(question)
        raise VendorAway("gone")

    failed = ask_all(range(1000), ask, 2)
    assert MOST_FAILED <= len(failed) == len(asked) <= MOST_FAILED + 1


@pytest.mark.parametrize(
    "error", [WrongKey("no"), NoAccess("no"), Unreachable("no"), OSError("disk"), KeyboardInterrupt()]
)
def test_other_failures_end_it(error):
    asked = []

    def ask(question):
        asked.append(question)
        if question == 2:
            raise error

    with pytest.raises(type(error)):
        ask_all(range(1000), ask, 1)
    assert asked == [0, 1, 2]


def test_nothing_to_ask():
    assert ask_all([], lambda question: None, 3) == []

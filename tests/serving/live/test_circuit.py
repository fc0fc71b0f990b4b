from __future__ import annotations

import threading

import pytest

from fibflow.serving.live.circuit import Circuit, StoreDown


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asks(circuit: Circuit, answer: int | Exception, seen: list) -> int:
    def question() -> int:
        seen.append(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return circuit.ask(question)


def test_a_store_that_is_down_is_asked_again_after_a_while_only():
    clock, seen = Clock(), list[object]()
    circuit = Circuit((OSError,), retry_s=2.0, clock=clock)
    with pytest.raises(StoreDown, match=r"^no route$"):
        asks(circuit, OSError("no route\nto it"), seen)
    clock.now = 1.9
    with pytest.raises(StoreDown, match="no route"):
        asks(circuit, 1, seen)
    assert (len(seen), circuit.wrong) == (1, "no route")
    clock.now = 2.0
    assert asks(circuit, 1, seen) == 1
    assert circuit.wrong is None
    assert asks(circuit, 2, seen) == 2


def test_while_one_asks_the_others_pass_it_over():
    clock = Clock()
    circuit = Circuit((OSError,), retry_s=2.0, clock=clock)
    with pytest.raises(StoreDown):
        asks(circuit, OSError("gone"), [])
    clock.now = 5.0
    asked, answer = threading.Event(), threading.Event()

    def slow() -> int:
        asked.set()
        assert answer.wait(10)
        return 1

    first = threading.Thread(target=circuit.ask, args=(slow,))
    first.start()
    assert asked.wait(10)
    with pytest.raises(StoreDown, match="gone"):
        asks(circuit, 1, [])
    answer.set()
    first.join()
    assert asks(circuit, 1, []) == 1


def test_other_errors_are_the_callers_own():
    circuit = Circuit((OSError,))
    with pytest.raises(ValueError, match="limit"):
        asks(circuit, ValueError("limit"), [])
    assert circuit.wrong is None

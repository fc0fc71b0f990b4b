"""Writes of state go out together, in order, a failed one is not passed over; cached values have a weight."""

from __future__ import annotations

import inspect
from typing import Any

import pyarrow as pa
import pytest
from apache_beam.coders import BytesCoder
from apache_beam.runners.worker import bundle_processor, statecache

from fibflow.transforms import beamstate

beamstate.install()


class Answer:
    def __init__(self, log: list[tuple[str, Any]], what: tuple[str, Any], error: str = "") -> None:
        self._log, self._what, self._error = log, what, error

    def get(self) -> None:
        self._log.append(("answered", self._what))
        if self._error:
            raise RuntimeError(self._error)


class Handler:
    """What a worker's state goes to: it takes requests at once, and answers when asked."""

    def __init__(self, error: str = "") -> None:
        self.log: list[tuple[str, Any]] = []
        self._error = error

    def clear(self, key: str) -> Answer:
        self.log.append(("clear", key))
        return Answer(self.log, ("clear", key))

    def extend(self, key: str, coder: Any, elements: list[bytes]) -> Answer:
        self.log.append(("extend", (key, *elements)))
        return Answer(self.log, ("extend", (key, *elements)), self._error)


def context_of(handler: Handler, names: list[str]) -> tuple[Any, list[Any]]:
    """A bundle's states: bags, and a value on top of the last one."""
    made: Any = bundle_processor.FnApiUserStateContext
    context = made.__new__(made)
    bags: list[Any] = [
        bundle_processor.SynchronousBagRuntimeState(handler, name, BytesCoder())  # type: ignore[arg-type]
        for name in names
    ]
    value = bundle_processor.ReadModifyWriteRuntimeState(bags[-1])
    states = [*bags[:-1], value]
    context._all_states = dict(enumerate(states))
    return context, states


def test_all_writes_go_out_before_the_first_answer_is_waited_for():
    handler = Handler()
    context, (bag, value) = context_of(handler, ["bag", "value"])
    bag.add(b"1")
    value.write(b"2")
    context.commit()
    assert handler.log == [
        ("extend", ("bag", b"1")),
        ("clear", "value"),
        ("extend", ("value", b"2")),
        ("answered", ("extend", ("bag", b"1"))),
        ("answered", ("extend", ("value", b"2"))),
    ]


def test_a_write_that_fails_fails_the_bundle():
    handler = Handler("disk full")
    context, (bag, _) = context_of(handler, ["bag", "value"])
    bag.add(b"1")
    with pytest.raises(RuntimeError, match="disk full"):
        context.commit()


def test_what_was_not_touched_is_not_written():
    handler = Handler()
    context, _ = context_of(handler, ["bag", "value"])
    context.commit()
    assert handler.log == []


def test_beam_still_waits_for_each_write_by_itself():
    # When this fails, Beam may write together by itself: drop transforms/beamstate.py then.
    source = inspect.getsource(bundle_processor)
    own = source[
        source.index("class SynchronousBagRuntimeState") : source.index("class SynchronousSetRuntimeState")
    ]
    assert "to_await.get()" in own


@pytest.mark.parametrize("value", [[], [b"x" * 5_000, b"y" * 70_000], [(1, 2, 3)], [7]], ids=repr)
def test_a_weight_is_what_beam_finds_but_for_shared_numbers(value):
    cache: Any = statecache
    beams = cache.objsize.get_deep_size(value)
    assert 0 <= beamstate.weigh(value) - beams <= 200


def test_a_table_weighs_its_buffers():
    table = pa.table({"a": pa.array(range(10_000))})
    assert 80_000 <= beamstate.weigh([table]) < 90_000


def test_of_an_iterable_only_what_is_in_memory_counts():
    class Partly(statecache.CacheAware):
        def get_referents_for_cache(self) -> list[Any]:
            return [b"x" * 1_000]

    assert 1_000 < beamstate.weigh(Partly()) < 1_500


def test_a_cache_weighs_so():
    cache: Any = statecache.StateCache(1 << 20)
    cache.put("key", [b"x" * 1_000])
    assert cache._current_weight == beamstate.weigh([b"x" * 1_000])


def test_beam_still_weighs_by_a_walk_over_everything():
    # When this fails, Beam may weigh at less cost: drop ``weigh`` then.
    assert "objsize.get_deep_size(" in inspect.getsource(statecache)

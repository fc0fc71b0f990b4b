"""Beam's user state at less cost: writes sent together, and cached values weighed by what they hold.

Beam 2.70 ends a bundle by writing each cell and waiting for the answer before the next (``commit`` of
``SynchronousBagRuntimeState``): with some cells a key, keys by the dozen and a millisecond an answer, that
is most of a bundle's time. Here they go out together, in the same order over the same stream, and the bundle
ends when all are answered, so nothing is weaker.

Its cache weighs each value that is put by a walk over everything that it refers to, which begins with a list
of all modules' variables (``get_deep_size``): a sixth of a busy worker's time. What states hold here is flat.

Each to be dropped when Beam does so: then ``tests/transforms/test_beamstate.py`` fails.
"""

from __future__ import annotations

import sys
from typing import Any

from apache_beam.runners.worker import bundle_processor, statecache

_PENDING = "_fibflow_pending"


def _send(cell: Any) -> None:
    """Send a cell's writes; keep the last one's answer, which comes after the others'."""
    answer = None
    if cell._cleared:
        answer = cell._state_handler.clear(cell._state_key)
    if cell._added_elements:
        answer = cell._state_handler.extend(
            cell._state_key, cell._value_coder.get_impl(), cell._added_elements
        )
    setattr(cell, _PENDING, answer)


def _send_all_then_wait(context: Any) -> None:
    states = context._all_states.values()
    for state in states:
        state.commit()
    for state in states:
        cell = getattr(state, "_underlying_bag_state", state)
        answer = getattr(cell, _PENDING, None)
        if answer is not None:
            answer.get()
            setattr(cell, _PENDING, None)


def weigh(*values: Any) -> int:
    """Return the bytes of cached state: of bytes, numbers, tables, and lists and tuples of these."""
    return sum(map(_weight, values))


def _weight(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sys.getsizeof(value) + sum(map(_weight, value))
    if isinstance(value, statecache.CacheAware):
        return sys.getsizeof(value) + sum(map(_weight, value.get_referents_for_cache()))
    return sys.getsizeof(value)


def install() -> None:
    """Make this process's Beam workers do so; called by each module whose DoFns keep much state."""
    cell: Any = bundle_processor.SynchronousBagRuntimeState
    cell.commit = _send
    context: Any = bundle_processor.FnApiUserStateContext
    context.commit = _send_all_then_wait
    cache: Any = statecache
    cache.get_deep_size = weigh

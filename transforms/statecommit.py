"""Beam's writes of user state, all sent before the first is waited for.

Beam 2.70 ends a bundle by writing each cell and waiting for the answer before the next (``commit`` of
``SynchronousBagRuntimeState``): with some cells a key, keys by the dozen and a millisecond an answer, that
is most of a bundle's time. Here they go out together, in the same order over the same stream, and the bundle
ends when all are answered, so nothing is weaker. To be dropped when Beam does so: then
``tests/transforms/test_statecommit.py`` fails.
"""

from __future__ import annotations

from typing import Any

from apache_beam.runners.worker import bundle_processor

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


def install() -> None:
    """Make this process's Beam workers write so; done by each module whose DoFns keep much state."""
    cell: Any = bundle_processor.SynchronousBagRuntimeState
    cell.commit = _send
    context: Any = bundle_processor.FnApiUserStateContext
    context.commit = _send_all_then_wait

"""The layout of a live job's state: read off the graph that is submitted, and off what encodes its cells."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.portability.common_urns import primitives
from apache_beam.runners.pipeline_context import PipelineContext

from fibflow import __version__
from fibflow.io import statelayouts, streamtables
from fibflow.io.kinesis.positions import LaneState
from fibflow.io.statelayouts import Layout
from fibflow.io.storage import Storage
from fibflow.pipelines.livegraph import LiveJob
from fibflow.transforms import livecells, livekeys, livestate
from fibflow.transforms.alerts import barbook, barcells, barshelf, book, facts, hold, rows, schema
from fibflow.transforms.alerts import cells as alert_cells

_MINUTE_US = 60_000_000
_DIGITS = 12


def layout_of(pipeline: beam.Pipeline, job: LiveJob) -> Layout:
    """Return what a job's state looks like.

    Args:
        pipeline: to which ``livegraph.build`` has added the job.
        job: the job.
    """
    proto, context = pipeline.to_runner_api(return_context=True)
    steps = proto.components.transforms
    # By the ids that the runner sorts them by.
    roots = sorted(name for name, step in steps.items() if step.spec.urn == primitives.IMPULSE.urn)
    formats = _formats()
    found: dict[str, dict[str, str]] = {}
    for step in steps.values():
        if step.spec.urn == primitives.PAR_DO.urn and (parts := dict(_parts(step, proto, context))):
            own = formats.get(step.unique_name.split("/")[0])
            found[step.unique_name] = parts | ({"format": own} if own else {})
    return Layout(__version__, _options(job), tuple(steps[name].unique_name for name in roots), found)


def check(lake: Storage, name: str, savepoint: str, layout: Layout) -> None:
    """Hold a job's layout against that of the job that wrote a savepoint; say so where nothing is known.

    Args:
        lake: the lake's place.
        name: of the job.
        savepoint: the folder of the savepoint or checkpoint.
        layout: of the job that is to go on.

    Raises:
        LayoutMismatch: the state would not be read as it was written.
        LakeError: what the lake keeps cannot be read.
    """
    kept = statelayouts.of_savepoint(lake, savepoint)
    if kept is None:
        print(
            f"stream: nothing is kept of what the state in {savepoint} looks like (an older release wrote "
            "it, or its folder was renamed): it is taken as it is",
            file=sys.stderr,
        )
    else:
        statelayouts.check(kept, layout, name)


def _options(job: LiveJob) -> dict[str, str]:
    spec, policy = job.spec, job.policy
    return {
        "--bars-from": job.feed,
        "--buckets": str(policy.buckets),
        "--calendar": spec.calendar.name,
        "--intraday-anchor": str(spec.intraday_anchor),
        "--lateness": f"{policy.lateness_us / _MINUTE_US:g}",
        "--timeframes": ",".join(timeframe.name for timeframe in spec.timeframes),
    }


def _parts(step: Any, proto: Any, context: PipelineContext) -> Iterator[tuple[str, str]]:
    """Yield what a ParDo keeps, as (part, what it is); nothing of one without state."""
    held = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
    if not (held.state_specs or held.timer_family_specs or held.restriction_coder_id):
        return

    def coder(name: str) -> Any:
        return context.coders.get_by_id(name)

    [taken] = step.inputs.values()
    element = coder(proto.components.pcollections[taken].coder_id)
    if held.restriction_coder_id:
        yield "element", repr(element)
        yield "restriction", repr(coder(held.restriction_coder_id))
    else:
        yield "key", repr(element.key_coder())
    for name, cell in held.state_specs.items():
        kind = cell.WhichOneof("spec")
        own = getattr(cell, kind)
        inner = own.element_coder_id if hasattr(own, "element_coder_id") else own.coder_id
        yield f"cell {name}", f"{kind.removesuffix('_spec')} of {coder(inner)!r}"
    for name, timer in held.timer_family_specs.items():
        domain = beam_runner_api_pb2.TimeDomain.Enum.Name(timer.time_domain)
        yield f"timer {name.removeprefix('ts-')}", domain.lower()


def _formats() -> dict[str, str]:
    """Return the format of what each step keeps as bytes: its number, and a digest of what bytes lie where.

    The digest tells of a layout that was changed while its number was forgotten.
    """
    sink = streamtables.STATE_VERSION.hex()
    number, bars = alert_cells.FORMAT, barcells.FORMAT
    # What waits is the same in both.
    held = (hold._FORMAT, hold._CELL.format)
    of_alerts = [rows.ROW, rows.MOVE, book.LAST, facts.FACT, *held]
    of_bars = [barbook.VERSION, barbook.TERM, barbook.MOVE, barshelf.ROW, *held]
    return {
        "Kinesis": f"{LaneState({}).encode()[0]}",
        "Bars": f"{livecells.FORMAT}-{_digest(*_samples())}",
        "WriteFiles": sink,
        "CommitFiles": sink,
        "Alerts": f"{number}-{_digest(*map(_described, of_alerts))}",
        "BarAlerts": f"{bars}-{_digest(*map(_described, of_bars))}",
        "Outbox": _digest(str(schema.EVENTS).encode()),
    }


def _described(what: Any) -> bytes:
    return repr(what.descr if isinstance(what, np.dtype) else what).encode()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()[:_DIGITS]


def _samples() -> Iterator[bytes]:
    """Yield what the cells of bars hold of one made-up minute, and of one window."""
    one = np.ones(1, np.int64)
    for feed in (livestate.TRADES, livestate.REGISTERS, livestate.DAYS):
        extra = np.arange(len(feed.empty), dtype=np.int64)[:, None]
        sums = np.arange(7, dtype=np.int64)[:, None]
        prices = np.array([[1.0], [4.0], [0.5], [2.0]])
        yield livestate.encode_entries(livestate.Entries(_MINUTE_US, one, prices, sums, extra), feed)
    base = livestate.Base.empty(2).widened(1)
    base.starts[1], base.ends[1] = 1, 2
    yield base.encode(1)
    yield livecells.encode_revisions({(1, _MINUTE_US): {2: 3}})
    yield livekeys.encode_keys(_MINUTE_US, one, one, 5 * one, 5 * one)

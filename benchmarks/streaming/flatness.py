"""The size of checkpoints: while nothing comes, and in the same places of three sessions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from fibflow.benchmarks.streaming.cluster import BARS, OPENED, PARSED, BenchCluster, Running, Shape
from fibflow.benchmarks.streaming.tapes import Stream, end_of
from fibflow.pipelines import tape
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.livebars import StreamPolicy

STREAM = "sessions"
#: As often as the service allows, seconds.
POLL_S = 0.2
#: Checkpoints of which the sizes are told, each time that nothing moves.
STILL = 3
#: Checkpoints at the beginning that say nothing: the first ones are written before all steps have state.
_FIRST = 2
_IDLE_S = 3600.0
#: Of a session: its trades up to here, then the size while all windows are open; then the rest.
HALF = 0.5


@dataclass(frozen=True)
class Session:
    """Checkpoint sizes in one session, bytes.

    Attributes:
        date, ticks: of the session.
        half, whole: at rest after half of its trades, and after all of them and its end.
        half_steps, whole_steps: of the last of those, by Flink's step.
        half_content, whole_content: of a savepoint at these places, which has the state alone.
    """

    date: str
    ticks: int
    half: list[int]
    whole: list[int]
    half_steps: dict[str, int] = field(default_factory=dict)
    whole_steps: dict[str, int] = field(default_factory=dict)
    half_content: int = 0
    whole_content: int = 0


@dataclass(frozen=True)
class Flatness:
    """One run.

    Attributes:
        symbols: of the tapes.
        polls: reads without data of the shard that was read least.
        idle: checkpoint sizes meanwhile, bytes, in order.
        sessions: with data.
    """

    symbols: int
    polls: int
    idle: list[int]
    sessions: list[Session] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


def run(
    cluster: BenchCluster,
    tapes: list[tuple[str, tape.SavedTape]],
    calendar: TradingCalendar,
    symbols: int,
    polls: int,
    shards: int = 2,
) -> Flatness:
    """Run the whole graph: first without data, then on three sessions, and note checkpoint sizes.

    Args:
        cluster: where.
        tapes: (date, tape) of sessions in their order.
        calendar: of the tapes.
        symbols: of the tapes.
        polls: how many without data.
        shards: of the stream.
    """
    stream = Stream(cluster.client, STREAM, shards)
    job = cluster.submit(Shape(STREAM, calendar, parallelism=shards, poll_s=POLL_S), "sessions")
    try:
        done, idle = _idle(job, polls)
        sessions = []
        total = 0
        for date, saved in tapes:
            total += stream.fill(saved, until=HALF)
            half = _still(job, total)
            half_steps, half_content = job.state_by_step(), job.content()
            total += stream.fill(saved, begin=HALF)
            stream.heartbeat(end_of(date, calendar, StreamPolicy().lateness_us))
            whole = _still(job, total)
            steps, content = job.state_by_step(), job.content()
            ticks = saved.truth.number()
            sessions.append(Session(date, ticks, half, whole, half_steps, steps, half_content, content))
        return Flatness(symbols, done, idle, sessions)
    finally:
        cluster.end(job)
        stream.delete()


def _idle(job: Running, polls: int) -> tuple[int, list[int]]:
    """Wait for so many polls without data; return how many there were, and the sizes meanwhile."""
    seen: dict[int, int] = {}

    def enough() -> bool:
        seen.update({each.id: each.size for each in job.rest.checkpoints(job.id)})
        return job.polls() >= polls and len(seen) > _FIRST + 1

    job.until(enough, _IDLE_S, f"{polls} polls")
    return job.polls(), [seen[number] for number in sorted(seen)[_FIRST:]]


def _still(job: Running, ticks: int) -> list[int]:
    """Wait until a job has parsed so many ticks and is still; return the sizes of the next checkpoints."""
    seen: dict[int, int] = {}

    def enough() -> bool:
        if job.notes(PARSED).total < ticks:
            return False
        last = max(job.notes(place).last for place in (PARSED, BARS, OPENED))
        # A checkpoint comes behind all that was on its way, so the first one may have set something moving.
        since = [each for each in job.rest.checkpoints(job.id) if each.triggered / 1000 > last]
        seen.clear()
        seen.update({each.id: each.size for each in sorted(since, key=lambda each: each.id)[1:]})
        return len(seen) >= STILL

    job.until(enough, _IDLE_S, "checkpoints of a job at rest")
    return [seen[number] for number in sorted(seen)]

"""Flink: the cluster, and the live job on it."""

from __future__ import annotations

from collections.abc import Iterator

from fibflow.io.checkup.findings import Finding, failed, ok, warning
from fibflow.io.checkup.site import ANSWER_S, Site
from fibflow.io.checkup.streams import ago
from fibflow.io.flinkrest import FlinkError, FlinkRest, Job

#: The release that jobs are made for.
FLINK = "1.19"
#: A checkpoint older than this is worth a look, and an error, seconds.
WARNS_S, FAILS_S = 120.0, 600.0


def flink(site: Site) -> Iterator[Finding]:
    """Look at the cluster and the job."""
    assert site.flink is not None
    rest = FlinkRest(site.flink, timeout=ANSWER_S)
    told = rest.overview()
    version, managers = str(told["flink-version"]), int(told.get("taskmanagers", 0))
    slots = f"{told.get('slots-available', 0)} of {told.get('slots-total', 0)} slots free"
    reason = f"Flink {version}, {managers} task managers, {slots}"
    if not managers:
        yield failed("flink", reason, "start task managers, or see in their logs why they do not register")
    elif not version.startswith(f"{FLINK}."):
        yield warning("flink", reason, f"jobs of this release are made for Flink {FLINK}")
    else:
        yield ok("flink", reason)
    if site.job:
        yield from _job(site, rest)


def _job(site: Site, rest: FlinkRest) -> Iterator[Finding]:
    try:
        job = rest.job(site.job, running=False)
    except FlinkError as error:
        yield failed(
            "flink job",
            str(error),
            "start it with pipelines.stream, or go on with pipelines.jobs resume; or name it: --job",
        )
        return
    if job.state != "RUNNING":
        why = rest.failure(job.id)
        yield failed(
            "flink job",
            f"{site.job} is {job.state}{f': {why}' if why else ''}",
            "go on with pipelines.jobs resume --latest, when what is said is mended",
        )
        return
    yield _checkpoint(site, rest, job)
    restarts = rest.restarts(job.id)
    if restarts:
        yield warning(
            "flink restarts",
            f"{restarts} since it was submitted, the last one by: {rest.failure(job.id) or 'unknown'}",
            "one after a known failure is as it should be; more and more are not (docs/reliability.md)",
        )
    else:
        yield ok("flink restarts", "none since it was submitted")


def _checkpoint(site: Site, rest: FlinkRest, job: Job) -> Finding:
    now_ms = site.now() * 1000
    since = (now_ms - job.started) / 1000
    done = [each for each in rest.checkpoints(job.id) if not each.is_savepoint]
    last = done[0] if done else None
    age = since if last is None else (now_ms - last.triggered - last.took) / 1000
    newest = "no checkpoint yet" if last is None else f"last checkpoint {ago(max(0.0, age))} ago"
    reason = f"{site.job} runs for {ago(max(0.0, since))}, {newest}"
    advice = "see its checkpoints in Flink's interface: back pressure, or a store that cannot be written"
    if age > FAILS_S:
        return failed("flink job", reason, advice)
    return warning("flink job", reason, advice) if age > WARNS_S else ok("flink job", reason)

"""One load: which files have to be landed, the pipeline that lands them, and the commits."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import apache_beam as beam

from fibflow.io import sinks, tables
from fibflow.io.datafiles import TableSpec
from fibflow.io.dialect import Kind
from fibflow.io.failpoints import hit
from fibflow.io.files import InputError, RawFile, list_raw
from fibflow.io.lake import Lake, LakeTable, RebaseNeeded, Scope
from fibflow.io.landing import DEAD_LETTERS, TOLD, LandFiles, Target
from fibflow.io.ledger import (
    Changes,
    KnownFiles,
    changes_of,
    entries_of,
    read_ledger,
    record,
    sources_of,
)
from fibflow.io.manifest import Manifest
from fibflow.io.rows import RawRows
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import Storage
from fibflow.pipelines import cli
from fibflow.pipelines.deadletters import commit_dead_letters
from fibflow.pipelines.draft import Draft
from fibflow.pipelines.facts import snapshot_of
from fibflow.pipelines.plan import plan_raw
from fibflow.pipelines.runner import Runner
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.schemas import LEDGER

#: The property that says what rows a bronze table holds: ``daily`` or ``minutes``.
KIND = "fibflow.kind"

_ATTEMPTS = 5
_FEW_SYMBOLS = 500


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        input: a folder or file, or ``s3://bucket/...``.
        kind: of its rows.
        price_basis, calendar: None for the table's own.
        symbols: the only ones to land; None for all.
        full_refresh: land all files, in place of all that the table holds.
        dry_run: write nothing.
        runner: where to run.
        threads: how many units of work run at once in a worker.
        staging: the place for temporary files; None for the default one.
        run: the run's id, unique.
        year: the current one.
    """

    input: str
    kind: Kind
    price_basis: str | None
    calendar: str | None
    symbols: frozenset[str] | None
    full_refresh: bool
    dry_run: bool
    runner: Runner
    threads: int
    staging: str | None
    run: str
    year: int

    @property
    def spec(self) -> TableSpec:
        """The bronze table's."""
        return tables.DAILY if self.kind == "daily" else tables.MINUTES


@dataclass
class Report:
    """What a load did, or would do in a dry run."""

    said: str = ""
    files: Counter[str] = field(default_factory=Counter)
    tallies: Counter[str] = field(default_factory=Counter)
    left_over: int = 0
    written: int = 0
    replaced: int = 0
    version: int = -1
    by_period: bool = False

    def count(self, name: str) -> int:
        """Return the rows that are ``new`` or ``changed``."""
        return sum(n for key, n in self.tallies.items() if key.startswith(f"{name}."))

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield names and values for the table at the end."""
        if self.said:
            yield "done", self.said
        for name in ("new", "changed", "landed in part before", "unchanged"):
            if self.files[name] or name in ("new", "changed"):
                yield f"files {name}", f"{self.files[name]:,}"
        yield "rows read", f"{self.tallies['rows_read']:,}"
        for name, number in sorted(self.tallies.items()):
            if name.startswith("rejected."):
                yield name.replace(".", ": "), f"{number:,}"
        for name in ("new", "changed"):
            yield f"rows {name}", f"{self.count(name):,}"
            for key, number in sorted(self.tallies.items()):
                if self.by_period and key.startswith(f"{name}."):
                    yield f"  {key.partition('.')[2]}", f"{number:,}"
        yield "rows unchanged", f"{self.tallies['unchanged']:,}"
        if self.left_over:
            yield "rows kept (gone from their file)", f"{self.left_over:,}"
        yield "data files written", f"{self.written:,}"
        yield "data files replaced", f"{self.replaced:,}"
        yield "table version", "none" if self.version < 0 else str(self.version)


def load(lake: Lake, request: Request) -> Report:
    """Land what is new or changed in the input; with ``lake.aws`` where the input is on S3 too.

    Raises:
        UsageError: the price basis is not declared, or the calendar changed.
        CalendarError: there is no such calendar.
        PropertyMismatch: the table was made with another calendar or basis.
        InputError: a file cannot be used; nothing was landed.
        ConflictError: another load landed the same sessions first.
        LakeError: the lake cannot be read or written.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(RebaseNeeded):
            return _land(lake, request)
    return _land(lake, request)


def _terms(request: Request, bronze: LakeTable) -> tuple[TradingCalendar, str]:
    """Return the calendar and the price basis, compared with the table's."""
    properties = bronze.properties
    basis = request.price_basis or properties.get(tables.PRICE_BASIS)
    if basis is None:
        raise cli.UsageError(
            f"declare the prices of {request.input}: --price-basis raw, or --price-basis split-adjusted"
        )
    name = request.calendar or properties.get(tables.CALENDAR) or "XNYS"
    if not request.full_refresh:
        expected = {tables.CALENDAR: name, tables.PRICE_BASIS: basis, KIND: request.kind}
        bronze.check(expected, properties)
    calendar = load_calendar(name, request.year + 2)
    held = json.loads(properties.get(tables.CALENDAR_HASHES, "{}"))
    now = calendar.hashes(request.year + 2)
    moved = sorted(year for year, digest in held.items() if now.get(year, digest) != digest)
    if moved and not request.full_refresh:
        raise cli.UsageError(
            f"calendar {calendar.name} changed in {', '.join(moved)} since {bronze.spec.name} was made: "
            "--full-refresh lands all files anew"
        )
    return calendar, basis


def _files(request: Request, lake: Lake) -> list[RawFile]:
    files = list_raw(request.input, lake.aws)
    if request.symbols is None:
        return files
    chosen = [file for file in files if file.symbol is None or file.symbol in request.symbols]
    if not chosen:
        raise InputError(f"{request.input}: no file holds a symbol of --symbols")
    return chosen


def _land(lake: Lake, request: Request) -> Report:
    """Compare with the ledger, run the pipeline, commit.

    Raises:
        RebaseNeeded: another run changed the table meanwhile, without touching the same rows.
    """
    bronze = lake.table(request.spec)
    calendar, basis = _terms(request, bronze)
    snapshot = snapshot_of(bronze)
    ledger = lake.table(tables.LEDGER)
    entries = LEDGER.empty_table() if request.full_refresh else read_ledger(ledger, bronze.spec.name)
    changes = changes_of(_files(request, lake), entries)
    report = Report(version=snapshot.version, by_period=request.dry_run)
    report.files.update(_file_counts(changes))
    if not changes.to_land:
        report.said = "no new data: every file was landed before"
        return report
    base = Snapshot.empty(bronze.storage, bronze.spec) if request.full_refresh else snapshot
    with cli.staging_place(request.staging, lake, request.runner.place.local, request.run) as staging:
        source = RawRows(request.input, request.kind, calendar, staging, lake.aws, request.symbols)
        source.stage(changes.to_land)
        known = KnownFiles(staging)
        known.stage(source.files, entries, changes.changed)
        landed = snapshot.version + 2
        target = Target(base, request.kind, calendar, known, landed, request.run, not request.dry_run)
        manifest = _run(source, target, staging, request)
        report.tallies.update(manifest.tallies)
        report.left_over = _left_over(base, changes.changed, manifest.tallies["superseded"])
        if request.dry_run:
            report.said = "dry run: nothing was written"
            return report
        draft = Draft.of(bronze, base, manifest, request.run, landed)
        hit("after-files")
        if request.full_refresh:
            draft = draft.in_place_of(snapshot)
        if draft.written or draft.replaced:
            properties = _properties(snapshot, calendar, basis, request.kind, draft)
            scope = _scope(request, changes.to_land, draft)
            report.version = draft.commit(bronze, snapshot.version, scope, properties)
        commit_dead_letters(lake, manifest, staging, request.run)
        counts = [
            None if request.symbols is not None and file.symbol is None else manifest.tallies[f"rows.{rank}"]
            for rank, file in enumerate(source.files)
        ]
        mine = entries_of(source.files, counts, bronze.spec.name, landed)
        record(ledger, mine, request.run, bronze.spec.name if request.full_refresh else None)
    report.written, report.replaced = draft.written, draft.replaced
    if not draft.sessions and not request.full_refresh:
        report.said = "no new data: no row differs from what the table holds"
    return report


def _file_counts(changes: Changes) -> dict[str, int]:
    return {
        "new": len(changes.new),
        "changed": len(changes.changed),
        "landed in part before": len(changes.partly),
        "unchanged": len(changes.unchanged),
    }


def _run(source: RawRows, target: Target, staging: Storage, request: Request) -> Manifest:
    """Run the pipeline and return what it wrote. Nothing is committed."""
    plan = plan_raw(source)
    chunks = [*(items for _, items in plan.direct), *plan.scattered]
    options = request.runner.options()
    with (
        cli.known_errors(staging),
        cli.progress(staging, len(chunks) + plan.units, f"loading about {plan.rows:,} rows"),
        beam.Pipeline(options=options) as pipeline,
    ):
        land = LandFiles(source, target, chunks, plan.bounds, staging, request.threads)
        landed = pipeline | "LandFiles" >> land
        refused = landed[DEAD_LETTERS] | "WriteDeadLetters" >> beam.ParDo(sinks.WriteDeadLetters(staging))
        (
            (landed[TOLD], refused)
            | "All" >> beam.Flatten()
            | "ToOne" >> beam.WithKeys(None)
            | "Together" >> beam.GroupByKey()
            | "WriteManifest" >> beam.ParDo(sinks.WriteManifest(staging))
        )
    return Manifest.read(staging)


def _left_over(snapshot: Snapshot, changed: Sequence[RawFile], superseded: int) -> int:
    """Return how many stored rows are of changed files that no longer have them."""
    if not changed or not len(snapshot):
        return 0
    symbols = {file.symbol for file in changed}
    few = None if None in symbols or len(symbols) > _FEW_SYMBOLS else sorted(map(str, symbols))
    rows, _ = snapshot.read(["source"], few, where={"source": sources_of(changed).tolist()})
    return len(rows) - superseded


def _properties(
    snapshot: Snapshot, calendar: TradingCalendar, basis: str, kind: Kind, draft: Draft
) -> dict[str, str]:
    held = {} if draft.anew else json.loads(snapshot.properties.get(tables.CALENDAR_HASHES, "{}"))
    newest = max([*(int(year) for year in held), *(day.year for day in draft.sessions[-1:])], default=0)
    return {
        tables.CALENDAR: calendar.name,
        tables.CALENDAR_HASHES: json.dumps(calendar.hashes(newest), separators=(",", ":")),
        tables.PRICE_BASIS: basis,
        KIND: kind,
    }


def _scope(request: Request, files: Sequence[RawFile], draft: Draft) -> Scope:
    """Return what the load may have changed: its sessions, and its symbols where the files name few."""
    if draft.anew or not draft.sessions:
        return Scope()
    symbols = request.symbols or frozenset(file.symbol for file in files if file.symbol is not None)
    named = request.symbols is not None or all(file.symbol is not None for file in files)
    few = tuple(sorted(symbols)) if named and len(symbols) <= _FEW_SYMBOLS else None
    return Scope(symbols=few, start=draft.sessions[0], end=draft.sessions[-1])

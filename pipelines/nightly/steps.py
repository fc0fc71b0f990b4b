"""The steps of the daily run, each safe to do twice, to kill, and to do while a stream writes."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from fibflow.io import maintenance, tables
from fibflow.io.aws import AwsError
from fibflow.io.lake import Lake, RebaseNeeded
from fibflow.io.reconciliation import UNEXPLAINED
from fibflow.io.referenceupdates import update
from fibflow.io.referencevendor import Question, today_of
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError
from fibflow.pipelines import cli
from fibflow.pipelines.nightly.order import Did, Step
from fibflow.pipelines.runner import Runner
from fibflow.transforms.calendar import CalendarError
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, Timeframe, parse_timeframes

if TYPE_CHECKING:
    from fibflow.io.vendor.rest import Vendor
    from fibflow.pipelines.backfilling.request import BackfillReport
    from fibflow.pipelines.request import Summary

REFERENCE, BACKFILL, LOAD, BATCH, RECONCILE, MAINTAIN, POSTGRES, QUALITY = (
    "reference",
    "backfill",
    "load",
    "batch",
    "reconcile",
    "maintain",
    "postgres",
    "quality",
)
#: The steps in their order, and what each needs not to have failed.
NEEDS: dict[str, tuple[str, ...]] = {
    REFERENCE: (),
    BACKFILL: (),
    LOAD: (),
    BATCH: (LOAD,),
    RECONCILE: (BATCH,),
    MAINTAIN: (LOAD, BATCH, RECONCILE),
    POSTGRES: (LOAD,),
    QUALITY: (),
}
_FIBONACCI = "fibonacci"


@dataclass
class Nightly:
    """One daily run.

    Attributes:
        lake: where.
        args: of the command line.
        vendor: is asked; made when it is first needed.
        runner: where bars are made.
        workers: how many bundles at a time.
        now: the time of day.
        differences: bars of the stream that differ from batch's for no known reason; None where ``reconcile``
            did not look.
    """

    lake: Lake
    args: argparse.Namespace
    vendor: Callable[[], Vendor]
    runner: Runner
    workers: int
    now: Callable[[], datetime]
    differences: int | None = field(default=None, init=False)
    _backfilled: BackfillReport | None = field(default=None, init=False)

    def steps(self, names: Iterable[str]) -> list[Step]:
        """Return some of the steps, in their order."""
        work = {
            REFERENCE: self.reference,
            BACKFILL: self.backfill,
            LOAD: self.load,
            BATCH: self.batch,
            RECONCILE: self.reconcile,
            MAINTAIN: self.maintain,
            POSTGRES: self.postgres,
            QUALITY: self.quality,
        }
        wanted = set(names)
        return [Step(name, work[name], needs) for name, needs in NEEDS.items() if name in wanted]

    @property
    def _symbols(self) -> frozenset[str] | None:
        return cli.symbols_of(self.args.symbols)

    @property
    def _today(self) -> date:
        today = today_of(self.lake, self.now())
        return today if self.args.last is None else min(today, self.args.last)

    # What the vendor says ----------------------------------------------------------------------------------

    def reference(self) -> Did:
        """Bring symbols, renames, splits and dividends up to date."""
        question = Question(self.vendor(), self.lake, self._today, self._symbols, self.args.full_reference)
        given = question.ask(dividends=not self.args.no_dividends)
        did, run = Did(), cli.new_run_id()
        for each in given:
            done = update(self.lake, each, run)
            counts = {"new": done.rows.new, "changed": done.rows.changed, "called off": done.rows.gone}
            did.anything |= bool(len(done.changes) or sum(counts.values()))
            texts = [f"{count:,} {word}" for word, count in counts.items() if count]
            if texts:
                did.tell(each.spec.name.partition(".")[2], ", ".join(texts))
        for note in question.notes:
            did.tell("note", note)
        return did

    def backfill(self) -> Did:
        """Fetch what is missing, and the last sessions again."""
        from fibflow.pipelines.backfill import BackfillRequest, backfill

        args = self.args
        request = BackfillRequest(
            raw=args.raw,
            first=args.first,
            last=args.last,
            symbols=self._symbols,
            minutes=args.minutes,
            recheck=args.recheck,
            at_once=args.at_once,
            now=self.now,
        )
        report = self._backfilled = backfill(self.lake, self.vendor(), request)
        did = Did(report.files > 0, problem=report.problem)
        whys = Counter(why for why, _ in report.fetched.values())
        did.tell("sessions fetched", f"{len(report.fetched):,}")
        for why, count in sorted(whys.items()):
            did.tell(f"  {why}", f"{count:,}")
        if report.ranges:
            did.tell("symbols asked for alone", f"{len(report.ranges):,}")
        if report.pending:
            did.tell("the vendor has nothing yet", ", ".join(map(str, report.pending[:5])))
        if report.months:
            did.tell("months of minutes", f"{len(report.months):,}")
        did.tell("calls", f"{report.calls:,}")
        return did

    # The lake ----------------------------------------------------------------------------------------------

    def load(self) -> Did:
        """Land what is new in the raw folder."""
        from fibflow.io.vendor.files import DAILY, MINUTES, RawFolder

        folder, did = RawFolder.at(self.args.raw, self.lake.aws), Did()
        for part, kind in ((DAILY, "daily"), (MINUTES, "minutes")):
            if folder.raw_files(part):
                self._land(folder.uri(part), kind, did)
        return did

    def _land(self, source: str, kind: Any, did: Did) -> None:
        from fibflow.pipelines.landing import Request, load

        request = Request(
            input=source,
            kind=kind,
            price_basis="raw",
            calendar=None,
            symbols=None,
            full_refresh=False,
            dry_run=False,
            runner=self.runner,
            threads=self.workers,
            staging=self.args.staging,
            run=cli.new_run_id(),
            year=self.now().year,
        )
        report = load(self.lake, request)
        did.anything |= report.written > 0 or report.replaced > 0
        of = "" if kind == "daily" else " of minutes"
        for name in ("new", "changed"):
            did.tell(f"rows {name}{of}", f"{report.count(name):,}")
        refused = sum(n for name, n in report.tallies.items() if name.startswith("rejected."))
        if refused:
            did.tell(f"rows refused{of}", f"{refused:,}")

    def batch(self) -> Did:
        """Make the bars that rows which landed, and sessions which ended, can change."""
        from fibflow.pipelines import facts
        from fibflow.pipelines.job import BatchJob

        bars = facts.snapshot_of(self.lake.table(tables.BARS))
        if self.args.timeframes:
            timeframes = parse_timeframes(self.args.timeframes)
        else:
            held = facts.timeframes_in(bars)
            timeframes = parse_timeframes(held) if held else ()
            if not any(timeframe.sessions > 1 for timeframe in timeframes):
                timeframes = (*timeframes, *parse_timeframes(_FIBONACCI))
        did, jobs = Did(), []
        for spec, intraday in ((tables.DAILY, False), (tables.MINUTES, True)):
            own = tuple(timeframe for timeframe in timeframes if timeframe.is_intraday is intraday)
            if own and self.lake.table(spec).exists:
                jobs.append(BatchJob(self.lake, self.lake.aws, self._request(own, bars)))
        for job in jobs:
            job.check()
        _tell_bars(did, [job.run() for job in jobs])
        return did

    def _request(self, timeframes: tuple[Timeframe, ...], bars: Snapshot) -> Any:
        from fibflow.pipelines.request import Request

        told = bars.properties
        return Request(
            timeframes=timeframes,
            anchor=Anchor(told.get(tables.ANCHOR, Anchor.EXCHANGE)),
            intraday_anchor=IntradayAnchor(told.get(tables.INTRADAY_ANCHOR, IntradayAnchor.MIDNIGHT)),
            input=None,
            calendar=None,
            price_basis=None,
            symbols=None,
            start=None,
            end=None,
            as_of=None,
            complete_only=False,
            full_refresh=False,
            rewrite_calendar=False,
            dry_run=False,
            runner=self.runner,
            workers=self.workers,
            staging=self.args.staging,
            run=cli.new_run_id(),
            year=self.now().year,
        )

    def reconcile(self) -> Did:
        """Make the bars of sessions that a stream was there for again, of all that is known of them."""
        from fibflow.pipelines import reconcile

        did = Did()
        if not any(self.lake.table(spec).exists for spec in (tables.LIVE, tables.TICKS)):
            did.tell("stream", "none has written here")
            self.differences = 0
            return did
        line = ["--lake", self.lake.uri]
        line += ["--bars-from", self.args.bars_from] if self.args.bars_from else []
        line += ["--staging", self.args.staging] if self.args.staging else []
        args = reconcile.parser().parse_args([*line, "--workers", str(self.workers)])
        done: list[Summary] = []
        report = reconcile.reconcile(self.lake, args, self.runner, lambda _, one: done.append(one))
        _tell_bars(did, done)
        counts = Counter[str]()
        for (_, why), count in (report.counts if report is not None else Counter()).items():
            counts[why] += count
        self.differences = counts[UNEXPLAINED]
        did.anything |= counts.total() > 0
        did.tell("bars that changed for readers", f"{counts.total():,}")
        for why, count in sorted(counts.items()):
            did.tell(f"  {why}", f"{count:,}")
        if counts[UNEXPLAINED]:
            did.problem = (
                f"{counts[UNEXPLAINED]:,} bars of the stream differ from batch's for no known reason: look "
                f"at the rows of {tables.RECONCILIATION.name} with why = '{UNEXPLAINED}'"
            )
        return did

    def maintain(self) -> Did:
        """Merge small files, and delete those that no version of the last weeks holds."""
        from fibflow.pipelines.inspect_tables import COMPACT_ROWS

        did = Did()
        merged = into = deleted = 0
        for spec in tables.TABLES.values():
            table = self.lake.table(spec)
            if not table.exists:
                continue
            # A stream that keeps writing: tomorrow is early enough.
            with contextlib.suppress(RebaseNeeded):
                done = maintenance.compact(table, COMPACT_ROWS, cli.new_run_id())
                merged, into = merged + done.files_before, into + done.files_after
            hours = self.args.retention_days * 24
            deleted += len(maintenance.vacuum(table, self.lake.clock(), hours, dry_run=False).paths)
        did.anything = bool(merged or deleted)
        did.tell("files merged", f"{merged:,} into {into:,}")
        did.tell("files deleted", f"{deleted:,}")
        return did

    def postgres(self) -> Did:
        """Bring PostgreSQL up to date with reference data and official days."""
        from fibflow.io.postgresql.exporting import export_daily, export_reference

        did, run = Did(), cli.new_run_id()
        done = export_reference(self.lake, self.args.postgres, run)
        if self.lake.table(tables.DAILY).exists:
            done["raw_ohlcv"] = export_daily(self.lake, self.args.postgres, run).rows
        for name, rows in done.items():
            counts = {"new": rows.new, "changed": rows.changed, "gone": rows.gone}
            texts = [f"{count:,} {word}" for word, count in counts.items() if count]
            did.anything |= bool(texts)
            if texts:
                did.tell(name, ", ".join(texts))
        return did

    def quality(self) -> Did:
        """Leave a report on the newest sessions in the lake; whatever becomes of it, no run fails."""
        from fibflow.pipelines import quality

        did = Did()
        try:
            report = quality.report_of(self.lake, self.now())
            quality.write(self.lake, report)
        except Exception as error:
            known = isinstance(error, (AwsError, CalendarError, LakeError))
            why = " ".join(str(error).split())
            did.tell("no report", why if known else f"{type(error).__name__}: {why}")
        else:
            did.tell("found", quality.line_of(report))
        return did


def _tell_bars(did: Did, summaries: Sequence[Summary]) -> None:
    """Show what runs did to bars."""
    changes: Counter[str] = sum((summary.changes for summary in summaries), Counter())
    made: Counter[str] = sum((summary.bars for summary in summaries), Counter())
    did.anything |= any(summary.files for summary in summaries)
    if not changes and made:
        did.tell("bars made", f"{made.total():,}")
    for name in ("new", "revised", "withdrawn"):
        if changes[name]:
            did.tell(f"bars {name}", f"{changes[name]:,}")

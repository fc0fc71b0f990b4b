"""A question for an export, and how its texts are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fibflow.serving.exports.writers import BACKTESTING_COLUMNS, ExportFormat
from fibflow.serving.history.query import (
    BarQuery,
    anchors_of,
    as_of_of,
    boolean_of,
    bound_of,
    choice_of,
    symbols_of,
    timeframe_of,
)
from fibflow.serving.problems import bad_request
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.schemas import BARS

#: How many symbols an export names at most; ``all`` has no bound.
MOST_SYMBOLS = 20_000
#: What stands for all symbols. ``ALL`` is a symbol.
ALL = "all"
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class ExportQuery:
    """A question for an export.

    Attributes:
        bars: which bars; ``limit``, ``fill``, ``descending`` and ``after`` are not used.
        columns: names of ``schemas.BARS``, in the order of the answer.
        form: of the file.
        declined: ``adjusted=false`` was said.
    """

    bars: BarQuery
    columns: tuple[str, ...]
    form: ExportFormat
    declined: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that have to be read."""
        return BACKTESTING_COLUMNS if self.form is ExportFormat.BACKTESTING else self.columns

    @property
    def alone(self) -> bool:
        """Whether one symbol was asked for by its name."""
        return self.bars.symbols is not None and len(self.bars.symbols) == 1

    def etag(self, versions: Sequence[int]) -> str:
        """Return the strong ETag of the answer from some versions of the tables."""
        asked = repr((self, tuple(versions)))
        return f'"{hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()}"'

    def filename(self, suffix: str) -> str:
        """Return a name for the file, of letters, digits, dots, dashes and underscores."""
        symbols = self.bars.symbols or (ALL,)
        what = symbols[0] if len(symbols) == 1 else f"{len(symbols)}-symbols"
        return f"{_PLAIN.sub('_', what)}-{self.bars.timeframe.name}{suffix}"


def export_query(
    parameters: Mapping[str, str | None],
    symbols: str | Sequence[str] | None,
    calendar: Callable[[], TradingCalendar],
) -> ExportQuery:
    """Read the parameters of ``/v1/exports``.

    Args:
        parameters: ``timeframe``, ``start``, ``end``, ``format``, ``adjusted``, ``complete``, ``columns``,
            ``anchor``, ``as_of``; None, or absent, for what was not given.
        symbols: ``all``, a text with commas, or a list.
        calendar: of the lake; asked only where a bound is a date.

    Raises:
        Problem: one of them cannot be read, or two contradict each other.
    """

    def given(name: str) -> str | None:
        text = parameters.get(name)
        return text if text is not None and text.strip() else None

    timeframe = given("timeframe")
    if timeframe is None:
        raise bad_request("timeframe is missing: write timeframe=5d, 1d, 1h or 5m", "bad_timeframe")
    length = timeframe_of(timeframe)
    form = choice_of(given("format"), ExportFormat, "format", ExportFormat.PARQUET)
    anchor, intraday_anchor = anchors_of(given("anchor"), length)
    as_of = given("as_of")
    query = BarQuery(
        symbols=_names(symbols),
        timeframe=length,
        start=bound_of(given("start"), "start", calendar),
        end=bound_of(given("end"), "end", calendar),
        adjusted=boolean_of(given("adjusted"), "adjusted"),
        anchor=anchor,
        intraday_anchor=intraday_anchor,
        # A backtest that sees a window before it has ended looks ahead.
        complete_only=boolean_of(given("complete"), "complete", form is ExportFormat.BACKTESTING),
        as_of=None if as_of is None else as_of_of(as_of),
    )
    if query.start is not None and query.end is not None and query.start > query.end:
        raise bad_request("start is after end: swap them", "bad_range")
    declined = given("adjusted") is not None and not query.adjusted
    return ExportQuery(query, _columns(given("columns"), form), form, declined)


def _names(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(given, str) and given.strip() == ALL:
        return None
    if given is None or (isinstance(given, str) and not given.strip()):
        raise bad_request("symbols is missing: write symbols=AAPL,MSFT, or symbols=all", "bad_symbols")
    if isinstance(given, str):
        return symbols_of(given, MOST_SYMBOLS)
    if any("," in name for name in given):
        raise bad_request("symbols holds a comma: give a list with one symbol each", "bad_symbols")
    return symbols_of(",".join(given), MOST_SYMBOLS)


def _columns(text: str | None, form: ExportFormat) -> tuple[str, ...]:
    if text is None:
        return tuple(BARS.names)
    if form is ExportFormat.BACKTESTING:
        raise bad_request("format=backtesting has columns of its own: leave columns out", "bad_columns")
    wanted = [name for part in text[:1_000].split(",") if (name := part.strip())]
    if not wanted:
        raise bad_request(f"columns names none: write some of {', '.join(BARS.names)}", "bad_columns")
    for name in wanted:
        if name not in BARS.names:
            raise bad_request(
                f"bars have no column {name[:20]!r}: they have {', '.join(BARS.names)}", "bad_columns"
            )
    if len(set(wanted)) < len(wanted):
        raise bad_request("columns names one twice: write each once", "bad_columns")
    return tuple(wanted)

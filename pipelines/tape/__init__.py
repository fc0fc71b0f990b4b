"""Tapes: history as the messages of a feed, in the order in which they arrive.

    rows = tape.synthetic_daily(100, sessions, rng)
    made = tape.make(rows, calendar, feed=tape.Feed.BOTH, disorder=tape.Disorder(late=0.01), seed=7)
    made.messages   # a table of MESSAGES
    made.truth      # how many of each kind and case

The trades of a day, or of a minute, honour its open, high, low, close and volume. Everything else is
synthetic: when they are and at what prices between is drawn from the seed. The same rows, options and seed
give the same bytes.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import pyarrow as pa

from fibflow.pipelines.tape import disorder as disorder_
from fibflow.pipelines.tape.aggregates import Aggregates, Vendor, joined
from fibflow.pipelines.tape.cells import (
    MINUTE_US,
    SECOND_US,
    Cells,
    Int64,
    Phase,
    TapeError,
    from_daily,
    from_minutes,
    synthetic_daily,
)
from fibflow.pipelines.tape.disorder import BROKEN, Case, Disorder, Kind, Order
from fibflow.pipelines.tape.tape import BLOCK, MESSAGES, Counts, Messages, SavedTape, Tape, count, save
from fibflow.pipelines.tape.trades import SALES, Trades, make_trades
from fibflow.transforms.calendar import TradingCalendar

__all__ = [
    "BLOCK",
    "BROKEN",
    "MESSAGES",
    "SALES",
    "Aggregates",
    "Case",
    "Cells",
    "Counts",
    "Disorder",
    "Feed",
    "Kind",
    "Messages",
    "Order",
    "SavedTape",
    "Tape",
    "TapeError",
    "Trades",
    "from_daily",
    "from_minutes",
    "make",
    "save",
    "synthetic_daily",
]


class Feed(StrEnum):
    """Which messages are on a tape."""

    TRADES = "trades"
    MINUTES = "minutes"
    BOTH = "both"


def make(
    rows: pa.Table,
    calendar: TradingCalendar,
    *,
    feed: Feed | str = Feed.TRADES,
    trades: float = 300.0,
    seconds: bool = False,
    stamped: bool = True,
    disorder: Disorder | None = None,
    seed: int = 0,
    final_heartbeat: bool = True,
) -> Tape:
    """Return the tape of daily or minute rows.

    Args:
        rows: with ``session`` (days) or ``ts`` (minutes), and ``symbol``, ``open``, ``high``, ``low``,
            ``close``, ``volume``. Volumes are cut to whole shares, prices rounded to 1e-4.
        calendar: has the rows' sessions.
        feed: which messages; the trades are the same with each. Minutes are the vendor's of those trades.
        trades: trades of a symbol and session, on average.
        seconds: aggregates of seconds too.
        stamped: minutes carry ``ver``. Without it, the later of two versions is the one that came later.
        disorder: what goes wrong; None for nothing.
        seed: of everything that is drawn.
        final_heartbeat: end with a heartbeat past the last session's day and the lateness, which closes
            every window.

    Raises:
        TapeError: there are no rows with a volume, or one lies outside the calendar.
    """
    wrong = disorder or Disorder()
    feed = Feed(feed)
    if "session" in rows.column_names:
        cells = from_daily(rows, calendar, trades, np.random.default_rng([seed, 0]))
    else:
        cells = from_minutes(rows, calendar, trades)
    made = make_trades(cells, seed)
    every = np.arange(len(made))
    flow = disorder_.put_off(
        disorder_.in_time(Kind.T, Case.ON_TIME, made.symbol, made.ts, made.ts, every),
        wrong,
        np.random.default_rng([seed, 2]),
    )
    flows = [] if feed == Feed.MINUTES else [flow]
    aggregates: dict[Kind, Aggregates] = {}
    kinds = [Kind.AM] if feed != Feed.TRADES else []
    for kind in [*kinds, *([Kind.A] if seconds else [])]:
        vendor = Vendor(made, _official_opens(cells, made), MINUTE_US if kind == Kind.AM else SECOND_US)
        aggregates[kind], flow_of_kind = _aggregated(kind, vendor, flow.sent, wrong, seed)
        flows.append(flow_of_kind)
    messages = [
        disorder_.disturbed(part, wrong, np.random.default_rng([seed, 4, int(part.kind[0])]))
        for part in flows
        if len(part)
    ]
    everything = disorder_.joined(*messages, _heartbeats(messages, cells, calendar, wrong, final_heartbeat))
    order = everything.take(np.argsort(everything.sent, kind="stable"))
    return Tape(
        cells.symbols, made, aggregates, order, count(order, aggregates, len(cells.symbols)), seed, stamped
    )


def _aggregated(
    kind: Kind, vendor: Vendor, arrived: Int64, wrong: Disorder, seed: int
) -> tuple[Aggregates, Order]:
    """The vendor's aggregates, in all versions, and their messages."""
    rng = np.random.default_rng([seed, 3, kind])
    parts = [vendor.first(arrived), vendor.again(arrived, round(wrong.lateness * SECOND_US))]
    cases = [Case.ON_TIME, Case.AGAIN]
    made = joined(*parts)
    case = np.repeat(np.array(cases, np.int8), [len(part) for part in parts])
    plain = Order(
        np.full(len(made), kind, np.int8), case, made.symbol, made.start, made.made, np.arange(len(made))
    )
    flow = disorder_.put_off(plain, wrong, rng)
    if kind != Kind.AM or not wrong.resent:
        return made, flow
    newest = _newest_of_calm(made, flow)
    older = vendor.early(made.take(newest))
    chosen = np.flatnonzero(rng.random(len(older)) * len(older) < wrong.resent * len(newest))
    older = older.take(chosen)
    of = newest[np.searchsorted(_windows(made.take(newest)), _windows(older))]
    until = disorder_.horizon(older.start, wrong)
    after = np.minimum(made.made[of] + round(wrong.shuffle * SECOND_US) + SECOND_US, until)
    sent = after + (rng.random(len(older)) * np.minimum(60 * SECOND_US, until - after)).astype(np.int64)
    resent = disorder_.in_time(
        kind, Case.RESENT, older.symbol, older.start, sent, len(made) + np.arange(len(older))
    )
    return joined(made, older), disorder_.joined(flow, resent)


def _newest_of_calm(made: Aggregates, flow: Order) -> Int64:
    """Positions of the newest versions, by window, of windows of which no version is put off."""
    order = np.lexsort((made.made, made.start, made.symbol))
    windows = _windows(made)[order]
    last = np.flatnonzero(np.append(windows[1:] != windows[:-1], True))
    put_off = np.unique(windows[np.isin(flow.case[order], (Case.LATE, Case.TOO_LATE))])
    return order[last[~np.isin(windows[last], put_off)]]


def _windows(made: Aggregates) -> Int64:
    """One number a (symbol, start), in their order."""
    return made.symbol.astype(np.int64) << 36 | made.start // SECOND_US


def _official_opens(cells: Cells, made: Trades) -> Int64:
    """The session's open by trade: 0 before the open."""
    regular = np.flatnonzero(np.isin(cells.phase, (Phase.REGULAR, Phase.MINUTE)))
    session = cells.symbol[regular].astype(np.int64) << 32 | cells.session[regular]
    found, first = np.unique(session, return_index=True)
    if not len(found):
        return np.zeros(len(made), np.int64)
    key = made.symbol.astype(np.int64) << 32 | made.session
    at = np.minimum(np.searchsorted(found, key), len(found) - 1)
    open_ = regular[first[at]]
    return np.where((found[at] == key) & (made.ts >= cells.start[open_]), cells.open[open_], 0)


def _heartbeats(
    messages: list[Order], cells: Cells, calendar: TradingCalendar, wrong: Disorder, final: bool
) -> Order:
    """Heartbeats while each session's messages come, and one that ends everything."""
    step = round(wrong.heartbeat * SECOND_US)
    sent = np.concatenate([part.sent for part in messages])
    spans = np.unique(np.concatenate([sent // (2 * step), sent // (2 * step) + 1]))
    beats = np.unique(np.concatenate([spans * 2 * step, spans * 2 * step + step]))
    beats = beats[(beats > sent.min()) & (beats <= sent.max())]
    if final:
        last = int(sent.max())
        day_end = int(calendar.day_ends[calendar.positions(cells.session.max(keepdims=True))][0])
        past = max(last, day_end) + round((wrong.lateness + wrong.out_of_orderness) * SECOND_US) + MINUTE_US
        times, sent = np.append(beats, past), np.append(beats, last + SECOND_US)
    else:
        times = sent = beats
    nobody, nowhere = np.full(len(times), -1, np.int32), np.zeros(len(times), np.int64)
    return disorder_.in_time(Kind.HB, Case.ON_TIME, nobody, times, sent, nowhere)

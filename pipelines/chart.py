"""A candlestick picture of bars: PNG, SVG, or an HTML page that also tells the values under the pointer."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io.storage import LakeError
from fibflow.pipelines.show import local_times, time_texts
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import Timeframe

FORMATS = (".png", ".svg", ".html")

_UP, _DOWN, _INK, _GRID, _PAPER = "#1a8f6b", "#d1495b", "#22313f", "#e3e8ee", "#ffffff"
_INCHES = (12.0, 6.75)
_HALF_WIDTH = 0.36
_LABELS = 9
_FEWEST = 24

Doubles = npt.NDArray[np.float64]
Marks = list[tuple[int, str]]


def candlesticks(
    bars: pa.Table, symbol: str, timeframe: str, calendar: TradingCalendar, output: Path
) -> None:
    """Draw bars of one symbol, oldest first, above their volume.

    Bars stand side by side: nights, weekends and holidays take no room. Windows that have not ended are
    drawn hollow, with a dashed edge.

    Args:
        bars: ts, open, high, low, close, volume and complete as in ``schemas.BARS``; at least one row.
        symbol: for the title.
        timeframe: for the title, and for the form of the dates.
        calendar: dates are those of its exchange.
        output: a file whose suffix is one of ``FORMATS``.

    Raises:
        LakeError: the file cannot be written.
    """
    figure, axes = _figure()
    marks = time_marks(local_times(bars["ts"], calendar), Timeframe.parse(timeframe).is_intraday)
    _draw(bars, axes, marks)
    _title(figure, axes, bars, symbol, timeframe, calendar)
    try:
        if output.suffix == ".html":
            output.write_text(_page(figure, axes, bars, f"{symbol} {timeframe}", calendar), encoding="utf-8")
        else:
            output.write_bytes(_render(figure, output.suffix[1:]))
    except OSError as error:
        raise LakeError(f"cannot write {output}: {error.strerror}") from error


def _figure() -> tuple[Any, Any]:
    """An empty picture: the axes of prices above those of volume."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=150, facecolor=_PAPER)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    figure.subplots_adjust(left=0.025, right=0.935, top=0.885, bottom=0.07, hspace=0.05)
    for axis in axes:
        axis.set_facecolor(_PAPER)
        axis.set_axisbelow(True)
        axis.grid(color=_GRID, linewidth=0.8)
        axis.yaxis.tick_right()
        axis.tick_params(length=0, colors=_INK, labelsize=9)
        axis.spines[["top", "left", "right", "bottom"]].set_visible(False)
    axes[1].spines["bottom"].set(visible=True, color=_GRID)
    return figure, axes


def _draw(bars: pa.Table, axes: Any, marks: Marks) -> None:
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    opens, highs, lows, closes, volumes = _values(bars)
    complete = bars["complete"].to_numpy(zero_copy_only=False)
    x = np.arange(len(bars), dtype=np.float64)
    colours = np.where(closes >= opens, _UP, _DOWN)
    below, above = np.minimum(opens, closes), np.maximum(opens, closes)
    prices, volume = axes
    # A body of no height would not be seen.
    least = max(float((highs.max() - lows.min()) * 0.0015), 1e-9)
    flat = above - below < least
    above = np.where(flat, below + least, above)
    thin = 1.0 if len(bars) <= 400 else 0.5
    for start, stop in ((lows, below), (above, highs)):
        wicks: Any = np.stack([np.stack([x, start], 1), np.stack([x, stop], 1)], 1)
        prices.add_collection(LineCollection(wicks, colors=colours, linewidths=thin))
    for done, face in ((complete, colours), (~complete, np.full(len(bars), _PAPER))):
        style: dict[str, Any] = (
            {"linewidths": thin} if done is complete else {"linewidths": 1.1, "linestyles": (0, (2, 1.2))}
        )
        for axis, low, high in ((prices, below, above), (volume, np.zeros(len(x)), volumes)):
            alpha = 0.55 if axis is volume and done is complete else None
            boxes = _boxes(x[done], low[done], high[done])
            axis.add_collection(
                PolyCollection(boxes, facecolors=face[done], edgecolors=colours[done], alpha=alpha, **style)
            )
    room = max(float(highs.max() - lows.min()) * 0.06, float(highs.max()) * 0.001)
    prices.set_ylim(max(0.0, float(lows.min()) - room), float(highs.max()) + room)
    # A few bars do not fill the picture.
    room = max(0.0, (_FEWEST - len(bars)) / 2)
    prices.set_xlim(-1.0 - room, len(bars) + len(bars) * 0.01 + room)
    volume.set_ylim(0, (float(volumes.max()) or 1.0) * 1.12)
    prices.yaxis.set_major_locator(MaxNLocator(7))
    last = float(closes[-1])
    low, high = prices.get_ylim()

    def price(value: float, _: int) -> str:
        # The last price's mark would lie on it.
        return "" if abs(value - last) < (high - low) * 0.03 else f"{value:,.{_decimals(high - low)}f}"

    prices.yaxis.set_major_formatter(FuncFormatter(price))
    volume.yaxis.set_major_locator(MaxNLocator(3))
    volume.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    volume.set_xticks([at for at, _ in marks], [text for _, text in marks], ha="left")
    prices.axhline(last, color=colours[-1], linewidth=0.7, linestyle=(0, (1, 3)))
    prices.annotate(
        f"{last:,.2f}",
        (1.0, last),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        color=_PAPER,
        fontsize=9,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": colours[-1], "edgecolor": "none"},
    )


def _values(bars: pa.Table) -> list[Doubles]:
    return [bars[name].to_numpy() for name in ("open", "high", "low", "close", "volume")]


def _boxes(x: Doubles, low: Doubles, high: Doubles) -> Any:
    """Corners of boxes, shape (n, 4, 2)."""
    left, right = x - _HALF_WIDTH, x + _HALF_WIDTH
    return np.stack([np.stack(p, 1) for p in ((left, low), (right, low), (right, high), (left, high))], 1)


def _decimals(span: float) -> int:
    return 0 if span >= 20 else 2 if span >= 0.1 else 4


def _title(
    figure: Any, axes: Any, bars: pa.Table, symbol: str, timeframe: str, calendar: TradingCalendar
) -> None:
    times = local_times(bars["ts"], calendar)
    day = [np.datetime_as_string(times[i], "D") for i in (0, -1)]
    open_ones = len(bars) - int(bars["complete"].to_numpy(zero_copy_only=False).sum())
    parts = [f"{len(bars):,} bar{'' if len(bars) == 1 else 's'}", f"{day[0]} to {day[1]}", calendar.name]
    if open_ones:
        parts.append(f"{open_ones} not ended (hollow)")
    figure.text(0.025, 0.945, symbol, fontsize=19, fontweight="bold", color=_INK, va="center")
    at = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    width = figure.texts[0].get_window_extent(at).x1 / (figure.dpi * _INCHES[0])
    figure.text(width + 0.012, 0.945, timeframe, fontsize=19, color=_INK, alpha=0.55, va="center")
    figure.text(
        0.935, 0.945, "  ·  ".join(parts), fontsize=10, color=_INK, alpha=0.75, ha="right", va="center"
    )
    axes[1].text(
        0.002, 0.93, "Volume", transform=axes[1].transAxes, fontsize=9, color=_INK, alpha=0.6, va="top"
    )


def time_marks(times: npt.NDArray[np.datetime64], intraday: bool, most: int = _LABELS) -> Marks:
    """Return which bars to label, and how: the first ones of years, of months, of days, or of hours.

    The finest of these that gives at most ``most`` labels is taken. A label tells what has changed since
    the one before.

    Args:
        times: starts on the exchange's clock, ``datetime64[us]``, ascending.
        intraday: whether bars lie within days.
        most: at most so many.
    """
    days, months, years = (times.astype(f"datetime64[{unit}]").astype(np.int64) for unit in "DMY")
    minutes = times.astype("datetime64[m]").astype(np.int64)
    levels: list[tuple[str, npt.NDArray[np.int64]]] = []
    if intraday:
        levels += [("m", minutes // step) for step in (15, 30, 60, 120, 240)]
    levels += [("D", days), ("D", (days + 3) // 7)]
    levels += [("M", months // step) for step in (1, 2, 3, 6)]
    levels += [("Y", years // step) for step in (1, 2, 5, 10, 20, 50)]
    changes = ((unit, np.flatnonzero(np.diff(level)) + 1) for unit, level in levels)
    unit, firsts = next(((unit, found) for unit, found in changes if len(found) <= most), ("Y", []))
    marks: Marks = []
    shown = 0
    for at in [0, *(int(at) for at in firsts)]:
        if marks and at - shown < len(times) / (most * 1.6):
            if shown:
                continue
            # The first bar's label gives way to that of a whole year, month or day.
            marks.clear()
        marks.append((at, _label(times[at], times[shown] if marks else None, unit)))
        shown = at
    return marks


def _label(time: np.datetime64, previous: np.datetime64 | None, unit: str) -> str:
    """What tells a time from the one labelled before it, to the unit of the labels."""
    day = time.astype("datetime64[D]").item()
    same = {
        u: previous is not None and previous.astype(f"datetime64[{u}]") == time.astype(f"datetime64[{u}]")
        for u in "DY"
    }
    if unit == "Y":
        return f"{day:%Y}"
    if unit == "M":
        return f"{day:%b}" if same["Y"] else f"{day:%b %Y}"
    if same["D"]:
        return str(np.datetime_as_string(time, "m"))[-5:]
    return f"{day.day} {day:%b}" if same["Y"] else f"{day.day} {day:%b %Y}"


def short_number(value: float) -> str:
    """Return a number as people say it: ``1.2M``."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def _render(figure: Any, form: str) -> bytes:
    import matplotlib

    target = io.BytesIO()
    # The same bars give the same bytes.
    facts = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "fibflow", "svg.fonttype": "none"}):
        figure.savefig(target, format=form, metadata=facts)
    return target.getvalue()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
 body {{ margin: 2vmin auto; max-width: 1500px; font: 14px system-ui, sans-serif }}
 body {{ color: #22313f; background: #fff }}
 #chart {{ position: relative }} #chart svg {{ display: block; width: 100%; height: auto }}
 #line {{ position: absolute; width: 1px; background: #22313f55; pointer-events: none; display: none }}
 #values {{ min-height: 1.6em; margin-left: 2.5%; font-variant-numeric: tabular-nums; white-space: pre }}
</style>
<div id="chart">{svg}<div id="line"></div></div><div id="values">Point at a bar.</div>
<script>
const bars = {bars}, box = {box};
const chart = document.getElementById("chart"), line = document.getElementById("line");
chart.addEventListener("pointermove", event => {{
  const place = chart.getBoundingClientRect(), width = (box.right - box.left) * place.width;
  const at = box.from + (event.clientX - place.left - box.left * place.width) / width * (box.to - box.from);
  const index = Math.min(bars.length - 1, Math.max(0, Math.round(at)));
  line.style.cssText = `display:block; top:${{box.top * 100}}%; height:${{(box.bottom - box.top) * 100}}%; ` +
    `left:${{(box.left + (index - box.from) / (box.to - box.from) * (box.right - box.left)) * 100}}%`;
  document.getElementById("values").textContent = bars[index];
}});
</script>
</html>
"""


def _page(figure: Any, axes: Any, bars: pa.Table, title: str, calendar: TradingCalendar) -> str:
    """An HTML page with nothing to load: the picture as SVG, and a line of values under the pointer."""
    svg = _render(figure, "svg").decode()
    upper, lower = axes[0].get_position(), axes[1].get_position()
    first, last = axes[0].get_xlim()
    box = {
        "left": upper.x0,
        "right": upper.x1,
        "top": 1 - upper.y1,
        "bottom": 1 - lower.y0,
        "from": first,
        "to": last,
    }
    names = ("open", "high", "low", "close")
    values = zip(
        time_texts(local_times(bars["ts"], calendar)), *(a.tolist() for a in _values(bars)), strict=True
    )
    lines = [
        "   ".join(
            [
                time,
                *(f"{n} {v:,.8g}" for n, v in zip(names, prices, strict=False)),
                f"volume {short_number(prices[4])}",
            ]
        )
        for time, *prices in values
    ]
    lines = [
        line if done else f"{line}   (not ended)"
        for line, done in zip(lines, bars["complete"].to_pylist(), strict=True)
    ]
    safe = json.dumps(lines).replace("<", "\\u003c")
    return _PAGE.format(
        title=html.escape(title), svg=svg[svg.index("<svg") :], bars=safe, box=json.dumps(box)
    )

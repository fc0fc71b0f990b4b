// Candles above, volume below, by lightweight-charts. It knows times of UTC only, so bars are given to it by the
// clock of the exchange.

import { CandlestickSeries, HistogramSeries, LineStyle, createChart, CrosshairMode } from "./lightweight-charts.js";
import { decimals, longDate } from "./format.js";
import { color, faded } from "./theme-switch.js";

/** Bars beyond the left edge at which older ones are asked for. */
const AHEAD = 60;
/** How many bars are in view at first, where there are as many and they fit; and how many there is room for. */
const SHOWN = 140;
const FEWEST = 40;

export class Chart {
  #chart;
  #candles;
  #volume;
  #bars = [];
  #byTime = new Map();
  #zone;
  #daily = true;
  #palette;
  #hovered;
  #older;
  #levels = [];
  #lines = [];
  #place = -1;
  #walking = false;

  /**
   * `hovered` is told the bar under the pointer, or null; `older` is called where the left edge comes near; `clicked` is
   * told the price at which the candles were clicked.
   */
  constructor(element, { zone, hovered, older, clicked }) {
    this.#zone = zone;
    this.#hovered = hovered;
    this.#older = older;
    this.#chart = createChart(element, {
      autoSize: true,
      // The page says whose the library is by itself: the library's own logo would need an inline style.
      layout: { attributionLogo: false, fontFamily: getComputedStyle(element).fontFamily, fontSize: 12 },
      localization: { locale: "en-US", timeFormatter: (time) => longDate(time * 1000, !this.#daily) },
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.06, bottom: 0.06 } },
      timeScale: { borderVisible: false, rightOffset: 4, minBarSpacing: 1.2, secondsVisible: false },
      kineticScroll: { mouse: false, touch: true },
    });
    this.#candles = this.#chart.addSeries(CandlestickSeries, { borderVisible: true });
    this.#volume = this.#chart.addSeries(
      HistogramSeries, { priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false }, 1,
    );
    const [above, below] = this.#chart.panes();
    above.setStretchFactor(78);
    below.setStretchFactor(22);
    this.#volume.priceScale().applyOptions({ borderVisible: false, scaleMargins: { top: 0.12, bottom: 0 } });
    this.#chart.subscribeCrosshairMove(({ time, sourceEvent }) => {
      if (this.#walking && !sourceEvent) return;
      this.#walking = false;
      const place = time === undefined ? -1 : this.#byTime.get(time) ?? -1;
      this.#place = place;
      this.#hovered(place < 0 ? null : this.#bars[place]);
    });
    this.#chart.subscribeClick(({ point, paneIndex }) => {
      const price = point && !paneIndex ? this.#candles.coordinateToPrice(point.y) : null;
      if (price > 0 && this.#bars.length) clicked(Number(price.toFixed(decimals(this.#bars.at(-1).close))));
    });
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range && this.#bars.length && range.from < AHEAD) this.#older();
    });
    element.addEventListener("keydown", (event) => this.#pressed(event));
    element.addEventListener("blur", () => this.#leave());
    this.recolor();
  }

  set zone(zone) {
    this.#zone = zone;
  }

  /** Takes the colours of the page's theme. */
  recolor() {
    this.#palette = {
      up: color("up"), down: color("down"),
      upOpen: faded("up", 0.28), downOpen: faded("down", 0.28),
      upVolume: faded("up", 0.42), downVolume: faded("down", 0.42),
      upOpenVolume: faded("up", 0.22), downOpenVolume: faded("down", 0.22),
    };
    const { up, down } = this.#palette;
    const [text, grid, line, muted, label] = ["muted", "grid", "line", "muted", "pressed"].map(color);
    this.#chart.applyOptions({
      layout: {
        background: { type: "solid", color: color("ground") }, textColor: text,
        panes: { separatorColor: line, separatorHoverColor: faded("gold", 0.25) },
      },
      grid: { vertLines: { color: grid }, horzLines: { color: grid } },
      crosshair: {
        vertLine: { color: muted, labelBackgroundColor: label }, horzLine: { color: muted, labelBackgroundColor: label },
      },
    });
    this.#candles.applyOptions({
      upColor: up, downColor: down, borderUpColor: up, borderDownColor: down, wickUpColor: up, wickDownColor: down,
    });
    if (this.#bars.length) this.#draw();
    this.mark(this.#levels);
  }

  /** Draws lines at prices: `{price, title, quiet}`, in place of those before. */
  mark(levels) {
    for (const line of this.#lines) this.#candles.removePriceLine(line);
    this.#levels = levels;
    this.#lines = levels.map(({ price, title, quiet }) =>
      this.#candles.createPriceLine({
        price, title, color: color(quiet ? "muted" : "gold"), lineWidth: 1, lineStyle: quiet ? LineStyle.Dotted : LineStyle.Dashed,
        axisLabelVisible: !quiet,
      }),
    );
  }

  /** Shows bars, sorted. `anew` goes to the newest; else what is in view stays there. */
  show(bars, { daily, anew }) {
    this.#daily = daily;
    this.#take(bars, anew);
    this.#chart.applyOptions({ timeScale: { timeVisible: !daily } });
    const digits = bars.length ? decimals(bars.at(-1).close) : 2;
    this.#candles.applyOptions({ priceFormat: { type: "price", precision: digits, minMove: 10 ** -digits } });
    this.#draw();
    if (anew) {
      this.#candles.priceScale().applyOptions({ autoScale: true });
      const fit = Math.min(SHOWN, Math.max(FEWEST, Math.floor(this.#chart.timeScale().width() / 6)));
      const width = Math.max(FEWEST, Math.min(fit, bars.length + 1));
      this.#chart.timeScale().setVisibleLogicalRange({ from: bars.length - width, to: bars.length + 3 });
    }
  }

  /** Takes one bar of the list that changed, or came: the last one, or one before it. */
  update(bars, bar, how) {
    this.#take(bars, false);
    if (how === "older") {
      // One in the middle may be new: then all places behind it are others.
      this.#draw();
      return;
    }
    const place = bars.length - 1;
    const time = this.#time(bar, place ? this.#timeAt(place - 1) : -Infinity);
    this.#byTime.set(time, place);
    this.#candles.update(this.#candle(bar, time));
    this.#volume.update(this.#column(bar, time));
    if (this.#place === place) this.#hovered(bar);
  }

  /** Takes a list in place of another; the bar that is described stays the same. */
  #take(bars, anew) {
    const described = this.#place < 0 || anew ? null : this.#bars[this.#place].ts;
    this.#bars = bars;
    if (described === null) this.#place = -1;
    else if (bars[this.#place]?.ts !== described) this.#place = bars.findIndex(({ ts }) => ts === described);
  }

  #draw() {
    const candles = [];
    const columns = [];
    this.#byTime.clear();
    let before = -Infinity;
    this.#bars.forEach((bar, place) => {
      before = this.#time(bar, before);
      this.#byTime.set(before, place);
      candles.push(this.#candle(bar, before));
      columns.push(this.#column(bar, before));
    });
    this.#candles.setData(candles);
    this.#volume.setData(columns);
  }

  /** Where clocks are put back an hour comes twice: times have to rise all the same. */
  #time(bar, before) {
    return Math.max(Math.floor(this.#zone.local(bar.ts) / 1000), before + 1);
  }

  #timeAt(place) {
    return this.#candles.dataByIndex(place)?.time ?? -Infinity;
  }

  #candle({ open, high, low, close, complete }, time) {
    if (open === null) return { time };
    if (complete) return { time, open, high, low, close };
    // An open bar is an outline: it can still change.
    return { time, open, high, low, close, color: close < open ? this.#palette.downOpen : this.#palette.upOpen };
  }

  #column({ open, close, volume, complete }, time) {
    const side = close < open ? "down" : "up";
    return { time, value: volume ?? 0, color: this.#palette[`${side}${complete ? "" : "Open"}Volume`] };
  }

  // The keyboard ----------------------------------------------------------------------------------------------------

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity };
    const zooms = { "+": 0.8, "=": 0.8, "-": 1.25 };
    if (event.key in steps) this.#go(steps[event.key]);
    else if (event.key in zooms) this.#zoom(zooms[event.key]);
    else if (event.key === "Escape") this.#leave();
    else return;
    event.preventDefault();
  }

  #go(step) {
    const last = this.#bars.length - 1;
    if (last < 0) return;
    const from = this.#place < 0 ? last + (step < 0 ? 1 : 0) : this.#place;
    const place = Math.min(last, Math.max(0, from + step));
    const bar = this.#bars[place];
    const scale = this.#chart.timeScale();
    const seen = scale.getVisibleLogicalRange();
    if (seen && (place < seen.from + 1 || place > seen.to - 1)) {
      const width = seen.to - seen.from;
      const from = place < seen.from + 1 ? place - 2 : place - width + 3;
      scale.setVisibleLogicalRange({ from, to: from + width });
    }
    this.#place = place;
    this.#walking = true;
    // What is in view moves with the next frame, and the crosshair stands on what is in view.
    requestAnimationFrame(() => {
      if (this.#walking) this.#chart.setCrosshairPosition(bar.close, this.#timeAt(place), this.#candles);
    });
    this.#hovered(bar, true);
  }

  #zoom(factor) {
    const seen = this.#chart.timeScale().getVisibleLogicalRange();
    if (!seen) return;
    const width = Math.max(10, (seen.to - seen.from) * factor);
    this.#chart.timeScale().setVisibleLogicalRange({ from: seen.to - width, to: seen.to });
  }

  #leave() {
    this.#place = -1;
    this.#walking = false;
    this.#chart.clearCrosshairPosition();
    this.#hovered(null);
  }
}

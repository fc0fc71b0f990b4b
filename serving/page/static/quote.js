// The line above the chart: who it is, the last price, and how it stands to the day before.

import * as api from "./api.js";
import { ago, price, signed, decimals } from "./format.js";

export class Quote {
  #find;
  #view = null;
  #loading = null;
  #price = null;
  #before = null;
  #timer = null;
  #known;
  #changed;
  #now;

  /** `now` is the server's clock; `known` is told what is known of the symbol, `changed` the price as it is shown. */
  constructor(find, { now, known, changed }) {
    this.#find = find;
    this.#now = now;
    this.#known = known;
    this.#changed = changed;
  }

  begin(view) {
    this.#loading?.abort();
    if (view.symbol !== this.#view?.symbol) {
      this.#price = null;
      this.#before = null;
      for (const name of ["price", "change", "source", "company"]) this.#find(name).textContent = "";
    }
    this.#view = view;
  }

  async load() {
    const mine = new AbortController();
    this.#loading = mine;
    const { symbol } = this.#view;
    const [about, found, days] = await Promise.allSettled([
      api.symbol(symbol, mine.signal),
      api.price(symbol, mine.signal),
      api.bars({ symbol, timeframe: "1d", adjusted: this.#view.adjusted }, { limit: 2 }, mine.signal),
    ]);
    if (this.#loading !== mine) return;
    // None of the three is needed for the chart: what is not there is not shown.
    const known = about.value ?? {};
    this.#find("company").textContent = [known.name, known.exchange].filter(Boolean).join(" · ");
    this.#known(known);
    this.#before = days.value?.bars ?? null;
    // A price that was pushed meanwhile is shown again, beside the close that it waited for.
    this.#take(found.value ?? this.#price);
  }

  /** Takes a price that was pushed. */
  pushed({ price, ts }) {
    this.#take({ price, ts, source: "live" });
  }

  /** The last bar, for a server that has no price. */
  last(bar) {
    if (!this.#price) this.#show(bar.close, null);
  }

  #take(found) {
    if (!found) return;
    if (!this.#price || found.ts >= this.#price.ts) this.#price = found;
    this.#show(this.#price.price, this.#price);
  }

  #show(value, found) {
    const digits = decimals(value);
    const text = price(value, digits);
    this.#find("price").textContent = text;
    this.#changed(text);
    const change = this.#find("change");
    const close = found ? this.#close(found.ts) : null;
    change.textContent = close ? `${signed(value - close, digits)} (${signed((100 * (value - close)) / close, 2)} %)` : "";
    change.className = close && value < close ? "down" : "up";
    this.#age();
  }

  /** The close of the day before that of an instant. */
  #close(instant) {
    const [day, latest] = [this.#before?.at(-2), this.#before?.at(-1)];
    if (!latest) return null;
    if (latest.end < instant) return latest.close;
    return day?.close ?? null;
  }

  #age() {
    clearTimeout(this.#timer);
    const { source, ts } = this.#price ?? {};
    if (!ts) return;
    const passed = this.#now() - ts;
    this.#find("source").textContent = `${source === "redis" ? "live" : source} · ${ago(passed)}`;
    this.#timer = setTimeout(() => this.#age(), passed < 90_000 ? 1000 : 30_000);
  }
}

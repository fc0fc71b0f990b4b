// The bars that are shown: loaded, older ones behind them, and those that are pushed.

import * as api from "./api.js";
import { Bars } from "./bars.js";

const PAGE = 1000;
/** What is asked for again when a connection is back. */
const RECENT = 200;

export class History {
  bars = new Bars();
  loaded = false;
  #splits = null;
  #view = null;
  #cursor = null;
  #pushed = [];
  #loading = null;
  #behind = false;
  #told;

  constructor(told) {
    this.#told = told;
  }

  /** Whether there are older bars than those that are here. */
  get more() {
    return this.#cursor !== null;
  }

  /** Forgets what was shown; from now on what is pushed is kept until bars are loaded. */
  begin(view) {
    this.#loading?.abort();
    this.#view = view;
    this.bars = new Bars();
    this.#cursor = null;
    this.#pushed = [];
    this.#behind = false;
    this.loaded = false;
    this.#splits = null;
  }

  /** Takes the days of the symbol's splits up to now, UTC milliseconds. */
  know(splits) {
    const first = this.#splits === null;
    this.#splits = splits;
    // What was pushed before could not be told from what does not fit.
    if (first && this.#view.adjusted && this.loaded) this.catchUp();
  }

  /** Loads the newest bars, anew. */
  async load() {
    await this.#ask("anew", { limit: PAGE }, ({ bars, next }) => {
      this.bars = new Bars();
      this.bars.renew(bars);
      this.#cursor = next;
      this.loaded = true;
      this.#replay();
      this.#told.shown(this.bars, true);
    });
  }

  /**
   * Loads what may have come before the subscription stood: again, where bars are here, and keeps what is older;
   * anew, where they could not be loaded.
   */
  async catchUp() {
    if (this.#loading) {
      this.#behind = true;
    } else if (!this.loaded) {
      await this.load();
    } else {
      await this.#ask("again", { limit: RECENT, fresh: true }, ({ bars, next, latest }) => {
        if (!this.bars.renew(bars)) this.#cursor = next;
        this.bars.overlay(latest.filter((bar) => this.#fits(bar)), this.#view.adjusted === true);
        this.#replay();
        this.#told.shown(this.bars, false);
      });
    }
  }

  /** Loads a page of older bars, where there are some. */
  async older() {
    if (!this.loaded || this.#loading || this.#cursor === null) return;
    await this.#ask("older", { limit: PAGE, cursor: this.#cursor }, ({ bars, next }) => {
      this.#cursor = next;
      if (this.bars.prepend(bars)) this.#told.shown(this.bars, false);
    });
  }

  /** Takes a bar that was pushed. */
  pushed(bar) {
    if (bar.symbol !== this.#view?.symbol || bar.timeframe !== this.#view.timeframe) return;
    if (!this.#fits(bar)) return;
    if (this.#loading || !this.loaded) this.#pushed.push(bar);
    if (!this.loaded) return;
    const how = this.bars.put(bar);
    if (how) this.#told.changed(this.bars, bar, how);
  }

  /** Whether a bar of prices as they are fits in: where a split lies in its window it cannot be scaled. */
  #fits(bar) {
    if (!this.#view.adjusted) return true;
    return this.#splits !== null && !this.#splits.some((day) => bar.ts < day && day < bar.end);
  }

  #replay() {
    for (const bar of this.#pushed) if (this.#fits(bar)) this.bars.put(bar);
    this.#pushed = [];
  }

  async #ask(kind, which, take) {
    this.#loading?.abort();
    const mine = new AbortController();
    this.#loading = mine;
    // What was pushed before is in the list already: replayed, it would go back.
    if (this.loaded) this.#pushed = [];
    this.#told.busy(kind);
    try {
      // What the live store has and the lake has not yet is of use, and not needed.
      const live = kind === "again" ? api.latest(this.#view, RECENT, mine.signal).catch(() => []) : [];
      const [stored, latest] = await Promise.all([this.#stored(kind, which, mine.signal), live]);
      const answer = { ...stored, latest };
      if (this.#loading === mine) take(answer);
    } catch (error) {
      if (this.#loading === mine) this.#told.failed(error, kind);
    } finally {
      if (this.#loading === mine) {
        this.#loading = null;
        this.#told.busy(null);
      }
    }
    if (this.#loading === null && this.#behind) {
      this.#behind = false;
      if (this.loaded) await this.catchUp();
    }
  }

  async #stored(kind, which, signal) {
    try {
      return await api.bars(this.#view, which, signal);
    } catch (error) {
      if (kind !== "anew" || error.status !== 404) throw error;
      // Of what a stream makes for the first time the lake knows nothing yet.
      const bars = await api.latest(this.#view, RECENT, signal).catch(() => []);
      if (!bars.length) throw error;
      return { bars, next: null };
    }
  }
}

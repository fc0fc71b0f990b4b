// The bars of one symbol and timeframe, by the time at which they begin.

/** Sorted by `ts`, each once. */
export class Bars {
  list = [];

  get length() {
    return this.list.length;
  }

  get last() {
    return this.list.at(-1) ?? null;
  }

  get first() {
    return this.list[0] ?? null;
  }

  /** Returns the place of the bar that begins at `ts`, or that at which it would stand. */
  place(ts) {
    let low = 0;
    let high = this.list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.list[middle].ts < ts) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  at(ts) {
    const found = this.list[this.place(ts)];
    return found?.ts === ts ? found : null;
  }

  /**
   * Takes the newest bars as a server has them, sorted. What is older stays where the two meet; where they do not,
   * something lies between them that nobody has, so it goes.
   */
  renew(newest) {
    const meets = newest.length && this.length && newest[0].ts <= this.last.ts;
    const older = meets ? this.list.slice(0, this.place(newest[0].ts)) : [];
    this.list = [...older, ...newest];
    return older.length > 0;
  }

  /**
   * Takes the live store's bars, sorted: those behind the lake's last complete one, and later revisions of bars that
   * are not final. Those are of prices as they are: of `adjusted` ones only what is new is the same.
   */
  overlay(latest, adjusted) {
    const newest = this.list.findLast((bar) => bar.complete)?.ts ?? -Infinity;
    for (const bar of latest) {
      const here = this.at(bar.ts);
      if (bar.ts > newest || (!adjusted && here && !here.final && bar.revision > here.revision)) this.put(bar);
    }
  }

  /** Takes older bars, sorted; returns how many are new. */
  prepend(older) {
    const fresh = this.length ? older.filter((bar) => bar.ts < this.first.ts) : older;
    this.list = [...fresh, ...this.list];
    return fresh.length;
  }

  /**
   * Takes a bar that was pushed.
   *
   * Returns "new" for one behind the last, "last" where it is the last, "older" where it is one before, and null
   * where it changes nothing: it is open still, and has closed meanwhile or is not after the last closed one; or it
   * is older than all.
   */
  put(bar) {
    const place = this.place(bar.ts);
    const here = this.list[place]?.ts === bar.ts ? this.list[place] : null;
    if (!bar.complete && (here ? here.complete : place < this.length && this.list[place].complete)) return null;
    if (here) {
      this.list[place] = bar;
      return place === this.length - 1 ? "last" : "older";
    }
    if (place === 0 && this.length) return null; // older ones are loaded, in pages without gaps
    this.list.splice(place, 0, bar);
    return place === this.length - 1 ? "new" : "older";
  }
}

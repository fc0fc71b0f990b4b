// What is shown: symbol, timeframe, adjusted. It lives in the page's address, so that it can be shared.

/** Returns what an address asks for; null for what it leaves open. */
export function read(search) {
  const asked = new URLSearchParams(search);
  const adjusted = asked.get("adjusted");
  return {
    symbol: asked.get("symbol")?.trim() || null,
    timeframe: asked.get("tf")?.trim() || null,
    adjusted: adjusted === null ? null : adjusted === "1" || adjusted === "true",
  };
}

/** Returns the query of an address that shows the same. */
export function write({ symbol, timeframe, adjusted }) {
  const parts = new URLSearchParams();
  if (symbol) parts.set("symbol", symbol);
  if (timeframe) parts.set("tf", timeframe);
  if (adjusted !== null) parts.set("adjusted", adjusted ? "1" : "0");
  return `?${parts}`;
}

/** Puts a view into the address: a new entry of the history, or in place of the last one. */
export function show(view, replace = false) {
  const query = write(view);
  if (query === location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", query);
}

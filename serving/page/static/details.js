// What a bar is, in a line above the chart.

import { compact, count, price, signed, span } from "./format.js";

/** Returns the parts of the line: name, value, class. */
function parts(bar, zone, daily, digits) {
  const found = [["Window", span(bar, zone, daily), "window"]];
  if (bar.open === null) return [...found, ["", "no trade", "tag"]];
  const side = bar.close < bar.open ? "down" : "up";
  for (const [name, value] of [["O", bar.open], ["H", bar.high], ["L", bar.low], ["C", bar.close]]) {
    found.push([name, price(value, digits), side]);
  }
  const change = bar.close - bar.open;
  found.push(["", `${signed(change, digits)} (${signed((100 * change) / bar.open, 2)} %)`, side]);
  found.push(["Volume", compact(bar.volume), "volume"]);
  // What the source did not give is not shown.
  if (bar.vwap !== null && bar.vwap !== undefined) found.push(["VWAP", price(bar.vwap, digits), "vwap"]);
  if (bar.trade_count !== null && bar.trade_count !== undefined) found.push(["Trades", compact(bar.trade_count), "rare"]);
  if (daily) found.push(["Sessions", count(bar.sessions), "sessions"]);
  found.push(["Revision", count(bar.revision), "revision"]);
  if (bar.complete) found.push(["", "complete", "tag"], ["", bar.final ? "final" : "not final", "tag"]);
  else found.push(["", "open", "tag open"]);
  return found;
}

/** Shows a bar; null clears. */
export function show(element, bar, zone, daily, digits) {
  if (!bar) {
    element.replaceChildren();
    return;
  }
  const rows = parts(bar, zone, daily, digits).map(([name, value, kind]) => {
    const row = document.createElement("div");
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    if (kind === "up" || kind === "down") text.className = kind;
    else row.className = kind;
    if (name) row.append(term);
    else term.remove();
    row.append(text);
    return row;
  });
  element.replaceChildren(...rows);
}

/** Returns a bar in words, for those who hear it. */
export function spoken(bar, zone, daily, digits) {
  if (bar.open === null) return `${span(bar, zone, daily)}: no trade`;
  return (
    `${span(bar, zone, daily)}: open ${price(bar.open, digits)}, high ${price(bar.high, digits)}, ` +
    `low ${price(bar.low, digits)}, close ${price(bar.close, digits)}, volume ${compact(bar.volume)}, ` +
    `${bar.complete ? "complete" : "still open"}`
  );
}

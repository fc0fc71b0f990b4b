// Exports of what is shown: files that the server makes.

import { address, get } from "./api.js";
import { key } from "./keys.js";

const FORMATS = [
  ["parquet", "Parquet", "pandas, Polars, DuckDB"],
  ["csv", "CSV", "spreadsheets"],
  ["arrow", "Arrow", "IPC stream"],
  ["backtesting", "backtesting.py", "CSV"],
];

/** Shows the links. `failed` is told what went wrong. */
export function show(list, view, failed) {
  const { symbol, timeframe, adjusted } = view;
  const items = FORMATS.map(([format, name, hint]) => {
    const url = address("v1/exports", { symbols: symbol, timeframe, adjusted: adjusted || null, format });
    const [item, link, small] = ["li", "a", "small"].map((tag) => document.createElement(tag));
    const ending = format === "backtesting" ? "csv" : format;
    Object.assign(link, { href: url.href, download: `${symbol}-${timeframe}.${ending}`, textContent: name });
    small.textContent = hint;
    link.append(small);
    link.addEventListener("click", (event) => {
      // A link carries no key, and a key does not belong into an address.
      if (!key()) return;
      event.preventDefault();
      save(url, link.download).catch(failed);
    });
    item.append(link);
    return item;
  });
  list.replaceChildren(...items);
}

async function save(url, name) {
  const content = URL.createObjectURL(await (await get(url)).blob());
  const link = document.createElement("a");
  Object.assign(link, { href: content, download: name });
  link.click();
  // The download has begun when the click returns; the content is held until it is read.
  setTimeout(() => URL.revokeObjectURL(content), 60_000);
}

// Questions to the server, and what it answers. Addresses are relative to the page's: it may lie under a path.

import { key } from "./keys.js";

/** What the server said instead of an answer, or that it said nothing (status 0). */
export class Refusal extends Error {
  constructor(status, detail, code = "", request = "") {
    super(detail);
    this.status = status;
    this.code = code;
    this.request = request;
  }
}

/** Returns the address of a question; what is null or undefined is left out. */
export function address(path, asked = {}) {
  const url = new URL(path, document.baseURI);
  url.search = "";
  for (const [name, value] of Object.entries(asked)) {
    if (value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

/** Asks; returns the response. `fresh`: whatever the browser has kept is asked for again. */
export async function get(url, signal, fresh = false) {
  return answered(url, { signal, cache: fresh ? "no-cache" : "default" });
}

async function answered(url, { headers = {}, ...asked }) {
  if (key()) headers.Authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...asked, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer.");
  }
  if (response.ok) return response;
  let told = {};
  try {
    told = await response.json();
  } catch {
    // A proxy's answer, for instance.
  }
  const detail = told.detail ?? told.error ?? told.message ?? `The server answered ${response.status}.`;
  throw new Refusal(response.status, String(detail), told.code, told.request_id ?? response.headers.get("x-request-id"));
}

async function json(path, asked, signal, fresh = false) {
  return (await get(address(path, asked), signal, fresh)).json();
}

/** Returns `{bars, next}`: bars from old to new, and the cursor of older ones; null for none. */
export async function bars({ symbol, timeframe, adjusted }, { limit, cursor, fresh }, signal) {
  const asked = { symbols: symbol, timeframe, adjusted, order: "desc", limit, cursor };
  const answer = await json("v1/bars", asked, signal, fresh);
  return { bars: answer.bars.reverse(), next: answer.next_cursor ?? null };
}

export async function symbols(search, signal) {
  return (await json("v1/symbols", { search: search || null, limit: 20 }, signal)).symbols;
}

export async function symbol(name, signal) {
  return json(`v1/symbols/${encodeURIComponent(name)}`, {}, signal);
}

export async function timeframes(signal) {
  return json("v1/timeframes", {}, signal);
}

export async function price(symbol, signal) {
  return (await json("v1/prices", { symbols: symbol }, signal)).prices[0] ?? null;
}

/** Returns the last bars with the open one, as the live store has them: the lake may lag behind it. */
export async function latest({ symbol, timeframe }, limit, signal) {
  return (await json(`v1/latest-bars/${encodeURIComponent(symbol)}`, { timeframe, limit }, signal, true)).bars;
}

/** Returns all alerts of a symbol, the newest first. */
export async function alerts(symbol, signal) {
  const found = [];
  for (let cursor = null; ; ) {
    const page = await json("v1/alerts", { symbol, limit: 1000, cursor }, signal, true);
    found.push(...page.alerts);
    cursor = page.next_cursor;
    if (!cursor) return found.reverse();
  }
}

/** Makes an alert. Sent again after an answer that was lost, it is the same one: `once` names the attempt. */
export async function createAlert(alert, once) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": once };
  return (await answered(address("v1/alerts"), { method: "POST", headers, body: JSON.stringify(alert) })).json();
}

/** Lets an alert do something: "pause", "resume" or "rearm". */
export async function tellAlert(id, what) {
  return (await answered(address(`v1/alerts/${encodeURIComponent(id)}/${what}`), { method: "POST" })).json();
}

export async function deleteAlert(id) {
  await answered(address(`v1/alerts/${encodeURIComponent(id)}`), { method: "DELETE" });
}

/** Returns `{events, next_after}`: what has fired since a place in the history, the oldest first; of none the newest one. */
export async function alertEvents(after, signal) {
  return json("v1/alert-events", after === null ? { limit: 1 } : { after, limit: 1000 }, signal, true);
}

export async function market(signal) {
  return json("v1/market-status", {}, signal);
}

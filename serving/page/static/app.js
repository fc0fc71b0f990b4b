// Puts the page together: what the address asks for is fetched, shown, and kept up to date.

import { Alerts } from "./alerts.js";
import * as api from "./api.js";
import { Chart } from "./chart.js";
import * as details from "./details.js";
import * as exporting from "./exporting.js";
import { Feed } from "./feed.js";
import { Zone, count, decimals, weekday } from "./format.js";
import { History } from "./history.js";
import * as keys from "./keys.js";
import { Quote } from "./quote.js";
import * as search from "./search.js";
import * as state from "./state.js";
import * as switching from "./theme-switch.js";
import * as timeframes from "./timeframes.js";

const $ = (id) => document.getElementById(id);

const page = {
  view: { symbol: null, timeframe: null, adjusted: null },
  known: { timeframes: [], basis: null },
  zone: new Zone("America/New_York"),
  /** How far the server's clock is ahead of this machine's. */
  skew: 0,
  /** When the bar under the pointer begins. */
  pointed: null,
};
const feed = new Feed();
const chart = new Chart($("chart"), {
  zone: page.zone,
  hovered: (bar, aloud) => {
    page.pointed = bar?.ts ?? null;
    describe(aloud);
  },
  older: () => history.older(),
  clicked: (price) => alerts.pick(price),
});
const alerts = new Alerts($, {
  mark: (levels) => chart.mark(levels),
  last: () => history.bars.last?.close ?? null,
  now: () => Date.now() + page.skew,
});
const history = new History({
  busy: (kind) => {
    $("stage").setAttribute("aria-busy", String(kind === "anew"));
    $("stage").dataset.older = String(kind === "older");
    $("stage").dataset.again = String(kind === "again");
  },
  shown: (bars, anew) => {
    chart.show(bars.list, { daily: daily(), anew });
    tell(bars);
  },
  changed: (bars, bar, how) => {
    chart.update(bars.list, bar, how);
    tell(bars);
  },
  failed: (error, kind) => {
    if (kind === "anew") refused(error);
    // What is shown stays: of a lost connection the feed tells, and it comes back.
    else if (kind === "older" && error.name !== "AbortError") $("count").textContent = `No older bars: ${error.message}`;
  },
});
const quote = new Quote($, {
  now: () => Date.now() + page.skew,
  known: ({ splits = [] }) => {
    const now = Date.now() + page.skew;
    history.know(splits.map(({ execution_date: day }) => Date.parse(day)).filter((day) => day <= now));
  },
  changed: (price) => {
    document.title = `${page.view.symbol} ${price} · ${page.view.timeframe} · Fibflow`;
  },
});
const field = search.setUp({
  input: $("query"),
  list: $("matches"),
  find: (text) => api.symbols(text),
  chosen: (symbol) => go({ symbol }),
});

function daily() {
  return timeframes.isDaily(page.view.timeframe);
}

// What is shown -------------------------------------------------------------------------------------------------------

/** Goes to another view: what is not named stays. */
function go(changes, replace = false) {
  page.view = { ...page.view, ...changes };
  state.show(page.view, replace);
  load();
}

async function load() {
  const { symbol, timeframe, adjusted } = page.view;
  notice(null);
  field.show(symbol);
  timeframes.mark($("timeframes"), timeframe);
  $("adjusted").checked = adjusted === true || page.known.basis !== "raw";
  $("symbol").textContent = symbol;
  document.title = `${symbol} ${timeframe} · Fibflow`;
  $("exported").textContent = `All ${timeframe} bars of ${symbol}${adjusted ? ", adjusted for splits" : ""}:`;
  exporting.show($("formats"), page.view, refused);
  page.pointed = null;
  describe();
  // The subscription first, then what is there: so nothing is missed between the two.
  history.begin(page.view);
  quote.begin(page.view);
  alerts.begin(symbol);
  feed.follow([`O.${timeframe}.${symbol}`, `B.${timeframe}.${symbol}`, `P.${symbol}`, "ALERT.*"]);
  await Promise.all([history.load(), quote.load()]);
}

function tell(bars) {
  describe();
  const { length, first } = bars;
  $("count").textContent = length
    ? `${count(length)} bars since ${page.zone.date(first.ts)}${history.more ? "; scroll left for older ones" : ""}`
    : "";
  if (length) {
    quote.last(bars.last);
    notice(null);
  } else {
    const { symbol, timeframe } = page.view;
    notice(`${symbol} has no ${timeframe} bars`, "Another timeframe may have some.");
  }
}

/** Shows the details of the bar under the pointer, or of the last one. */
function describe(aloud = false) {
  const { last } = history.bars;
  const bar = (page.pointed !== null && history.bars.at(page.pointed)) || last;
  const digits = last ? decimals(last.close) : 2;
  details.show($("details"), bar, page.zone, daily(), digits);
  if (aloud) $("spoken").textContent = details.spoken(bar, page.zone, daily(), digits);
}

/** Says something in place of the chart; null takes it away. */
function notice(title, detail = "", again = null, label = "Try again") {
  const box = $("notice");
  box.hidden = title === null;
  if (title === null) return;
  const button = box.querySelector("button");
  box.querySelector(".title").textContent = title;
  box.querySelector(".detail").textContent = detail;
  button.hidden = again === null;
  button.textContent = label;
  button.onclick = again;
}

function refused(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof api.Refusal)) throw error;
  if (error.status === 401) {
    const why = error.code === "no_key" ? "This server wants an API key." : error.message;
    notice("No access", why, () => keys.ask(why), "Give a key");
    keys.ask(why);
    return;
  }
  const titles = { 0: "The server does not answer", 403: "The key does not allow this", 404: "Nothing here", 429: "Too many requests" };
  const id = error.request ? ` (request ${error.request})` : "";
  const passing = error.status === 0 || error.status === 429 || error.status >= 500;
  notice(titles[error.status] ?? "That did not work", `${error.message}${error.status >= 500 ? id : ""}`, passing ? begin : null);
}

// What is pushed ------------------------------------------------------------------------------------------------------

feed.addEventListener("messages", ({ detail }) => {
  for (const message of detail) {
    if (message.ev === "P" && message.symbol === page.view.symbol) quote.pushed(message);
    else if (message.ev === "O" || message.ev === "B") history.pushed(message);
    else if (message.ev === "ALERT") alerts.fired(message);
  }
});
feed.addEventListener("alerts", ({ detail }) => alerts.allowed(detail));
// At first and after a connection was lost: what came before the subscription stood is in the history.
feed.addEventListener("ready", () => {
  history.catchUp();
  if (feed.again) quote.load();
});
feed.addEventListener("state", () => {
  told();
  if (feed.state === "refused") alerts.allowed(feed.reason);
});

function told() {
  clearTimeout(told.timer);
  const seconds = Math.max(1, Math.ceil((feed.until - performance.now()) / 1000));
  const [text, title] = {
    idle: ["", ""],
    connecting: ["Connecting", "The feed of live bars is being connected."],
    live: ["Live", "Bars are shown as they change."],
    stale: ["Stale", feed.reason],
    waiting: [`Reconnecting in ${seconds} s`, `No live bars: ${feed.reason}. Press to try now.`],
    refused: ["No access", `${feed.reason}. Press to give a key.`],
    none: ["History", feed.reason],
  }[feed.state];
  const button = $("feed");
  button.dataset.state = feed.state;
  button.title = title;
  button.disabled = feed.state !== "waiting" && feed.state !== "refused";
  const label = button.querySelector("span");
  if (label.textContent !== text) label.textContent = text;
  if (feed.state === "waiting") told.timer = setTimeout(told, 250);
}

$("feed").addEventListener("click", () => {
  if (feed.state === "refused") keys.ask(feed.reason);
  else feed.connect();
});
addEventListener("online", () => feed.state === "waiting" && feed.connect());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && feed.state === "waiting") feed.connect();
});

// The rest of the page ------------------------------------------------------------------------------------------------

switching.setUp($("theme"), () => chart.recolor());
keys.setUp(() => {
  alerts.forget();
  if (feed.state !== "idle") feed.connect();
  begin();
});
$("adjusted").addEventListener("change", ({ target }) => go({ adjusted: target.checked }));
addEventListener("popstate", () => {
  page.view = completed(state.read(location.search));
  load();
});
document.addEventListener("click", ({ target }) => {
  if (!$("export").contains(target)) $("export").open = false;
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && $("export").open) {
    $("export").open = false;
    $("export").querySelector("summary").focus();
  }
});

/** Fills in what an address leaves open. */
function completed(asked) {
  const names = page.known.timeframes;
  return {
    symbol: asked.symbol ?? page.view.symbol,
    timeframe: asked.timeframe ?? page.view.timeframe ?? timeframes.grouped(names)[0]?.[0] ?? "1d",
    adjusted: page.known.basis === "raw" ? asked.adjusted ?? false : null,
  };
}

async function begin() {
  notice(null);
  try {
    const [frames, some, market] = await Promise.all([api.timeframes(), api.symbols(""), api.market()]);
    page.known = { timeframes: withDay(frames.timeframes), basis: frames.price_basis };
    page.zone = new Zone(market.zone);
    chart.zone = page.zone;
    $("zone").textContent = `Times of ${page.zone.name.replaceAll("_", " ")}, sessions of ${market.calendar}`;
    tellMarket(market);
    page.view.symbol ??= (some.find((symbol) => symbol.has_bars) ?? some[0])?.symbol ?? null;
  } catch (error) {
    $("stage").setAttribute("aria-busy", "false");
    refused(error);
    return;
  }
  adjusting();
  page.view = completed(state.read(location.search));
  const { symbol, timeframe } = page.view;
  if (!symbol) {
    $("stage").setAttribute("aria-busy", "false");
    notice("There are no bars yet", "pipelines.batch and pipelines.stream make some.", begin);
    return;
  }
  timeframes.show($("timeframes"), [...page.known.timeframes, timeframe], timeframe, (name) => go({ timeframe: name }));
  state.show(page.view, true);
  await load();
}

/** Days are what bars of several days are made of: they are there, whether they are stored or not. */
function withDay(names) {
  return names.some(timeframes.isDaily) ? [...names, "1d"] : names;
}

function tellMarket({ market, open, close, next_open: next, time }) {
  page.skew = time - Date.now();
  const at = (instant) => (page.zone.date(instant) === page.zone.date(time) ? "" : `${weekday(page.zone.local(instant))} `);
  const clock = (instant) => `${at(instant)}${page.zone.time(instant)}`;
  const text = {
    open: () => `Market open until ${clock(close)}`,
    "extended-hours": () => (time < open ? `Pre-market, opens ${clock(open)}` : `After hours, opens ${clock(next)}`),
    closed: () => (next === null ? "Market closed" : `Market closed, opens ${clock(next)}`),
  }[market];
  $("market").hidden = false;
  $("market").textContent = text();
}

setInterval(() => {
  if (document.visibilityState === "visible" && page.view.symbol) api.market().then(tellMarket, () => {});
}, 60_000);

/** Shows the switch, and why it cannot be used where prices are adjusted as they are. */
function adjusting() {
  const raw = page.known.basis === "raw";
  const label = $("adjusting");
  label.hidden = false;
  $("adjusted").disabled = !raw;
  $("adjusted").checked = !raw;
  label.title = raw ? "Scale prices and volume to the splits up to now" : "The prices of this lake are adjusted for splits as they are";
}

begin();

// Alerts and what fired of them, in words.

import { count, price } from "./format.js";

/** What an alert waits for, by operator. */
export const WORDS = {
  crosses: "crosses", crosses_up: "rises to", crosses_down: "falls to", above: "is above", below: "is below",
  percent_up: "rises by", percent_down: "falls by", percent: "moves by",
};
const FIRED = {
  crosses: "crossed", crosses_up: "rose to", crosses_down: "fell to", above: "is above", below: "is below",
  percent_up: "rose to", percent_down: "fell to", percent: "moved to",
};
const OFTEN = { once: "once", bar: "once a bar", daily: "once a session", every_time: "every time" };
const REFERENCES = { previous_close: "the previous close", creation_price: "the price at creation" };
const COMPARES = {
  above: "above", below: "below", at_least: "at least", at_most: "at most",
  crosses_up: "crosses above", crosses_down: "crosses below",
};
const FIELDS = { vwap: "VWAP", trade_count: "trades" };
const JOINS = { all: [" and ", "any", " or "], any: [" or ", "all", " and "] };

/** How often an alert fires. */
export function often({ frequency, timeframe, bars }) {
  if (frequency !== "bar") return OFTEN[frequency] ?? frequency;
  return bars ? `at each ${bars.timeframe} bar` : `once a ${timeframe} bar`;
}

/** An alert: `crosses 433.00`. */
export function described({ operator, value, levels, reference, bars }) {
  if (bars) return `${bars.timeframe} bar: ${ofBars(bars)}`;
  const does = WORDS[operator] ?? operator;
  return reference ? `${does} ${value} % from ${REFERENCES[reference] ?? reference}` : `${does} ${price(levels[0] ?? value)}`;
}

/** What fired; `alert` is the one that did, where it is known. */
export function told({ symbol, operator, alert: id, level, price: at, note, test }, alert) {
  const end = note ? ` · ${note}` : "";
  if (id === null) return `Test of a destination${end}`;
  // A test has the price that is waited for, and some wait for none.
  const now = at === null || (test && !at) ? "" : price(at);
  let what;
  if (operator === "bars") {
    const bars = alert?.bars;
    what = bars ? `${symbol} closed a ${bars.timeframe} bar${now && ` at ${now}`}: ${ofBars(bars)}` : `${symbol} closed a bar as you asked${now && `: ${now}`}`;
  } else {
    what = `${symbol} ${FIRED[operator] ?? "fired at"}${level === null ? "" : ` ${price(level)}`}${now && `: ${now}`}`;
  }
  return `${test ? "Test: " : ""}${what}${end}`;
}

/** What is to hold when a bar closes: `close above the last 13d high and (volume at least ...)`. */
function ofBars(bars) {
  const join = "all" in bars ? "all" : "any";
  const [outer, other, inner] = JOINS[join];
  const lists = bars[join].map((each) => each[other] ?? [each]);
  return lists
    .map((terms) => {
      const words = terms.map((term) => ofTerm(term, bars.timeframe)).join(inner);
      return terms.length > 1 && lists.length > 1 ? `(${words})` : words;
    })
    .join(outer);
}

function ofTerm({ left, operator, right }, trigger) {
  const number = [left, right].some((side) => ["volume", "trade_count"].includes(fieldOf(side))) ? count : price;
  const [one, other] = [left, right].map((side) => ofOperand(side, trigger, number));
  return `${one} ${COMPARES[operator] ?? operator} ${other}`;
}

function fieldOf({ field, average, highest, lowest }) {
  return field ?? average ?? highest ?? lowest;
}

function ofOperand(told, trigger, number) {
  const times = told.times === undefined ? "" : `${told.times} × `;
  if ("value" in told) return `${times}${number(told.value)}`;
  const field = fieldOf(told);
  const another = told.timeframe !== undefined && told.timeframe !== trigger;
  const name = `${another ? `${told.timeframe} ` : ""}${FIELDS[field] ?? field}`;
  if ("field" in told) {
    const back = told.back ?? Number(another);
    if (another && back === 1) return `${times}the last ${name}`;
    return `${times}${name}${back ? ` ${back} ${back === 1 ? "bar" : "bars"} back` : ""}`;
  }
  const kind = ["average", "highest", "lowest"].find((each) => each in told);
  return `${times}${kind} ${name} of ${told.bars} ${told.bars === 1 ? "bar" : "bars"}`;
}

// The panel of alerts: those of the symbol that is shown, a form for another, and a line when one fires.

import * as api from "./api.js";
import { decimals, price } from "./format.js";

const WORDS = {
  crosses: "crosses", crosses_up: "rises to", crosses_down: "falls to", above: "is above", below: "is below",
  percent_up: "rises by", percent_down: "falls by", percent: "moves by",
};
const FIRED = {
  crosses: "crossed", crosses_up: "rose to", crosses_down: "fell to", above: "is above", below: "is below",
  percent_up: "rose to", percent_down: "fell to", percent: "moved to", bars: "closed a bar as you asked",
};
const OFTEN = { once: "once", bar: "once a bar", daily: "once a session", every_time: "every time" };
const REFERENCES = { previous_close: "the previous close", creation_price: "the price at creation" };
/** What can be done in a state, and its name. */
const DOES = { active: ["pause", "Pause"], paused: ["resume", "Resume"], fired: ["rearm", "Arm again"] };
/** How many lines about what fired stand at a time. */
const MOST_TOLD = 3;

export class Alerts {
  #find;
  #mark;
  #last;
  #symbol = null;
  #list = [];
  /** Why there are none; null where there are; undefined before it is known. */
  #reason = undefined;
  #loading = null;
  /** Where in the history this page is. */
  #position = null;
  #attempt = null;

  /** `mark` draws lines on the chart; `last` gives the last price, or null. */
  constructor(find, { mark, last }) {
    this.#find = find;
    this.#mark = mark;
    this.#last = last;
    find("alerts-open").addEventListener("click", () => this.#open(find("alerts").hidden));
    find("alerts-close").addEventListener("click", () => this.#open(false));
    find("alerts").addEventListener("keydown", ({ key }) => key === "Escape" && this.#open(false));
    find("alert-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create();
    });
    find("alert-price").addEventListener("input", () => this.#draw());
    find("alert-form").addEventListener("input", () => (this.#attempt = null));
  }

  /** Another symbol is shown. */
  begin(symbol) {
    if (symbol === this.#symbol) return;
    this.#symbol = symbol;
    this.#list = [];
    this.#find("alert-price").value = "";
    this.#find("alerts-title").textContent = `Alerts of ${symbol}`;
    this.#complain(null);
    this.#show();
    if (this.#reason === null) this.#load();
  }

  /** Alerts can be followed (null), or why not. */
  allowed(reason) {
    this.#reason = reason;
    this.#find("alerts-open").hidden = false;
    this.#why(reason);
    if (reason === null) Promise.all([this.#load(), this.#catchUp()]);
  }

  /** Something fired. */
  fired(event) {
    this.#position = Math.max(this.#position ?? 0, event.position);
    const { symbol, operator, level, price: at, note, test } = event;
    const does = FIRED[operator] ?? "fired at";
    // What a bar was held against may be a volume.
    const what = level === null || operator === "bars" ? `${symbol} ${does}` : `${symbol} ${does} ${price(level)}`;
    const now = at === null ? "" : `: ${price(at)}`;
    this.#tell(`${test ? "Test: " : ""}${what}${now}${note ? ` · ${note}` : ""}`);
    if (symbol === this.#symbol && !test) this.#load();
  }

  /** Takes a price that was clicked on the chart, where the panel is open. */
  pick(value) {
    if (this.#find("alerts").hidden || this.#find("alert-form").hidden) return;
    this.#find("alert-price").value = String(value);
    this.#attempt = null;
    this.#complain(null);
    this.#draw();
    this.#find("alert-form").querySelector("[type=submit]").focus({ preventScroll: true });
  }

  #open(is) {
    this.#find("alerts").hidden = !is;
    this.#find("alerts-open").setAttribute("aria-expanded", String(is));
    (is && !this.#find("alert-form").hidden ? this.#find("alert-price") : this.#find("alerts-open")).focus({ preventScroll: true });
    this.#draw();
  }

  async #load() {
    this.#loading?.abort();
    const mine = new AbortController();
    this.#loading = mine;
    try {
      this.#list = await api.alerts(this.#symbol, mine.signal);
      if (this.#reason === null) this.#why(null);
      this.#show();
    } catch (error) {
      if (error.name !== "AbortError") this.#why(error.message);
    }
  }

  /** Tells what fired while there was no connection. */
  async #catchUp() {
    const known = this.#position;
    try {
      for (const event of await api.alertEvents(known)) {
        if (known === null) this.#position = Math.max(this.#position ?? 0, event.position);
        else if (event.position > this.#position) this.fired(event);
      }
      this.#position ??= 0;
    } catch {
      // The list says what is wrong.
    }
  }

  async #create() {
    const text = this.#find("alert-price").value.trim();
    const value = Number(text);
    if (!(value > 0 && Number.isFinite(value))) {
      this.#complain("Give a price above 0, such as 123.45.");
      this.#find("alert-price").focus();
      return;
    }
    const alert = {
      symbol: this.#symbol,
      operator: this.#find("alert-operator").value,
      value,
      frequency: this.#find("alert-frequency").value,
      hours: this.#find("alert-extended").checked ? "extended" : "regular",
      note: this.#find("alert-note").value.trim(),
    };
    // The same until something in the form changes: an answer that was lost makes no second alert.
    this.#attempt ??= [...crypto.getRandomValues(new Uint8Array(16))].map((part) => part.toString(16).padStart(2, "0")).join("");
    const done = await this.#do(this.#find("alert-form").querySelector("[type=submit]"), () => api.createAlert(alert, this.#attempt));
    if (!done) return;
    this.#attempt = null;
    this.#find("alert-price").value = "";
    this.#find("alert-note").value = "";
    await this.#load();
  }

  /** Does something while its button rests; returns whether it was done. */
  async #do(button, work) {
    const focused = document.activeElement === button;
    button.disabled = true;
    try {
      await work();
      this.#complain(null);
      return true;
    } catch (error) {
      if (!(error instanceof api.Refusal)) throw error;
      this.#complain(error.message);
      return false;
    } finally {
      button.disabled = false;
      if (focused && document.activeElement === document.body) button.focus({ preventScroll: true });
    }
  }

  #complain(text) {
    const line = this.#find("alert-bad");
    line.hidden = text === null;
    line.textContent = text ?? "";
  }

  #why(reason) {
    const line = this.#find("alerts-why");
    line.hidden = reason === null;
    line.textContent = reason ?? "";
    // Without a list there is nothing that could be set; with one the server may be back soon.
    this.#find("alert-form").hidden = reason !== null && !this.#list.length && this.#reason !== null;
    this.#find("alerts-list").hidden = this.#find("alert-form").hidden;
  }

  #tell(text) {
    const box = this.#find("fired");
    const line = document.createElement("p");
    const [said, button] = [document.createElement("span"), document.createElement("button")];
    said.textContent = text;
    button.type = "button";
    button.textContent = "Dismiss";
    button.addEventListener("click", () => line.remove());
    line.append(said, button);
    box.append(line);
    while (box.children.length > MOST_TOLD) box.firstElementChild.remove();
  }

  #show() {
    const waiting = this.#list.filter(({ state }) => state === "active").length;
    this.#find("alerts-open").textContent = waiting ? `Alerts ${waiting}` : "Alerts";
    const rows = this.#list.map((alert) => this.#row(alert));
    if (!rows.length) {
      const none = document.createElement("li");
      none.className = "nothing";
      none.textContent = "None yet.";
      rows.push(none);
    }
    this.#find("alerts-list").replaceChildren(...rows);
    this.#draw();
  }

  #row(alert) {
    const row = document.createElement("li");
    row.dataset.state = alert.state;
    row.dataset.id = alert.id;
    const [what, state, more, does] = ["b", "span", "small", "div"].map((tag) => document.createElement(tag));
    what.textContent = described(alert);
    state.className = "state";
    state.textContent = alert.state;
    more.textContent = [
      often(alert),
      alert.hours === "extended" ? "extended hours" : "",
      alert.firings ? `fired ${alert.firings === 1 ? "once" : `${alert.firings} times`}` : "",
      alert.note,
    ].filter(Boolean).join(" · ");
    does.className = "does";
    const [action, name] = DOES[alert.state];
    does.append(
      this.#button(name, alert, () => api.tellAlert(alert.id, action)),
      this.#button("Delete", alert, () => api.deleteAlert(alert.id)),
    );
    row.append(what, state, more, does);
    return row;
  }

  #button(name, alert, work) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-label", `${name}: ${described(alert)}`);
    button.addEventListener("click", async () => {
      if (await this.#do(button, work)) {
        await this.#load();
        // The button is gone: the next step is in the list.
        if (document.activeElement === document.body) this.#find("alert-price").focus({ preventScroll: true });
      }
    });
    return button;
  }

  /** Draws the alerts that wait, and the one that is about to be set. */
  #draw() {
    const lines = this.#list
      .filter(({ state }) => state !== "fired")
      .flatMap((alert) => alert.levels.map((level) => ({ price: level, title: WORDS[alert.operator], quiet: alert.state === "paused" })));
    const draft = this.#find("alerts").hidden ? NaN : Number(this.#find("alert-price").value.trim() || NaN);
    if (draft > 0 && Number.isFinite(draft)) lines.push({ price: draft, title: "new", quiet: false });
    this.#mark(lines);
    const last = this.#last();
    this.#find("alert-price").placeholder = last === null ? "" : last.toFixed(decimals(last));
  }
}

/** How often an alert fires, in words. */
function often({ frequency, timeframe, bars }) {
  if (frequency !== "bar") return OFTEN[frequency];
  return bars ? `at each ${bars.timeframe} bar` : `once a ${timeframe} bar`;
}

/** An alert in words. */
function described({ operator, value, levels, reference, bars_text: bars }) {
  if (bars) return bars;
  const does = WORDS[operator] ?? operator;
  return reference ? `${does} ${value} % from ${REFERENCES[reference]}` : `${does} ${price(levels[0] ?? value)}`;
}

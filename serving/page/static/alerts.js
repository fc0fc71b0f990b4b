// The panel of alerts: those of the symbol that is shown, a form for another, and a line when one fires.

import * as api from "./api.js";
import { WORDS, described, often, told } from "./alertwords.js";
import { count, decimals } from "./format.js";

/** What can be done in a state, and its name. */
const DOES = { active: ["pause", "Pause"], paused: ["resume", "Resume"], fired: ["rearm", "Arm again"] };
/** How many lines about what fired stand at a time, and of how many it is known that they were told. */
const MOST_TOLD = 3;
const MOST_KNOWN = 2000;
/** How many alerts are listed, and are lines on the chart. */
const MOST_SHOWN = 200;

export class Alerts {
  #find;
  #mark;
  #last;
  #now;
  #symbol = null;
  #list = [];
  /** Why there are none; null where there are; undefined before it is known. */
  #reason = undefined;
  #loading = null;
  /** Up to where in the history all was told; null before that is known. */
  #position = null;
  /** The last place that was told of, by whichever way. */
  #latest = 0;
  /** What asks the history for what was missed; null where nothing is missing. */
  #catching = null;
  /** Ids of what was told: it may come by the feed and by the history. */
  #known = new Set();
  /** How many lines gave way to newer ones. */
  #earlier = 0;
  #attempt = null;

  /** `mark` draws lines on the chart; `last` gives the last price, or null; `now` is the server's clock. */
  constructor(find, { mark, last, now }) {
    this.#find = find;
    this.#mark = mark;
    this.#last = last;
    this.#now = now;
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

  /** Another key is used: what was here may be another owner's. */
  forget() {
    this.#loading?.abort();
    this.#list = [];
    this.#reason = undefined;
    this.#position = null;
    this.#latest = 0;
    this.#catching = null;
    this.#known.clear();
    this.#attempt = null;
    this.#earlier = 0;
    this.#find("fired").replaceChildren();
    for (const name of ["alert-price", "alert-note"]) this.#find(name).value = "";
    this.#complain(null);
    this.#show();
    this.#why("The server is asked.");
  }

  /** Something fired. */
  fired(event) {
    if (this.#take(event) && event.symbol === this.#symbol && !event.test) this.#load();
  }

  /** Tells an event; returns whether it was new. */
  #take(event) {
    if (this.#known.has(event.id)) return false;
    this.#known.add(event.id);
    if (this.#known.size > MOST_KNOWN) this.#known.delete(this.#known.values().next().value);
    this.#latest = Math.max(this.#latest, event.position);
    // What is missing lies before it.
    if (!this.#catching) this.#position = this.#latest;
    this.#tell(told(event, this.#list.find(({ id }) => id === event.alert)));
    return true;
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

  /** Tells what fired while there was no connection; what the feed brings meanwhile is told as it comes. */
  async #catchUp() {
    const mine = (this.#catching = {});
    try {
      if (this.#position === null) {
        const { events } = await api.alertEvents(null);
        if (mine !== this.#catching) return;
        this.#latest = Math.max(this.#latest, ...events.map(({ position }) => position));
      } else {
        let fired = false;
        for (let more = true; more; ) {
          const { events, next_after: next } = await api.alertEvents(this.#position);
          if (mine !== this.#catching) return;
          for (const event of events) fired = (this.#take(event) && event.symbol === this.#symbol) || fired;
          more = next > this.#position;
          this.#position = next;
        }
        if (fired) this.#load();
      }
      this.#position = this.#latest;
      this.#catching = null;
    } catch {
      // The list says what is wrong; it is tried again when the connection is back.
    }
  }

  async #create() {
    const text = this.#find("alert-price").value.trim();
    const value = Number(text);
    if (!(value > 0 && Number.isFinite(value))) {
      this.#complain("Give a price above 0, such as 123.45.");
      this.#find("alert-price").setAttribute("aria-invalid", "true");
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
    // Another symbol may be shown by now, and another price be written.
    if (alert.symbol !== this.#symbol) return;
    this.#find("alert-price").value = "";
    this.#find("alert-note").value = "";
    this.#draw();
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
    this.#find("alert-price").removeAttribute("aria-invalid");
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
    box.append(this.#line(text));
    const lines = box.querySelectorAll("p:not(.earlier)");
    if (lines.length <= MOST_TOLD) return;
    lines[0].remove();
    this.#earlier += 1;
    const more = box.querySelector(".earlier") ?? this.#line("", "earlier");
    more.querySelector("span").textContent = `${count(this.#earlier)} more fired before.`;
    box.prepend(more);
  }

  #line(text, kind = "") {
    const line = document.createElement("p");
    const [said, button] = [document.createElement("span"), document.createElement("button")];
    line.className = kind;
    said.textContent = text;
    button.type = "button";
    button.textContent = "Dismiss";
    button.setAttribute("aria-label", `Dismiss: ${text || "what fired before"}`);
    button.addEventListener("click", () => {
      const next = line.nextElementSibling ?? line.previousElementSibling;
      line.remove();
      if (kind) this.#earlier = 0;
      (next?.querySelector("button") ?? this.#find("alerts-open")).focus({ preventScroll: true });
    });
    line.append(said, button);
    return line;
  }

  /** The state of an alert as it is shown: one that has expired waits for nothing. */
  #state({ state, expires }) {
    return state === "active" && expires !== null && Date.parse(expires) <= this.#now() ? "expired" : state;
  }

  #show() {
    const waiting = this.#list.filter((alert) => this.#state(alert) === "active").length;
    this.#find("alerts-open").textContent = waiting ? `Alerts ${count(waiting)}` : "Alerts";
    const rows = this.#list.slice(0, MOST_SHOWN).map((alert) => this.#row(alert));
    const more = this.#list.length - rows.length;
    if (!rows.length || more) {
      const line = document.createElement("li");
      line.className = "nothing";
      line.textContent = more ? `and ${count(more)} older ones.` : "None yet.";
      rows.push(line);
    }
    this.#renew(rows);
    this.#draw();
  }

  /** Puts rows in place of others; a button of an alert that had the focus has it again. */
  #renew(rows) {
    const list = this.#find("alerts-list");
    const row = list.contains(document.activeElement) ? document.activeElement.closest("li") : null;
    const place = row ? [...row.querySelectorAll("button")].indexOf(document.activeElement) : -1;
    list.replaceChildren(...rows);
    if (place >= 0) rows.find(({ dataset }) => dataset.id === row.dataset.id)?.querySelectorAll("button")[place]?.focus({ preventScroll: true });
  }

  #row(alert) {
    const row = document.createElement("li");
    const shown = this.#state(alert);
    row.dataset.state = shown;
    row.dataset.id = alert.id;
    const [what, state, more, does] = ["b", "span", "small", "div"].map((tag) => document.createElement(tag));
    what.textContent = described(alert);
    state.className = "state";
    state.textContent = shown;
    more.textContent = [
      often(alert),
      alert.hours === "extended" ? "extended hours" : "",
      alert.firings ? `fired ${alert.firings === 1 ? "once" : `${alert.firings} times`}` : "",
      alert.note,
      alert.warning ?? "",
    ].filter(Boolean).join(" · ");
    does.className = "does";
    if (shown in DOES) {
      const [action, name] = DOES[shown];
      does.append(this.#button(name, alert, () => api.tellAlert(alert.id, action)));
    }
    does.append(this.#button("Delete", alert, () => api.deleteAlert(alert.id)));
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
        // The alert is gone, and its button with it.
        if (document.activeElement === document.body) this.#find("alert-price").focus({ preventScroll: true });
      }
    });
    return button;
  }

  /** Draws the alerts that wait, and the one that is about to be set. */
  #draw() {
    const lines = this.#list
      .slice(0, MOST_SHOWN)
      .filter((alert) => ["active", "paused"].includes(this.#state(alert)))
      .flatMap((alert) => alert.levels.map((level) => ({ price: level, title: WORDS[alert.operator], quiet: alert.state === "paused" })));
    const draft = this.#find("alerts").hidden ? NaN : Number(this.#find("alert-price").value.trim() || NaN);
    if (draft > 0 && Number.isFinite(draft)) lines.push({ price: draft, title: "new", quiet: false });
    this.#mark(lines);
    const last = this.#last();
    this.#find("alert-price").placeholder = last === null ? "" : last.toFixed(decimals(last));
  }
}

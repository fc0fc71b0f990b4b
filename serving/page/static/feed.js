// What is pushed: open bars, closed bars, prices and what fires of one's alerts, by the WebSocket /stocks.

import { key } from "./keys.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;
/** Topics of alerts: whether they are here says nothing of the bars. */
const ofAlerts = (topic) => topic.startsWith("ALERT.");

/**
 * A connection that comes back by itself.
 *
 * `state` is "idle", "connecting", "live", "stale" (the server has lost its live store), "waiting" (`until` then it
 * tries again), "refused" (the key is not good) or "none" (the server has no live store). Events: "state"; "ready"
 * when the subscriptions stand, also again, and when something was missed; "messages" with what came; "alerts" when
 * alerts can be followed, or with the reason why not.
 */
export class Feed extends EventTarget {
  state = "idle";
  /** Whether this is not the first connection. */
  again = false;
  reason = "";
  until = 0;
  #socket = null;
  #topics = [];
  #attempts = 0;
  #timer = null;
  #waiting = new Set();
  #refusals = [];

  /** Subscribes to other topics, and connects where there is no connection yet. */
  follow(topics) {
    const before = this.#topics;
    this.#topics = topics;
    if (this.#socket?.admitted) {
      const gone = before.filter((topic) => !topics.includes(topic));
      if (gone.length) this.#send("unsubscribe", gone.join(","));
      this.#subscribe();
    } else if (this.state === "idle") {
      this.connect();
    }
  }

  /** Connects now, whatever was waited for. */
  connect() {
    clearTimeout(this.#timer);
    this.#drop();
    this.#become("connecting");
    const url = new URL("stocks", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.search = "";
    const socket = new WebSocket(url);
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => {
      if (socket === this.#socket) this.#take(JSON.parse(data));
    });
    socket.addEventListener("close", ({ code, reason }) => {
      if (socket === this.#socket) this.#closed(code, reason);
    });
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket && socket.readyState <= WebSocket.OPEN) socket.close();
  }

  #closed(code, reason) {
    this.#socket = null;
    if (this.state === "refused") return;
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#attempts) * (0.75 + Math.random() / 2);
    this.#attempts += 1;
    this.again = true;
    this.reason = reason || (code === 1012 ? "the server restarts" : "the connection was lost");
    this.until = performance.now() + wait;
    this.#timer = setTimeout(() => this.connect(), wait);
    this.#become("waiting");
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  #send(action, params) {
    this.#socket.send(JSON.stringify({ action, params }));
  }

  #subscribe() {
    this.#waiting = new Set(this.#topics);
    this.#refusals = [];
    if (this.#topics.length) this.#send("subscribe", this.#topics.join(","));
  }

  #take(messages) {
    const told = [];
    for (const message of messages) {
      if (message.ev === "status") this.#status(message);
      else told.push(message);
    }
    if (told.length) this.dispatchEvent(new CustomEvent("messages", { detail: told }));
  }

  #status({ status, message }) {
    const said = {
      connected: () => this.#send("auth", key() ?? ""),
      auth_success: () => {
        this.#socket.admitted = true;
        this.#subscribe();
      },
      auth_failed: () => this.#refuse(message),
      auth_timeout: () => this.#refuse(message),
      success: () => this.#answered(message.replace(/^subscribed to: /, ""), null),
      error: () => this.#answered(message.split(": ")[0], message.slice(message.indexOf(": ") + 2)),
      // The live store went, came back, or was ahead of the server.
      stale: () => this.#stale(message),
      live: () => this.#stands(),
      reset: () => this.#stands(),
      alerts_stale: () => this.#alerts(message),
      alerts_live: () => this.#alerts(null),
    };
    said[status]?.();
  }

  #refuse(reason) {
    this.reason = reason;
    this.#become("refused");
  }

  #stale(reason) {
    this.reason = reason;
    this.#become("stale");
  }

  /** One topic was answered; with the last one the subscriptions stand. */
  #answered(topic, refusal) {
    if (!this.#waiting.delete(topic)) return;
    if (ofAlerts(topic)) this.#alerts(refusal);
    else if (refusal) this.#refusals.push(refusal);
    if (this.#waiting.size) return;
    this.#attempts = 0;
    if (this.#refusals.length === this.#topics.filter((topic) => !ofAlerts(topic)).length) {
      this.reason = this.#refusals.at(-1);
      this.#become("none");
      if (this.again) this.dispatchEvent(new Event("ready"));
    } else {
      this.#stands();
    }
  }

  #alerts(refusal) {
    this.dispatchEvent(new CustomEvent("alerts", { detail: refusal }));
  }

  #stands() {
    this.reason = "";
    if (this.state !== "live") this.#become("live");
    this.dispatchEvent(new Event("ready"));
  }
}

// Numbers and times as people read them. Instants are UTC milliseconds.

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });

/** How many decimals prices like this one have. */
export function decimals(price) {
  const size = Math.abs(price);
  return !size || size >= 1 ? 2 : size >= 0.01 ? 4 : 8;
}

/** A price; a dash for none. */
export function price(value, digits = decimals(value)) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A difference, with its sign. */
export function signed(value, digits) {
  const text = price(Math.abs(value), digits);
  return `${value < 0 ? "−" : "+"}${text}`;
}

export function count(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

export function compact(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) < 10_000 ? whole.format(value) : short.format(value);
}

/** How long ago, roughly. */
export function ago(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 2) return "now";
  if (seconds < 90) return `${seconds} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h ago`;
  return seconds < 86_400 * 730 ? `${Math.round(seconds / 86_400)} days ago` : `${Math.round(seconds / 31_556_952)} years ago`;
}

/** A clock on a wall somewhere: how far it is ahead of UTC, and how it shows an instant. */
export class Zone {
  #format;
  #offsets = new Map();

  constructor(name) {
    this.name = name;
    this.#format = new Intl.DateTimeFormat("en-US", {
      timeZone: name, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric",
      hour: "numeric", minute: "numeric", second: "numeric",
    });
  }

  /** The instant at which a clock on UTC shows what this one shows now. */
  local(instant) {
    // Offsets change on the hour, or at a quarter of it.
    const quarter = Math.floor(instant / 900_000);
    let offset = this.#offsets.get(quarter);
    if (offset === undefined) {
      const parts = {};
      for (const { type, value } of this.#format.formatToParts(quarter * 900_000)) parts[type] = Number(value);
      const { year, month, day, hour, minute, second } = parts;
      offset = Date.UTC(year, month - 1, day, hour, minute, second) - quarter * 900_000;
      this.#offsets.set(quarter, offset);
    }
    return instant + offset;
  }

  date(instant) {
    return isoDate(this.local(instant));
  }

  time(instant) {
    return new Date(this.local(instant)).toISOString().slice(11, 16);
  }
}

/** `2013-03-01` of a local instant. */
export function isoDate(local) {
  return new Date(local).toISOString().slice(0, 10);
}

/** `Fri` of a local instant. */
export function weekday(local) {
  return WEEKDAYS[new Date(local).getUTCDay()];
}

/** `Fri 1 Mar 2013` of a local instant, with `09:30` behind it where a bar is shorter than a day. */
export function longDate(local, withTime) {
  const at = new Date(local);
  const day = `${weekday(local)} ${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}`;
  return withTime ? `${day} ${at.toISOString().slice(11, 16)}` : day;
}

/** A bar's window: its sessions, or its times. */
export function span(bar, zone, daily) {
  if (daily) {
    // Where days begin on the evening before, the date is the one on which most of the day lies.
    const first = zone.date(bar.ts + 12 * HOUR);
    const last = zone.date(Math.max(bar.end - 12 * HOUR, bar.ts + 12 * HOUR));
    return bar.end - bar.ts <= 1.5 * DAY ? first : `${first} to ${last}`;
  }
  return `${zone.date(bar.ts)} ${zone.time(bar.ts)}–${zone.time(bar.end)}`;
}

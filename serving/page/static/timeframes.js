// The strip of timeframes: the Fibonacci ones first, then the day and other counts of days, then those within it.

const FIBONACCI = new Set(["3d", "5d", "8d", "13d", "21d", "34d"]);
const NAME = /^[1-9][0-9]*[mhd]$/;
const MINUTES = { m: 1, h: 60, d: 1440 };

/** How long a timeframe is, in minutes of which a session has a day's. */
export function minutes(name) {
  return Number.parseInt(name, 10) * MINUTES[name.at(-1)];
}

/** Whether a timeframe counts sessions. */
export function isDaily(name) {
  return name.endsWith("d");
}

/** Returns the groups in which timeframes are shown, each from short to long. */
export function grouped(names) {
  const sorted = [...new Set(names)].filter((name) => NAME.test(name)).sort((a, b) => minutes(a) - minutes(b));
  return [
    sorted.filter((name) => FIBONACCI.has(name)),
    sorted.filter((name) => isDaily(name) && !FIBONACCI.has(name)),
    sorted.filter((name) => !isDaily(name)),
  ].filter((group) => group.length);
}

/** Makes the strip; `chosen` is told what is chosen. */
export function show(element, names, current, chosen) {
  const parts = [];
  for (const group of grouped(names)) {
    if (parts.length) parts.push(document.createElement("i"));
    for (const name of group) {
      const [label, input, text] = ["label", "input", "span"].map((tag) => document.createElement(tag));
      label.className = FIBONACCI.has(name) ? "fibonacci" : "";
      Object.assign(input, { type: "radio", name: "timeframe", value: name, checked: name === current });
      input.addEventListener("change", () => chosen(name));
      text.textContent = name;
      label.append(input, text);
      parts.push(label);
    }
  }
  element.replaceChildren(...parts);
  reveal(element);
}

/** Marks what is current. */
export function mark(element, current) {
  for (const input of element.querySelectorAll("input")) input.checked = input.value === current;
  reveal(element);
}

function reveal(element) {
  const label = element.querySelector("input:checked")?.parentElement;
  if (!label) return;
  const left = label.offsetLeft - element.offsetLeft;
  if (left < element.scrollLeft || left + label.offsetWidth > element.scrollLeft + element.clientWidth) {
    element.scrollLeft = left - element.clientWidth / 2;
  }
}

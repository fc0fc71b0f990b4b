// Light, dark, or as the system has it; remembered. theme.js sets it before the first paint.

const ORDER = ["system", "light", "dark"];
const NAMES = { system: "as the system has it", light: "light", dark: "dark" };
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

/** Makes the switch work; `changed` is called when colours are others. */
export function setUp(button, changed) {
  const tell = () => {
    const now = root.dataset.theme;
    const next = ORDER[(ORDER.indexOf(now) + 1) % ORDER.length];
    button.title = `Theme: ${NAMES[now]}`;
    button.setAttribute("aria-label", `Theme: ${NAMES[now]}. Change to ${NAMES[next]}`);
  };
  button.addEventListener("click", () => {
    const next = ORDER[(ORDER.indexOf(root.dataset.theme) + 1) % ORDER.length];
    root.dataset.theme = next;
    try {
      if (next === "system") localStorage.removeItem("fibflow.theme");
      else localStorage.setItem("fibflow.theme", next);
    } catch {
      // Storage may be forbidden: it holds until the page is closed.
    }
    tell();
    changed();
  });
  system.addEventListener("change", changed);
  tell();
}

/** Returns a colour of the palette as `rgb(...)`. */
export function color(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Returns a colour of the palette, so far opaque. */
export function faded(name, alpha) {
  const [red, green, blue] = color(name).match(/[\d.]+/g);
  return `rgba(${red}, ${green}, ${blue}, ${alpha})`;
}

// The search for a symbol: a combobox that the keyboard can work.

const WAIT = 120;

/** Makes the search work. `find` returns symbols for a text, `chosen` is told one. */
export function setUp({ input, list, find, chosen }) {
  let found = [];
  let at = -1;
  let asked = 0;
  let timer = null;
  let current = "";
  /** The text whose symbols are listed. */
  let listed = null;

  const close = () => {
    clearTimeout(timer);
    asked += 1;
    found = [];
    at = -1;
    listed = null;
    list.hidden = true;
    list.replaceChildren();
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const select = (place) => {
    at = place;
    [...list.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === at)));
    const item = list.children[at];
    if (item) {
      input.setAttribute("aria-activedescendant", item.id);
      item.scrollIntoView({ block: "nearest" });
    }
  };

  const open = (text) => {
    list.replaceChildren(...(found.length ? found.map((symbol, place) => row(symbol, place, text)) : [nothing(text)]));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    const same = found.findIndex(({ symbol }) => symbol.toUpperCase() === input.value.trim().toUpperCase());
    select(same >= 0 ? same : found.length ? 0 : -1);
  };

  const look = async () => {
    const mine = ++asked;
    const written = input.value.trim();
    // What stands there already is not searched for: then all symbols are shown.
    const text = written === current ? "" : written;
    let answer;
    try {
      answer = await find(text);
    } catch {
      // The page says elsewhere that the server does not answer.
      if (mine === asked) close();
      return false;
    }
    if (mine !== asked) return false;
    found = answer;
    listed = written;
    open(text);
    return true;
  };

  const take = (symbol) => {
    close();
    input.value = current = symbol;
    input.blur();
    chosen(symbol);
  };

  input.addEventListener("focus", () => {
    input.select();
    look();
  });
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, WAIT);
  });
  input.addEventListener("blur", () => {
    close();
    input.value = current;
  });
  input.addEventListener("keydown", async (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) await look();
      else if (found.length) select((at + (event.key === "ArrowDown" ? 1 : found.length - 1)) % found.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      clearTimeout(timer);
      // What is written may be newer than what is listed.
      if (listed !== input.value.trim() && !(await look())) return;
      if (found[at]) take(found[at].symbol);
    } else if (event.key === "Escape") {
      if (list.hidden) input.blur();
      else close();
    }
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=radio], [type=checkbox]), textarea, dialog");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      input.focus();
    }
  });

  function row(symbol, place, text) {
    const item = document.createElement("li");
    item.id = `match-${place}`;
    item.setAttribute("role", "option");
    const [name, company, kind] = ["b", "span", "small"].map((tag) => document.createElement(tag));
    marked(name, symbol.symbol, text);
    company.textContent = symbol.name ?? "";
    kind.textContent = [symbol.exchange, symbol.active === false ? "delisted" : null].filter(Boolean).join(" · ");
    item.append(name, company, kind);
    // Not click: the field would lose the focus before, and the list would be gone.
    item.addEventListener("pointerdown", (event) => event.preventDefault());
    item.addEventListener("click", () => take(symbol.symbol));
    return item;
  }

  function nothing(text) {
    const item = document.createElement("li");
    item.className = "nothing";
    item.textContent = text ? `No symbol matches “${text}”.` : "There are no symbols.";
    return item;
  }

  return {
    show(symbol) {
      current = symbol;
      if (document.activeElement !== input) input.value = symbol;
    },
  };
}

function marked(element, text, part) {
  const place = part ? text.toUpperCase().indexOf(part.toUpperCase()) : -1;
  if (place < 0) {
    element.textContent = text;
    return;
  }
  const mark = document.createElement("mark");
  mark.textContent = text.slice(place, place + part.length);
  element.append(text.slice(0, place), mark, text.slice(place + part.length));
}

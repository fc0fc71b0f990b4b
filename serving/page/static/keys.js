// The API key of this tab, and the dialog that asks for it.

const NAME = "fibflow.key";
const $ = (id) => document.getElementById(id);
let kept = null;

/** Returns the key; null for none. */
export function key() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return kept;
  }
}

function keep(value) {
  kept = value;
  try {
    if (value) sessionStorage.setItem(NAME, value);
    else sessionStorage.removeItem(NAME);
  } catch {
    // Storage may be forbidden: the page has it as long as it is open.
  }
}

/** Makes the dialog work; `changed` is called when the key is another one. */
export function setUp(changed) {
  const dialog = $("keys");
  $("key").addEventListener("click", () => ask("This server wants a key."));
  $("keys-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = $("keys-field").value.trim();
    if (!given) return;
    keep(given);
    dialog.close();
    changed();
  });
  $("keys-cancel").addEventListener("click", () => dialog.close());
  $("keys-forget").addEventListener("click", () => {
    keep(null);
    dialog.close();
    changed();
  });
}

/** Opens the dialog, where it is not open yet. */
export function ask(why) {
  $("key").hidden = false;
  $("keys-why").textContent = why;
  $("keys-forget").hidden = !key();
  $("keys-field").value = "";
  if (!$("keys").open) $("keys").showModal();
}

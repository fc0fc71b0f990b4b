// Before the first paint, and so no module: a remembered theme must not flash.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("fibflow.theme");
  } catch {
    // Storage may be forbidden; then the system's theme it is.
  }
  document.documentElement.dataset.theme = chosen === "light" || chosen === "dark" ? chosen : "system";
})();

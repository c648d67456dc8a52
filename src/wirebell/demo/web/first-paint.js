// @ts-check
/**
 * Owns what must be right in the first paint: the colour theme, and whether room is kept for the
 * welcome of guests. A classic script in the head, so that a reader who chose dark never sees a
 * white flash and nothing moves when the server has answered who we are.
 */
(() => {
  const PREFIX = "wirebell.taskboard.";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  /** @param {string} name @returns {string | null} null where storage is blocked or empty */
  const stored = (name) => {
    try {
      return localStorage.getItem(PREFIX + name);
    } catch {
      return null;
    }
  };

  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

  const label = () => {
    const button = document.getElementById("theme-toggle");
    button?.setAttribute("aria-label", isDark() ? "Switch to light theme" : "Switch to dark theme");
  };

  root.dataset.session = stored("session") ?? "guest";
  root.dataset.demo = stored("demo") ?? "unknown";
  const choice = stored("theme");
  if (choice === "dark" || choice === "light") root.dataset.theme = choice;
  label();
  system.addEventListener("change", label);

  document.addEventListener("DOMContentLoaded", () => {
    label();
    document.getElementById("theme-toggle")?.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      label();
      try {
        localStorage.setItem(`${PREFIX}theme`, root.dataset.theme);
      } catch {
        // Storage is blocked: the choice holds for this page only.
      }
    });
  });
})();

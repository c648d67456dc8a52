// @ts-check
/** Owns how a button opens and closes the panel it controls: Escape, a click outside, focus. */

/**
 * @param {HTMLButtonElement} button its `aria-controls` names the panel
 * @param {{onOpen?: () => void, focus?: () => HTMLElement}} [options]
 * @returns {() => void} close the panel
 */
export function disclose(button, { onOpen, focus } = {}) {
  const panel = document.getElementById(button.getAttribute("aria-controls") ?? "");
  if (!panel) throw new Error(`${button.id} controls nothing`);

  /** @param {boolean} open */
  const show = (open) => {
    panel.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    if (!open) return;
    onOpen?.();
    focus?.().focus();
  };
  const close = () => {
    if (panel.hidden) return;
    // Focus inside a panel that disappears would fall back to the start of the page.
    if (panel.contains(document.activeElement)) button.focus();
    show(false);
  };

  button.addEventListener("click", () => show(panel.hidden));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  document.addEventListener("pointerdown", (event) => {
    const target = event.target;
    if (target instanceof Node && !panel.contains(target) && !button.contains(target)) close();
  });
  panel.addEventListener("focusout", (event) => {
    const next = event.relatedTarget;
    if (next instanceof Node && !panel.contains(next) && !button.contains(next)) close();
  });
  return close;
}

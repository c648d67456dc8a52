// @ts-check
/** Owns the connection indicator: live, connecting, reconnecting with a countdown, or offline. */

import { need, setText } from "./dom.js";

/** @type {Record<import("./live.js").State, string>} */
const LABELS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", offline: "Offline" };

/** @type {ReturnType<typeof setInterval> | undefined} */
let ticking;

/**
 * @param {import("./live.js").State} state
 * @param {number | null} retryAt milliseconds since 1970; null while an attempt is under way
 */
export function showConnection(state, retryAt) {
  need("connection", HTMLDivElement).dataset.state = state;
  // Only the label is a live region: a countdown read out each second helps nobody.
  setText(need("connection-label", HTMLSpanElement), LABELS[state]);
  const retry = need("connection-retry", HTMLButtonElement);
  const isAway = state === "reconnecting" || state === "offline";
  if (!isAway && document.activeElement === retry) need("main", HTMLElement).focus({ preventScroll: true });
  retry.hidden = !isAway;
  const countdown = need("connection-countdown", HTMLSpanElement);
  const tick = () => {
    const seconds = Math.ceil(((retryAt ?? 0) - Date.now()) / 1000);
    setText(countdown, !isAway ? "" : seconds > 0 ? `in ${seconds} s` : "now…");
  };
  clearInterval(ticking);
  tick();
  if (isAway) ticking = setInterval(tick, 250);
}

/** @param {() => void} onRetry */
export function setUpConnection(onRetry) {
  need("connection-retry", HTMLButtonElement).addEventListener("click", onRetry);
}

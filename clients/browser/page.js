// @ts-check
/** Owns what the browser tells of itself: network, visibility, and the end of the page. */

/** 4 s: a server that needs longer to say anything is not there. */
const PROBE_TIMEOUT_MS = 4000;

/** @returns {import("./tabs.js").Platform} */
export function findPlatform() {
  return {
    locks: globalThis.navigator?.locks,
    BroadcastChannel: globalThis.BroadcastChannel,
    createId: () => crypto.getRandomValues(new Uint32Array(4)).reduce((id, part) => id + part.toString(36), ""),
    isVisible: () => globalThis.document?.visibilityState === "visible",
  };
}

/**
 * Tell whether there is a network. Browsers say "offline" without a default route, yet a server on
 * this machine still answers; and some let a WebSocket through while every request fails.
 *
 * @param {string} url any answer of it counts
 * @returns {Promise<boolean>}
 */
export async function isReachable(url) {
  if (globalThis.navigator?.onLine !== false) return true;
  try {
    await fetch(url, { mode: "no-cors", cache: "no-store", signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) });
    return true;
  } catch {
    return false;
  }
}

/**
 * @param {object} handlers
 * @param {() => void} handlers.onWake the network or the reader is back
 * @param {() => void} handlers.onOffline
 * @param {() => void} handlers.onHide the page ends, or is put away and may come back
 * @param {() => void} handlers.onShow it has come back
 * @returns {() => void} stops watching
 */
export function watchPage({ onWake, onOffline, onHide, onShow }) {
  if (typeof document === "undefined") return () => undefined;
  const stop = new AbortController();
  const { signal } = stop;
  addEventListener("online", onWake, { signal });
  addEventListener("offline", onOffline, { signal });
  addEventListener("pagehide", onHide, { signal });
  addEventListener("pageshow", (event) => event.persisted && onShow(), { signal });
  // Timers sleep with the machine or a hidden page: look at the clock when people look at the page.
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && onWake(), { signal });
  return () => stop.abort();
}

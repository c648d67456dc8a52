// @ts-check
/** Owns how times read ("5 minutes ago") and keeps every `<time>` of the page fresh. */

const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** Unit, its length in seconds, and up to how many seconds it is used. @type {[Intl.RelativeTimeFormatUnit, number, number][]} */
const STEPS = [
  ["minute", 60, 3600],
  ["hour", 3600, 86_400],
  ["day", 86_400, 7 * 86_400],
];

/**
 * @param {string} at ISO 8601
 * @param {number} now milliseconds since 1970
 * @returns {string}
 */
export function formatAgo(at, now) {
  const seconds = (now - Date.parse(at)) / 1000;
  // A server clock a little ahead of ours must not read "in 2 seconds".
  if (seconds < 45) return "just now";
  for (const [unit, length, until] of STEPS) {
    if (seconds < until) return ago.format(-Math.max(1, Math.round(seconds / length)), unit);
  }
  return new Date(at).toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });
}

/**
 * @param {HTMLTimeElement} element
 * @param {string} at ISO 8601
 */
export function setTime(element, at) {
  element.dateTime = at;
  element.title = full.format(new Date(at));
  element.textContent = formatAgo(at, Date.now());
}

/** Rewrite every time on the page, every half minute. */
export function keepTimesFresh() {
  setInterval(() => {
    for (const element of document.querySelectorAll("time")) {
      if (element.dateTime) element.textContent = formatAgo(element.dateTime, Date.now());
    }
  }, 30_000);
}

// @ts-check
/** Owns how long to wait between attempts. Pure: chance is an argument. */

/** 0.4 s: a server that restarts under a reloader is back about then. */
const FIRST_MS = 400;
/** 20 s: longer and people reload by hand, which costs the server more. */
const MOST_MS = 20_000;

/**
 * Exponential back-off; the upper half is drawn by chance, so that clients that were cut off
 * together do not come back together.
 *
 * @param {number} attempt 0 for the first
 * @param {number} chance 0 up to 1
 * @returns {number} milliseconds
 */
export function backoff(attempt, chance) {
  const whole = Math.min(MOST_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
  return whole / 2 + (whole / 2) * chance;
}

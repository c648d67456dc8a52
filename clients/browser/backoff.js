// @ts-check
/** Owns how long to wait between attempts. Pure: chance is an argument. */

/** 0.5 s, and up to 20 s: what the SDKs of this protocol do. */
export const BACKOFF_MIN_MS = 500;
export const BACKOFF_MAX_MS = 20_000;

/**
 * Full jitter: the wait is drawn from the whole range, so that clients that were cut off together
 * do not come back together.
 *
 * @param {number} attempt 0 for the first
 * @param {number} chance 0 up to 1
 * @param {number} [minMs]
 * @param {number} [maxMs]
 * @returns {number} milliseconds
 */
export function computeBackoff(attempt, chance, minMs = BACKOFF_MIN_MS, maxMs = BACKOFF_MAX_MS) {
  // Beyond 2 ** 31 nothing grows any more, and a power of hundreds would be infinite.
  const range = Math.min(maxMs, minMs * 2 ** Math.min(attempt, 31));
  return Math.min(maxMs, minMs + range * chance);
}

// @ts-check
/** Owns the way to time and chance, so that tests can bring their own. */

/**
 * @typedef {object} Clock
 * @property {() => number} now milliseconds; only differences mean something
 * @property {() => number} random 0 up to 1
 * @property {(run: () => void, ms: number) => unknown} setTimeout returns what `clearTimeout` takes
 * @property {(timer: any) => void} clearTimeout
 */

/** What a browser waits at most: a longer time would be no time at all. */
export const TIMER_MAX_MS = 2 ** 31 - 1;

/** @type {Clock} */
export const systemClock = {
  now: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (run, ms) => setTimeout(run, Math.min(ms, TIMER_MAX_MS)),
  clearTimeout: (timer) => clearTimeout(timer),
};

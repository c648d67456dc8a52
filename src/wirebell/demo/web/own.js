// @ts-check
/**
 * Owns what this browser did itself, so that nobody is notified of their own work.
 *
 * A signed-in user is recognised by name. A guest has none: the keys of what this browser was
 * answered are kept. The push may overtake the answer of our POST, so whoever asks waits until no
 * request of ours is under way.
 */

const KEY = "wirebell.taskboard.own";
/** 300: as many as a channel recovers; older ones are long read. */
const KEYS_MAX = 300;

/** @param {string} name @returns {string | null} null where storage is blocked or empty */
export function readStored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** @param {string} name @param {string} value a blocked storage forgets with the page */
export function writeStored(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Private windows and full disks: the page works, it only forgets sooner.
  }
}

/** @type {Set<string>} */
const keys = new Set(JSON.parse(readStored(KEY) ?? "[]"));
let pending = 0;
/** @type {(() => void)[]} */
let waiting = [];

/** @param {string} key @returns {boolean} */
export const isOwn = (key) => keys.has(key);

/** @param {string} key of something that can only be ours */
export function claim(key) {
  keys.add(key);
  writeStored(KEY, JSON.stringify([...keys].slice(-KEYS_MAX)));
}

/**
 * Run a request of ours and remember what it made.
 *
 * @template T
 * @param {() => Promise<T>} send
 * @param {(made: T) => string} keyOf
 * @returns {Promise<T>}
 */
export async function remember(send, keyOf) {
  pending += 1;
  try {
    const made = await send();
    claim(keyOf(made));
    return made;
  } finally {
    pending -= 1;
    if (pending === 0) {
      const ready = waiting;
      waiting = [];
      for (const resolve of ready) resolve();
    }
  }
}

/** @returns {Promise<void>} once no request of ours is under way; each of them ends within its time limit */
export function settled() {
  if (pending === 0) return Promise.resolve();
  return new Promise((resolve) => waiting.push(resolve));
}

// @ts-check
/**
 * Owns what a page is told of a channel to which the connection is subscribed already.
 *
 * Some channels give their newest publication to everybody who comes: they answer a first
 * subscription as if a position had been shown. A page that joins later gets it from here. Pure.
 */

/** @typedef {import("./codec.js").Position} Position */
/** @typedef {import("./codec.js").SubscribeResult} SubscribeResult */
/** @typedef {import("./codec.js").WirePublication} WirePublication */

export class Welcome {
  #isNewestKept = false;
  /** @type {WirePublication | undefined} */
  #newest;

  /** @param {SubscribeResult} result @param {Position | null} since what was asked for */
  enter(result, since) {
    if (since === null && result.was_recovering) this.#isNewestKept = true;
    this.see(result.publications?.at(-1));
  }

  /** @param {WirePublication | undefined} publication */
  see(publication) {
    if (this.#isNewestKept && publication) this.#newest = publication;
  }

  /**
   * @param {SubscribeResult} result how the connection is subscribed
   * @param {Position | null} ours where the connection is
   * @param {Position | null} theirs where the page is, not behind us; null when it was never there
   * @returns {{result: SubscribeResult, since: Position | null}}
   */
  create(result, ours, theirs) {
    const recovered = theirs !== null && theirs.epoch === ours?.epoch;
    const { publications: _, ...known } = { ...result, ...ours, recovered };
    if (theirs || !this.#newest) return { result: known, since: ours };
    return { result: { ...known, recovered: true, publications: [this.#newest] }, since: null };
  }
}

/** @param {Position | null} one @param {Position | null} other @returns {Position | null} */
export function findLower(one, other) {
  if (!one || !other) return one ?? other;
  return one.epoch === other.epoch && other.offset < one.offset ? other : one;
}

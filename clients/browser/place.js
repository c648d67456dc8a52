// @ts-check
/** Owns where one page is in one channel: it leaves out what it had already. Pure. */

/** @typedef {import("./codec.js").Position} Position */
/** @typedef {import("./codec.js").WirePublication} WirePublication */

export class Place {
  /** @param {Position | null} [position] null before the first subscription, and where nothing is kept */
  constructor(position = null) {
    this.position = position;
  }

  /**
   * Take a subscribe result, which may have been asked for from a lower place than ours.
   *
   * @param {import("./codec.js").SubscribeResult} result
   * @param {Position | null} since what was asked for
   * @returns {{recovered: boolean, publications: WirePublication[]}} those that we did not have, oldest first
   */
  enter(result, since) {
    const ours = this.position;
    const publications = result.publications ?? [];
    const top = publications.at(-1)?.offset ?? result.offset ?? 0;
    const epoch = result.epoch ?? "";
    this.position = result.recoverable || result.positioned ? { epoch, offset: top } : null;
    if (ours === null) {
      const isOurAnswer = since === null;
      return { recovered: isOurAnswer && (result.recovered ?? false), publications: isOurAnswer ? publications : [] };
    }
    const isKnown = ours.epoch === epoch || ours.epoch === "";
    if (!result.recovered || !isKnown || since === null || ours.offset < since.offset) return { recovered: false, publications: [] };
    // We may even be ahead: of what the connection had when another page took it over.
    if (this.position && ours.offset > top) this.position.offset = ours.offset;
    return { recovered: true, publications: publications.filter(({ offset }) => offset === undefined || offset > ours.offset) };
  }

  /**
   * @param {WirePublication} publication
   * @param {string} epoch
   * @returns {boolean} whether it is new to us
   */
  pass(publication, epoch) {
    const { offset } = publication;
    if (offset === undefined || this.position === null) return true;
    if (this.position.epoch === epoch && offset <= this.position.offset) return false;
    this.position = { epoch, offset };
    return true;
  }
}

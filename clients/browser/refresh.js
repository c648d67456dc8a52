// @ts-check
/** Owns when a token is renewed, for the connection and for each subscription alike. */

import { computeBackoff } from "./backoff.js";
import { isRetriable, Local, UnauthorizedError, Unsubscribed } from "./codes.js";

/**
 * @typedef {object} RefresherOptions
 * @property {import("./clock.js").Clock} clock
 * @property {(() => Promise<string>) | undefined} getToken undefined: the server decides what happens at the end
 * @property {(token: string, resolve: (result: {expires?: boolean, ttl?: number}) => void, reject: (error: import("./codes.js").ClientError) => void) => void} send
 * @property {(code: number, reason: string) => void} onRefused no token of ours is good any more
 */

export class Refresher {
  /** @type {unknown} */
  #timer;
  /** Rises whenever what is under way no longer counts. */
  #round = 0;

  /** @param {RefresherOptions} options */
  constructor(options) {
    this.options = options;
  }

  /** @param {{expires?: boolean, ttl?: number}} result what the server said of the token; seconds */
  plan(result) {
    this.stop();
    if (result.expires && this.options.getToken) this.#wait((result.ttl ?? 0) * 1000);
  }

  stop() {
    this.#round += 1;
    this.options.clock.clearTimeout(this.#timer);
  }

  /** @param {number} ms */
  #wait(ms) {
    this.#timer = this.options.clock.setTimeout(() => void this.#refresh(), ms);
  }

  #waitLonger() {
    this.#wait(computeBackoff(1, this.options.clock.random()));
  }

  async #refresh() {
    const round = this.#round;
    let token;
    try {
      token = await this.options.getToken?.();
      if (round !== this.#round) return;
      if (!token) throw new UnauthorizedError();
    } catch (error) {
      if (round !== this.#round) return;
      if (!(error instanceof UnauthorizedError)) return this.#waitLonger();
      return this.options.onRefused(Unsubscribed.UNAUTHORIZED, "unauthorized");
    }
    this.options.send(
      token,
      (result) => round === this.#round && this.plan(result),
      (error) => {
        if (round !== this.#round || error.code === Local.TRANSPORT_CLOSED) return;
        if (isRetriable(error)) this.#waitLonger();
        else this.options.onRefused(error.code, error.message);
      },
    );
  }
}

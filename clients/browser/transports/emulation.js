// @ts-check
/** Owns the way up where the transport only goes down: one request after the other, in order. */

import { joinFrames } from "../codec.js";

export class Emulation {
  /** @type {string[]} */
  #frames = [];
  #session = "";
  #node = "";
  #isPosting = false;
  #controller = new AbortController();

  /**
   * @param {import("./transport.js").TransportOptions} options
   * @param {() => void} onFailure a request did not arrive
   */
  constructor(options, onFailure) {
    this.options = options;
    this.onFailure = onFailure;
  }

  /** @param {string} session @param {string} node */
  start(session, node) {
    this.#session = session;
    this.#node = node;
    void this.#post();
  }

  /** @param {string} frame */
  send(frame) {
    this.#frames.push(frame);
    void this.#post();
  }

  close() {
    this.#session = "";
    this.#controller.abort();
  }

  #take() {
    const [first, ...others] = joinFrames(this.#frames);
    this.#frames = others;
    return first;
  }

  async #post() {
    if (this.#isPosting) return;
    this.#isPosting = true;
    try {
      while (this.#session && this.#frames.length > 0) {
        const body = JSON.stringify({ session: this.#session, node: this.#node, data: this.#take() });
        // No content type of our own: a browser would ask the server first whether it may send one.
        const response = await fetch(this.options.endpoints.emulation, {
          method: "POST",
          body,
          credentials: this.options.credentials,
          signal: this.#controller.signal,
        });
        if (!response.ok) throw new TypeError(`status ${response.status}`);
      }
    } catch {
      if (this.#session) this.onFailure();
    } finally {
      this.#isPosting = false;
    }
  }
}

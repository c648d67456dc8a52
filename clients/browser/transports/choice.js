// @ts-check
/**
 * Owns which transport is tried next.
 *
 * One attempt walks the list until a transport connects. The best one that ever did is asked alone
 * in the first attempts after a loss, since then the server is away more often than the way to it.
 */

import { openHTTPStream } from "./http_stream.js";
import { openSSE } from "./sse.js";
import { openWebSocket } from "./websocket.js";

/** @typedef {import("./transport.js").TransportName} TransportName */

/** @type {Record<TransportName, import("./transport.js").OpenTransport>} */
export const TRANSPORTS = { websocket: openWebSocket, http_stream: openHTTPStream, sse: openSSE };

/** @type {readonly TransportName[]} */
export const TRANSPORT_NAMES = ["websocket", "http_stream", "sse"];

/** Attempts after a loss that ask only the transport that worked. */
const FAITHFUL_ATTEMPTS = 2;

export class TransportChoice {
  /** Place in the list of the best that ever connected; -1 when none did. */
  #proved = -1;

  /** @param {readonly TransportName[]} names best first, at least one */
  constructor(names) {
    if (names.length === 0) throw new RangeError("name at least one transport");
    this.names = names;
  }

  /** @param {number} attempt 0 for the first after a loss @returns {TransportName[]} in the order to be tried */
  list(attempt) {
    if (this.#proved < 0) return [...this.names];
    return attempt < FAITHFUL_ATTEMPTS ? this.names.slice(this.#proved, this.#proved + 1) : [...this.names];
  }

  /** @param {TransportName} name it has connected */
  prove(name) {
    const place = this.names.indexOf(name);
    if (this.#proved < 0 || place < this.#proved) this.#proved = place;
  }
}

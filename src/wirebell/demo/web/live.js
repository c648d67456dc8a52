// @ts-check
/**
 * Owns what the page knows of its connection: one channel, and how it stands with it.
 *
 * The browser client keeps the connection, one for all windows of a browser, and gets what was
 * missed; when it cannot, `onSubscribed(false)` tells the page to load its lists again.
 * It must not know what a publication means.
 */

import { Client } from "./browser/index.js";

/** @typedef {"connecting" | "live" | "reconnecting" | "offline"} State */
/** @typedef {{user: string, client: string}} ClientInfo */
/**
 * @typedef {object} Handlers
 * @property {(state: State, retryAt: number | null) => void} onState `retryAt` in milliseconds since 1970
 * @property {(data: any, recovered: boolean) => void} onPublication in order, each once
 * @property {(recovered: boolean, missed: number) => void} onSubscribed after recovered publications
 * @property {(kind: "join" | "leave", info: ClientInfo) => void} onPresence
 * @property {(code: number) => void} onDisconnect what the server said before it closed
 */

/** Codes below are the client's own, and say nothing of who we are. */
const SERVER_CODE_MIN = 3000;

export class Live {
  /** @type {State} */
  #state = "connecting";
  /** @type {number | null} */
  #retryAt = null;
  #client;
  #subscription;

  /**
   * @param {string} address where Wirebell is mounted
   * @param {string} channel
   * @param {Handlers} handlers
   */
  constructor(address, channel, handlers) {
    this.handlers = handlers;
    this.#client = new Client(address, { name: "taskboard" });
    this.#client.on("connecting", ({ code, retryAt }) => {
      if (code >= SERVER_CODE_MIN) handlers.onDisconnect(code);
      const isFirst = this.#state === "connecting" && retryAt === null;
      this.#setState(isFirst ? "connecting" : this.#nameAbsence(), retryAt);
    });
    this.#client.on("disconnected", ({ code }) => {
      if (code >= SERVER_CODE_MIN) handlers.onDisconnect(code);
      this.#setState("offline");
    });
    this.#subscription = this.#client.subscription(channel);
    this.#subscription.on("publication", ({ data, recovered }) => handlers.onPublication(data, recovered));
    this.#subscription.on("subscribed", ({ recovered, missed }) => {
      this.#setState("live");
      handlers.onSubscribed(recovered, missed);
    });
    this.#subscription.on("join", (info) => handlers.onPresence("join", info));
    this.#subscription.on("leave", (info) => handlers.onPresence("leave", info));
    addEventListener("offline", () => {
      if (this.#state === "reconnecting") this.#setState("offline", this.#retryAt);
    });
  }

  /** @returns {boolean} whether this window is the one that has the connection */
  get isLeader() {
    return this.#client.isLeader;
  }

  /** Connect, and stay connected. */
  start() {
    this.#subscription.subscribe();
    this.#client.connect();
  }

  /** Connect again with the identity the cookie has now; nothing is missed in between. */
  restart() {
    this.#setState("connecting");
    this.#client.reconnect();
  }

  /** Try now instead of when the wait is over. */
  retryNow() {
    this.#client.retry();
  }

  /** @returns {Promise<ClientInfo[]>} who is in the channel */
  async fetchPresence() {
    return Object.values(await this.#subscription.presence());
  }

  /** @returns {State} */
  #nameAbsence() {
    return navigator.onLine ? "reconnecting" : "offline";
  }

  /** @param {State} state @param {number | null} [retryAt] */
  #setState(state, retryAt = null) {
    this.#state = state;
    this.#retryAt = retryAt;
    this.handlers.onState(state, retryAt);
  }
}

// @ts-check
/**
 * Owns what an application talks to: one client for a page, over one connection for a browser.
 */

import { systemClock } from "./clock.js";
import { toPlain } from "./codec.js";
import { ClientError, Connecting, Disconnected, Local } from "./codes.js";
import { Emitter } from "./events.js";
import { GivenChannels } from "./given.js";
import { findPlatform, isReachable, watchPage } from "./page.js";
import { COMMAND_TIMEOUT_MS } from "./session.js";
import { Subscription } from "./subscription.js";
import { Tabs } from "./tabs.js";
import { TRANSPORT_NAMES, TRANSPORTS } from "./transports/choice.js";
import { findEndpoints } from "./transports/transport.js";

/** @typedef {import("./codec.js").Publication} Publication */
/** @typedef {import("./codec.js").ClientInfo} ClientInfo */
/** @typedef {import("./connection.js").ConnectionState} ConnectionState */
/** @typedef {import("./engine.js").Connected} Connected */
/** @typedef {import("./subscription.js").SubscriptionOptions} SubscriptionOptions */
/** @typedef {import("./transports/transport.js").TransportName} TransportName */
/**
 * @typedef {object} ClientOptions
 * @property {string} [token] of the connection
 * @property {() => string | Promise<string>} [getToken] asked when there is none, or it has ended; throws `UnauthorizedError` to give up
 * @property {boolean | string} [shared] one connection for all pages of this browser (the default); a text shares only with pages that give the same, as a user's id
 * @property {readonly TransportName[]} [transports] best first
 * @property {unknown} [data] for the server, at connect
 * @property {string} [name] of the application
 * @property {string} [version] of the application
 * @property {Record<string, string>} [headers] told to the server in the connect command
 * @property {RequestCredentials} [credentials] of HTTP requests; `include` for cookies of another site
 * @property {number} [timeoutMs] of a command
 * @property {number} [backoffMinMs]
 * @property {number} [backoffMaxMs]
 */
/** @typedef {{code: number, reason: string}} Reason */
/** @typedef {{channel: string}} InChannel a channel that the server subscribed us to */
/**
 * @typedef {object} ClientEvents
 * @property {Reason & {retryAt: number | null}} connecting `retryAt` in milliseconds since 1970; null while an attempt is under way
 * @property {Connected} connected
 * @property {Reason} disconnected for good, or until `connect()`
 * @property {{data: unknown}} message the server's, to this connection
 * @property {InChannel & {recovered: boolean, missed: number, data: unknown}} subscribed
 * @property {InChannel & Reason} subscribing
 * @property {InChannel & Reason} unsubscribed
 * @property {InChannel & Publication & {recovered: boolean}} publication
 * @property {InChannel & ClientInfo} join
 * @property {InChannel & ClientInfo} leave
 */

/** @typedef {{message: Extract<import("./engine.js").TabMessage, {type: "call"}>, isSent: boolean, timer: unknown, resolve: (result: any) => void, reject: (error: ClientError) => void}} Call */

/** @extends {Emitter<ClientEvents>} */
export class Client extends Emitter {
  /** @type {ConnectionState} */
  state = "disconnected";
  /** What the server said of the connection. @type {Connected | null} */
  connected = null;
  /** @type {Map<string, Subscription>} */
  #subscriptions = new Map();
  #given = new GivenChannels(this);
  /** @type {Map<number, Call>} */
  #calls = new Map();
  #lastCall = 0;
  /** @type {(() => void) | null} */
  #stopWatching = null;
  #tabs;

  /**
   * @param {string} address where Wirebell is mounted: `/realtime`, `https://example.com` ...
   * @param {ClientOptions} [options]
   */
  constructor(address, options = {}) {
    super();
    this.options = options;
    this.timeoutMs = options.timeoutMs ?? COMMAND_TIMEOUT_MS;
    const endpoints = findEndpoints(address, globalThis.location?.href ?? "http://localhost");
    const { credentials = "same-origin", getToken, shared = true, transports = TRANSPORT_NAMES } = options;
    this.#tabs = new Tabs({
      key: `wirebell ${endpoints.websocket} ${shared}`,
      isShared: shared !== false,
      engine: {
        ...toPlain({ data: options.data }),
        ...pick(options, ["backoffMaxMs", "backoffMinMs", "headers", "name", "timeoutMs", "token", "version"]),
        ...(getToken && { getToken: async () => getToken() }),
        transport: { endpoints, credentials },
        names: transports,
        openers: TRANSPORTS,
        clock: systemClock,
        isReachable: () => isReachable(endpoints.health),
      },
      platform: findPlatform(),
      onAttach: () => this.#attach(),
      onEvent: (event) => this.#handle(event),
    });
  }

  /** @returns {boolean} whether this page is the one that has the connection */
  get isLeader() {
    return this.#tabs.isLeader;
  }

  /** Connect, and stay connected until `disconnect()` or until the server forbids it. */
  connect() {
    if (this.state !== "disconnected") return;
    this.state = "connecting";
    this.emit("connecting", { code: Connecting.CALLED, reason: "connect called", retryAt: null });
    this.#stopWatching ??= watchPage({
      onWake: () => this.#tabs.post({ type: "wake" }),
      onOffline: () => this.#tabs.post({ type: "offline" }),
      onHide: () => this.#tabs.leave(),
      onShow: () => this.#tabs.join(),
    });
    if (this.#tabs.isAttached) this.#postConnect();
    else this.#tabs.join();
  }

  /** Leave; the other pages of this browser stay connected. Positions are kept for `connect()`. */
  disconnect() {
    this.#stopWatching?.();
    this.#stopWatching = null;
    // Also where the server has ended it: another page may begin again, and we would come along.
    this.#tabs.leave();
    if (this.state === "disconnected") return;
    this.#handleState({ state: "disconnected", code: Disconnected.CALLED, reason: "disconnect called", retryAt: null }, null);
  }

  /** Connect again at once, as whoever we are now; nothing is missed in between. */
  reconnect() {
    if (this.state === "disconnected") this.connect();
    else this.#tabs.post({ type: "reconnect" });
  }

  /** Try now instead of when the wait is over. */
  retry() {
    if (this.state === "disconnected") this.connect();
    else this.#tabs.post({ type: "wake" });
  }

  /**
   * Return a channel's subscription, the same each time; call its `subscribe()`.
   *
   * @param {string} channel
   * @param {SubscriptionOptions} [options] taken the first time
   * @returns {Subscription}
   */
  subscription(channel, options = {}) {
    const known = this.#subscriptions.get(channel);
    if (known) return known;
    const host = {
      post: (/** @type {import("./engine.js").TabMessage} */ message) => this.#tabs.post(message),
      call: (/** @type {string} */ method, /** @type {object} */ params) => this.#call(method, params),
    };
    const subscription = new Subscription(channel, options, host);
    this.#subscriptions.set(channel, subscription);
    return subscription;
  }

  /** @param {string} channel its subscription is ended and forgotten, with its position */
  remove(channel) {
    this.#subscriptions.get(channel)?.unsubscribe();
    this.#subscriptions.delete(channel);
  }

  /** @param {string} channel @param {unknown} data as JSON can hold it @returns {Promise<void>} once the server has it */
  async publish(channel, data) {
    await this.#call("publish", { channel, data });
  }

  /** @param {string} method @param {unknown} [data] as JSON can hold it @returns {Promise<any>} */
  async rpc(method, data) {
    return (await this.#call("rpc", { method, data })).data;
  }

  /** @param {unknown} data a message without an answer; lost while there is no connection */
  send(data) {
    this.#tabs.post({ type: "send", data: toPlain(data) });
  }

  /** @param {string} method @param {object} given @returns {Promise<any>} */
  async #call(method, given) {
    if (this.state === "disconnected") throw new ClientError(Local.DISCONNECTED, "client disconnected");
    const params = toPlain(given);
    const id = ++this.#lastCall;
    return new Promise((resolve, reject) => {
      // The engine has a time limit of its own: this one is for a leader that has gone.
      const timer = setTimeout(() => this.#settle(id)?.reject(new ClientError(Local.TIMEOUT, "timeout")), 3 * this.timeoutMs);
      const message = /** @type {const} */ ({ type: "call", id, method, params });
      const call = { message, isSent: this.#tabs.isAttached, timer, resolve, reject };
      this.#calls.set(id, call);
      if (call.isSent) this.#tabs.post(message);
    });
  }

  /** @param {number} id @returns {Call | undefined} */
  #settle(id) {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    clearTimeout(/** @type {any} */ (call?.timer));
    return call;
  }

  #postConnect() {
    this.#tabs.post({ type: "connect", given: this.#given.positions() });
  }

  #attach() {
    // What the server has ended stays so until somebody asks for more than another page to lead.
    if (this.state !== "disconnected") this.#postConnect();
    for (const subscription of this.#subscriptions.values()) subscription.attach();
    for (const [id, call] of this.#calls) {
      // Whether the leader that has gone had sent it, nobody knows.
      if (call.isSent) this.#settle(id)?.reject(new ClientError(Local.TRANSPORT_CLOSED, "transport closed"));
      else {
        call.isSent = true;
        this.#tabs.post(call.message);
      }
    }
  }

  /** @param {import("./engine.js").TabEvent} event */
  #handle(event) {
    switch (event.type) {
      case "state":
        return this.#handleState(event, event.connected);
      case "reply":
        return this.#settle(event.id)?.resolve(event.result);
      case "failure":
        return this.#settle(event.id)?.reject(new ClientError(event.code, event.message, event.temporary));
      case "token":
        return void this.#answerToken(event.id, event.channel);
      case "message":
        return this.emit("message", { data: event.data });
      default:
        return this.#handleChannel(event);
    }
  }

  /** @param {import("./connection.js").StateEvent} event @param {Connected | null} connected */
  #handleState({ state, code, reason, retryAt }, connected) {
    this.connected = connected;
    this.state = state;
    if (connected) this.emit("connected", connected);
    else if (state === "connecting") this.emit("connecting", { code, reason, retryAt });
    else if (state === "disconnected") {
      for (const id of [...this.#calls.keys()]) this.#settle(id)?.reject(new ClientError(Local.DISCONNECTED, "client disconnected"));
      for (const subscription of this.#subscriptions.values()) subscription.suspend();
      this.emit("disconnected", { code, reason });
    }
  }

  /** @param {import("./channel.js").ChannelEvent} event */
  #handleChannel(event) {
    const subscription = this.#subscriptions.get(event.channel);
    if (subscription && subscription.state !== "unsubscribed") subscription.handle(event);
    else this.#given.handle(event);
  }

  /** @param {number} id @param {string} channel */
  async #answerToken(id, channel) {
    const getToken = this.#subscriptions.get(channel)?.options.getToken;
    try {
      const token = (await getToken?.({ channel })) ?? "";
      this.#tabs.post({ type: "token", id, token, problem: "" });
    } catch (error) {
      const isRefused = error instanceof Error && error.name === "UnauthorizedError";
      this.#tabs.post({ type: "token", id, token: "", problem: isRefused ? "unauthorized" : "failed" });
    }
  }
}

/**
 * @template {object} T
 * @template {keyof T} K
 * @param {T} source
 * @param {K[]} names
 * @returns {Pick<T, K>} without those that are not there
 */
function pick(source, names) {
  const entries = names.filter((name) => source[name] !== undefined).map((name) => [name, source[name]]);
  return /** @type {Pick<T, K>} */ (Object.fromEntries(entries));
}

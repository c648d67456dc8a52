// @ts-check
/** Owns one channel as one page sees it: its state, its place, and what it tells the application. */

import { ClientError, Connecting, Local, Unsubscribed } from "./codes.js";
import { toInfo, toPlain, toPublication } from "./codec.js";
import { Emitter } from "./events.js";
import { Place } from "./place.js";

/** @typedef {import("./codec.js").Position} Position */
/** @typedef {import("./codec.js").Publication} Publication */
/** @typedef {import("./codec.js").ClientInfo} ClientInfo */
/** @typedef {"unsubscribed" | "subscribing" | "subscribed"} SubscriptionState */
/**
 * @typedef {object} SubscriptionOptions
 * @property {string} [token]
 * @property {(context: {channel: string}) => string | Promise<string>} [getToken] asked when there is none, or it has ended; throws `UnauthorizedError` to give up
 * @property {unknown} [data] for the server
 * @property {Position} [since] get what was published after it
 * @property {"fossil"} [delta] take patches instead of whole publications
 * @property {object} [filter] of tags
 * @property {boolean} [positioned]
 * @property {boolean} [recoverable]
 * @property {boolean} [joinLeave]
 */
/**
 * @typedef {object} Subscribed
 * @property {boolean} recovered nothing was missed since our position, or `publications` events follow with it
 * @property {number} missed how many publications were recovered; their events came before this one
 * @property {Position | null} position
 * @property {unknown} data
 */
/**
 * @typedef {object} SubscriptionEvents
 * @property {{code: number, reason: string}} subscribing
 * @property {Subscribed} subscribed
 * @property {{code: number, reason: string}} unsubscribed
 * @property {Publication & {recovered: boolean}} publication
 * @property {ClientInfo} join
 * @property {ClientInfo} leave
 * @property {ClientError} error what went wrong and is tried again
 */
/**
 * @typedef {object} SubscriptionHost
 * @property {(message: import("./engine.js").TabMessage) => void} post
 * @property {(method: string, params: object) => Promise<any>} call
 */

/** @extends {Emitter<SubscriptionEvents>} */
export class Subscription extends Emitter {
  /** @type {SubscriptionState} */
  state = "unsubscribed";
  #place;

  /** @param {string} channel @param {SubscriptionOptions} options @param {SubscriptionHost} host */
  constructor(channel, options, host) {
    super();
    this.channel = channel;
    this.options = options;
    this.host = host;
    this.#place = new Place(options.since ?? null);
  }

  /** @returns {Position | null} of the last publication that was handed on */
  get position() {
    return this.#place.position;
  }

  subscribe() {
    if (this.state !== "unsubscribed") return;
    this.state = "subscribing";
    this.emit("subscribing", { code: 0, reason: "subscribe called" });
    this.attach();
  }

  unsubscribe() {
    if (this.state === "unsubscribed") return;
    this.host.post({ type: "unsubscribe", channel: this.channel });
    this.#end(Unsubscribed.CALLED, "unsubscribe called");
  }

  /** The connection has gone; what we are told next begins with where we are. */
  suspend() {
    if (this.state !== "subscribed") return;
    this.state = "subscribing";
    this.emit("subscribing", { code: Connecting.TRANSPORT_CLOSED, reason: "transport closed" });
  }

  /** Tell whoever has the connection now that we want this channel, and where we are. */
  attach() {
    if (this.state === "unsubscribed") return;
    this.suspend();
    const { data, delta, filter, getToken, joinLeave, positioned, recoverable, token } = this.options;
    const options = { data, delta, filter, joinLeave, positioned, recoverable, token, hasToken: getToken !== undefined };
    this.host.post({ type: "subscribe", channel: this.channel, options: toPlain(options), position: this.position });
  }

  /** @param {unknown} data @returns {Promise<void>} once the server has it */
  async publish(data) {
    await this.#call("publish", { data });
  }

  /** @returns {Promise<Record<string, ClientInfo>>} client id → who it is */
  async presence() {
    const { presence } = await this.#call("presence", {});
    return Object.fromEntries(Object.entries(presence ?? {}).map(([client, info]) => [client, toInfo(info)]));
  }

  /** @returns {Promise<{clients: number, users: number}>} */
  async presenceStats() {
    const result = await this.#call("presence_stats", {});
    return { clients: result.num_clients ?? 0, users: result.num_users ?? 0 };
  }

  /**
   * Read what is kept.
   *
   * @param {{limit?: number, since?: Position, reverse?: boolean}} [options] limit 0 is the position only, below 0 as many as allowed
   * @returns {Promise<{publications: Publication[], position: Position}>} oldest first, unless reversed
   */
  async history(options = {}) {
    const { publications, epoch, offset } = await this.#call("history", options);
    return { publications: (publications ?? []).map(toPublication), position: { epoch: epoch ?? "", offset: offset ?? 0 } };
  }

  /** @param {number} [timeoutMs] @returns {Promise<void>} once it is subscribed */
  ready(timeoutMs = 0) {
    if (this.state === "subscribed") return Promise.resolve();
    if (this.state === "unsubscribed") return Promise.reject(new ClientError(Local.UNSUBSCRIBED, "subscription unsubscribed"));
    return new Promise((resolve, reject) => {
      const stops = [
        this.on("subscribed", () => end(resolve)),
        this.on("unsubscribed", ({ code, reason }) => end(() => reject(new ClientError(code, reason)))),
      ];
      const timer = timeoutMs > 0 ? setTimeout(() => end(() => reject(new ClientError(Local.TIMEOUT, "timeout"))), timeoutMs) : undefined;
      /** @param {() => void} settle */
      const end = (settle) => {
        clearTimeout(timer);
        for (const stop of stops) stop();
        settle();
      };
    });
  }

  /** @param {string} method @param {object} params */
  async #call(method, params) {
    const given = toPlain({ channel: this.channel, ...params });
    await this.ready(5000);
    return this.host.call(method, given);
  }

  /** @param {import("./channel.js").ChannelEvent} event */
  handle(event) {
    if (this.state === "unsubscribed") return;
    switch (event.type) {
      case "subscribed":
        return this.#handleSubscribed(event);
      case "subscribing":
        this.state = "subscribing";
        return this.emit("subscribing", { code: event.code, reason: event.reason });
      case "unsubscribed":
        return this.#end(event.code, event.reason);
      case "publication":
        if (this.#place.pass(event.publication, event.epoch)) this.#hand(event.publication, false);
        return;
      case "join":
      case "leave":
        return this.emit(event.type, toInfo(event.info));
      case "error":
        return this.emit("error", new ClientError(event.code, event.message, true));
    }
  }

  /** @param {Extract<import("./channel.js").ChannelEvent, {type: "subscribed"}>} event */
  #handleSubscribed({ result, since }) {
    const wasSubscribed = this.state === "subscribed";
    const { recovered, publications } = this.#place.enter(result, since);
    this.state = "subscribed";
    for (const publication of publications) this.#hand(publication, true);
    // Another page made the connection ask again; for us nothing has happened.
    if (wasSubscribed && recovered) return;
    this.emit("subscribed", { recovered, missed: publications.length, position: this.position, data: result.data });
  }

  /** @param {import("./codec.js").WirePublication} publication @param {boolean} recovered */
  #hand(publication, recovered) {
    this.emit("publication", { ...toPublication(publication), recovered });
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    this.state = "unsubscribed";
    this.emit("unsubscribed", { code, reason });
  }
}

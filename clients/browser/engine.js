// @ts-check
/**
 * Owns what the tabs of a browser want, and gives it to them over one connection.
 *
 * Tabs talk to it in messages that can be copied from one page to another. A page on its own is a
 * browser with one tab. Publications go to every tab; each knows what it has subscribed to.
 */

import { Channel } from "./channel.js";
import { ClientError, Local, UnauthorizedError } from "./codes.js";
import { Connection } from "./connection.js";
import { COMMAND_TIMEOUT_MS } from "./session.js";
import { findLower, Welcome } from "./welcome.js";

/** @typedef {import("./codec.js").Position} Position */
/** @typedef {import("./codec.js").SubscribeResult} SubscribeResult */
/**
 * @typedef {{type: "connect", given: Record<string, Position>} | {type: "reconnect"} | {type: "wake"} | {type: "offline"}
 *   | {type: "subscribe", channel: string, options: import("./channel.js").ChannelOptions, position: Position | null}
 *   | {type: "unsubscribe", channel: string}
 *   | {type: "call", id: number, method: string, params: object}
 *   | {type: "send", data: unknown}
 *   | {type: "token", id: number, token: string, problem: "" | "unauthorized" | "failed"}} TabMessage
 */
/** @typedef {{client: string, transport: string, version: string, data?: unknown}} Connected */
/**
 * @typedef {import("./channel.js").ChannelEvent
 *   | import("./connection.js").StateEvent & {type: "state", connected: Connected | null}
 *   | {type: "reply", id: number, result: any}
 *   | {type: "failure", id: number, code: number, message: string, temporary: boolean}
 *   | {type: "token", id: number, channel: string}
 *   | {type: "message", data: unknown}} TabEvent
 */
/** @typedef {(tab: string | null, event: TabEvent) => void} Deliver null is every tab */
/** @typedef {import("./connection.js").ConnectionOptions} EngineOptions */

/** @typedef {{tab: string, id: number, method: string, params: object, timer: unknown}} WaitingCall */

export class Engine {
  /** @type {Map<string, Channel>} */
  #channels = new Map();
  /** Channel → tabs that want it. @type {Map<string, Set<string>>} */
  #wanted = new Map();
  /** Channels that the server subscribed us to, with where we are. @type {Map<string, {result: SubscribeResult, position: Position | null, welcome: Welcome}>} */
  #given = new Map();
  /** @type {Set<WaitingCall>} */
  #waiting = new Set();
  /** @type {Map<number, {resolve: (token: string) => void, reject: (error: Error) => void, tab: string}>} */
  #tokens = new Map();
  #lastTokenId = 0;
  /** @type {Connected | null} */
  #connected = null;
  /** @type {import("./connection.js").StateEvent} */
  #state = { state: "disconnected", code: 0, reason: "", retryAt: null };

  /** @param {EngineOptions} options @param {Deliver} deliver */
  constructor(options, deliver) {
    this.clock = options.clock;
    this.timeoutMs = options.timeoutMs ?? COMMAND_TIMEOUT_MS;
    this.deliver = deliver;
    this.connection = new Connection(options, {
      onState: (event) => this.#handleState(event),
      onOpen: () => this.#openChannels(),
      onConnected: (result, transport) => this.#handleConnected(result, transport),
      onLost: () => this.#handleLost(),
      onInvalidated: () => this.#invalidate(),
      onPush: (push) => this.#handlePush(push),
      createSubs: () => this.#createSubs(),
    });
    /** @type {import("./channel.js").ChannelHost} */
    this.host = {
      session: () => this.connection.session,
      askToken: (channel) => this.#askToken(channel),
      emit: (event) => deliver(null, event),
      onEnd: (channel) => this.#forget(channel),
      giveUp: (code, reason) => this.connection.giveUp(code, reason),
      clock: options.clock,
    };
  }

  /** @param {string} tab @param {TabMessage} message */
  receive(tab, message) {
    switch (message.type) {
      case "connect":
        return this.#welcome(tab, message.given);
      case "reconnect":
        return this.connection.reconnect();
      case "wake":
        return this.connection.wake();
      case "offline":
        return void this.connection.checkReachable();
      case "subscribe":
        return this.#subscribe(tab, message.channel, message.options, message.position);
      case "unsubscribe":
        return this.#unsubscribe(tab, message.channel);
      case "call":
        return this.#call({ ...message, tab, timer: null });
      case "send":
        return this.connection.session?.send(message.data);
      case "token":
        return this.#handleToken(message);
    }
  }

  /** @param {string} tab it is gone, and wants nothing any more */
  leave(tab) {
    for (const channel of [...this.#wanted.keys()]) this.#unsubscribe(tab, channel);
    for (const [id, asked] of this.#tokens) {
      if (asked.tab !== tab) continue;
      this.#tokens.delete(id);
      asked.reject(new Error("the tab has gone"));
    }
  }

  /** Disconnect, without a word to the tabs: whoever comes next tells them. */
  close() {
    this.deliver = () => undefined;
    this.connection.disconnect();
    for (const call of this.#waiting) this.clock.clearTimeout(call.timer);
  }

  /** @param {string} tab @param {Record<string, Position>} places where it is in channels that the server gave */
  #welcome(tab, places) {
    const isConnected = this.#connected !== null;
    for (const [channel, place] of Object.entries(isConnected ? {} : places)) {
      const position = findLower(this.#given.get(channel)?.position ?? null, place);
      this.#given.set(channel, { result: {}, position, welcome: new Welcome() });
    }
    this.connection.connect();
    this.deliver(tab, { type: "state", connected: this.#connected, ...this.#state });
    for (const [channel, { result, position, welcome }] of isConnected ? this.#given : []) {
      const told = welcome.create(result, position, places[channel] ?? null);
      this.deliver(tab, { channel, type: "subscribed", isGiven: true, ...told });
    }
  }

  // Channels that tabs ask for

  /**
   * @param {string} tab
   * @param {string} name
   * @param {import("./channel.js").ChannelOptions} options
   * @param {Position | null} position
   */
  #subscribe(tab, name, options, position) {
    const tabs = this.#wanted.get(name) ?? new Set();
    this.#wanted.set(name, tabs.add(tab));
    const known = this.#channels.get(name);
    const channel = known ?? new Channel(name, options, this.host);
    this.#channels.set(name, channel);
    const event = channel.attach(position);
    if (event) this.deliver(tab, event);
    channel.open();
  }

  /** @param {string} tab @param {string} name */
  #unsubscribe(tab, name) {
    const tabs = this.#wanted.get(name);
    if (!tabs?.delete(tab) || tabs.size > 0) return;
    this.#channels.get(name)?.close();
    this.#forget(name);
  }

  /** @param {string} name */
  #forget(name) {
    this.#channels.delete(name);
    this.#wanted.delete(name);
  }

  #openChannels() {
    for (const channel of this.#channels.values()) channel.open();
  }

  // The connection

  /** @param {import("./connection.js").StateEvent} event */
  #handleState(event) {
    this.#state = event;
    if (event.state !== "connected") this.#connected = null;
    this.deliver(null, { type: "state", connected: this.#connected, ...event });
    if (event.state === "connecting") return;
    for (const call of [...this.#waiting]) {
      this.#waiting.delete(call);
      this.clock.clearTimeout(call.timer);
      if (event.state === "connected") this.#call(call);
      else this.#fail(call, new ClientError(Local.DISCONNECTED, "client disconnected"));
    }
  }

  /** @param {import("./codec.js").ConnectResult} result @param {string} transport */
  #handleConnected(result, transport) {
    this.#connected = { client: result.client ?? "", transport, version: result.version ?? "", data: result.data };
    const subs = result.subs ?? {};
    for (const channel of this.#given.keys()) {
      if (!(channel in subs)) this.#takeBack(channel, 0, "");
    }
    for (const [channel, given] of Object.entries(subs)) this.#give(channel, given);
  }

  #handleLost() {
    for (const channel of this.#channels.values()) channel.lose();
    for (const channel of this.#given.keys()) {
      this.deliver(null, { channel, type: "subscribing", code: 0, reason: "transport closed" });
    }
  }

  #invalidate() {
    for (const channel of this.#channels.values()) channel.invalidate();
    for (const given of this.#given.values()) given.position = null;
  }

  // Channels that the server gives

  #createSubs() {
    /** @type {Record<string, object>} */
    const subs = {};
    for (const [channel, { position }] of this.#given) {
      if (position) subs[channel] = { recover: true, ...position };
    }
    return Object.keys(subs).length > 0 ? subs : undefined;
  }

  /** @param {string} channel @param {SubscribeResult} result */
  #give(channel, result) {
    const { position: since, welcome } = this.#given.get(channel) ?? { position: null, welcome: new Welcome() };
    const offset = result.publications?.at(-1)?.offset ?? result.offset ?? 0;
    const position = result.recoverable || result.positioned ? { epoch: result.epoch ?? "", offset } : null;
    welcome.enter(result, since);
    this.#given.set(channel, { result, position, welcome });
    this.deliver(null, { channel, type: "subscribed", isGiven: true, result, since });
  }

  /** @param {string} channel @param {number} code @param {string} reason */
  #takeBack(channel, code, reason) {
    this.#given.delete(channel);
    this.deliver(null, { channel, type: "unsubscribed", code, reason });
  }

  /** @param {import("./codec.js").Push} push */
  #handlePush(push) {
    const channel = push.channel ?? "";
    const asked = this.#channels.get(channel);
    const given = this.#given.get(channel);
    if (push.message) this.deliver(null, { type: "message", data: push.message.data });
    else if (push.subscribe) this.#give(channel, push.subscribe);
    else if (asked) asked.handlePush(push);
    else if (push.unsubscribe) this.#takeBack(channel, push.unsubscribe.code ?? 0, push.unsubscribe.reason ?? "");
    else if (push.pub) {
      if (given?.position && push.pub.offset) given.position.offset = push.pub.offset;
      given?.welcome.see(push.pub);
      this.deliver(null, { channel, type: "publication", publication: push.pub, epoch: given?.position?.epoch ?? "" });
    } else if (push.join) this.deliver(null, { channel, type: "join", info: push.join.info });
    else if (push.leave) this.deliver(null, { channel, type: "leave", info: push.leave.info });
  }

  // Calls and tokens

  /** @param {WaitingCall} call */
  #call(call) {
    const { session } = this.connection;
    if (this.connection.state === "connected" && session) {
      const { tab, id } = call;
      const onResult = (/** @type {any} */ result) => this.deliver(tab, { type: "reply", id, result });
      return session.request(call.method, call.params, onResult, (error) => this.#fail(call, error));
    }
    if (this.connection.state === "disconnected") {
      return this.#fail(call, new ClientError(Local.DISCONNECTED, "client disconnected"));
    }
    call.timer = this.clock.setTimeout(() => {
      this.#waiting.delete(call);
      this.#fail(call, new ClientError(Local.TIMEOUT, "timeout"));
    }, this.timeoutMs);
    this.#waiting.add(call);
  }

  /** @param {WaitingCall} call @param {ClientError} error */
  #fail(call, error) {
    const { code, message, temporary } = error;
    this.deliver(call.tab, { type: "failure", id: call.id, code, message, temporary });
  }

  /** @param {string} channel @returns {Promise<string>} from a tab that wants the channel */
  #askToken(channel) {
    const [tab] = this.#wanted.get(channel) ?? [];
    if (tab === undefined) return Promise.reject(new Error("nobody wants it"));
    const id = ++this.#lastTokenId;
    return new Promise((resolve, reject) => {
      this.#tokens.set(id, { resolve, reject, tab });
      this.deliver(tab, { type: "token", id, channel });
    });
  }

  /** @param {Extract<TabMessage, {type: "token"}>} message */
  #handleToken({ id, token, problem }) {
    const asked = this.#tokens.get(id);
    this.#tokens.delete(id);
    if (!problem) asked?.resolve(token);
    else asked?.reject(problem === "unauthorized" ? new UnauthorizedError() : new Error("no token"));
  }
}

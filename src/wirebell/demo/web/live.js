// @ts-check
/**
 * Owns the live connection: one WebSocket, one channel, one position in it.
 *
 * Strategy: the position `(epoch, offset)` moves only with publications that were handed on, so a
 * reconnect asks for exactly what is missing. A gap, a silent peer or a dead network all end the
 * same way: drop the socket, wait (exponential back-off with jitter), resume. When the server
 * cannot resume, `onSubscribed(false)` tells the page to load its lists again.
 * It must not know what a publication means.
 */

import { isReachable } from "./api.js";
import { backoff } from "./backoff.js";

/** @typedef {"connecting" | "live" | "reconnecting" | "offline"} State */
/** @typedef {{user?: string, client?: string}} ClientInfo */
/** @typedef {{data: unknown, offset?: number}} Publication */
/**
 * @typedef {object} Subscribed the server's answer for our channel
 * @property {string} [epoch]
 * @property {number} [offset]
 * @property {boolean} [recovered]
 * @property {Publication[]} [publications]
 */
/** @typedef {{code: number, reason?: string, message?: string}} Told */
/**
 * @typedef {object} Push
 * @property {{ping?: number, subs?: Record<string, Subscribed>}} [connect]
 * @property {Publication} [pub]
 * @property {{info?: ClientInfo}} [join]
 * @property {{info?: ClientInfo}} [leave]
 * @property {Told} [disconnect]
 * @property {Told} [error] as plain sockets are told, for a refusal before the session began
 */
/**
 * @typedef {object} Handlers
 * @property {(state: State, retryAt: number | null) => void} onState `retryAt` in milliseconds since 1970
 * @property {(data: any, recovered: boolean) => void} onPublication in order, each once
 * @property {(recovered: boolean, missed: number) => void} onSubscribed after recovered publications
 * @property {(kind: "join" | "leave", info: ClientInfo) => void} onPresence
 * @property {(code: number, reason: string) => void} onDisconnect what the server said before it closed
 */

/** 10 s from dialling to the connect answer. */
const CONNECT_TIMEOUT_MS = 10_000;
/** 10 s of grace after a ping was due, as the Centrifuge SDKs do (maxServerPingDelay). */
const PING_GRACE_MS = 10_000;
/** A connection that lived this long was good: the next wait starts small again. */
const STABLE_MS = 5_000;

/** @param {string} line @returns {Push} what is not JSON counts as an empty push */
function decode(line) {
  try {
    return JSON.parse(line);
  } catch {
    return {};
  }
}

export class Live {
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {State} */
  #state = "connecting";
  /** @type {{epoch: string, offset: number} | null} */
  #position = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retryTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #watchdog;
  #silenceMs = CONNECT_TIMEOUT_MS;
  #heardAt = 0;
  #attempt = 0;
  #liveSince = 0;
  #stopped = true;
  /** Rises with every dial, so that a late answer to an earlier question is ignored. */
  #dial = 0;

  /**
   * @param {string} path
   * @param {string} channel
   * @param {Handlers} handlers
   */
  constructor(path, channel, handlers) {
    this.url = new URL(path, location.href.replace(/^http/, "ws")).href;
    this.channel = channel;
    this.handlers = handlers;
  }

  /** Connect, and stay connected until `stop()`. */
  start() {
    if (!this.#stopped) return;
    this.#stopped = false;
    addEventListener("online", this.#handleOnline);
    addEventListener("offline", this.#handleOffline);
    document.addEventListener("visibilitychange", this.#handleVisible);
    this.#setState("connecting");
    this.#open();
  }

  /** Close and forget the timers; the position is kept for `start()`. */
  stop() {
    this.#stopped = true;
    removeEventListener("online", this.#handleOnline);
    removeEventListener("offline", this.#handleOffline);
    document.removeEventListener("visibilitychange", this.#handleVisible);
    this.#close();
  }

  /** Connect again with the identity the cookie has now; nothing is missed in between. */
  restart() {
    if (this.#stopped) return;
    this.#close();
    this.#attempt = 0;
    this.#setState("connecting");
    this.#open();
  }

  /** Try now instead of when the wait is over. */
  retryNow() {
    if (this.#stopped || this.#state === "live" || this.#state === "connecting") return;
    this.#attempt = 0;
    this.#setState("reconnecting");
    this.#open();
  }

  #handleOnline = () => this.retryNow();

  #handleOffline = async () => {
    // Browsers say "offline" without a default route, yet a server on this machine still answers.
    if (this.#state === "live" && !(await isReachable()) && this.#state === "live") this.#lose();
    else if (this.#state === "reconnecting") this.#setState("offline", this.#retryAt);
  };

  #handleVisible = () => {
    // Timers sleep with the machine or a hidden tab; look at the clock when people look at the page.
    if (document.visibilityState !== "visible" || this.#stopped) return;
    if (this.#state === "live" && Date.now() - this.#heardAt > this.#silenceMs) this.#lose();
    else if (this.#state !== "live") this.retryNow();
  };

  /** @type {number | null} */
  #retryAt = null;

  /** @param {State} state @param {number | null} [retryAt] */
  #setState(state, retryAt = null) {
    this.#state = state;
    this.#retryAt = retryAt;
    this.handlers.onState(state, retryAt);
  }

  #close() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#watchdog);
    this.#dial += 1;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
    socket.close();
  }

  async #open() {
    this.#close();
    const dial = this.#dial;
    // Without this, a browser in "offline" may still reach the server by WebSocket alone, and
    // the page would call itself live while every request of it fails.
    if (!navigator.onLine && !(await isReachable())) {
      if (dial === this.#dial && !this.#stopped) this.#lose();
      return;
    }
    if (dial !== this.#dial || this.#stopped) return;
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    this.#silenceMs = CONNECT_TIMEOUT_MS;
    this.#heard();
    socket.onopen = () => socket.send(JSON.stringify({ subs: { [this.channel]: this.#request() } }));
    socket.onmessage = (event) => this.#receive(String(event.data));
    socket.onclose = () => this.#lose();
  }

  #request() {
    return this.#position ? { recover: true, ...this.#position } : {};
  }

  #heard() {
    this.#heardAt = Date.now();
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#lose(), this.#silenceMs);
  }

  /** Drop the socket, and try again when the wait is over. */
  #lose() {
    this.#close();
    if (this.#stopped) return;
    if (this.#state === "live" && Date.now() - this.#liveSince > STABLE_MS) this.#attempt = 0;
    const delay = backoff(this.#attempt, Math.random());
    this.#attempt += 1;
    this.#setState(navigator.onLine ? "reconnecting" : "offline", Date.now() + delay);
    this.#retryTimer = setTimeout(() => this.#open(), delay);
  }

  /** @param {string} text one or more pushes, one a line */
  #receive(text) {
    this.#heard();
    const socket = this.#socket;
    for (const line of text.split("\n")) {
      if (!line.trim()) continue;
      // A push may end this connection (a gap); what follows it will be recovered.
      if (this.#socket !== socket) return;
      this.#handlePush(decode(line));
    }
  }

  /** @param {Push} push */
  #handlePush(push) {
    const last = push.disconnect ?? push.error;
    if (last) this.handlers.onDisconnect(last.code, last.reason ?? last.message ?? "");
    else if (push.connect) this.#handleConnect(push.connect);
    else if (push.pub) this.#handlePublication(push.pub, false);
    else if (push.join) this.handlers.onPresence("join", push.join.info ?? {});
    else if (push.leave) this.handlers.onPresence("leave", push.leave.info ?? {});
  }

  /** @param {NonNullable<Push["connect"]>} connect */
  #handleConnect(connect) {
    const subscribed = connect.subs?.[this.channel] ?? {};
    this.#silenceMs = connect.ping ? connect.ping * 1000 + PING_GRACE_MS : 2 ** 31 - 1;
    this.#heard();
    this.#liveSince = Date.now();
    const recovered = subscribed.recovered === true && this.#position !== null;
    const missed = subscribed.publications ?? [];
    if (!recovered) {
      this.#position = { epoch: subscribed.epoch ?? "", offset: subscribed.offset ?? 0 };
    }
    const socket = this.#socket;
    for (const publication of missed) this.#handlePublication(publication, true);
    if (this.#socket !== socket) return;
    this.#setState("live");
    this.handlers.onSubscribed(recovered, missed.length);
  }

  /** @param {Publication} publication @param {boolean} recovered */
  #handlePublication(publication, recovered) {
    const offset = publication.offset;
    if (offset !== undefined && this.#position) {
      if (offset <= this.#position.offset) return;
      if (offset > this.#position.offset + 1) return this.#lose();
      this.#position.offset = offset;
    }
    this.handlers.onPublication(publication.data, recovered);
  }
}

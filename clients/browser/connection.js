// @ts-check
/**
 * Owns the one connection: which transport, when to try again, who we are.
 *
 * Strategy: everything that can go wrong ends in `#lose`, which either ends for good or waits and
 * dials again. `#dialNumber` rises whenever what was under way no longer counts, so that a late
 * answer of an earlier dial is told from that of this one. It must not know what a channel is.
 */

import { computeBackoff } from "./backoff.js";
import {
  ClientError,
  CONNECTION_EXPIRED,
  Connecting,
  Disconnected,
  isFinalDisconnect,
  isFromServer,
  isRetriable,
  Local,
  STATE_INVALIDATED,
  TOKEN_EXPIRED,
  UnauthorizedError,
} from "./codes.js";
import { Refresher } from "./refresh.js";
import { COMMAND_TIMEOUT_MS, Session } from "./session.js";
import { TransportChoice } from "./transports/choice.js";

/** 5 s: a connection that lived so long was good, and the next wait starts small again. */
const STABLE_MS = 5000;

/** @typedef {import("./transports/transport.js").TransportName} TransportName */
/** @typedef {import("./codec.js").ConnectResult} ConnectResult */
/** @typedef {"disconnected" | "connecting" | "connected"} ConnectionState */
/**
 * @typedef {object} StateEvent
 * @property {ConnectionState} state
 * @property {number} code why; below 100 it comes from this side
 * @property {string} reason
 * @property {number | null} retryAt when the next attempt comes, as `clock.now()` counts; null while one is under way
 */
/**
 * @typedef {object} ConnectionOptions
 * @property {import("./transports/transport.js").TransportOptions} transport
 * @property {readonly TransportName[]} names transports, best first
 * @property {Record<TransportName, import("./transports/transport.js").OpenTransport>} openers
 * @property {import("./clock.js").Clock} clock
 * @property {() => Promise<boolean>} isReachable asked before a dial and when the browser says that it is offline
 * @property {string} [token]
 * @property {() => Promise<string>} [getToken]
 * @property {unknown} [data] for the server, at connect
 * @property {string} [name] of the application
 * @property {string} [version]
 * @property {Record<string, string>} [headers] that a browser cannot set itself
 * @property {number} [backoffMinMs]
 * @property {number} [backoffMaxMs]
 * @property {number} [timeoutMs]
 */
/**
 * @typedef {object} ConnectionHandlers
 * @property {(event: StateEvent) => void} onState
 * @property {() => void} onOpen commands may be sent, behind `connect` in the same frame
 * @property {(result: ConnectResult, transport: TransportName) => void} onConnected before `onState`
 * @property {() => void} onLost what was asked for is not answered any more; before `onState`
 * @property {() => void} onInvalidated tokens and positions mean nothing any more
 * @property {(push: import("./codec.js").Push) => void} onPush
 * @property {() => object | undefined} createSubs server-side channels, with where we are in them
 */

export class Connection {
  /** @type {ConnectionState} */
  state = "disconnected";
  /** While commands may be sent: the transport is open. @type {Session | null} */
  session = null;
  /** @type {import("./transports/transport.js").Transport | null} */
  #transport = null;
  #attempt = 0;
  #connectedAt = Infinity;
  #dialNumber = 0;
  /** @type {unknown} waiting for the next dial */
  #retryTimer = null;
  /** @type {unknown} */
  #openTimer;

  /** @param {ConnectionOptions} options @param {ConnectionHandlers} handlers */
  constructor(options, handlers) {
    this.options = options;
    this.handlers = handlers;
    this.clock = options.clock;
    this.timeoutMs = options.timeoutMs ?? COMMAND_TIMEOUT_MS;
    this.token = options.token ?? "";
    this.choice = new TransportChoice(options.names);
    this.refresher = new Refresher({
      clock: options.clock,
      getToken: options.getToken,
      send: (token, resolve, reject) => {
        this.token = token;
        this.session?.request("refresh", { token }, resolve, reject);
      },
      onRefused: (code, reason) => this.disconnect(code, reason),
    });
  }

  connect() {
    if (this.state !== "disconnected") return;
    this.#attempt = 0;
    this.#setState("connecting", Connecting.CALLED, "connect called");
    void this.#dial();
  }

  /** @param {number} [code] @param {string} [reason] */
  disconnect(code = Disconnected.CALLED, reason = "disconnect called") {
    if (this.state === "disconnected") return;
    this.#drop();
    this.#setState("disconnected", code, reason);
  }

  /** Connect again at once, as whoever we are now. */
  reconnect() {
    if (this.state === "disconnected") return this.connect();
    this.#drop();
    this.#attempt = 0;
    if (this.options.getToken) this.token = "";
    this.#setState("connecting", Connecting.CALLED, "reconnect called");
    void this.#dial();
  }

  /** It is of no use any more: come back as after a loss. @param {number} code @param {string} reason */
  giveUp(code, reason) {
    if (this.state === "connected") this.#lose(code, reason);
  }

  /** The machine, the page or the network is back: look now instead of when a timer is over. */
  wake() {
    if (this.state === "connected" && this.session?.isSilent()) this.#lose(Connecting.NO_PING, "no ping");
    else if (this.#retryTimer !== null) {
      this.#attempt = 0;
      this.#setState("connecting", Connecting.CALLED, "retry called");
      void this.#dial();
    }
  }

  /** The browser says that there is no network; a server on the same machine may still answer. */
  async checkReachable() {
    const dial = this.#dialNumber;
    if (this.state !== "connected" || (await this.options.isReachable())) return;
    if (dial === this.#dialNumber) this.#lose(Connecting.TRANSPORT_CLOSED, "offline");
  }

  /** @param {ConnectionState} state @param {number} code @param {string} reason @param {number | null} [retryAt] */
  #setState(state, code, reason, retryAt = null) {
    this.state = state;
    this.handlers.onState({ state, code, reason, retryAt });
  }

  #drop() {
    this.#dialNumber += 1;
    this.refresher.stop();
    for (const timer of [this.#retryTimer, this.#openTimer]) this.clock.clearTimeout(timer);
    this.#retryTimer = null;
    const { session } = this;
    this.session = null;
    this.#transport?.close();
    this.#transport = null;
    if (!session) return;
    session.close();
    this.handlers.onLost();
  }

  async #dial() {
    this.#drop();
    const dial = this.#dialNumber;
    this.#connectedAt = Infinity;
    try {
      if (!(await this.options.isReachable())) throw new ClientError(Local.TRANSPORT_CLOSED, "offline");
      if (dial !== this.#dialNumber) return;
      if (!this.token && this.options.getToken) {
        const token = await this.options.getToken();
        if (dial !== this.#dialNumber) return;
        if (!token) throw new UnauthorizedError();
        this.token = token;
      }
    } catch (error) {
      if (dial !== this.#dialNumber) return;
      if (error instanceof UnauthorizedError) return this.disconnect(Disconnected.UNAUTHORIZED, "unauthorized");
      return this.#lose(Connecting.TRANSPORT_CLOSED, error instanceof Error ? error.message : "no token");
    }
    this.#open(this.choice.list(this.#attempt));
  }

  /** @param {TransportName[]} names to be tried, one after the other */
  #open(names) {
    const [name, ...others] = names;
    if (name === undefined) return;
    this.#drop();
    const dial = this.#dialNumber;
    /** @param {number} code @param {string} reason */
    const fail = (code, reason) => {
      if (dial !== this.#dialNumber) return;
      if (this.state !== "connected" && others.length > 0 && !isFromServer(code)) this.#open(others);
      else this.#lose(code, reason);
    };
    this.#openTimer = this.clock.setTimeout(() => fail(0, "connect timeout"), this.timeoutMs);
    try {
      this.#transport = this.options.openers[name](this.options.transport, {
        onOpen: () => this.#greet(name, fail),
        onFrame: (frame) => this.session?.receive(frame),
        onClose: fail,
      });
    } catch (error) {
      // A browser may refuse at once: a page's policy, or a plain WebSocket on an HTTPS page.
      fail(0, error instanceof Error ? error.message : "refused");
    }
  }

  /** @param {TransportName} name @param {(code: number, reason: string) => void} fail */
  #greet(name, fail) {
    this.clock.clearTimeout(this.#openTimer);
    this.session = new Session({
      write: (frame) => this.#transport?.send(frame),
      onPush: (push) => this.#handlePush(push, fail),
      onLost: (why) => (why === "silence" ? fail(Connecting.NO_PING, "no ping") : fail(0, "unreadable frame")),
      clock: this.clock,
      timeoutMs: this.timeoutMs,
    });
    const { data, headers, version } = this.options;
    const request = { token: this.token || undefined, data, headers, version, name: this.options.name, subs: this.handlers.createSubs() };
    this.session.request(
      "connect",
      request,
      (result) => this.#handleConnected(name, result),
      (error) => {
        if (error.code === Local.TIMEOUT) fail(0, "connect timeout");
        else if (error.code !== Local.TRANSPORT_CLOSED) this.#handleRefusal(error);
      },
    );
    this.handlers.onOpen();
  }

  /** @param {TransportName} name @param {ConnectResult} result */
  #handleConnected(name, result) {
    this.choice.prove(name);
    this.#transport?.setSession(result.session ?? "", result.node ?? "");
    this.session?.expectPings(result.ping ?? 0, result.pong ?? false);
    this.#connectedAt = this.clock.now();
    this.refresher.plan(result);
    this.handlers.onConnected(result, name);
    this.#setState("connected", 0, "connected");
  }

  /** @param {ClientError} error the answer to connect or refresh */
  #handleRefusal(error) {
    const isExpired = error.code === TOKEN_EXPIRED;
    if (isExpired) this.token = this.options.getToken ? "" : this.token;
    if (isRetriable(error) && !(isExpired && !this.options.getToken)) this.#lose(error.code, error.message);
    else this.disconnect(error.code, error.message);
  }

  /** @param {import("./codec.js").Push} push @param {(code: number, reason: string) => void} fail */
  #handlePush(push, fail) {
    if (push.disconnect) fail(push.disconnect.code ?? 0, push.disconnect.reason ?? "");
    else if (push.refresh) this.refresher.plan(push.refresh);
    else this.handlers.onPush(push);
  }

  /** @param {number} code @param {string} reason */
  #lose(code, reason) {
    if (code === CONNECTION_EXPIRED && this.options.getToken) this.token = "";
    if (code === STATE_INVALIDATED.disconnect) {
      if (this.options.getToken) this.token = "";
      this.handlers.onInvalidated();
    }
    this.#drop();
    if (isFinalDisconnect(code)) {
      const isTooBig = !isFromServer(code);
      return this.#setState("disconnected", isTooBig ? Disconnected.MESSAGE_SIZE : code, isTooBig ? "message size limit" : reason);
    }
    if (this.clock.now() - this.#connectedAt >= STABLE_MS) this.#attempt = 0;
    const { backoffMinMs, backoffMaxMs } = this.options;
    const delay = computeBackoff(this.#attempt, this.clock.random(), backoffMinMs, backoffMaxMs);
    this.#attempt += 1;
    this.#retryTimer = this.clock.setTimeout(() => {
      this.#setState("connecting", Connecting.CALLED, "retry");
      void this.#dial();
    }, delay);
    const isOurs = code === Connecting.NO_PING || code === Connecting.SUBSCRIBE_TIMEOUT;
    const isNetwork = !isFromServer(code) && (code < 100 || code >= 1000) && !isOurs;
    this.#setState("connecting", isNetwork ? Connecting.TRANSPORT_CLOSED : code, reason || "transport closed", this.clock.now() + delay);
  }
}

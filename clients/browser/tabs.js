// @ts-check
/**
 * Owns which page of a browser has the connection, and how the others speak through it.
 *
 * Strategy: pages queue for one Web Lock. Who holds it leads: it has the engine, and the others talk
 * to it over a BroadcastChannel. The browser gives the lock to the next page when the leader goes,
 * however it goes. Each page also holds a lock of its own for as long as it lives, by which the
 * leader learns of its end. A leader that is silent while somebody looks at another page is frozen:
 * its lock is taken away. Where there are no locks or channels, or a browser that blocks storage
 * refuses them, each page leads itself.
 */

import { Engine } from "./engine.js";

/** 20 s: how often a leader says that it is there. */
const ALIVE_MS = 20_000;
/** 150 s: browsers let the timers of a hidden page run once a minute, and one may be late. */
const SILENCE_MS = 150_000;
/** 10 s: a leader answers a page that comes at once, hidden or not, unless it is frozen. */
const ANSWER_MS = 10_000;

/** @typedef {import("./engine.js").TabMessage} TabMessage */
/** @typedef {import("./engine.js").TabEvent} TabEvent */
/**
 * @typedef {{from: string, to: string, term: string, kind: "hello" | "leader" | "bye"}
 *   | {from: string, to: string, term: string, kind: "message", message: TabMessage}
 *   | {from: string, to: string, term: string, kind: "event", event: TabEvent}} Envelope
 */
/**
 * @typedef {object} Platform what a browser has for it
 * @property {LockManager | undefined} locks
 * @property {typeof BroadcastChannel | undefined} BroadcastChannel
 * @property {() => string} createId
 * @property {() => boolean} isVisible
 */
/**
 * @typedef {object} TabsOptions
 * @property {string} key pages with the same key share
 * @property {boolean} isShared
 * @property {import("./engine.js").EngineOptions} engine
 * @property {Platform} platform
 * @property {() => void} onAttach somebody has the connection now: say again what is wanted
 * @property {(event: TabEvent) => void} onEvent
 */

const EVERYBODY = "everybody";

export class Tabs {
  /** Another one each time that we join, so that what is told of an earlier stay is told from this one. */
  id = "";
  /** @type {Engine | null} */
  #engine = null;
  /** @type {BroadcastChannel | null} */
  #channel = null;
  #leader = "";
  #term = "";
  /** @type {AbortController | null} */
  #stay = null;
  /** Pages that the leader watches. @type {Set<string>} */
  #watched = new Set();
  /** Of a leader: until it says that it is there; of the others: until it counts as gone. @type {unknown} */
  #timer;

  /** @param {TabsOptions} options */
  constructor(options) {
    this.options = options;
    this.clock = options.engine.clock;
    const { locks, BroadcastChannel } = options.platform;
    this.locks = options.isShared && BroadcastChannel ? locks : undefined;
  }

  /** @returns {boolean} whether this page has the connection */
  get isLeader() {
    return this.#engine !== null;
  }

  /** @returns {boolean} */
  get isAttached() {
    return this.#leader !== "";
  }

  join() {
    if (this.#stay) return;
    this.#stay = new AbortController();
    const { BroadcastChannel, createId } = this.options.platform;
    this.id = createId();
    try {
      if (this.locks && BroadcastChannel) this.#channel = new BroadcastChannel(this.options.key);
    } catch {
      // It is refused: we lead ourselves.
    }
    if (!this.#channel) return this.#lead();
    this.#channel.onmessage = ({ data }) => this.#receive(data);
    void this.#hold(this.#lifeOf(this.id), () => this.#post(EVERYBODY, { kind: "hello" }));
    this.#listen(ANSWER_MS);
    void this.#queue(false);
  }

  /** Go, and let another page have the connection. */
  leave() {
    if (!this.#stay) return;
    this.#post(this.#leader, { kind: "bye" });
    // Before the lock: the next page must not find two connections.
    this.#abdicate();
    this.#stay.abort();
    this.#stay = null;
    this.#channel?.close();
    this.#channel = null;
  }

  /** @param {TabMessage} message lost while nobody leads: what is wanted is said again at `onAttach` */
  post(message) {
    if (this.#engine) this.#engine.receive(this.id, message);
    else if (this.#leader) this.#post(this.#leader, { kind: "message", message });
  }

  /** @param {string} tab */
  #lifeOf(tab) {
    return `${this.options.key} page ${tab}`;
  }

  /**
   * @param {string} name
   * @param {() => void} onHeld
   * @param {{steal?: boolean, isKept?: boolean}} [how] kept until this page leaves, unless told otherwise
   * @returns {Promise<boolean>} once it is not held any more: whether it ever was
   */
  async #hold(name, onHeld, { steal = false, isKept = true } = {}) {
    const stay = this.#stay;
    if (!stay || !this.locks) return false;
    const { signal } = stay;
    let wasHeld = false;
    try {
      await this.locks.request(name, steal ? { steal } : { signal }, () => {
        if (signal.aborted) return undefined;
        wasHeld = true;
        onHeld();
        return isKept ? new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true })) : undefined;
      });
    } catch {
      // Given up while waiting, taken away, or refused.
    }
    return wasHeld;
  }

  /** @param {boolean} steal */
  async #queue(steal) {
    const stay = this.#stay;
    const wasHeld = await this.#hold(`${this.options.key} leader`, () => this.#lead(), { steal });
    if (stay !== this.#stay || !stay || stay.signal.aborted) return;
    if (!wasHeld) return this.#leadAlone();
    // Another page has taken it from us, because we were silent.
    this.#abdicate();
    this.#post(EVERYBODY, { kind: "hello" });
    this.#listen(ANSWER_MS);
    void this.#queue(false);
  }

  /** Locks are refused here: asking again would be refused again. */
  #leadAlone() {
    this.locks = undefined;
    this.#channel?.close();
    this.#channel = null;
    this.#lead();
  }

  #lead() {
    this.#abdicate();
    this.#leader = this.id;
    this.#term = this.options.platform.createId();
    this.#engine = new Engine(this.options.engine, (tab, event) => this.#deliver(tab, event));
    this.#sayAlive();
    this.options.onAttach();
  }

  #sayAlive() {
    this.#post(EVERYBODY, { kind: "leader" });
    this.#timer = this.clock.setTimeout(() => this.#sayAlive(), ALIVE_MS);
  }

  #abdicate() {
    this.#leader = this.#term = "";
    this.#watched.clear();
    this.#engine?.close();
    this.#engine = null;
    this.clock.clearTimeout(this.#timer);
  }

  /** @param {string | null} tab @param {TabEvent} event */
  #deliver(tab, event) {
    if (tab !== this.id) this.#post(tab ?? EVERYBODY, { kind: "event", event });
    if (tab === null || tab === this.id) this.options.onEvent(event);
  }

  /** @param {string} to @param {{kind: "hello" | "leader" | "bye"} | {kind: "message", message: TabMessage} | {kind: "event", event: TabEvent}} letter */
  #post(to, letter) {
    this.#channel?.postMessage({ from: this.id, to, term: this.#term, ...letter });
  }

  /** @param {Envelope} envelope */
  #receive(envelope) {
    if (!this.#stay || (envelope.to !== this.id && envelope.to !== EVERYBODY)) return;
    const engine = this.#engine;
    if (engine) {
      if (envelope.kind === "hello") this.#post(envelope.from, { kind: "leader" });
      else if (envelope.kind === "bye") engine.leave(envelope.from);
      else if (envelope.kind === "message" && envelope.term === this.#term) {
        this.#watch(envelope.from, engine);
        engine.receive(envelope.from, envelope.message);
      }
    } else if (envelope.kind === "leader") this.#follow(envelope.from, envelope.term);
    else if (envelope.kind === "event" && envelope.term === this.#term) {
      this.#listen();
      this.options.onEvent(envelope.event);
    }
  }

  /** @param {string} leader @param {string} term */
  #follow(leader, term) {
    this.#listen();
    if (this.#term === term) return;
    this.#leader = leader;
    this.#term = term;
    this.options.onAttach();
  }

  /** @param {number} [ms] until a leader that says nothing counts as gone */
  #listen(ms = SILENCE_MS) {
    this.clock.clearTimeout(this.#timer);
    this.#timer = this.clock.setTimeout(() => {
      if (this.options.platform.isVisible()) void this.#queue(true);
      else this.#listen();
    }, ms);
  }

  /** @param {string} tab @param {Engine} engine */
  #watch(tab, engine) {
    if (this.#watched.has(tab)) return;
    this.#watched.add(tab);
    const forget = () => {
      this.#watched.delete(tab);
      engine.leave(tab);
    };
    void this.#hold(this.#lifeOf(tab), forget, { isKept: false });
  }
}

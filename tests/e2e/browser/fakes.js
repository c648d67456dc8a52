// @ts-check
/** A clock that a test moves, a server that a test plays, and the locks of a browser. */

import assert from "node:assert/strict";

import { Engine } from "../../../clients/browser/engine.js";

/** Lets everything run that waits for nothing but its turn. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

export class ManualClock {
  time = 1_000_000;
  /** What `random` returns. */
  chance = 0.5;
  #timers = new Map();
  #last = 0;

  now = () => this.time;
  random = () => this.chance;

  /** @param {() => void} run @param {number} ms */
  setTimeout = (run, ms) => {
    this.#timers.set(++this.#last, { run, at: this.time + ms });
    return this.#last;
  };

  /** @param {any} timer */
  clearTimeout = (timer) => void this.#timers.delete(timer);

  /** @param {number} ms */
  async advance(ms) {
    const end = this.time + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.time = due[1].at;
      due[1].run();
      await settle();
    }
    this.time = end;
    await settle();
  }
}

/** One transport that was opened. */
export class FakeLink {
  /** Frames that were sent, not read by the test yet. @type {string[]} */
  frames = [];
  isClosed = false;
  session = "";

  /** @param {string} name @param {import("../../../clients/browser/transports/transport.js").TransportHandlers} handlers */
  constructor(name, handlers) {
    this.name = name;
    this.handlers = handlers;
  }

  send = (/** @type {string} */ frame) => void this.frames.push(frame);
  setSession = (/** @type {string} */ session) => void (this.session = session);
  close = () => void (this.isClosed = true);

  async open() {
    this.handlers.onOpen();
    await settle();
  }

  /** @returns {any[]} commands of the frame that was sent first */
  read() {
    const frame = this.frames.shift();
    assert.ok(frame !== undefined, "nothing was sent");
    return frame.split("\n").map((line) => JSON.parse(line));
  }

  /** @param {...object} replies one frame */
  async reply(...replies) {
    this.handlers.onFrame(replies.map((reply) => JSON.stringify(reply)).join("\n"));
    await settle();
  }

  /** @param {number} code @param {string} [reason] */
  async end(code, reason = "") {
    this.isClosed = true;
    this.handlers.onClose(code, reason);
    await settle();
  }
}

export class FakeServer {
  clock = new ManualClock();
  /** @type {FakeLink[]} */
  links = [];
  /** What tabs were told, oldest first. @type {{tab: string | null, event: any}[]} */
  told = [];

  /** @param {object} [options] of the engine */
  constructor(options = {}) {
    const open = (/** @type {string} */ name) => (/** @type {any} */ _, /** @type {any} */ handlers) => {
      const link = new FakeLink(name, handlers);
      this.links.push(link);
      return link;
    };
    /** @type {any} */
    const all = {
      clock: this.clock,
      names: ["websocket", "http_stream", "sse"],
      openers: { websocket: open("websocket"), http_stream: open("http_stream"), sse: open("sse") },
      transport: {},
      isReachable: async () => true,
      ...options,
    };
    this.engine = new Engine(all, (tab, event) => this.told.push({ tab, event }));
  }

  /** @returns {FakeLink} that was opened last */
  get link() {
    const link = this.links.at(-1);
    assert.ok(link, "no transport was opened");
    return link;
  }

  /** @param {string} tab */
  async connect(tab = "a") {
    this.engine.receive(tab, { type: "connect", given: {} });
    await settle();
  }

  /** @param {string} channel @param {{tab?: string, options?: object, position?: any}} [how] */
  async subscribe(channel, { tab = "a", options = {}, position = null } = {}) {
    this.engine.receive(tab, { type: "subscribe", channel, options, position });
    await settle();
  }

  /** Open the transport and accept the connection. @param {object} [result] @returns {Promise<any[]>} commands of the first frame */
  async accept(result = {}) {
    await this.link.open();
    const commands = this.link.read();
    await this.link.reply({ id: commands[0].id, connect: { client: "c", version: "1", ping: 25, pong: true, ...result } });
    return commands;
  }

  /** @param {string} type @returns {any[]} events of this kind, oldest first */
  events(type) {
    return this.told.map(({ event }) => event).filter((event) => event.type === type);
  }

  /** @returns {any} the last state that was told */
  get state() {
    return this.events("state").at(-1);
  }
}

/** Web Locks, as far as pages use them: exclusive, in turn, to be stolen. */
export class FakeLocks {
  /** @type {Map<string, {run: () => any, end: (error?: Error) => void, isHeld: boolean}[]>} */
  #queues = new Map();

  /** @param {string} name @param {{signal?: AbortSignal, steal?: boolean}} options @param {() => any} run */
  request = (name, { signal, steal }, run) =>
    new Promise((resolve, reject) => {
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, queue);
      const entry = { run, isHeld: false, end: (/** @type {Error | undefined} */ error) => (error ? reject(error) : resolve(undefined)) };
      signal?.addEventListener("abort", () => {
        if (!entry.isHeld) this.#remove(queue, entry, new Error("aborted"));
      });
      if (!steal) queue.push(entry);
      else queue.splice(0, queue[0]?.isHeld ? 1 : 0, entry).forEach((held) => held.end(new Error("stolen")));
      this.#grant(queue);
    });

  /** @param {any[]} queue @param {any} entry @param {Error} [error] */
  #remove(queue, entry, error) {
    if (!queue.includes(entry)) return;
    queue.splice(queue.indexOf(entry), 1);
    entry.end(error);
    this.#grant(queue);
  }

  /** @param {any[]} queue */
  #grant(queue) {
    const [first] = queue;
    if (!first || first.isHeld) return;
    first.isHeld = true;
    queueMicrotask(async () => {
      if (!queue.includes(first)) return;
      await first.run();
      this.#remove(queue, first);
    });
  }
}

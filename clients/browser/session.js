// @ts-check
/**
 * Owns the protocol on one open transport: commands and their replies, pushes, pings, silence.
 *
 * Replies are handed on before what follows them in the same frame, never later: a publication
 * right behind a subscribe reply finds the subscription there. After `close()` nothing is handed on.
 */

import { ClientError, Local } from "./codes.js";
import { decodeReplies, EMPTY, encodeCommands } from "./codec.js";

/** 5 s: what the SDKs of this protocol give a command. */
export const COMMAND_TIMEOUT_MS = 5000;
/** 10 s after a ping was due the connection counts as lost (maxServerPingDelay of the SDKs). */
export const PING_GRACE_MS = 10_000;

/** @typedef {{resolve: (result: any) => void, reject: (error: ClientError) => void, method: string, timer: unknown}} Pending */
/**
 * @typedef {object} SessionOptions
 * @property {(frame: string) => void} write
 * @property {(push: import("./codec.js").Push) => void} onPush
 * @property {(why: "silence" | "garbage") => void} onLost
 * @property {import("./clock.js").Clock} clock
 * @property {number} [timeoutMs]
 */

export class Session {
  /** @type {Map<number, Pending>} */
  #pending = new Map();
  /** @type {object[]} */
  #outgoing = [];
  #lastId = 0;
  #isClosed = false;
  #isPonging = false;
  #silenceMs = Infinity;
  #heardAt = 0;
  /** @type {unknown} */
  #watchdog;

  /** @param {SessionOptions} options */
  constructor(options) {
    this.options = options;
    this.clock = options.clock;
  }

  /**
   * Send a command; what is asked for in one turn goes together.
   *
   * @param {string} method
   * @param {object} params
   * @param {(result: any) => void} resolve
   * @param {(error: ClientError) => void} reject
   */
  request(method, params, resolve, reject) {
    if (this.#isClosed) return reject(new ClientError(Local.TRANSPORT_CLOSED, "transport closed"));
    const id = ++this.#lastId;
    const timer = this.clock.setTimeout(() => {
      this.#pending.delete(id);
      reject(new ClientError(Local.TIMEOUT, "timeout"));
    }, this.options.timeoutMs ?? COMMAND_TIMEOUT_MS);
    this.#pending.set(id, { resolve, reject, method, timer });
    this.#enqueue({ id, [method]: params });
  }

  /** @param {unknown} data a message without an answer */
  send(data) {
    this.#enqueue({ send: { data } });
  }

  /** @param {object} command */
  #enqueue(command) {
    this.#outgoing.push(command);
    if (this.#outgoing.length === 1) queueMicrotask(() => this.#flush());
  }

  #flush() {
    const commands = this.#outgoing;
    this.#outgoing = [];
    if (this.#isClosed) return;
    for (const frame of encodeCommands(commands)) this.options.write(frame);
  }

  /** @param {number} seconds between two pings; 0 is none @param {boolean} isPonging whether they want an answer */
  expectPings(seconds, isPonging) {
    this.#isPonging = isPonging;
    this.#silenceMs = seconds > 0 ? seconds * 1000 + PING_GRACE_MS : Infinity;
    this.#heardAt = this.clock.now();
    this.#watch();
  }

  #watch() {
    this.clock.clearTimeout(this.#watchdog);
    if (this.#silenceMs === Infinity) return;
    const wait = this.#heardAt + this.#silenceMs - this.clock.now();
    this.#watchdog = this.clock.setTimeout(() => (this.isSilent() ? this.options.onLost("silence") : this.#watch()), Math.max(0, wait));
  }

  /** @returns {boolean} whether a ping is overdue; timers sleep with the machine, so ask after a sleep */
  isSilent() {
    return this.clock.now() - this.#heardAt >= this.#silenceMs;
  }

  /** @param {string} frame */
  receive(frame) {
    this.#heardAt = this.clock.now();
    let replies;
    try {
      replies = decodeReplies(frame);
    } catch {
      return this.options.onLost("garbage");
    }
    for (const reply of replies) {
      // Handling one may end the session: what follows belongs to nobody.
      if (this.#isClosed) return;
      if (reply.push) this.options.onPush(reply.push);
      else if (reply.id) this.#settle(reply.id, reply);
      else if (this.#isPonging) this.options.write(EMPTY);
    }
  }

  /** @param {number} id @param {import("./codec.js").Reply} reply */
  #settle(id, reply) {
    const pending = this.#pending.get(id);
    // It came after its time was over.
    if (!pending) return;
    this.#pending.delete(id);
    this.clock.clearTimeout(pending.timer);
    const { error } = reply;
    if (error) pending.reject(new ClientError(error.code, error.message ?? "", error.temporary ?? false));
    else pending.resolve(reply[pending.method] ?? {});
  }

  /** End: whoever waits for a reply is told that none will come. */
  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.clock.clearTimeout(this.#watchdog);
    const all = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of all) {
      this.clock.clearTimeout(pending.timer);
      pending.reject(new ClientError(Local.TRANSPORT_CLOSED, "transport closed"));
    }
  }
}

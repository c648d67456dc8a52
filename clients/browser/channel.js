// @ts-check
/**
 * Owns one client-side subscription on the connection, on behalf of every tab that wants it.
 *
 * The position moves with what was handed on, so that after a loss exactly what is missing is asked
 * for. Tabs may stand at different places; the lowest is asked for, and each leaves out what it had.
 */

import { computeBackoff } from "./backoff.js";
import {
  Connecting,
  isFinalUnsubscribe,
  isRetriable,
  Local,
  STATE_INVALIDATED,
  SUBSCRIPTION_EXPIRED,
  TOKEN_EXPIRED,
  UnauthorizedError,
  Unsubscribed,
} from "./codes.js";
import { applyDelta } from "./delta.js";
import { Refresher } from "./refresh.js";
import { findLower, Welcome } from "./welcome.js";

/** @typedef {import("./codec.js").Position} Position */
/** @typedef {import("./codec.js").SubscribeResult} SubscribeResult */
/** @typedef {import("./codec.js").WirePublication} WirePublication */
/**
 * @typedef {object} ChannelOptions what can be told from one tab to another
 * @property {string} [token]
 * @property {boolean} [hasToken] a `getToken` can be asked
 * @property {unknown} [data]
 * @property {"fossil"} [delta]
 * @property {object} [filter] of tags
 * @property {boolean} [positioned]
 * @property {boolean} [recoverable]
 * @property {boolean} [joinLeave]
 */
/**
 * @typedef {{channel: string, type: "subscribed", result: SubscribeResult, since: Position | null, isGiven?: true}
 *   | {channel: string, type: "subscribing" | "unsubscribed", code: number, reason: string}
 *   | {channel: string, type: "publication", publication: WirePublication, epoch: string}
 *   | {channel: string, type: "join" | "leave", info: import("./codec.js").WireInfo}
 *   | {channel: string, type: "error", code: number, message: string}} ChannelEvent
 */
/**
 * @typedef {object} ChannelHost
 * @property {() => import("./session.js").Session | null} session when commands may be sent
 * @property {(channel: string) => Promise<string>} askToken
 * @property {(event: ChannelEvent) => void} emit to every tab
 * @property {(channel: string) => void} onEnd the server, or nobody's right, has ended it
 * @property {(code: number, reason: string) => void} giveUp the connection is of no use any more
 * @property {import("./clock.js").Clock} clock
 */

export class Channel {
  /** @type {"subscribing" | "subscribed" | "unsubscribed"} */
  state = "subscribing";
  /** @type {Position | null} */
  position = null;
  /** @type {SubscribeResult} */
  #result = {};
  #welcome = new Welcome();
  /** Rises whenever what was asked for no longer counts. */
  #question = 0;
  #isAsking = false;
  #attempt = 0;
  /** @type {unknown} */
  #timer;
  /** Where a tab stands that came while the question was on its way. @type {Position | null} */
  #lower = null;
  /** What the next patch is made for, and where. @type {{text: string, offset: number} | null} */
  #base = null;

  /** @param {string} name @param {ChannelOptions} options @param {ChannelHost} host */
  constructor(name, options, host) {
    this.name = name;
    this.options = options;
    this.host = host;
    this.token = options.token ?? "";
    this.refresher = new Refresher({
      clock: host.clock,
      getToken: options.hasToken ? () => host.askToken(name) : undefined,
      send: (token, resolve, reject) => {
        this.token = token;
        host.session()?.request("sub_refresh", { channel: name, token }, resolve, reject);
      },
      onRefused: (code, reason) => {
        this.close();
        this.#end(code, reason);
      },
    });
  }

  /** @param {Position | null} position where one more tab stands @returns {ChannelEvent | null} what it is to be told now */
  attach(position) {
    if (this.state === "subscribed") {
      const ours = this.position;
      if (position && ours && position.epoch === ours.epoch && position.offset < ours.offset) {
        this.#restart(position);
        return null;
      }
      return { channel: this.name, type: "subscribed", ...this.#welcome.create(this.#result, ours, position) };
    }
    if (this.#isAsking) this.#lower = findLower(this.#lower, position);
    else this.position = findLower(this.position, position);
    return null;
  }

  /** The connection can take commands. */
  open() {
    if (this.state === "subscribing" && !this.#isAsking) void this.#subscribe();
  }

  /** The connection has gone. */
  lose() {
    this.#cancel();
    if (this.state === "subscribed") this.#await(Connecting.TRANSPORT_CLOSED, "transport closed");
  }

  /** Forget where we are: the server has. */
  invalidate() {
    this.position = this.position && { offset: 0, epoch: "_" };
    this.#base = null;
    if (this.options.hasToken) this.token = "";
  }

  /** Nobody wants it any more. */
  close() {
    if (this.state !== "unsubscribed") this.host.session()?.request("unsubscribe", { channel: this.name }, ignore, ignore);
    this.#cancel();
    this.state = "unsubscribed";
  }

  #cancel() {
    this.#question += 1;
    this.#isAsking = false;
    this.refresher.stop();
    this.host.clock.clearTimeout(this.#timer);
  }

  /** @param {number} code @param {string} reason */
  #await(code, reason) {
    this.state = "subscribing";
    this.host.emit({ channel: this.name, type: "subscribing", code, reason });
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    this.#cancel();
    this.state = "unsubscribed";
    this.host.emit({ channel: this.name, type: "unsubscribed", code, reason });
    this.host.onEnd(this.name);
  }

  /** @param {Position} position behind ours */
  #restart(position) {
    this.#cancel();
    this.host.session()?.request("unsubscribe", { channel: this.name }, ignore, ignore);
    this.state = "subscribing";
    this.position = position;
    void this.#subscribe();
  }

  async #subscribe() {
    if (this.host.session() === null) return;
    const question = ++this.#question;
    this.#isAsking = true;
    if (this.options.hasToken && !this.token) {
      try {
        const token = await this.host.askToken(this.name);
        if (question !== this.#question) return;
        if (!token) throw new UnauthorizedError();
        this.token = token;
      } catch (error) {
        if (question !== this.#question) return;
        if (error instanceof UnauthorizedError) return this.#end(Unsubscribed.UNAUTHORIZED, "unauthorized");
        return this.#retry(error instanceof Error ? error.message : "no token");
      }
    }
    const since = this.position;
    this.host.session()?.request(
      "subscribe",
      this.#createRequest(),
      (result) => question === this.#question && this.#handleSubscribed(result, since),
      (error) => question === this.#question && this.#handleError(error),
    );
  }

  #createRequest() {
    const { data, delta, filter, joinLeave, positioned, recoverable } = this.options;
    const since = this.position;
    // Where nothing was missed, the next publication may be a patch for what we have to have.
    const canPatch = since === null || this.#base?.offset === since.offset;
    return {
      channel: this.name,
      token: this.token || undefined,
      data,
      positioned,
      recoverable,
      join_leave: joinLeave,
      tf: filter,
      delta: canPatch ? delta : undefined,
      ...(since && { recover: true, ...since }),
    };
  }

  /** @param {SubscribeResult} result @param {Position | null} since */
  #handleSubscribed(result, since) {
    this.#isAsking = false;
    const lower = this.#lower;
    this.#lower = null;
    if (lower && since && lower.epoch === since.epoch && lower.offset < since.offset) return this.#restart(lower);
    this.state = "subscribed";
    this.#attempt = 0;
    this.#result = result;
    const publications = (result.publications ?? []).map((publication) => this.#decode(publication));
    if (this.state !== "subscribed") return;
    const isPlaced = result.recoverable || result.positioned;
    this.position = isPlaced ? { epoch: result.epoch ?? "", offset: publications.at(-1)?.offset ?? result.offset ?? 0 } : null;
    this.#welcome.enter({ ...result, publications }, since);
    this.refresher.plan(result);
    this.host.emit({ channel: this.name, type: "subscribed", result: { ...result, publications }, since });
  }

  /** @param {import("./codes.js").ClientError} error */
  #handleError(error) {
    this.#isAsking = false;
    if (error.code === Local.TRANSPORT_CLOSED) return;
    // The server may have subscribed us all the same: only a new connection is sure to know.
    if (error.code === Local.TIMEOUT) return this.host.giveUp(Connecting.SUBSCRIBE_TIMEOUT, "subscribe timeout");
    const isExpired = error.code === TOKEN_EXPIRED;
    if (isExpired && this.options.hasToken) this.token = "";
    if (!isRetriable(error) || (isExpired && !this.options.hasToken)) this.#end(error.code, error.message);
    else {
      this.host.emit({ channel: this.name, type: "error", code: error.code, message: error.message });
      this.#retry(error.message);
    }
  }

  /** @param {string} reason */
  #retry(reason) {
    this.#cancel();
    const delay = computeBackoff(this.#attempt, this.host.clock.random());
    this.#attempt += 1;
    this.#timer = this.host.clock.setTimeout(() => this.open(), delay);
    this.host.emit({ channel: this.name, type: "subscribing", code: Connecting.CALLED, reason });
  }

  /** @param {import("./codec.js").Push} push */
  handlePush(push) {
    if (this.state !== "subscribed") return;
    if (push.pub) this.#handlePublication(push.pub);
    else if (push.join) this.host.emit({ channel: this.name, type: "join", info: push.join.info });
    else if (push.leave) this.host.emit({ channel: this.name, type: "leave", info: push.leave.info });
    else if (push.unsubscribe) this.#handleUnsubscribe(push.unsubscribe.code ?? 0, push.unsubscribe.reason ?? "");
  }

  /** @param {WirePublication} wire */
  #handlePublication(wire) {
    const publication = this.#decode(wire);
    if (this.state !== "subscribed") return;
    if (publication.offset !== undefined && this.position) this.position = { ...this.position, offset: publication.offset };
    this.#welcome.see(publication);
    this.host.emit({ channel: this.name, type: "publication", publication, epoch: this.position?.epoch ?? "" });
  }

  /** @param {number} code @param {string} reason */
  #handleUnsubscribe(code, reason) {
    if (isFinalUnsubscribe(code)) return this.#end(code, reason);
    if (code === STATE_INVALIDATED.unsubscribe) this.invalidate();
    if (code === SUBSCRIPTION_EXPIRED && this.options.hasToken) this.token = "";
    this.#cancel();
    this.#await(code, reason);
    this.open();
  }

  /** @param {WirePublication} publication @returns {WirePublication} with its data as it was published */
  #decode(publication) {
    if (!this.#result.delta || typeof publication.data !== "string") return publication;
    try {
      const text = publication.delta ? applyDelta(this.#base?.text ?? "", publication.data) : publication.data;
      this.#base = { text, offset: publication.offset ?? this.#base?.offset ?? 0 };
      return { ...publication, data: JSON.parse(text), delta: false };
    } catch {
      // Ask again from where we are, in full.
      this.#base = null;
      this.#restart(this.position ?? { offset: 0, epoch: "_" });
      return publication;
    }
  }
}

const ignore = () => undefined;

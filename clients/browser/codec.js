// @ts-check
/** Owns the JSON encoding: frames of commands and replies, and the shapes an application sees. */

/**
 * @typedef {object} WireInfo
 * @property {string} user
 * @property {string} client
 * @property {unknown} [conn_info]
 * @property {unknown} [chan_info]
 */
/**
 * @typedef {object} WirePublication
 * @property {any} [data]
 * @property {WireInfo} [info]
 * @property {number} [offset]
 * @property {Record<string, string>} [tags]
 * @property {boolean} [delta]
 * @property {number} [time]
 */
/**
 * @typedef {object} SubscribeResult
 * @property {boolean} [expires]
 * @property {number} [ttl] seconds
 * @property {boolean} [recoverable]
 * @property {boolean} [positioned]
 * @property {string} [epoch]
 * @property {number} [offset]
 * @property {WirePublication[]} [publications]
 * @property {boolean} [recovered]
 * @property {boolean} [was_recovering]
 * @property {boolean} [delta]
 * @property {unknown} [data]
 */
/**
 * @typedef {object} ConnectResult
 * @property {string} [client]
 * @property {string} [version]
 * @property {boolean} [expires]
 * @property {number} [ttl] seconds
 * @property {unknown} [data]
 * @property {Record<string, SubscribeResult>} [subs]
 * @property {number} [ping] seconds
 * @property {boolean} [pong]
 * @property {string} [session]
 * @property {string} [node]
 */
/**
 * @typedef {object} Push
 * @property {string} [channel]
 * @property {WirePublication} [pub]
 * @property {{info: WireInfo}} [join]
 * @property {{info: WireInfo}} [leave]
 * @property {{code?: number, reason?: string}} [unsubscribe]
 * @property {SubscribeResult} [subscribe]
 * @property {{data?: unknown}} [message]
 * @property {{code?: number, reason?: string}} [disconnect]
 * @property {{expires?: boolean, ttl?: number}} [refresh]
 */
/** @typedef {{id?: number, error?: {code: number, message?: string, temporary?: boolean}, push?: Push} & Record<string, any>} Reply */

/** @typedef {{offset: number, epoch: string}} Position a place in a channel's history */
/** @typedef {{user: string, client: string, connInfo?: unknown, chanInfo?: unknown}} ClientInfo */
/**
 * @typedef {object} Publication
 * @property {any} data
 * @property {number} [offset]
 * @property {ClientInfo} [info] who published, when it was a client
 * @property {Record<string, string>} [tags]
 * @property {number} [time] milliseconds since 1970
 */

/** A pong, and a ping. */
export const EMPTY = "{}";

/** 20 Ki: a server takes 64 KiB, a character is up to three bytes, and quoting doubles only those of one. */
export const FRAME_CHARACTERS_MAX = 20 * 1024;

/** @param {object[]} commands @returns {string[]} frames, in order; only one command alone is longer than a frame may be */
export const encodeCommands = (commands) => joinFrames(commands.map((command) => JSON.stringify(command)));

/** @param {string[]} parts @returns {string[]} as few frames as they fit into */
export function joinFrames(parts) {
  /** @type {string[]} */
  const frames = [];
  for (const part of parts) {
    const last = frames.at(-1);
    if (last !== undefined && last.length + part.length < FRAME_CHARACTERS_MAX) frames.push(`${frames.pop()}\n${part}`);
    else frames.push(part);
  }
  return frames;
}

/**
 * @param {unknown} value of an application
 * @returns {any} as JSON has it now: what is changed later is not sent, whichever page has the connection
 * @throws {Error} JSON cannot hold it
 */
export const toPlain = (value) => (value === undefined ? value : JSON.parse(JSON.stringify(value)));

/**
 * @param {string} frame one or more replies, one a line
 * @returns {Reply[]} an empty reply is a ping
 * @throws {SyntaxError} a line is no JSON object
 */
export function decodeReplies(frame) {
  const replies = [];
  for (const line of frame.split("\n")) {
    if (line.trim() === "") continue;
    const reply = JSON.parse(line);
    if (typeof reply !== "object" || reply === null || Array.isArray(reply)) throw new SyntaxError("no object");
    replies.push(reply);
  }
  return replies;
}

/** @param {WireInfo} info @returns {ClientInfo} */
export function toInfo(info) {
  /** @type {ClientInfo} */
  const shown = { user: info.user ?? "", client: info.client ?? "" };
  if (info.conn_info !== undefined) shown.connInfo = info.conn_info;
  if (info.chan_info !== undefined) shown.chanInfo = info.chan_info;
  return shown;
}

/** @param {WirePublication} wire @returns {Publication} */
export function toPublication(wire) {
  /** @type {Publication} */
  const publication = { data: wire.data };
  if (wire.offset !== undefined) publication.offset = wire.offset;
  if (wire.info !== undefined) publication.info = toInfo(wire.info);
  if (wire.tags !== undefined) publication.tags = wire.tags;
  if (wire.time !== undefined) publication.time = wire.time;
  return publication;
}

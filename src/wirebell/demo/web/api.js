// @ts-check
/** Owns the HTTP side: requests, time limits, and errors whose message says what to do. */

/**
 * @typedef {object} Task
 * @property {number} id
 * @property {string} title
 * @property {string} description
 * @property {string} created_at
 * @property {string | null} created_by null is a guest
 * @property {string | null} completed_at null while it is open
 * @property {string | null} completed_by
 */
/**
 * @typedef {object} Message
 * @property {number} id
 * @property {string} text
 * @property {string | null} sent_by null is a guest
 * @property {string} sent_at
 */
/** @typedef {{username: string | null, demo_users: boolean, demo_password: string | null}} Me */
/**
 * @template T
 * @typedef {{rows: T[], next: string | null}} Page rows newest first; `next` is the older page
 */

/** 15 s: a phone on a poor network answers within a few; longer feels like nothing happened. */
const REQUEST_TIMEOUT_MS = 15_000;

/** A request that was not answered with success. */
export class ApiError extends Error {
  /**
   * @param {string} message what happened and what to do, for people
   * @param {number} status HTTP status; 0 when no answer came, so the server may have done it or not
   * @param {Record<string, string>} fields field name → what is wrong with it
   */
  constructor(message, status, fields = {}) {
    super(message);
    this.status = status;
    this.fields = fields;
  }
}

/** Status → what to tell people. @type {Record<number, string>} */
const ADVICE = {
  401: "Your session has ended. Sign in again; what you typed is kept.",
  403: "The server refused this page. Open the board by its own address.",
  404: "This no longer exists. Reload the page to see the board as it is.",
  413: "This is too long for one request. Shorten it and try again.",
  429: "Too many requests. Wait a moment and try again.",
};

/**
 * @param {unknown} detail the `detail` of a 422 answer
 * @returns {Record<string, string>}
 */
function readFields(detail) {
  /** @type {Record<string, string>} */
  const fields = {};
  if (!Array.isArray(detail)) return fields;
  for (const item of detail) {
    const name = String(item?.loc?.at?.(-1) ?? "");
    fields[name] ??= sentence(String(item?.msg ?? "is not valid"));
  }
  return fields;
}

/** @param {string} text @returns {string} with a capital and a full stop */
function sentence(text) {
  const clean = text.replace(/^String should/, "It should").replace(/^Value error, /, "");
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?]$/.test(clean) ? "" : ".");
}

/**
 * @param {Response} response
 * @returns {Promise<ApiError>}
 */
async function readError(response) {
  const body = await response.json().catch(() => null);
  const fields = readFields(body?.detail);
  const said = typeof body?.detail === "string" ? sentence(body.detail) : "";
  const fallback =
    response.status >= 500
      ? "The server could not do this right now. Try again in a moment."
      : "The server did not accept this. Check it and try again.";
  return new ApiError(ADVICE[response.status] ?? (said || fallback), response.status, fields);
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{json?: unknown, form?: Record<string, string>}} [body]
 * @returns {Promise<Response>}
 */
async function request(method, path, body = {}) {
  /** @type {RequestInit} */
  const options = { method, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS), cache: "no-store" };
  if (body.form) options.body = new URLSearchParams(body.form);
  if (body.json !== undefined) {
    options.body = JSON.stringify(body.json);
    options.headers = { "content-type": "application/json" };
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ApiError("The server cannot be reached. Check your network and try again.", 0);
  }
  if (!response.ok) throw await readError(response);
  return response;
}

/**
 * @template T
 * @param {Promise<Response>} pending
 * @returns {Promise<T>}
 */
async function asJSON(pending) {
  try {
    return await (await pending).json();
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError("The answer was cut off. Check your network and try again.", 0);
  }
}

/**
 * @template T
 * @param {string} path
 * @returns {Promise<Page<T>>}
 */
async function readPage(path) {
  const response = await request("GET", path);
  const next = /<([^>]*)>\s*;[^,]*rel="?next"?/.exec(response.headers.get("link") ?? "");
  const rows = /** @type {T[]} */ (await asJSON(Promise.resolve(response)));
  return { rows, next: next?.[1] ? sameOrigin(next[1]) : null };
}

/**
 * Behind a proxy the server may not know its public scheme and host: keep path and query only.
 *
 * @param {string} address
 * @returns {string}
 */
function sameOrigin(address) {
  const url = new URL(address, location.href);
  return url.pathname + url.search;
}

/** @returns {Promise<Me>} */
export const fetchMe = () => asJSON(request("GET", "/me"));
/** @param {string} [path] an older page @returns {Promise<Page<Task>>} */
export const fetchTasks = (path = "/tasks?limit=50") => readPage(path);
/** @param {string} [path] an older page @returns {Promise<Page<Message>>} */
export const fetchMessages = (path = "/messages?limit=50") => readPage(path);

/** @param {string} title @param {string} description @returns {Promise<Task>} */
export async function createTask(title, description) {
  /** @type {{task: Task}} */
  const answer = await asJSON(request("POST", "/tasks", { json: { title, description } }));
  return answer.task;
}

/** @param {number} id @param {boolean} completed @returns {Promise<Task>} */
export const completeTask = (id, completed) =>
  asJSON(request("PATCH", `/tasks/${id}`, { json: { completed } }));

/** @param {string} text @returns {Promise<Message>} */
export const sendMessage = (text) => asJSON(request("POST", "/messages", { json: { text } }));

/** @param {string} username @param {string} password */
export async function signIn(username, password) {
  try {
    await request("POST", "/token", { form: { username, password } });
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) throw error;
    throw new ApiError("Username and password do not match. Check both and try again.", 401);
  }
}

/** @param {string} username @param {string} password */
export async function register(username, password) {
  try {
    await request("POST", "/register", { json: { username, password } });
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 409) throw error;
    throw new ApiError("", 409, { username: "This name is taken. Choose another one." });
  }
}

/** @returns {Promise<Response>} */
export const signOut = () => request("POST", "/logout");

/** @returns {Promise<string>} a one-time ticket for `/ws/secure/{topic}` */
export async function fetchTicket() {
  /** @type {{ticket: string}} */
  const answer = await asJSON(request("POST", "/ticket"));
  return answer.ticket;
}

/** @returns {Promise<boolean>} whether the server answers at all, whatever it says */
export async function isReachable() {
  try {
    await fetch("/realtime/health", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    return true;
  } catch {
    return false;
  }
}

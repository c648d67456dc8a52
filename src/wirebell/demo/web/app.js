// @ts-check
/**
 * Joins the parts: what arrives on the live connection goes to tasks, chat and presence; what
 * changes there goes to the bell; who signs in or out changes them all.
 */

import { isReachable } from "./api.js";
import { Bell } from "./bell.js";
import { Chat, messageKey } from "./chat.js";
import { keepTimesFresh } from "./clock.js";
import { setUpConnection, showConnection } from "./connection.js";
import { need } from "./dom.js";
import { Live } from "./live.js";
import { settled } from "./own.js";
import { setUpPlayground } from "./playground.js";
import { Presence } from "./presence.js";
import { Session } from "./session.js";
import { completedKey, createdKey, Tasks } from "./tasks.js";
import { dropToasts, toastEntry, toastText } from "./toasts.js";

/** @typedef {import("./bell.js").Entry} Entry */
/** @typedef {import("./api.js").Task} Task */
/** @typedef {import("./api.js").Message} Message */

/** 1.2 s: without a live connection by then, show the lists anyway and load them again with it. */
const LISTS_WAIT_MS = 1200;
/** More missed entries than this become one toast. */
const MISSED_TOASTS_MAX = 2;

const session = new Session(handleIdentity);
const username = () => session.username;
const parts = { username, onAuthor: checkAuthor, onChange: handleChange };
const tasks = new Tasks(parts);
const chat = new Chat(parts);
const presence = new Presence(username);
const bell = new Bell({ username, collect, isChatVisible: () => chat.isVisible(), onOpen: reveal });
const live = new Live("/realtime", "board", {
  onState: handleState,
  onPublication: handlePublication,
  onSubscribed: handleSubscribed,
  onPresence: (kind, info) => presence.receive(kind, info),
  onDisconnect: handleDisconnect,
});

let areListsLoaded = false;
/** What others did while we were away, until the connection is live again. @type {Entry[]} */
let missed = [];

/** @param {Task} task @returns {Entry} */
function createdEntry(task) {
  return { key: createdKey(task), kind: "task", id: task.id, by: task.created_by, verb: "added", subject: task.title, at: task.created_at };
}

/** @param {Task} task @returns {Entry} */
function completedEntry(task) {
  const at = task.completed_at ?? task.created_at;
  return { key: completedKey(task), kind: "task", id: task.id, by: task.completed_by, verb: "completed", subject: task.title, at };
}

/** @param {Message} message @returns {Entry} */
function messageEntry(message) {
  return { key: messageKey(message), kind: "message", id: message.id, by: message.sent_by, verb: "wrote", subject: message.text, at: message.sent_at };
}

/** @returns {Entry[]} */
function collect() {
  const known = tasks.known();
  return [
    ...known.map(createdEntry),
    ...known.filter((task) => task.completed_at).map(completedEntry),
    ...chat.all().map(messageEntry),
  ];
}

/** @param {any} data @param {boolean} recovered */
function handlePublication(data, recovered) {
  if (data?.type === "task.created" || data?.type === "task.updated") {
    const change = tasks.receive(data.task);
    if (change === "created") void notify(createdEntry(data.task), recovered);
    if (change === "completed") void notify(completedEntry(data.task), recovered);
  } else if (data?.type === "message.created") {
    chat.receive(data.message);
    void notify(messageEntry(data.message), recovered);
  }
}

/** @param {Entry} entry @param {boolean} recovered */
async function notify(entry, recovered) {
  // The answer to our own request may come after its push.
  await settled();
  bell.refresh();
  if (!bell.isOthers(entry) || !bell.isUnread(entry)) return;
  if (recovered) missed.push(entry);
  else toastEntry(entry, () => bell.open(entry));
}

/** @param {boolean} recovered @param {number} count */
function handleSubscribed(recovered, count) {
  void presence.refresh(() => live.fetchPresence());
  if (!recovered) void loadLists();
  else if (count > 0) void toastMissed();
  else if (!areListsLoaded) void loadLists();
}

async function toastMissed() {
  await settled();
  const entries = missed;
  missed = [];
  if (entries.length <= MISSED_TOASTS_MAX) {
    for (const entry of entries) toastEntry(entry, () => bell.open(entry));
    return;
  }
  toastText(`${entries.length} updates came in while you were away`, () => need("bell-button", HTMLButtonElement).click());
}

async function loadLists() {
  areListsLoaded = true;
  await Promise.all([tasks.load(), chat.load()]);
  bell.setLoaded();
}

/** @param {import("./live.js").State} state @param {number | null} retryAt */
function handleState(state, retryAt) {
  showConnection(state, retryAt);
  presence.setLive(state === "live");
}

/** Something is there that was not, or is seen that was not. */
function handleChange() {
  bell.refresh();
  if (chat.isVisible()) dropToasts("message");
}

/** @param {number} code */
function handleDisconnect(code) {
  // 3005 connection expired, 3500 invalid token: the cookie no longer says who we are.
  if (code === 3005 || code === 3500 || code === 4401) void session.handleExpired();
}

/** @param {boolean} isHere somebody signed in or out here, and not in another window */
function handleIdentity(isHere) {
  bell.switchUser();
  tasks.refresh();
  chat.refresh();
  presence.show();
  // One connection serves all windows: whoever has it, or asked for the change, renews it.
  if (isHere || live.isLeader) live.restart();
}

/** @param {string | null} author who the server took us for */
function checkAuthor(author) {
  if (author !== session.username) void session.handleExpired();
}

/** @param {Entry} entry */
function reveal(entry) {
  showView(entry.kind === "task" ? "tasks" : "chat");
  if (entry.kind === "task") tasks.reveal(entry.id);
  else chat.reveal(entry.id);
}

/** @param {string} view which part a narrow screen shows */
function showView(view) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll("[data-view-button]")) {
    button.setAttribute("aria-pressed", String(button.getAttribute("data-view-button") === view));
  }
}

function setUpViews() {
  for (const button of document.querySelectorAll("[data-view-button]")) {
    button.addEventListener("click", () => {
      showView(button.getAttribute("data-view-button") ?? "tasks");
      scrollTo(0, 0);
    });
  }
}

async function start() {
  setUpViews();
  setUpPlayground(username);
  setUpConnection(() => live.retryNow());
  need("bell-button", HTMLButtonElement).addEventListener("click", () => dropToasts());
  keepTimesFresh();
  presence.show();
  await session.refresh().catch(retrySession);
  bell.switchUser();
  live.start();
  setTimeout(() => areListsLoaded || loadLists(), LISTS_WAIT_MS);
}

/** Who we are could not be asked: ask again when the server answers. */
async function retrySession() {
  const timer = setInterval(async () => {
    if (!(await isReachable())) return;
    clearInterval(timer);
    if (await session.refresh().catch(() => false)) handleIdentity(true);
  }, 3000);
}

void start();

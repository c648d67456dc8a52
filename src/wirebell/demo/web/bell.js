// @ts-check
/**
 * Owns the bell: what others did, what of it is unread, and the toasts that tell it.
 *
 * Entries are not stored: they are read off the tasks and messages the page knows, so a reload, a
 * recovery or a second window all show the same. Stored, for each user, is how far they have read:
 * a time for tasks, a time for the chat, and the few entries above it that were opened one by one.
 */

import { setTime } from "./clock.js";
import { copyTemplate, need, paintAvatar, part, setText } from "./dom.js";
import { disclose } from "./disclosure.js";
import { isOwn, readStored, writeStored } from "./own.js";

/**
 * @typedef {object} Entry
 * @property {string} key
 * @property {"task" | "message"} kind
 * @property {number} id of the task or message
 * @property {string | null} by null is a guest
 * @property {string} verb
 * @property {string} subject
 * @property {string} at ISO 8601
 */
/** @typedef {{task: number, message: number, opened: string[]}} Read times in milliseconds since 1970 */

const PREFIX = "wirebell.taskboard.read.";
/** 50: more is history, and history stands in the lists themselves. */
const ENTRIES_MAX = 50;
const OPENED_MAX = 100;

export class Bell {
  /** @type {Entry[]} */
  #entries = [];
  /** @type {Read | null} */
  #read = null;
  #isLoaded = false;

  #button = need("bell-button", HTMLButtonElement);
  #badge = need("bell-badge", HTMLSpanElement);
  #list = need("bell-list", HTMLUListElement);
  #readAll = need("bell-read", HTMLButtonElement);

  /**
   * @param {object} options
   * @param {() => string | null} options.username
   * @param {() => Entry[]} options.collect every entry the page knows, ours too, in any order
   * @param {() => boolean} options.isChatVisible
   * @param {(entry: Entry) => void} options.onOpen
   */
  constructor({ username, collect, isChatVisible, onOpen }) {
    this.username = username;
    this.collect = collect;
    this.isChatVisible = isChatVisible;
    this.onOpen = onOpen;
    this.close = disclose(this.#button, {
      onOpen: () => this.#show(),
      focus: () => need("bell-heading", HTMLHeadingElement),
    });
    this.#readAll.addEventListener("click", () => this.markAllRead());
    // Another window of this user read something.
    addEventListener("storage", (event) => {
      if (event.key === this.#storageKey()) this.switchUser();
    });
  }

  #storageKey() {
    // A name may be "guest", and holds no space.
    return PREFIX + (this.username() ?? "a guest");
  }

  /** Take the reading position of whoever uses the page now. */
  switchUser() {
    this.#read = null;
    try {
      const stored = JSON.parse(readStored(this.#storageKey()) ?? "null");
      if (stored && Array.isArray(stored.opened)) this.#read = stored;
    } catch {
      // What is stored is not ours: start as a newcomer.
    }
    this.refresh();
  }

  /** The lists are complete: from now on what is new to them is news. */
  setLoaded() {
    this.#isLoaded = true;
    this.refresh();
  }

  /** @param {Entry} entry @returns {boolean} */
  isOthers(entry) {
    if (entry.by === null) return !isOwn(entry.key);
    return entry.by !== this.username();
  }

  /** @param {Entry} entry @returns {boolean} */
  isUnread(entry) {
    if (!this.#read) return false;
    return Date.parse(entry.at) > this.#read[entry.kind] && !this.#read.opened.includes(entry.key);
  }

  /** @param {"task" | "message"} [kind] @returns {number} */
  unread(kind) {
    return this.#entries.filter((entry) => (!kind || entry.kind === kind) && this.isUnread(entry)).length;
  }

  /** Look at tasks and messages again. */
  refresh() {
    const entries = this.collect().filter((entry) => this.isOthers(entry));
    this.#entries = entries.sort((a, b) => Date.parse(b.at) - Date.parse(a.at)).slice(0, ENTRIES_MAX);
    if (this.#isLoaded) {
      // A newcomer has missed nothing: what is here already counts as read.
      if (!this.#read) this.#store({ task: this.#newest(), message: this.#newest(), opened: [] });
      else if (this.isChatVisible() && this.unread("message") > 0) {
        this.#store({ ...this.#read, message: this.#newest("message") });
      }
    }
    this.#show();
  }

  /** @param {"task" | "message"} [kind] @returns {number} */
  #newest(kind) {
    const times = this.#entries.filter((entry) => !kind || entry.kind === kind).map(({ at }) => Date.parse(at));
    return Math.max(0, ...times);
  }

  /** @param {Read} read */
  #store(read) {
    this.#read = { ...read, opened: read.opened.slice(-OPENED_MAX) };
    writeStored(this.#storageKey(), JSON.stringify(this.#read));
  }

  markAllRead() {
    if (!this.#read) return;
    const { task, message } = this.#read;
    const newest = this.#newest();
    this.#store({ task: Math.max(task, newest), message: Math.max(message, newest), opened: [] });
    this.#show();
  }

  /** @param {Entry} entry read it, and bring what it tells of into view */
  open(entry) {
    if (this.#read && this.isUnread(entry)) {
      this.#store({ ...this.#read, opened: [...this.#read.opened, entry.key] });
    }
    this.close();
    this.#show();
    this.onOpen(entry);
  }

  #show() {
    const unread = this.unread();
    const count = unread > 99 ? "99+" : String(unread);
    setText(this.#badge, unread ? count : "");
    this.#badge.hidden = unread === 0;
    this.#button.setAttribute("aria-label", `Notifications, ${unread || "none"} unread`);
    this.#readAll.setAttribute("aria-disabled", String(unread === 0));
    document.title = unread ? `(${count}) Taskboard` : "Taskboard";
    const chat = this.unread("message");
    const chatBadge = need("chat-badge", HTMLSpanElement);
    chatBadge.replaceChildren(String(chat));
    chatBadge.hidden = chat === 0;
    need("bell-empty", HTMLParagraphElement).hidden = this.#entries.length > 0;
    if (!need("bell-panel", HTMLElement).hidden) this.#showList();
  }

  #showList() {
    // Keep focus on the same entry while new ones come in above it.
    const focused = document.activeElement?.closest("li.entry")?.getAttribute("data-key");
    const items = this.#entries.map((entry) => this.#make(entry));
    this.#list.replaceChildren(...items);
    if (focused) items.find((item) => item.dataset.key === focused)?.querySelector("button")?.focus();
  }

  /** @param {Entry} entry @returns {HTMLElement} */
  #make(entry) {
    const item = copyTemplate("entry-template");
    item.dataset.key = entry.key;
    item.classList.toggle("unread", this.isUnread(entry));
    paintAvatar(part(item, ".avatar", HTMLSpanElement), entry.by);
    part(item, ".entry-unread", HTMLSpanElement).hidden = !this.isUnread(entry);
    tell(part(item, ".entry-text", HTMLSpanElement), entry);
    setTime(part(item, "time", HTMLTimeElement), entry.at);
    part(item, "button", HTMLButtonElement).addEventListener("click", () => this.open(entry));
    return item;
  }
}

/**
 * Write "bob completed Buy milk" with the name set off.
 *
 * @param {HTMLElement} element
 * @param {Entry} entry
 */
export function tell(element, entry) {
  const name = document.createElement("strong");
  name.textContent = entry.by ?? "A guest";
  element.replaceChildren(name, ` ${entry.verb} `, Object.assign(document.createElement("q"), { textContent: entry.subject }));
}

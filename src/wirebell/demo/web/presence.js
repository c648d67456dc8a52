// @ts-check
/**
 * Owns who is online.
 *
 * The channel says who is in it when we come; joins and leaves tell of every connection after that.
 * A user is here as long as one connection of theirs is. The windows of one browser share theirs.
 */

import { make, need, paintAvatar, setText } from "./dom.js";

/** @typedef {import("./live.js").ClientInfo} ClientInfo */

/** 0.1 s: a crowd that comes at once is painted once. */
const PAINT_MS = 100;
/** More names than this become a number. */
const SHOWN_MAX = 40;

export class Presence {
  /** Connection → its user, empty for a guest. @type {Map<string, string>} */
  #clients = new Map();
  /** What was told since we asked: it is newer than the answer. @type {[client: string, user: string | null][]} */
  #changes = [];
  #isAsking = false;
  #isKnown = false;
  #isLive = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #question = 0;

  #list = need("people-list", HTMLUListElement);
  #count = need("people-count", HTMLParagraphElement);
  #note = need("people-note", HTMLParagraphElement);

  /** @param {() => string | null} username */
  constructor(username) {
    this.username = username;
  }

  /** @param {"join" | "leave"} kind @param {ClientInfo} info */
  receive(kind, { client, user }) {
    const change = /** @type {[string, string | null]} */ ([client, kind === "join" ? user : null]);
    if (this.#isAsking) this.#changes.push(change);
    this.#apply([change]);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.show();
    }, PAINT_MS);
  }

  /** @param {boolean} isLive what is shown while it is false is what was last known */
  setLive(isLive) {
    this.#isLive = isLive;
    this.show();
  }

  /** @param {() => Promise<ClientInfo[]>} fetchPresence */
  async refresh(fetchPresence) {
    const question = ++this.#question;
    this.#changes = [];
    this.#isAsking = true;
    try {
      const present = await fetchPresence();
      if (question !== this.#question) return;
      this.#clients = new Map(present.map(({ client, user }) => [client, user]));
      this.#apply(this.#changes);
      this.#isKnown = true;
    } catch {
      // The connection indicator tells that the server is away; who comes back asks again.
    }
    if (question === this.#question) this.#isAsking = false;
    this.show();
  }

  /** @param {[client: string, user: string | null][]} changes null has left */
  #apply(changes) {
    for (const [client, user] of changes) {
      if (user === null) this.#clients.delete(client);
      else this.#clients.set(client, user);
    }
  }

  /** Paint what is known. */
  show() {
    const us = this.username();
    const users = [...this.#clients.values()];
    const guests = users.filter((user) => user === "").length;
    const names = [...new Set(users)].filter(Boolean).sort((a, b) => Number(b === us) - Number(a === us) || a.localeCompare(b));
    const total = names.length + guests;
    this.#list.replaceChildren(...names.slice(0, SHOWN_MAX).map((name) => this.#chip(name, name === us)));
    const hidden = names.length - SHOWN_MAX;
    if (hidden > 0) this.#list.append(make("li", `and ${hidden} more`, "person more-people"));
    if (guests > 0) this.#list.append(this.#guestChip(guests, us === null));
    const people = `${total} ${total === 1 ? "person" : "people"}`;
    // In the place of the number, so that nothing below moves when the connection goes.
    setText(this.#count, !this.#isKnown ? "" : this.#isLive ? people : `${people} when last connected`);
    setText(this.#note, this.#describe(total));
    this.#list.classList.toggle("stale", !this.#isLive && this.#isKnown);
  }

  /** @param {number} total @returns {string} */
  #describe(total) {
    if (!this.#isKnown) return "Looking who is here";
    return total <= 1 ? "Only you. Open a second window, or send somebody the address." : "";
  }

  /** @param {string} name @param {boolean} isUs @returns {HTMLElement} */
  #chip(name, isUs) {
    const chip = make("li", "", "person");
    const avatar = make("span", "", "avatar");
    avatar.setAttribute("aria-hidden", "true");
    paintAvatar(avatar, name);
    chip.append(avatar, make("span", name, "person-name"));
    if (isUs) chip.append(make("span", "(you)", "person-you"));
    return chip;
  }

  /** @param {number} count @param {boolean} isUs @returns {HTMLElement} */
  #guestChip(count, isUs) {
    const chip = make("li", "", "person");
    const avatar = make("span", "", "avatar");
    avatar.setAttribute("aria-hidden", "true");
    paintAvatar(avatar, null);
    const text = count === 1 ? "1 guest" : `${count} guests`;
    chip.append(avatar, make("span", text, "person-name"));
    if (isUs) chip.append(make("span", count === 1 ? "(you)" : "(one is you)", "person-you"));
    return chip;
  }
}

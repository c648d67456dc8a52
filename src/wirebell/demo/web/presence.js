// @ts-check
/**
 * Owns who is online.
 *
 * The list comes from `GET /online`, which counts connections. A join of a user is shown at once:
 * it is true whatever else happens. A leave is not proof (the user may have a second window), and
 * a guest is only a number, so both ask the server again; a crowd that comes or goes costs one
 * request each `REFRESH_MS`.
 */

import { fetchOnline } from "./api.js";
import { make, need, paintAvatar, setText } from "./dom.js";

/** 1.5 s: a person does not miss it, and 10,000 leaves cost one request, not 10,000. */
const REFRESH_MS = 1500;
/** More names than this become a number. */
const SHOWN_MAX = 40;

export class Presence {
  /** @type {Set<string>} */
  #users = new Set();
  #guests = 0;
  #isKnown = false;
  #isLive = false;
  #refreshedAt = 0;
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

  /**
   * @param {"join" | "leave"} kind
   * @param {{user?: string}} info
   */
  receive(kind, info) {
    if (kind === "join" && info.user) {
      this.#users.add(info.user);
      this.show();
    }
    this.refreshSoon();
  }

  /** @param {boolean} isLive what is shown while it is false is what was last known */
  setLive(isLive) {
    this.#isLive = isLive;
    this.show();
  }

  /** Ask the server, now or when the last question is old enough. */
  refreshSoon() {
    if (this.#timer !== undefined) return;
    const wait = Math.max(120, this.#refreshedAt + REFRESH_MS - Date.now());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.#refresh();
    }, wait);
  }

  async #refresh() {
    this.#refreshedAt = Date.now();
    const question = ++this.#question;
    try {
      const online = await fetchOnline();
      if (question !== this.#question) return;
      this.#users = new Set(online.users);
      this.#guests = online.guests;
      this.#isKnown = true;
    } catch {
      // The connection indicator tells that the server is away; the next join or reconnect asks again.
    }
    this.show();
  }

  /** Paint what is known. */
  show() {
    const us = this.username();
    const names = [...this.#users].sort((a, b) => Number(b === us) - Number(a === us) || a.localeCompare(b));
    const total = names.length + this.#guests;
    this.#list.replaceChildren(...names.slice(0, SHOWN_MAX).map((name) => this.#chip(name, name === us)));
    const hidden = names.length - SHOWN_MAX;
    if (hidden > 0) this.#list.append(make("li", `and ${hidden} more`, "person more-people"));
    if (this.#guests > 0) this.#list.append(this.#guestChip(us === null));
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

  /** @param {boolean} isUs @returns {HTMLElement} */
  #guestChip(isUs) {
    const chip = make("li", "", "person");
    const avatar = make("span", "", "avatar");
    avatar.setAttribute("aria-hidden", "true");
    paintAvatar(avatar, null);
    const text = this.#guests === 1 ? "1 guest" : `${this.#guests} guests`;
    chip.append(avatar, make("span", text, "person-name"));
    if (isUs) chip.append(make("span", this.#guests === 1 ? "(you)" : "(one is you)", "person-you"));
    return chip;
  }
}

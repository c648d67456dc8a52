// @ts-check
/** Owns the chat: which messages are known, the log that shows them, and the form that sends one. */

import { ApiError, fetchMessages, sendMessage } from "./api.js";
import { setTime } from "./clock.js";
import { announce, copyTemplate, make, need, paintAvatar, part, setFieldError, setText } from "./dom.js";
import { clearDraft, growWithText, keepDraft } from "./drafts.js";
import { claim, remember } from "./own.js";

/** @typedef {import("./api.js").Message} Message */

const TEXT_MAX = 2000;
/** Two messages of one author closer than 5 minutes read as one turn. */
const TURN_MS = 5 * 60_000;

/** @param {Message} message @returns {string} */
export const messageKey = (message) => `message:${message.id}:${message.sent_at}`;

export class Chat {
  /** @type {Map<number, Message>} */
  #messages = new Map();
  /** @type {Map<number, HTMLElement>} */
  #elements = new Map();
  #load = 0;
  /** Ids of messages that arrived since the last load began. @type {Set<number>} */
  #arrived = new Set();
  /** @type {string | null} */
  #next = null;
  /**
   * What was sent and not answered yet, or never: the server may have it all the same.
   *
   * @type {{text: string, failed: boolean, arrived: boolean} | null}
   */
  #unanswered = null;
  #isLoading = true;
  #isOnScreen = false;

  #section = need("chat", HTMLElement);
  #scroll = need("chat-scroll", HTMLDivElement);
  #list = need("chat-list", HTMLOListElement);
  #more = need("chat-more", HTMLButtonElement);
  #jump = need("chat-jump", HTMLButtonElement);
  #form = need("chat-form", HTMLFormElement);
  #text = need("chat-text", HTMLTextAreaElement);
  #send = need("chat-send", HTMLButtonElement);
  #error = need("chat-text-error", HTMLParagraphElement);
  #loadError = need("chat-error", HTMLDivElement);

  /**
   * @param {object} options
   * @param {() => string | null} options.username
   * @param {(author: string | null) => void} options.onAuthor who an answer of ours was written by
   * @param {() => void} options.onChange
   */
  constructor({ username, onAuthor, onChange }) {
    this.username = username;
    this.onAuthor = onAuthor;
    this.onChange = onChange;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submit();
    });
    this.#text.addEventListener("keydown", (event) => {
      // While an input method composes (Japanese, Chinese), Enter chooses a word.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#form.requestSubmit();
    });
    this.#text.addEventListener("input", () => setFieldError(this.#text, this.#error, ""));
    keepDraft(this.#text);
    growWithText(this.#text);
    this.#more.addEventListener("click", () => void this.#loadOlder());
    this.#jump.addEventListener("click", () => this.#toEnd());
    this.#scroll.addEventListener("scroll", () => {
      if (this.#isAtEnd()) this.#jump.hidden = true;
    });
    this.#watchScreen();
  }

  #watchScreen() {
    new IntersectionObserver((entries) => {
      const wasOnScreen = this.#isOnScreen;
      this.#isOnScreen = entries.at(-1)?.isIntersecting ?? false;
      if (this.#isOnScreen !== wasOnScreen) this.onChange();
    }).observe(this.#section);
    document.addEventListener("visibilitychange", () => this.onChange());
    let wasAtEnd = true;
    this.#scroll.addEventListener("scroll", () => (wasAtEnd = this.#isAtEnd()));
    // The keyboard of a phone, or a longer draft, must not push the newest message out of sight.
    new ResizeObserver(() => {
      if (wasAtEnd) this.#toEnd();
    }).observe(this.#scroll);
  }

  /** @returns {boolean} whether a person who looks at this page sees new messages arrive */
  isVisible() {
    return this.#isOnScreen && document.visibilityState === "visible";
  }

  /** @returns {Message[]} newest first */
  all() {
    return [...this.#messages.values()].sort((a, b) => b.id - a.id);
  }

  /** Load the newest page and forget everything it does not confirm. */
  async load() {
    const load = ++this.#load;
    this.#arrived.clear();
    try {
      const page = await fetchMessages();
      if (load !== this.#load) return;
      const confirmed = new Set(page.rows.map((message) => message.id));
      for (const id of [...this.#messages.keys()]) {
        if (!confirmed.has(id) && !this.#arrived.has(id)) this.#forget(id);
      }
      for (const message of page.rows) {
        if (!this.#messages.has(message.id)) this.#settleUnanswered(message);
        this.#put(message);
      }
      this.#next = page.next;
      this.#loadError.replaceChildren();
    } catch (error) {
      if (load === this.#load) this.#showLoadError(error);
    }
    if (load !== this.#load) return;
    this.#finishLoad();
    this.#toEnd();
  }

  async #loadOlder() {
    if (!this.#next || this.#more.ariaBusy === "true") return;
    const load = this.#load;
    this.#more.ariaBusy = "true";
    try {
      const page = await fetchMessages(this.#next);
      if (load !== this.#load) return;
      const fromEnd = this.#scroll.scrollHeight - this.#scroll.scrollTop;
      for (const message of page.rows) this.#put(message);
      this.#next = page.next;
      this.#finishLoad();
      // What was in view stays in view; the older messages wait above it.
      this.#scroll.scrollTop = this.#scroll.scrollHeight - fromEnd;
      if (!this.#next) this.#scroll.focus({ preventScroll: true });
      announce(`${page.rows.length} older messages loaded`);
    } catch (error) {
      this.#showLoadError(error);
    } finally {
      this.#more.ariaBusy = null;
    }
  }

  #finishLoad() {
    this.#isLoading = false;
    need("chat-loading", HTMLDivElement).hidden = true;
    this.#more.hidden = !this.#next;
    this.#showEmpty();
    this.onChange();
  }

  #showEmpty() {
    const failed = this.#loadError.childElementCount > 0;
    need("chat-empty", HTMLParagraphElement).hidden =
      this.#messages.size > 0 || failed || this.#isLoading;
  }

  /** @param {unknown} error */
  #showLoadError(error) {
    const again = make("button", "Load again", "button quiet");
    again.type = "button";
    again.addEventListener("click", () => void this.load());
    const text = error instanceof ApiError ? error.message : "The messages could not be loaded.";
    this.#loadError.replaceChildren(make("p", text), again);
  }

  /**
   * Take a pushed message, live or recovered.
   *
   * @param {Message} message
   */
  receive(message) {
    this.#arrived.add(message.id);
    if (this.#messages.has(message.id)) return;
    this.#settleUnanswered(message);
    this.#append(message);
  }

  /** @param {Message} message */
  #append(message) {
    const follow = this.#isAtEnd();
    this.#put(message);
    this.#showEmpty();
    if (follow) this.#toEnd();
    else this.#jump.hidden = false;
    this.onChange();
  }

  /** @param {Message} message */
  #put(message) {
    if (this.#messages.has(message.id)) return;
    this.#messages.set(message.id, message);
    const element = this.#make(message);
    this.#elements.set(message.id, element);
    let before = this.#list.lastElementChild;
    while (before && Number(before.id.slice(8)) > message.id) before = before.previousElementSibling;
    if (before) before.after(element);
    else this.#list.prepend(element);
    this.#joinTurn(element);
    if (element.nextElementSibling instanceof HTMLElement) this.#joinTurn(element.nextElementSibling);
  }

  /** @param {number} id */
  #forget(id) {
    this.#messages.delete(id);
    this.#elements.get(id)?.remove();
    this.#elements.delete(id);
  }

  /** @param {HTMLElement} element hide the name of a message that continues its author's turn */
  #joinTurn(element) {
    const message = this.#messages.get(Number(element.id.slice(8)));
    const before = this.#messages.get(Number(element.previousElementSibling?.id.slice(8) ?? 0));
    if (!message) return;
    const continues =
      before !== undefined &&
      // Two guests have no name to tell them apart.
      message.sent_by !== null &&
      before.sent_by === message.sent_by &&
      Date.parse(message.sent_at) - Date.parse(before.sent_at) < TURN_MS;
    element.classList.toggle("continues", continues);
  }

  /** @param {Message} message @returns {HTMLElement} */
  #make(message) {
    const element = copyTemplate("message-template");
    element.id = `message-${message.id}`;
    paintAvatar(part(element, ".avatar", HTMLSpanElement), message.sent_by);
    part(element, ".message-text", HTMLParagraphElement).textContent = message.text;
    setTime(part(element, "time", HTMLTimeElement), message.sent_at);
    this.#show(element, message);
    return element;
  }

  /** @param {HTMLElement} element @param {Message} message */
  #show(element, message) {
    const isOurs = message.sent_by !== null && message.sent_by === this.username();
    element.classList.toggle("ours", isOurs);
    const name = message.sent_by ?? "Guest";
    setText(part(element, ".message-author", HTMLElement), isOurs ? `${name} (you)` : name);
  }

  /** Show names again, after somebody signed in or out. */
  refresh() {
    for (const [id, element] of this.#elements) {
      const message = this.#messages.get(id);
      if (message) this.#show(element, message);
    }
  }

  async #submit() {
    if (this.#send.ariaBusy === "true") return;
    const text = this.#text.value.trim();
    const length = [...text].length;
    if (!text) return this.#text.focus();
    if (length > TEXT_MAX) {
      const advice = `The message has ${length} characters, the most is ${TEXT_MAX}. Send it in parts.`;
      return setFieldError(this.#text, this.#error, advice);
    }
    setFieldError(this.#text, this.#error, "");
    this.#send.ariaBusy = "true";
    const sent = { text, failed: false, arrived: false };
    this.#unanswered = sent;
    try {
      const message = await remember(() => sendMessage(text), messageKey);
      this.#unanswered = null;
      this.#clear(text);
      if (!this.#messages.has(message.id)) this.#append(message);
      this.#toEnd();
      this.onAuthor(message.sent_by);
    } catch (error) {
      const failure = error instanceof ApiError ? error : new ApiError("Try again.", 0);
      sent.failed = failure.status === 0;
      if (!sent.failed) this.#unanswered = null;
      if (sent.failed && sent.arrived) return this.#finishUnanswered();
      const advice = failure.fields["text"] ?? failure.message;
      setFieldError(this.#text, this.#error, `Not sent, your text is kept. ${advice}`);
    } finally {
      this.#send.ariaBusy = null;
    }
  }

  /** @param {string} sent what was typed since is kept */
  #clear(sent) {
    if (this.#text.value.trim() === sent) clearDraft(this.#text);
  }

  /** @param {Message} message it may be the one whose answer gets lost: nobody should send it twice */
  #settleUnanswered(message) {
    const sent = this.#unanswered;
    if (!sent || message.text !== sent.text || message.sent_by !== this.username()) return;
    claim(messageKey(message));
    sent.arrived = true;
    if (sent.failed) this.#finishUnanswered();
  }

  /** No answer came, and what was sent has arrived. */
  #finishUnanswered() {
    const text = this.#unanswered?.text ?? "";
    this.#unanswered = null;
    this.#clear(text);
    setFieldError(this.#text, this.#error, "");
    announce("Message sent after all");
  }

  #isAtEnd() {
    return this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 48;
  }

  #toEnd() {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#jump.hidden = true;
  }

  /** @param {number} id bring a message into view */
  reveal(id) {
    this.#elements.get(id)?.scrollIntoView({ block: "nearest" });
    this.#text.focus({ preventScroll: true });
  }
}

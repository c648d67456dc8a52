// @ts-check
/** Owns the sockets playground: one plain WebSocket to a route of the reader's choice, and its frames. */

import { ApiError, fetchTicket } from "./api.js";
import { make, need, setText } from "./dom.js";

/**
 * @typedef {object} Route
 * @property {string} path `{}` stands for the parameter
 * @property {string} about
 * @property {string} [parameter] its label
 * @property {string} [example]
 */

/** @type {Route[]} */
const ROUTES = [
  { path: "/ws", about: "Echo. Every text comes back as “Message received: …”." },
  {
    path: "/ws/{}",
    parameter: "Client id",
    example: "1",
    about: "Room. Everybody in it, you too, gets “Client 1: …”. Open it in two windows.",
  },
  {
    path: "/ws/notifications/{}",
    parameter: "Topic",
    example: "tasks",
    about: "Notifications. The topic “tasks” hears of every new task: add one above and look here.",
  },
  {
    path: "/ws/secure/{}",
    parameter: "Topic",
    example: "tasks",
    about: "Only for signed-in users. The page asks for a one-time ticket and connects with it.",
  },
  {
    path: "/ws/redis/{}",
    parameter: "Channel",
    example: "news",
    about: "A channel of the broker. What you send reaches everybody on it.",
  },
];

/** 200: a chatty room must not fill the memory of a tab. */
const FRAMES_MAX = 200;

class Playground {
  /** @type {WebSocket | null} */
  #socket = null;
  #heartbeats = 0;
  /** Rises with every connect, so that a ticket that comes late opens nothing. */
  #dial = 0;

  #route = need("socket-route", HTMLSelectElement);
  #parameter = need("socket-parameter", HTMLInputElement);
  #connect = need("socket-connect", HTMLButtonElement);
  #frames = need("socket-frames", HTMLOListElement);
  #text = need("socket-text", HTMLInputElement);

  /** @param {() => string | null} username */
  constructor(username) {
    this.username = username;
    this.#route.append(...ROUTES.map((route, index) => new Option(route.path.replace("{}", "…"), String(index))));
    this.#route.addEventListener("change", () => this.#showRoute());
    need("socket-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#socket) this.#close();
      else void this.#open();
    });
    need("socket-send-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    need("socket-clear", HTMLButtonElement).addEventListener("click", () => this.#frames.replaceChildren());
    this.#showRoute();
    this.#showState("Not connected", "offline");
  }

  /** @returns {Route} */
  #chosen() {
    return ROUTES[Number(this.#route.value)] ?? { path: "/ws", about: "" };
  }

  #showRoute() {
    const { parameter, example, about } = this.#chosen();
    need("socket-parameter-field", HTMLDivElement).hidden = !parameter;
    setText(need("socket-parameter-label", HTMLLabelElement), parameter ?? "");
    this.#parameter.value = example ?? "";
    setText(need("socket-about", HTMLParagraphElement), about);
  }

  /** @param {string} text @param {import("./live.js").State} state */
  #showState(text, state) {
    setText(need("socket-state", HTMLSpanElement), text);
    need("socket-dot", HTMLSpanElement).dataset.state = state;
    setText(this.#connect, this.#socket || state === "connecting" ? "Disconnect" : "Connect");
    need("socket-send", HTMLButtonElement).setAttribute("aria-disabled", String(state !== "live"));
  }

  async #open() {
    const dial = ++this.#dial;
    const { path } = this.#chosen();
    const url = new URL(path.replace("{}", encodeURIComponent(this.#parameter.value)), location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const shown = url.pathname;
    try {
      if (path.startsWith("/ws/secure")) {
        if (this.username() === null) throw new ApiError("Sign in first: this route is for users.", 401);
        url.searchParams.set("ticket", await fetchTicket());
      }
    } catch (error) {
      const text = error instanceof ApiError ? error.message : "Try again.";
      return this.#showState(text, "offline");
    }
    if (dial !== this.#dial || this.#socket) return;
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#heartbeats = 0;
    setText(need("socket-heartbeat", HTMLSpanElement), "");
    this.#showState(`Connecting to ${shown}`, "connecting");
    socket.onopen = () => this.#showState(`Connected to ${shown}`, "live");
    socket.onmessage = (event) => this.#receive(String(event.data));
    socket.onclose = (event) => {
      this.#socket = null;
      const why = event.reason ? `${event.code}, ${event.reason}` : String(event.code);
      this.#log("note", `closed: ${why}`);
      this.#showState(`Closed with ${why}`, "offline");
    };
  }

  #close() {
    this.#dial += 1;
    this.#socket?.close(1000, "reader left");
  }

  /** @param {string} text */
  #receive(text) {
    if (text === "heartbeat") {
      this.#heartbeats += 1;
      const time = new Date().toLocaleTimeString();
      const beats = this.#heartbeats === 1 ? "1 heartbeat" : `${this.#heartbeats} heartbeats`;
      setText(need("socket-heartbeat", HTMLSpanElement), `${beats}, last at ${time}`);
    }
    this.#log(text === "heartbeat" ? "beat" : "in", text);
  }

  #send() {
    const text = this.#text.value;
    if (this.#socket?.readyState !== WebSocket.OPEN) {
      return this.#showState("Not connected: connect first, your text is kept.", "offline");
    }
    this.#socket.send(text);
    this.#log("out", text);
    this.#text.value = "";
  }

  /** @param {"in" | "out" | "beat" | "note"} kind @param {string} text */
  #log(kind, text) {
    const names = { in: "received", out: "sent", beat: "heartbeat", note: "" };
    const line = make("li", "", `frame ${kind}`);
    const time = make("span", new Date().toLocaleTimeString(), "frame-time");
    const direction = make("span", names[kind], "visually-hidden");
    line.append(time, direction, make("span", text, "frame-text"));
    const follow = this.#frames.scrollHeight - this.#frames.scrollTop - this.#frames.clientHeight < 40;
    this.#frames.append(line);
    while (this.#frames.childElementCount > FRAMES_MAX) this.#frames.firstElementChild?.remove();
    if (follow) this.#frames.scrollTop = this.#frames.scrollHeight;
  }
}

/** @param {() => string | null} username */
export function setUpPlayground(username) {
  new Playground(username);
}

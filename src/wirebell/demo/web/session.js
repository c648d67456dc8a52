// @ts-check
/** Owns who uses the page: signing in, registering, signing out, and what the page says about it. */

import { ApiError, fetchMe, register, signIn, signOut } from "./api.js";
import { disclose } from "./disclosure.js";
import { announce, need, paintAvatar, setFieldError, setText } from "./dom.js";
import { writeStored } from "./own.js";

/** Tells other windows, and the next load, whether somebody is signed in. */
const STORED = "wirebell.taskboard.session";

export class Session {
  /** @type {string | null} null is a guest */
  username = null;
  #isRegistering = false;
  /** @type {string | null} */
  #demoPassword = null;

  #dialog = need("sign-in", HTMLDialogElement);
  #form = need("sign-in-form", HTMLFormElement);
  #name = need("sign-in-username", HTMLInputElement);
  #nameError = need("sign-in-username-error", HTMLParagraphElement);
  #password = need("sign-in-password", HTMLInputElement);
  #passwordError = need("sign-in-password-error", HTMLParagraphElement);
  #error = need("sign-in-error", HTMLParagraphElement);
  #submit = need("sign-in-submit", HTMLButtonElement);
  #open = need("sign-in-open", HTMLButtonElement);
  #closeMenu = disclose(need("account-button", HTMLButtonElement));

  /** @param {(isHere: boolean) => void} onChange somebody signed in or out, in this window or elsewhere */
  constructor(onChange) {
    this.onChange = onChange;
    for (const avatar of document.querySelectorAll("[data-avatar]")) {
      paintAvatar(avatar, avatar.getAttribute("data-avatar"));
    }
    this.#open.addEventListener("click", () => this.#ask(false));
    need("welcome-register", HTMLButtonElement).addEventListener("click", () => this.#ask(true));
    need("sign-in-close", HTMLButtonElement).addEventListener("click", () => this.#dialog.close());
    need("sign-in-switch", HTMLButtonElement).addEventListener("click", () => {
      this.#setMode(!this.#isRegistering);
      this.#name.focus();
    });
    // A click on the backdrop arrives at the dialog itself; one on its content does not.
    this.#dialog.addEventListener("pointerdown", (event) => {
      if (event.target === this.#dialog) this.#dialog.close();
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#send();
    });
    for (const button of document.querySelectorAll("[data-demo-user]")) {
      button.addEventListener("click", () => void this.#signInDemo(button));
    }
    need("sign-out", HTMLButtonElement).addEventListener("click", () => void this.#leave());
    addEventListener("storage", ({ key }) => key === STORED && void this.#follow());
  }

  /**
   * Ask the server who we are.
   *
   * @returns {Promise<boolean>} whether that is somebody else than before
   */
  async refresh() {
    const me = await fetchMe();
    const before = this.username;
    this.username = me.username;
    this.#demoPassword = me.demo_users ? me.demo_password : null;
    this.#show();
    return before !== me.username;
  }

  /** The server no longer knows us, although nobody signed out. */
  async handleExpired() {
    if (this.username === null) return;
    try {
      const changed = await this.refresh();
      if (!changed) return;
    } catch {
      return;
    }
    if (this.username === null) {
      const text = "Your session has ended. Sign in again; what you typed is kept, and until then you are a guest.";
      setText(need("welcome-text", HTMLParagraphElement), text);
      announce("Your session has ended. Sign in again.");
    } else {
      // Another window of this browser signed in as somebody else.
      announce(`Signed in as ${this.username}`);
    }
    this.onChange(false);
  }

  /** Another window of this browser signed in or out. */
  async #follow() {
    try {
      if (!(await this.refresh())) return;
    } catch {
      return;
    }
    announce(this.username === null ? "Signed out" : `Signed in as ${this.username}`);
    this.onChange(false);
  }

  #show() {
    const name = this.username;
    const isGuest = name === null;
    this.#open.hidden = !isGuest;
    need("account", HTMLDivElement).hidden = isGuest;
    setText(need("account-name", HTMLSpanElement), name ?? "");
    setText(need("account-menu-name", HTMLElement), name ?? "");
    paintAvatar(need("account-avatar", HTMLSpanElement), name);
    setText(need("demo-password", HTMLElement), this.#demoPassword ?? "");
    const { dataset } = document.documentElement;
    dataset.session = isGuest ? "guest" : "user";
    dataset.demo = this.#demoPassword === null ? "no" : "yes";
    // For the next load: first-paint.js lays the page out before the server has answered.
    writeStored(STORED, dataset.session);
    writeStored("wirebell.taskboard.demo", dataset.demo);
  }

  /** @param {boolean} isRegistering */
  #ask(isRegistering) {
    this.#setMode(isRegistering);
    this.#dialog.showModal();
    this.#name.focus();
  }

  /** @param {boolean} isRegistering */
  #setMode(isRegistering) {
    this.#isRegistering = isRegistering;
    const verb = isRegistering ? "Create an account" : "Sign in";
    setText(need("sign-in-heading", HTMLHeadingElement), verb);
    setText(this.#submit, isRegistering ? "Create account" : "Sign in");
    setText(need("sign-in-switch-text", HTMLSpanElement), isRegistering ? "Have an account?" : "New here?");
    setText(need("sign-in-switch", HTMLButtonElement), isRegistering ? "Sign in" : "Create an account");
    const demo = this.#demoPassword
      ? `For a quick look use the demo accounts ann or bob, password ${this.#demoPassword}.`
      : "";
    setText(need("sign-in-text", HTMLParagraphElement), isRegistering ? "A name and a password are enough." : demo);
    need("sign-in-username-hint", HTMLParagraphElement).hidden = !isRegistering;
    need("sign-in-password-hint", HTMLParagraphElement).hidden = !isRegistering;
    this.#password.autocomplete = isRegistering ? "new-password" : "current-password";
    this.#showErrors("", {});
  }

  /** @param {string} message @param {Record<string, string>} fields */
  #showErrors(message, fields) {
    setFieldError(this.#name, this.#nameError, fields["username"] ?? "");
    setFieldError(this.#password, this.#passwordError, fields["password"] ?? "");
    const isPlaced = fields["username"] || fields["password"];
    setFieldError(null, this.#error, isPlaced ? "" : message);
  }

  #check() {
    /** @type {Record<string, string>} */
    const wrong = {};
    const name = this.#name.value.trim();
    if (!name) wrong["username"] = "Enter your username.";
    else if (this.#isRegistering && !/^[A-Za-z0-9._-]{1,32}$/.test(name)) {
      wrong["username"] = "Use 1 to 32 letters, digits, dots, dashes or underscores.";
    }
    if (!this.#password.value) wrong["password"] = "Enter your password.";
    else if (this.#isRegistering && [...this.#password.value].length < 8) {
      wrong["password"] = "Use 8 characters or more.";
    }
    this.#showErrors("", wrong);
    if (wrong["username"]) this.#name.focus();
    else if (wrong["password"]) this.#password.focus();
    return Object.keys(wrong).length === 0;
  }

  async #send() {
    if (this.#submit.ariaBusy === "true" || !this.#check()) return;
    const name = this.#name.value.trim();
    const password = this.#password.value;
    this.#submit.ariaBusy = "true";
    try {
      if (this.#isRegistering) {
        await register(name, password);
        // Should signing in fail now, the next try must not register again.
        this.#setMode(false);
      }
      await this.#signIn(name, password);
      this.#dialog.close();
      this.#form.reset();
    } catch (error) {
      const failure = error instanceof ApiError ? error : new ApiError("Try again.", 0);
      this.#showErrors(failure.message, failure.fields);
    } finally {
      this.#submit.ariaBusy = null;
    }
  }

  /** @param {Element} button */
  async #signInDemo(button) {
    const error = need("welcome-error", HTMLParagraphElement);
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    setText(error, "");
    try {
      if (this.#demoPassword === null) await this.refresh();
      await this.#signIn(button.getAttribute("data-demo-user") ?? "", this.#demoPassword ?? "");
      // The button is gone; the reader goes on where the work is.
      need("task-title", HTMLInputElement).focus();
    } catch (failure) {
      setText(error, failure instanceof ApiError ? failure.message : "Try again.");
    } finally {
      button.ariaBusy = null;
    }
  }

  /** @param {string} name @param {string} password */
  async #signIn(name, password) {
    await signIn(name, password);
    await this.refresh();
    announce(`Signed in as ${this.username ?? name}`);
    this.onChange(true);
  }

  async #leave() {
    const error = need("sign-out-error", HTMLParagraphElement);
    setText(error, "");
    try {
      await signOut();
      await this.refresh();
    } catch (failure) {
      return setText(error, failure instanceof ApiError ? failure.message : "Try again.");
    }
    this.#closeMenu();
    setText(
      need("welcome-text", HTMLParagraphElement),
      "You are signed out and go on as a guest. Sign in, and others see who added what.",
    );
    this.#open.focus();
    announce("Signed out");
    this.onChange(true);
  }
}

// @ts-check
/**
 * Owns the task list: which tasks are known, and the elements that show them.
 *
 * A task reaches us three ways (a page of the list, the answer to our own request, a push) in any
 * order. Pushes arrive in the order of the log, so a push always wins over an answer that was
 * asked for before it came: `#pushedAt` holds a tick of a local counter for each pushed task.
 */

import { ApiError, completeTask, createTask, fetchTasks } from "./api.js";
import { setTime } from "./clock.js";
import { announce, copyTemplate, make, need, part, setFieldError, setText } from "./dom.js";
import { clearDraft, growWithText, keepDraft } from "./drafts.js";
import { claim, remember } from "./own.js";

/** @typedef {import("./api.js").Task} Task */

const TITLE_MAX = 200;
const DESCRIPTION_MAX = 10_000;

/** @param {Task} task @returns {string} */
export const createdKey = (task) => `task:${task.id}:created:${task.created_at}`;
/** @param {Task} task @returns {string} */
export const completedKey = (task) => `task:${task.id}:completed:${task.completed_at}`;

export class Tasks {
  /** @type {Map<number, Task>} */
  #tasks = new Map();
  /** Pushed tasks of pages nobody loaded: known, but not listed. @type {Map<number, Task>} */
  #outside = new Map();
  /** @type {Map<number, HTMLElement>} */
  #elements = new Map();
  /** @type {Map<number, number>} */
  #pushedAt = new Map();
  #tick = 0;
  #load = 0;
  /** @type {string | null} */
  #next = null;
  /**
   * What was sent and not answered yet, or never: the server may have it all the same.
   *
   * @type {{title: string, failed: boolean, arrived: boolean} | null}
   */
  #unanswered = null;

  #list = need("task-list", HTMLUListElement);
  #body = need("tasks-body", HTMLDivElement);
  #more = need("tasks-more", HTMLButtonElement);
  #form = need("task-form", HTMLFormElement);
  #submit = need("task-submit", HTMLButtonElement);
  #title = need("task-title", HTMLInputElement);
  #titleError = need("task-title-error", HTMLParagraphElement);
  #description = need("task-description", HTMLTextAreaElement);
  #descriptionError = need("task-description-error", HTMLParagraphElement);
  #formError = need("task-form-error", HTMLParagraphElement);
  #loadError = need("tasks-error", HTMLDivElement);

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
      void this.#create();
    });
    this.#more.addEventListener("click", () => void this.#loadOlder());
    // A description that fits at 1440 px may be cut at 360, and a hidden list has no size at all.
    new ResizeObserver(() => {
      for (const element of this.#elements.values()) this.#measure(element);
    }).observe(this.#list);
    this.#setUpDetails();
    keepDraft(this.#title);
    this.#title.addEventListener("input", () => setFieldError(this.#title, this.#titleError, ""));
  }

  #setUpDetails() {
    const toggle = need("task-details-toggle", HTMLButtonElement);
    const details = need("task-details", HTMLDivElement);
    keepDraft(this.#description);
    /** @param {boolean} open */
    const show = (open) => {
      details.hidden = !open;
      toggle.setAttribute("aria-expanded", String(open));
      toggle.textContent = open ? "Hide the description" : "Add a description";
    };
    toggle.addEventListener("click", () => {
      show(details.hidden);
      if (!details.hidden) this.#description.focus();
    });
    show(this.#description.value !== "");
    growWithText(this.#description);
    this.#description.addEventListener("input", () =>
      setFieldError(this.#description, this.#descriptionError, ""),
    );
  }

  /** @returns {Task[]} newest first */
  all() {
    return [...this.#tasks.values()].sort((a, b) => b.id - a.id);
  }

  /** @returns {Task[]} every task we heard of, in no order */
  known() {
    return [...this.#outside.values(), ...this.#tasks.values()];
  }

  /** Load the newest page and forget everything it does not confirm. */
  async load() {
    const load = ++this.#load;
    const tick = this.#tick;
    this.#body.setAttribute("aria-busy", "true");
    try {
      const page = await fetchTasks();
      if (load !== this.#load) return;
      const confirmed = new Set(page.rows.map((task) => task.id));
      for (const id of [...this.#tasks.keys()]) {
        if (!confirmed.has(id) && (this.#pushedAt.get(id) ?? 0) <= tick) this.#forget(id);
      }
      for (const task of page.rows) {
        if (!this.#tasks.has(task.id)) this.#settleUnanswered(task);
        this.#putAnswer(task, tick);
      }
      this.#next = page.next;
      this.#loadError.replaceChildren();
    } catch (error) {
      if (load === this.#load) this.#showLoadError(error);
    }
    if (load === this.#load) this.#finishLoad();
  }

  async #loadOlder() {
    if (!this.#next || this.#more.ariaBusy === "true") return;
    const load = this.#load;
    const tick = this.#tick;
    this.#more.ariaBusy = "true";
    try {
      const page = await fetchTasks(this.#next);
      if (load !== this.#load) return;
      for (const task of page.rows) this.#putAnswer(task, tick);
      this.#next = page.next;
      this.#loadError.replaceChildren();
      announce(`${page.rows.length} older tasks loaded`);
      this.#elements.get(page.rows[0]?.id ?? 0)?.focus();
    } catch (error) {
      this.#showLoadError(error);
    } finally {
      this.#more.ariaBusy = null;
    }
    this.#finishLoad();
  }

  #finishLoad() {
    need("tasks-loading", HTMLDivElement).hidden = true;
    this.#body.setAttribute("aria-busy", "false");
    this.#more.hidden = !this.#next;
    this.#showCount();
    this.onChange();
  }

  /** @param {unknown} error */
  #showLoadError(error) {
    const again = make("button", "Load again", "button quiet");
    again.type = "button";
    again.addEventListener("click", () => void this.load());
    const text = error instanceof ApiError ? error.message : "The tasks could not be loaded.";
    this.#loadError.replaceChildren(make("p", text), again);
  }

  #showCount() {
    const tasks = this.all();
    const open = tasks.filter((task) => !task.completed_at).length;
    const done = tasks.length - open;
    const text = this.#next
      ? `${open} open among the newest ${tasks.length}`
      : `${open} open, ${done} done`;
    setText(need("tasks-count", HTMLParagraphElement), tasks.length ? text : "");
    const failed = this.#loadError.childElementCount > 0;
    const loading = this.#body.getAttribute("aria-busy") === "true";
    need("tasks-empty", HTMLParagraphElement).hidden = tasks.length > 0 || failed || loading;
  }

  /**
   * Take a pushed task, live or recovered.
   *
   * @param {Task} task
   * @returns {"created" | "completed" | "other"}
   */
  receive(task) {
    const before = this.#tasks.get(task.id) ?? this.#outside.get(task.id);
    this.#pushedAt.set(task.id, ++this.#tick);
    // An update of a task on a page nobody loaded would stand alone below a gap.
    const isOutside = this.#next && task.id < Math.min(...this.#tasks.keys());
    if (isOutside) this.#outside.set(task.id, task);
    else this.#put(task);
    this.#showCount();
    this.#settleUnanswered(task);
    this.onChange();
    if (task.completed_at) return before?.completed_at ? "other" : "completed";
    return before ? "other" : "created";
  }

  /** @param {Task} task @param {number} tick when the request that answered it was sent */
  #putAnswer(task, tick) {
    if ((this.#pushedAt.get(task.id) ?? 0) > tick) return;
    this.#put(task);
  }

  /** @param {Task} task */
  #put(task) {
    this.#tasks.set(task.id, task);
    this.#outside.delete(task.id);
    let element = this.#elements.get(task.id);
    if (!element) {
      element = this.#make(task);
      this.#elements.set(task.id, element);
      // Newest first by id; new ones come first nearly always, so look from the top.
      const after = [...this.#list.children].find((other) => Number(other.id.slice(5)) < task.id);
      this.#list.insertBefore(element, after ?? null);
      if (this.#body.getAttribute("aria-busy") === "false") element.classList.add("arrived");
      this.#measure(element);
    }
    this.#show(element, task);
  }

  /** @param {number} id */
  #forget(id) {
    this.#tasks.delete(id);
    this.#pushedAt.delete(id);
    this.#elements.get(id)?.remove();
    this.#elements.delete(id);
  }

  /** @param {Task} task @returns {HTMLElement} */
  #make(task) {
    const element = copyTemplate("task-template");
    element.id = `task-${task.id}`;
    const check = part(element, ".task-check", HTMLInputElement);
    const title = part(element, ".task-title", HTMLParagraphElement);
    const error = part(element, ".field-error", HTMLParagraphElement);
    title.id = `task-${task.id}-title`;
    title.textContent = task.title;
    error.id = `task-${task.id}-error`;
    check.setAttribute("aria-label", `Done: ${task.title}`);
    check.setAttribute("aria-describedby", error.id);
    check.addEventListener("click", (event) => {
      if (element.getAttribute("aria-busy") === "true") event.preventDefault();
    });
    check.addEventListener("change", () => void this.#complete(task.id, check.checked));
    const description = part(element, ".task-description", HTMLParagraphElement);
    description.textContent = task.description;
    description.hidden = task.description.trim() === "";
    const expand = part(element, ".task-expand", HTMLButtonElement);
    expand.setAttribute("aria-expanded", "false");
    expand.addEventListener("click", () => {
      const open = element.classList.toggle("open");
      expand.setAttribute("aria-expanded", String(open));
      expand.textContent = open ? "Show less" : "Show more";
    });
    return element;
  }

  /** @param {HTMLElement} element offer "Show more" only when the description is cut */
  #measure(element) {
    if (element.classList.contains("open")) return;
    const description = part(element, ".task-description", HTMLParagraphElement);
    const cut = description.scrollHeight > description.clientHeight + 2;
    part(element, ".task-expand", HTMLButtonElement).hidden = description.hidden || !cut;
  }

  /** @param {HTMLElement} element @param {Task} task */
  #show(element, task) {
    element.classList.toggle("done", task.completed_at !== null);
    if (element.getAttribute("aria-busy") !== "true") {
      part(element, ".task-check", HTMLInputElement).checked = task.completed_at !== null;
    }
    const meta = part(element, ".task-meta", HTMLParagraphElement);
    meta.replaceChildren(...this.#describe("Added", task.created_by, task.created_at));
    if (task.completed_at) {
      meta.append(" · ", ...this.#describe("done", task.completed_by, task.completed_at));
    }
  }

  /**
   * @param {string} verb
   * @param {string | null} name
   * @param {string} at
   * @returns {(Node | string)[]}
   */
  #describe(verb, name, at) {
    const time = document.createElement("time");
    setTime(time, at);
    const by = name === null ? "a guest" : name === this.username() ? "you" : name;
    return [`${verb} by ${by}, `, time];
  }

  /** Show names again, after somebody signed in or out. */
  refresh() {
    for (const [id, element] of this.#elements) {
      const task = this.#tasks.get(id);
      if (task) this.#show(element, task);
    }
  }

  /** @param {number} id @param {boolean} completed */
  async #complete(id, completed) {
    const element = this.#elements.get(id);
    if (!element) return;
    const error = part(element, ".field-error", HTMLParagraphElement);
    const tick = this.#tick;
    element.setAttribute("aria-busy", "true");
    setText(error, "");
    try {
      const task = await remember(() => completeTask(id, completed), completedKey);
      element.removeAttribute("aria-busy");
      this.#putAnswer(task, tick);
      if (completed) this.onAuthor(task.completed_by);
      announce(`${task.title}: ${completed ? "done" : "open again"}`);
    } catch (failure) {
      element.removeAttribute("aria-busy");
      const text = failure instanceof ApiError ? failure.message : "Try again.";
      setText(error, `Not saved. ${text}`);
    }
    const now = this.#tasks.get(id);
    if (now) this.#show(element, now);
    this.#showCount();
    this.onChange();
  }

  #checkForm() {
    const title = this.#title.value.trim();
    const length = [...title].length;
    let wrong = "";
    if (!title) wrong = "Write what needs doing first.";
    if (length > TITLE_MAX) {
      wrong = `The title has ${length} characters, the most is ${TITLE_MAX}. Move some of it into the description.`;
    }
    setFieldError(this.#title, this.#titleError, wrong);
    const over = [...this.#description.value].length - DESCRIPTION_MAX;
    const tooLong = over > 0 ? `The description is ${over} characters too long. Shorten it and try again.` : "";
    setFieldError(this.#description, this.#descriptionError, tooLong);
    if (wrong) this.#title.focus();
    else if (tooLong) this.#description.focus();
    return !wrong && !tooLong;
  }

  async #create() {
    if (this.#submit.ariaBusy === "true" || !this.#checkForm()) return;
    const title = this.#title.value.trim();
    const description = this.#description.value;
    const tick = this.#tick;
    setText(this.#formError, "");
    this.#submit.ariaBusy = "true";
    const sent = { title, failed: false, arrived: false };
    this.#unanswered = sent;
    try {
      const task = await remember(() => createTask(title, description), createdKey);
      this.#unanswered = null;
      this.#putAnswer(task, tick);
      this.#showCount();
      this.#clearForm(title);
      this.onAuthor(task.created_by);
      this.onChange();
      announce(`Task added: ${task.title}`);
    } catch (error) {
      const isLost = error instanceof ApiError && error.status === 0;
      sent.failed = isLost;
      if (!isLost) this.#unanswered = null;
      if (isLost && sent.arrived) this.#finishUnanswered();
      else this.#showCreateError(error);
    } finally {
      this.#submit.ariaBusy = null;
    }
  }

  /** @param {string} sent what was typed since is kept */
  #clearForm(sent) {
    if (this.#title.value.trim() !== sent) return;
    clearDraft(this.#title);
    clearDraft(this.#description);
    setText(this.#formError, "");
    const toggle = need("task-details-toggle", HTMLButtonElement);
    if (toggle.ariaExpanded === "true") toggle.click();
  }

  /** @param {unknown} error */
  #showCreateError(error) {
    const failure = error instanceof ApiError ? error : new ApiError("Try again.", 0);
    const { title: wrongTitle = "", description: wrongDescription = "" } = failure.fields;
    setFieldError(this.#title, this.#titleError, wrongTitle);
    setFieldError(this.#description, this.#descriptionError, wrongDescription);
    if (wrongTitle) this.#title.focus();
    else if (wrongDescription) this.#description.focus();
    else setText(this.#formError, `Not added, your text is kept. ${failure.message}`);
  }

  /** @param {Task} task it may be the one whose answer gets lost: nobody should send it twice */
  #settleUnanswered(task) {
    const sent = this.#unanswered;
    if (!sent || task.title !== sent.title || task.created_by !== this.username()) return;
    claim(createdKey(task));
    sent.arrived = true;
    if (sent.failed) this.#finishUnanswered();
  }

  /** No answer came, and what was sent has arrived. */
  #finishUnanswered() {
    const title = this.#unanswered?.title ?? "";
    this.#unanswered = null;
    this.#clearForm(title);
    announce(`Task added after all: ${title}`);
  }

  /** @param {number} id bring a task into view and focus it */
  reveal(id) {
    const element = this.#elements.get(id);
    element?.scrollIntoView({ block: "center" });
    element?.focus({ preventScroll: true });
  }
}

// @ts-check
/** Owns how the page finds and makes elements. Text goes in through `textContent` only. */

/**
 * The element with this id, of this kind; a missing one is a bug in the page and throws.
 *
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function need(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} with id ${id}`);
  return found;
}

/**
 * The first match inside `scope`, of this kind.
 *
 * @template {Element} T
 * @param {ParentNode} scope
 * @param {string} selector
 * @param {new () => T} kind
 * @returns {T}
 */
export function part(scope, selector, kind) {
  const found = scope.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`nothing matches ${selector}`);
  return found;
}

/**
 * A fresh copy of a template's only element.
 *
 * @param {string} id
 * @returns {HTMLElement}
 */
export function copyTemplate(id) {
  const copy = need(id, HTMLTemplateElement).content.firstElementChild?.cloneNode(true);
  if (!(copy instanceof HTMLElement)) throw new Error(`template ${id} is empty`);
  return copy;
}

/**
 * An element with text.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {string} text
 * @param {string} [className]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/**
 * Set text only when it differs, so that live regions stay quiet about what did not change.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Paint an avatar: the first letter, and one of eight colours that belongs to the name.
 *
 * @param {Element} element
 * @param {string | null} name null is a guest
 */
export function paintAvatar(element, name) {
  let sum = 0;
  for (const letter of name ?? "") sum = (sum * 31 + (letter.codePointAt(0) ?? 0)) % 9973;
  element.textContent = name ? ([...name][0] ?? "").toUpperCase() : "";
  element.setAttribute("data-tone", name ? String(sum % 8) : "guest");
}

/**
 * Say what is wrong with a field, beside it and to assistive technology; "" takes it back.
 *
 * @param {HTMLElement | null} field null for an error that belongs to no single field
 * @param {HTMLElement} error
 * @param {string} text
 */
export function setFieldError(field, error, text) {
  setText(error, text);
  if (!field) return;
  if (text) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

/**
 * Read aloud, once, what a sighted reader sees happen.
 *
 * @param {string} text
 */
export function announce(text) {
  const announcer = need("announcer", HTMLParagraphElement);
  announcer.textContent = "";
  // A live region speaks when its content changes between two frames.
  requestAnimationFrame(() => (announcer.textContent = text));
}

// @ts-check
/** Owns the toasts: at most three, above the page (nothing moves), gone by themselves or once read. */

import { tell } from "./bell.js";
import { copyTemplate, need, paintAvatar, part } from "./dom.js";

const TOASTS_MAX = 3;
/** 7 s: two lines are read in three, and people look up late. */
const TOAST_MS = 7000;

/** @param {HTMLElement} toast leave after a while, unless somebody points at it or holds focus in it */
function leaveLater(toast) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => toast.remove(), TOAST_MS);
  };
  const stay = () => clearTimeout(timer);
  toast.addEventListener("pointerenter", stay);
  toast.addEventListener("pointerleave", wait);
  toast.addEventListener("focusin", stay);
  toast.addEventListener("focusout", wait);
  wait();
}

/** @param {string} kind @param {(text: HTMLElement, avatar: HTMLElement) => void} write @param {() => void} onOpen */
function show(kind, write, onOpen) {
  const region = need("toasts", HTMLDivElement);
  const toast = copyTemplate("toast-template");
  toast.dataset.kind = kind;
  write(part(toast, ".toast-text", HTMLSpanElement), part(toast, ".avatar", HTMLSpanElement));
  part(toast, ".toast-open", HTMLButtonElement).addEventListener("click", () => {
    toast.remove();
    onOpen();
  });
  part(toast, ".toast-close", HTMLButtonElement).addEventListener("click", () => toast.remove());
  region.append(toast);
  while (region.childElementCount > TOASTS_MAX) region.firstElementChild?.remove();
  leaveLater(toast);
}

/** @param {import("./bell.js").Entry} entry @param {() => void} onOpen */
export function toastEntry(entry, onOpen) {
  show(entry.kind, (text, avatar) => {
    paintAvatar(avatar, entry.by);
    tell(text, entry);
  }, onOpen);
}

/** @param {string} words @param {() => void} onOpen */
export function toastText(words, onOpen) {
  show("", (text, avatar) => {
    avatar.remove();
    text.textContent = words;
  }, onOpen);
}

/** @param {import("./bell.js").Entry["kind"]} [kind] what the reader sees elsewhere now; all of it when left out */
export function dropToasts(kind) {
  for (const toast of [...need("toasts", HTMLDivElement).children]) {
    if (!kind || toast.getAttribute("data-kind") === kind) toast.remove();
  }
}

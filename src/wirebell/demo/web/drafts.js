// @ts-check
/** Owns what was typed and not yet sent: it survives a reload, and every failure. */

const PREFIX = "wirebell.taskboard.draft.";

/**
 * Keep a field's text for this tab until `clearDraft`.
 *
 * @param {HTMLInputElement | HTMLTextAreaElement} field
 */
export function keepDraft(field) {
  try {
    field.value ||= sessionStorage.getItem(PREFIX + field.id) ?? "";
    field.addEventListener("input", () => sessionStorage.setItem(PREFIX + field.id, field.value));
  } catch {
    // Storage is blocked: the text still survives every failure, only not a reload.
  }
}

/** @param {HTMLInputElement | HTMLTextAreaElement} field */
export function clearDraft(field) {
  field.value = "";
  field.dispatchEvent(new Event("input"));
}

/** @param {HTMLTextAreaElement} field grow with its text, up to its `max-height` */
export function growWithText(field) {
  const grow = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
  };
  field.addEventListener("input", grow);
  grow();
}

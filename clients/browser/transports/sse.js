// @ts-check
/** Owns an EventSource that carries replies. */

import { Emulation } from "./emulation.js";

/** @type {import("./transport.js").OpenTransport} */
export function openSSE(options, { onOpen, onFrame, onClose }) {
  /** @type {EventSource | null} */
  let source = null;
  let isClosed = false;
  const emulation = new Emulation(options, () => end());

  const close = () => {
    isClosed = true;
    emulation.close();
    source?.close();
  };
  const end = () => {
    if (isClosed) return;
    // It would come back by itself, with the same first commands: that is not ours to repeat.
    close();
    onClose(0, "");
  };

  /** @param {string} first */
  const open = (first) => {
    const url = new URL(options.endpoints.sse);
    url.searchParams.set("cf_connect", first);
    source = new EventSource(url.href, { withCredentials: options.credentials === "include" });
    source.onmessage = (event) => onFrame(String(event.data));
    source.onerror = end;
  };

  queueMicrotask(() => isClosed || onOpen());
  return {
    send: (frame) => (source ? emulation.send(frame) : open(frame)),
    setSession: (session, node) => emulation.start(session, node),
    close,
  };
}

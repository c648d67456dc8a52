// @ts-check
/** Owns a request whose answer never ends, one reply a line. */

import { Emulation } from "./emulation.js";

/** @type {import("./transport.js").OpenTransport} */
export function openHTTPStream(options, { onOpen, onFrame, onClose }) {
  const controller = new AbortController();
  let isStarted = false;
  let isClosed = false;
  const emulation = new Emulation(options, () => end());

  const close = () => {
    isClosed = true;
    emulation.close();
    controller.abort();
  };
  const end = () => {
    if (isClosed) return;
    close();
    onClose(0, "");
  };

  /** @param {string} first */
  const read = async (first) => {
    try {
      const { credentials, endpoints } = options;
      const response = await fetch(endpoints.http_stream, {
        method: "POST",
        body: first,
        credentials,
        cache: "no-store",
        signal: controller.signal,
      });
      if (!response.ok || !response.body) throw new TypeError(`status ${response.status}`);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (let step; !(step = await reader.read()).done; ) {
        const lines = (rest + step.value).split("\n");
        rest = lines.pop() ?? "";
        if (!isClosed && lines.length > 0) onFrame(lines.join("\n"));
      }
    } catch {
      // Whatever ended it, the connection is gone.
    }
    end();
  };

  queueMicrotask(() => isClosed || onOpen());
  return {
    send: (frame) => {
      if (isStarted) return emulation.send(frame);
      isStarted = true;
      void read(frame);
    },
    setSession: (session, node) => emulation.start(session, node),
    close,
  };
}

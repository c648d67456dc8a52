// @ts-check
/** Owns a WebSocket that carries frames. */

/** @type {import("./transport.js").OpenTransport} */
export function openWebSocket({ endpoints }, { onOpen, onFrame, onClose }) {
  const socket = new WebSocket(endpoints.websocket);
  socket.onopen = onOpen;
  socket.onmessage = (event) => onFrame(String(event.data));
  socket.onclose = (event) => onClose(event.code, event.reason);
  return {
    send: (frame) => socket.send(frame),
    setSession: () => undefined,
    close: () => {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    },
  };
}

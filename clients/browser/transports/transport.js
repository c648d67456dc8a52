// @ts-check
/** Owns what a transport is, and where each has its endpoint. */

/**
 * @typedef {object} TransportHandlers
 * @property {() => void} onOpen frames may be sent
 * @property {(frame: string) => void} onFrame
 * @property {(code: number, reason: string) => void} onClose once, and not after `close()`; code 0 when nobody said why
 */
/**
 * @typedef {object} Transport
 * @property {(frame: string) => void} send
 * @property {(session: string, node: string) => void} setSession what the connect result says; later frames need it where they are requests of their own
 * @property {() => void} close says nothing more
 */
/**
 * @typedef {object} TransportOptions
 * @property {Endpoints} endpoints
 * @property {RequestCredentials} credentials of HTTP requests
 */
/** @typedef {(options: TransportOptions, handlers: TransportHandlers) => Transport} OpenTransport */
/** @typedef {"websocket" | "http_stream" | "sse"} TransportName */
/** @typedef {{websocket: string, http_stream: string, sse: string, emulation: string, health: string}} Endpoints */

/**
 * @param {string} address where Wirebell is mounted: `/realtime`, `https://example.com` ...
 * @param {string} page resolves a relative address
 * @returns {Endpoints}
 */
export function findEndpoints(address, page) {
  const base = new URL(address, page).href.replace(/^ws/, "http").replace(/\/+$/, "");
  return {
    websocket: `${base.replace(/^http/, "ws")}/connection/websocket`,
    http_stream: `${base}/connection/http_stream`,
    sse: `${base}/connection/sse`,
    emulation: `${base}/emulation`,
    health: `${base}/health`,
  };
}

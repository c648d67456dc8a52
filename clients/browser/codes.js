// @ts-check
/** Owns what codes mean: what ends for good, and what is tried again. */

/** Errors that come from this side; the server's begin at 100. */
export const Local = Object.freeze({
  TIMEOUT: 1,
  TRANSPORT_CLOSED: 2,
  DISCONNECTED: 3,
  UNSUBSCRIBED: 7,
});

/** Errors of the server that are treated apart from the others. */
export const TOKEN_EXPIRED = 109;

/** Why a client is disconnected, when it was not the server who said so. */
export const Disconnected = Object.freeze({ CALLED: 0, UNAUTHORIZED: 1, MESSAGE_SIZE: 3 });

/** Why a client connects (again), when it was not the server who said so. */
export const Connecting = Object.freeze({ CALLED: 0, TRANSPORT_CLOSED: 1, NO_PING: 2, SUBSCRIBE_TIMEOUT: 3 });

/** Why a subscription is not there, when it was not the server who said so. */
export const Unsubscribed = Object.freeze({ CALLED: 0, UNAUTHORIZED: 1 });

/** The server has thrown away its state: tokens and positions mean nothing any more. */
export const STATE_INVALIDATED = Object.freeze({ disconnect: 3014, unsubscribe: 2502 });
/** The connection's credentials have ended. */
export const CONNECTION_EXPIRED = 3005;
/** The subscription's token has ended. */
export const SUBSCRIPTION_EXPIRED = 2501;
/** WebSocket's own code for a message over the limit. */
const MESSAGE_TOO_BIG = 1009;

/** An error of a command, from the server or from this side. */
export class ClientError extends Error {
  /**
   * @param {number} code below 100 it comes from this side
   * @param {string} message
   * @param {boolean} [temporary] the same may work later
   */
  constructor(code, message, temporary = false) {
    super(message);
    this.name = "ClientError";
    this.code = code;
    this.temporary = temporary;
  }
}

/** Thrown by a `getToken`: nobody is there who may connect or subscribe, so do not ask again. */
export class UnauthorizedError extends Error {
  /** @param {string} [message] */
  constructor(message = "unauthorized") {
    super(message);
    this.name = "UnauthorizedError";
  }
}

/** @param {number} code of a disconnect @returns {boolean} whether the client must not come back by itself */
export function isFinalDisconnect(code) {
  return (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000) || code === MESSAGE_TOO_BIG;
}

/** @param {number} code of an unsubscribe @returns {boolean} whether the client must not subscribe again by itself */
export const isFinalUnsubscribe = (code) => code < 2500;

/** @param {number} code a close code @returns {boolean} whether the protocol speaks, and not the network */
export const isFromServer = (code) => code >= 3000 && code < 5000;

/** @param {ClientError} error @returns {boolean} */
export const isRetriable = (error) => error.code < 100 || error.temporary || error.code === TOKEN_EXPIRED;

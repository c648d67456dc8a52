// @ts-check
/** What an application imports. */

export { Client } from "./client.js";
export { ClientError, UnauthorizedError } from "./codes.js";
export { Subscription } from "./subscription.js";

// @ts-check
/**
 * What a page with the browser client sees; each function runs in a browser, against a real server.
 *
 * `control` answers what a page cannot do itself: make tokens, call the server API, cut networks.
 */

import { Client } from "../../../clients/browser/index.js";

/** @typedef {{control: string, target: string, transport: "websocket" | "http_stream" | "sse", suffix: string}} Context */

/** @param {Context} context @param {string} path @param {object} [body] @returns {Promise<any>} */
async function ask({ control }, path, body = {}) {
  const response = await fetch(`${control}/control/${path}`, { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.problem);
  return answer;
}

/** @param {string} label @param {unknown} actual @param {unknown} expected */
function equal(label, actual, expected) {
  const [shown, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (shown !== wanted) throw new Error(`${label}: ${shown}, not ${wanted}`);
}

/** @param {() => boolean} isTrue @param {string} label */
async function until(isTrue, label) {
  for (const end = Date.now() + 10_000; !isTrue(); await new Promise((resolve) => setTimeout(resolve, 20))) {
    if (Date.now() > end) throw new Error(`never: ${label}`);
  }
}

/** @param {Context} context @param {import("../../../clients/browser/client.js").ClientOptions} [options] @param {object} [claims] */
function createClient(context, options = {}, claims = {}) {
  const getToken = async () => (await ask(context, "token", { sub: "ada", ...claims })).token;
  const transports = [context.transport];
  return new Client(context.target, { getToken, transports, shared: false, ...options });
}

/** @param {Client} client @param {string} name */
const next = (client, name) => new Promise((resolve) => client.on(/** @type {any} */ (name), resolve));

export const scenarios = {
  /** @param {Context} context */
  async publishes_and_sees_who_is_there(context) {
    const client = createClient(context);
    const chat = client.subscription(`chat:${context.suffix}`, { joinLeave: true });
    /** @type {any[]} */
    const seen = [];
    chat.on("publication", ({ data, info }) => seen.push([data, info?.user]));
    const joined = new Promise((resolve) => chat.on("join", resolve));
    chat.subscribe();
    client.connect();
    await chat.publish({ text: "hello\nworld" });
    await until(() => seen.length > 0, "own publication");

    equal("seen", seen, [[{ text: "hello\nworld" }, "ada"]]);
    equal("join", (await joined).user, "ada");
    equal("presence", Object.values(await chat.presence()).map(({ user }) => user), ["ada"]);
    equal("presence stats", await chat.presenceStats(), { clients: 1, users: 1 });
    equal("transport", client.connected?.transport, context.transport);
    client.disconnect();
    equal("state", [client.state, chat.state], ["disconnected", "subscribing"]);
  },

  /** @param {Context} context */
  async recovers_and_reads_history(context) {
    const channel = `rec:${context.suffix}`;
    const client = createClient(context);
    const subscription = client.subscription(channel);
    /** @type {any[]} */
    const seen = [];
    subscription.on("publication", ({ data, recovered }) => seen.push([data, recovered]));
    subscription.subscribe();
    client.connect();
    await subscription.ready();
    await ask(context, "api/publish", { channel, data: 1 });
    await until(() => seen.length === 1, "the first");
    client.disconnect();
    await ask(context, "api/publish", { channel, data: 2 });
    const subscribed = new Promise((resolve) => subscription.on("subscribed", resolve));
    client.connect();
    const { recovered, missed } = await subscribed;
    await ask(context, "api/publish", { channel, data: 3 });
    await until(() => seen.length === 3, "the third");

    equal("recovered", [recovered, missed], [true, 1]);
    equal("seen", seen, [[1, false], [2, true], [3, false]]);
    const { publications, position } = await subscription.history({ limit: 2, reverse: true });
    equal("history", publications.map(({ data }) => data), [3, 2]);
    equal("position", position, subscription.position);
    client.disconnect();
  },

  /** @param {Context} context */
  async comes_back_when_it_is_cut(context) {
    const { id, port } = await ask(context, "network");
    const target = context.target.replace(/:\d+/, `:${port}`);
    const channel = `rec:cut-${context.suffix}`;
    const client = createClient({ ...context, target }, { backoffMaxMs: 600 });
    const subscription = client.subscription(channel);
    /** @type {any[]} */
    const seen = [];
    subscription.on("publication", ({ data }) => seen.push(data));
    subscription.subscribe();
    client.connect();
    await subscription.ready();
    const lost = next(client, "connecting");
    await ask(context, `network/${id}/cut`);
    await lost;
    for (const data of [1, 2, 3]) await ask(context, "api/publish", { channel, data });
    await ask(context, `network/${id}/restore`);
    await until(() => seen.length === 3, "what was missed");

    equal("seen", seen, [1, 2, 3]);
    client.disconnect();
  },

  /** @param {Context} context */
  async takes_patches(context) {
    const channel = `delta:${context.suffix}`;
    const client = createClient(context);
    const subscription = client.subscription(channel, { delta: "fossil" });
    /** @type {any[]} */
    const seen = [];
    subscription.on("publication", ({ data }) => seen.push(data));
    subscription.subscribe();
    client.connect();
    await subscription.ready();
    const sent = [1, 2, 3].map((n) => ({ text: "žluťoučký kůň 😀 ".repeat(20), n }));
    for (const data of sent) await ask(context, "api/publish", { channel, data });
    await until(() => seen.length === 3, "three");

    equal("seen", seen, sent);
    client.disconnect();
  },

  /** @param {Context} context */
  async renews_its_tokens(context) {
    let asked = 0;
    const getToken = async () => (await ask(context, "token", { sub: "ada", exp_in: (asked += 1) === 1 ? 1 : 600 })).token;
    const client = createClient(context, { getToken });
    let askedChannel = 0;
    const channel = `secret:${context.suffix}`;
    const subscription = client.subscription(channel, {
      getToken: async ({ channel }) => (await ask(context, "token", { sub: "ada", channel, exp_in: (askedChannel += 1) === 1 ? 1 : 600 })).token,
    });
    let losses = 0;
    subscription.subscribe();
    client.connect();
    await subscription.ready();
    client.on("connecting", () => (losses += 1));
    await until(() => asked === 2 && askedChannel === 2, "both renewed");
    // Longer than the server waits for whoever has not renewed.
    await new Promise((resolve) => setTimeout(resolve, 3500));

    equal("states", [client.state, subscription.state, losses], ["connected", "subscribed", 0]);
    client.disconnect();
  },

  /** @param {Context} context */
  async is_subscribed_and_ended_by_the_server(context) {
    const channel = `rec:given-${context.suffix}`;
    const user = `user-${context.suffix}`;
    const client = createClient(context, {}, { sub: user, channels: [channel] });
    /** @type {any[]} */
    const seen = [];
    client.on("publication", ({ channel, data }) => seen.push([channel, data]));
    const subscribed = next(client, "subscribed");
    client.connect();
    equal("subscribed", (await subscribed).channel, channel);
    await ask(context, "api/publish", { channel, data: "x" });
    await until(() => seen.length === 1, "publication");
    const unsubscribed = next(client, "unsubscribed");
    await ask(context, "api/unsubscribe", { channel, user });
    equal("unsubscribed", (await unsubscribed).channel, channel);
    const disconnected = next(client, "disconnected");
    await ask(context, "api/disconnect", { user });

    equal("code", (await disconnected).code, 3503);
    equal("seen", seen, [[channel, "x"]]);
  },

  /** @param {Context} context */
  async is_told_what_it_may_not(context) {
    const client = createClient(context);
    const closed = client.subscription("closed:1");
    const ended = new Promise((resolve) => closed.on("unsubscribed", resolve));
    closed.subscribe();
    client.connect();
    const failure = await client.rpc("nothing of that name").catch((/** @type {any} */ error) => error);

    equal("unsubscribed", (await ended).code, 103);
    equal("rpc", [failure.name, failure.code < 100], ["ClientError", false]);
    await client.rpc("ping");
    client.disconnect();
    const [code] = await Promise.all([client.rpc("ping").catch((/** @type {any} */ error) => error.code)]);
    equal("disconnected", code, 3);
  },
};

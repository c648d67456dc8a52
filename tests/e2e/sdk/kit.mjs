// What a scenario gets: clients over one transport, the server API, tokens, and a network of its
// own that it can cut. Nothing here knows whether it runs in Node or in a browser.

export const PATIENCE_MS = 15000;

const sortMembers = (key, value) =>
  value && typeof value === "object" && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort())
    : value;

/** Fail unless two values are the same JSON. */
export function equal(expected, actual, what = "value") {
  const [a, b] = [expected, actual].map((value) => JSON.stringify(value, sortMembers));
  if (a !== b) throw new Error(`${what} should be ${a}, is ${b}`);
}

/** Wait until `check` answers something true; `what` and its last answer are in the error. */
export async function until(check, what, patienceMs = PATIENCE_MS) {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const answer = await check();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`after ${patienceMs} ms still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Everything that an emitter of the SDK has told, by name, in order. */
export class Events {
  constructor(emitter, names) {
    this.all = [];
    this.taken = 0;
    for (const name of names) {
      emitter.on(name, (context) => this.all.push({ name, ...context }));
    }
  }

  list(name) {
    return this.all.filter((event) => event.name === name);
  }

  /** Wait for the event `name` after the last one taken, and take it. */
  async next(name, patienceMs = PATIENCE_MS) {
    const seen = () => JSON.stringify(this.all.map((event) => [event.name, event.code]));
    const find = () => this.all.findIndex((e, index) => index >= this.taken && e.name === name);
    try {
      await until(() => find() >= 0, name, patienceMs);
    } catch (error) {
      throw new Error(`${error.message}; seen: ${seen()}`);
    }
    this.taken = find() + 1;
    return this.all[this.taken - 1];
  }

  /** Wait until there were `count` of the event `name`, and return them. */
  async count(name, count) {
    await until(() => this.list(name).length >= count, `${count} × ${name}`);
    return this.list(name);
  }
}

const CLIENT_EVENTS = [
  "connecting", "connected", "disconnected", "error", "message", "subscribed", "subscribing",
  "unsubscribed", "publication", "join", "leave",
];
const SUBSCRIPTION_EVENTS = [
  "subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error",
];

export class Kit {
  /**
   * @param variant `{name, transport, isProtobuf}`
   * @param scenario its name, part of channel and user names
   * @param world `{control, prefix, Centrifuge, options}`: where the control server is, the path
   *   below which Wirebell is, the class of the SDK and what it needs on this platform
   */
  constructor(variant, scenario, world) {
    Object.assign(this, variant);
    this.world = world;
    this.label = `${variant.name}-${scenario}-${Math.random().toString(36).slice(2, 8)}`;
    this.clients = [];
    this.ownNetwork = null;
    this.UnauthorizedError = world.Centrifuge.UnauthorizedError;
  }

  async ask(path, body = {}) {
    const response = await fetch(`${this.world.control}${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  /** Call the server API; an error object fails. */
  async api(method, body) {
    const answer = await this.ask(`/control/api/${method}`, body);
    if (answer.error) throw new Error(`${method}: ${JSON.stringify(answer.error)}`);
    return answer.result;
  }

  publish(channel, data, more = {}) {
    return this.api("publish", { channel, data, ...more });
  }

  /** Make a token; `exp_in` are seconds from now. */
  async token(claims) {
    return (await this.ask("/control/token", claims)).token;
  }

  user(name = "user") {
    return `${this.label}-${name}`;
  }

  channel(namespace, name = "") {
    return `${namespace}:${this.label}${name}`;
  }

  /** A network of its own: `cut` resets all its links and refuses new ones until `restore`. */
  async network() {
    const { id, port } = await this.ask("/control/network");
    const base = `127.0.0.1:${port}${this.world.prefix}`;
    const network = {
      base,
      cut: () => this.ask(`/control/network/${id}/cut`),
      restore: () => this.ask(`/control/network/${id}/restore`),
    };
    return network;
  }

  endpoint(base, transport = this.transport) {
    const scheme = transport === "websocket" ? "ws" : "http";
    return { transport, endpoint: `${scheme}://${base}/connection/${transport}` };
  }

  /** Make a client that is not connected yet, and its events. */
  async client(options = {}, network = null) {
    // A browser opens six HTTP/1.1 connections to one address: each scenario has its own.
    this.ownNetwork ??= this.network();
    const { base } = network ?? (await this.ownNetwork);
    const endpoints = options.endpoints?.(base) ?? [this.endpoint(base)];
    delete options.endpoints;
    const client = new this.world.Centrifuge(endpoints, {
      minReconnectDelay: 20,
      maxReconnectDelay: 200,
      emulationEndpoint: `http://${base}/emulation`,
      ...this.world.options,
      ...options,
    });
    this.clients.push(client);
    return { client, events: new Events(client, CLIENT_EVENTS) };
  }

  /** Make a client of `user` and wait until it is connected. */
  async connected(user = this.user(), options = {}, network = null) {
    const token = await this.token({ sub: user, info: { name: user } });
    const made = await this.client({ token, ...options }, network);
    made.client.connect();
    made.context = await made.events.next("connected");
    return made;
  }

  /** Make a subscription and wait until it is subscribed. */
  async subscribed(client, channel, options = {}) {
    const sub = client.newSubscription(channel, {
      minResubscribeDelay: 20,
      maxResubscribeDelay: 200,
      ...options,
    });
    const events = new Events(sub, SUBSCRIPTION_EVENTS);
    sub.subscribe();
    const context = await events.next("subscribed");
    return { sub, events, context };
  }

  subscription(client, channel, options = {}) {
    const sub = client.newSubscription(channel, {
      minResubscribeDelay: 20, maxResubscribeDelay: 200, ...options,
    });
    return { sub, events: new Events(sub, SUBSCRIPTION_EVENTS) };
  }

  /** What the SDK wants as payload: an object, or bytes in protobuf. */
  encode(value) {
    return this.isProtobuf ? new TextEncoder().encode(JSON.stringify(value)) : value;
  }

  decode(data) {
    return this.isProtobuf ? JSON.parse(new TextDecoder().decode(data)) : data;
  }

  /** The payloads of publications. */
  payloads(publications) {
    return publications.map((publication) => this.decode(publication.data));
  }

  close() {
    for (const client of this.clients) client.disconnect();
  }
}

/** Run one scenario: `{name, error, ms}`, without an error when it passed. */
export async function run(variant, name, scenario, world) {
  const kit = new Kit(variant, name, world);
  const started = Date.now();
  let error = "";
  try {
    await scenario(kit);
  } catch (failure) {
    error = String(failure?.stack ?? failure?.message ?? JSON.stringify(failure));
    if (failure?.message && !error.includes(failure.message)) error = `${failure.message} ${error}`;
  } finally {
    kit.close();
  }
  return { name: `${variant.name}/${name}`, error, ms: Date.now() - started };
}

/** Run jobs, so many at a time, and give each result to `tell`. */
export async function runAll(jobs, atOnce, tell) {
  const waiting = [...jobs];
  const work = async () => {
    for (let job = waiting.shift(); job; job = waiting.shift()) tell(await job());
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}

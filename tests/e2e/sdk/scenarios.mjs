// What an application does with the SDK, once per transport. Each throws when it is not as it
// should be. The names are the cases of test_javascript.py.

import { equal, until } from "./kit.mjs";

const numbers = (first, last) =>
  Array.from({ length: last - first + 1 }, (_, index) => first + index);
const offsets = (publications) => publications.map((publication) => publication.offset);

export async function connect(kit) {
  const { client, context } = await kit.connected();

  equal(kit.transport, context.transport, "transport");
  equal(true, context.client.length > 0, "client id is there");
  equal("connected", client.state);
}

export async function anonymous_is_refused(kit) {
  const { client, events } = await kit.client();
  client.connect();
  const { code } = await events.next("disconnected");

  equal(3501, code, "code");
}

export async function token_refresh(kit) {
  let asked = 0;
  const getToken = () => {
    asked += 1;
    return kit.token({ sub: kit.user(), exp_in: 1 });
  };
  const { client, events } = await kit.client({ getToken });
  client.connect();
  await events.next("connected");
  // One a second; the server closes three seconds after an expiry.
  await until(() => asked >= 6, "the token was refreshed five times");

  equal(1, events.list("connecting").length, "connection attempts");
  equal("connected", client.state);
}

export async function token_expired_at_connect(kit) {
  let asked = 0;
  const getToken = () => {
    asked += 1;
    return kit.token({ sub: kit.user() });
  };
  const token = await kit.token({ sub: kit.user(), exp_in: -60 });
  const { client, events } = await kit.client({ token, getToken });
  client.connect();
  await events.next("connected");

  equal(1, asked, "tokens asked for");
  equal([109], events.list("error").map((event) => event.error.code), "errors");
}

export async function token_expires_without_refresh(kit) {
  const token = await kit.token({ sub: kit.user(), exp_in: 3 });
  const { client, events } = await kit.client({ token });
  client.connect();
  await events.next("connected");
  const { code } = await events.next("disconnected");

  equal(1, code, "code: unauthorized");
}

export async function token_invalid(kit) {
  const token = await kit.token({ sub: kit.user(), signed_with: "another key, long enough for HS256" });
  const { client, events } = await kit.client({ token });
  client.connect();
  const { code } = await events.next("disconnected");

  equal(3500, code, "code");
  equal(1, events.list("connecting").length, "connection attempts");
}

export async function publish_both_ways(kit) {
  const channel = kit.channel("chat");
  const [one, two] = [await kit.connected(kit.user("one")), await kit.connected(kit.user("two"))];
  const a = await kit.subscribed(one.client, channel);
  const b = await kit.subscribed(two.client, channel);
  await a.sub.publish(kit.encode({ from: "one" }));
  await two.client.publish(channel, kit.encode({ from: "two" }));
  await kit.publish(channel, { from: "api" }, { tags: { k: "v" } });

  for (const { events } of [a, b]) {
    const publications = await events.count("publication", 3);
    equal([{ from: "one" }, { from: "two" }, { from: "api" }], kit.payloads(publications));
    const users = publications.map((publication) => publication.info?.user ?? null);
    equal([kit.user("one"), kit.user("two"), null], users, "publishers");
    equal({ k: "v" }, publications[2].tags, "tags");
    equal({ name: kit.user("one") }, kit.decode(publications[0].info.connInfo), "connInfo");
  }
}

export async function batched_commands(kit) {
  const channel = kit.channel("chat");
  const { client } = await kit.connected();
  const { sub, events } = await kit.subscribed(client, channel);
  client.startBatching();
  const published = numbers(1, 30).map((n) => sub.publish(kit.encode({ n })));
  client.stopBatching();
  await Promise.all(published);
  const publications = await events.count("publication", 30);

  equal(numbers(1, 30), kit.payloads(publications).map(({ n }) => n), "order");
}

export async function subscribed_before_connected(kit) {
  const token = await kit.token({ sub: kit.user() });
  const { client } = await kit.client({ token });
  const subs = numbers(1, 20).map((n) => kit.subscription(client, kit.channel("chat", n)));
  for (const { sub } of subs) sub.subscribe();
  client.connect();

  for (const { events } of subs) await events.next("subscribed");
}

export async function unsubscribe(kit) {
  const channel = kit.channel("chat");
  const { client } = await kit.connected();
  const { sub, events } = await kit.subscribed(client, channel);
  sub.unsubscribe();
  equal(0, (await events.next("unsubscribed")).code, "code");
  await until(async () => {
    const { num_clients } = await kit.api("presence_stats", { channel });
    return num_clients === 0;
  }, "nobody is there");
  await kit.publish(channel, { n: 1 });
  sub.subscribe();
  await events.next("subscribed");
  await kit.publish(channel, { n: 2 });
  const publications = await events.count("publication", 1);

  equal([{ n: 2 }], kit.payloads(publications));
}

export async function subscription_token(kit) {
  const channel = kit.channel("secret");
  let asked = 0;
  const { client } = await kit.connected();
  const getToken = (context) => {
    asked += 1;
    return kit.token({ sub: kit.user(), channel: context.channel, info: { seat: 1 }, exp_in: 1 });
  };
  const { sub, events } = await kit.subscribed(client, channel, { getToken });
  await until(() => asked >= 6, "the token was refreshed five times");
  const { clients } = await sub.presence();

  equal(1, events.list("subscribing").length, "subscription attempts");
  equal([{ seat: 1 }], Object.values(clients).map((info) => kit.decode(info.chanInfo)));
}

export async function subscription_token_for_somebody_else(kit) {
  const channel = kit.channel("secret");
  const { client, events } = await kit.connected();
  const token = await kit.token({ sub: "somebody else", channel });
  const made = kit.subscription(client, channel, { token });
  made.sub.subscribe();
  const { code } = await events.next("disconnected");

  equal(3500, code, "code");
}

export async function subscribe_errors(kit) {
  const { client } = await kit.connected();
  const codes = [];
  for (const channel of [kit.channel("closed"), kit.channel("unknown"), "chat:ü"]) {
    const { sub, events } = kit.subscription(client, channel);
    sub.subscribe();
    codes.push((await events.next("unsubscribed")).code);
  }

  equal([103, 102, 107], codes, "codes");
  equal("connected", client.state);
}

export async function command_errors(kit) {
  const { client } = await kit.connected();
  const failed = (promise) => promise.then(() => 0, (error) => error.code);
  const denied = kit.channel("closed");

  equal(103, await failed(client.publish(denied, kit.encode({}))), "publish");
  equal(108, await failed(client.history(denied, { limit: 1 })), "history");
  equal(108, await failed(client.presence(denied)), "presence");
  equal(102, await failed(client.presenceStats(kit.channel("unknown"))), "presence of unknown");
  equal(104, await failed(client.rpc("unknown", kit.encode({}))), "rpc");
}

export async function presence(kit) {
  const channel = kit.channel("chat");
  const doomed = await kit.network();
  const watcher = await kit.connected(kit.user("watcher"));
  const { sub } = await kit.subscribed(watcher.client, channel);
  const leaver = await kit.connected(kit.user("leaver"));
  await kit.subscribed(leaver.client, channel);
  const lost = await kit.connected(kit.user("lost"), {}, doomed);
  await kit.subscribed(lost.client, channel);
  const users = async () => {
    const { clients } = await sub.presence();
    return Object.values(clients).map((info) => info.user).sort();
  };

  equal(["leaver", "lost", "watcher"].map((name) => kit.user(name)), await users());
  equal({ numClients: 3, numUsers: 3 }, await sub.presenceStats());
  const exact = async (names) => {
    const expected = JSON.stringify(names.map((name) => kit.user(name)));
    await until(async () => JSON.stringify(await users()) === expected, `only ${names}`, 2000);
  };
  leaver.client.disconnect();
  await exact(["lost", "watcher"]);
  await doomed.cut();
  await exact(["watcher"]);
}

export async function join_leave(kit) {
  const channel = kit.channel("chat");
  const one = await kit.connected(kit.user("one"));
  const a = await kit.subscribed(one.client, channel);
  const own = await a.events.next("join");
  const two = await kit.connected(kit.user("two"));
  await kit.subscribed(two.client, channel);
  const other = await a.events.next("join");
  two.client.disconnect();
  const gone = await a.events.next("leave");

  equal([kit.user("one"), one.context.client], [own.info.user, own.info.client], "own join");
  equal([kit.user("two"), two.context.client], [other.info.user, other.info.client], "join");
  equal([kit.user("two"), two.context.client], [gone.info.user, gone.info.client], "leave");
  equal(["subscribing", "subscribed", "join"], a.events.all.slice(0, 3).map((e) => e.name));
}

export async function history(kit) {
  const channel = kit.channel("rec");
  for (const n of numbers(1, 5)) await kit.publish(channel, { n });
  const { client } = await kit.connected();
  const { sub } = await kit.subscribed(client, channel);
  const top = await sub.history({ limit: 0 });
  const since = { offset: 3, epoch: top.epoch };
  const all = await sub.history({ limit: -1 });

  equal([0, 5], [top.publications.length, top.offset], "position only");
  equal(numbers(1, 5).map((n) => ({ n })), kit.payloads(all.publications));
  equal([1, 2], offsets((await sub.history({ limit: 2 })).publications), "limit");
  equal([4, 5], offsets((await sub.history({ limit: -1, since })).publications), "since");
  equal([5, 4], offsets((await sub.history({ limit: 2, reverse: true })).publications), "reverse");
  const lost = sub.history({ limit: 1, since: { offset: 3, epoch: "other" } });
  equal(112, await lost.then(() => 0, (error) => error.code), "another epoch");
}

export async function recovery_after_cut(kit) {
  const channel = kit.channel("rec");
  const network = await kit.network();
  const { client, events: connection } = await kit.connected(kit.user(), {}, network);
  const { events, context } = await kit.subscribed(client, channel);
  for (const n of numbers(1, 3)) await kit.publish(channel, { n });
  await events.count("publication", 3);
  await network.cut();
  await connection.next("connecting");
  for (const n of numbers(4, 8)) await kit.publish(channel, { n });
  await network.restore();
  const again = await events.next("subscribed");
  for (const n of numbers(9, 10)) await kit.publish(channel, { n });
  const publications = await events.count("publication", 10);

  equal([true, true, false], [context.recoverable, context.positioned, context.wasRecovering]);
  equal([true, true], [again.wasRecovering, again.recovered], "recovered");
  equal(numbers(1, 10), offsets(publications), "offsets");
  equal(numbers(1, 10), kit.payloads(publications).map(({ n }) => n), "nothing lost or twice");
}

export async function recovery_while_publishing(kit) {
  const channel = kit.channel("rec");
  const network = await kit.network();
  const { client, events: connection } = await kit.connected(kit.user(), {}, network);
  const { events } = await kit.subscribed(client, channel);
  const publishing = (async () => {
    for (const n of numbers(1, 60)) await kit.publish(channel, { n });
  })();
  for (const times of [1, 2]) {
    await until(() => events.list("publication").length >= 10 * times, "some have arrived");
    await network.cut();
    await connection.next("connecting");
    await network.restore();
    equal(true, (await events.next("subscribed")).recovered, "recovered");
  }
  await publishing;
  const publications = await events.count("publication", 60);

  equal(numbers(1, 60), offsets(publications), "offsets");
}

export async function unrecoverable_position(kit) {
  const channel = kit.channel("short");
  const network = await kit.network();
  const { client, events: connection } = await kit.connected(kit.user(), {}, network);
  const { events } = await kit.subscribed(client, channel);
  await network.cut();
  await connection.next("connecting");
  for (const n of numbers(1, 10)) await kit.publish(channel, { n });
  await network.restore();
  const again = await events.next("subscribed");
  await kit.publish(channel, { n: 11 });
  const publications = await events.count("publication", 1);

  equal([true, false], [again.wasRecovering, again.recovered], "recovered");
  equal([10, 11], [again.streamPosition.offset, publications[0].offset], "offsets");
}

export async function state_after_unrecoverable_position(kit) {
  const channel = kit.channel("short");
  const network = await kit.network();
  const { client, events: connection } = await kit.connected(kit.user(), {}, network);
  const asked = [];
  const getState = async () => {
    const { offset, epoch } = await kit.api("history", { channel, limit: 0 });
    asked.push(offset);
    return { offset, epoch };
  };
  await kit.publish(channel, { n: 1 });
  const { events } = await kit.subscribed(client, channel, { getState });
  await network.cut();
  await connection.next("connecting");
  for (const n of numbers(2, 11)) await kit.publish(channel, { n });
  await network.restore();
  await events.next("subscribed");
  await kit.publish(channel, { n: 12 });
  const publications = await events.count("publication", 1);

  equal([1, 11], asked, "positions of the state");
  equal([12], offsets(publications), "offsets");
}

export async function position_of_another_epoch(kit) {
  const channel = kit.channel("rec");
  const { client } = await kit.connected();
  const { events, context } = await kit.subscribed(client, channel, {
    since: { offset: 7, epoch: "gone" },
  });
  await kit.publish(channel, { n: 1 });
  const publications = await events.count("publication", 1);

  equal([true, false], [context.wasRecovering, context.recovered], "recovered");
  equal([1], offsets(publications), "offsets");
}

export async function cache_recovery(kit) {
  const channel = kit.channel("cache");
  const network = await kit.network();
  for (const n of numbers(1, 3)) await kit.publish(channel, { n });
  const { client, events: connection } = await kit.connected(kit.user(), {}, network);
  const { events, context } = await kit.subscribed(client, channel, {
    since: { offset: 0, epoch: "" },
  });
  await events.count("publication", 1);
  await network.cut();
  await connection.next("connecting");
  for (const n of numbers(4, 6)) await kit.publish(channel, { n });
  await network.restore();
  const again = await events.next("subscribed");
  await kit.publish(channel, { n: 7 });
  const publications = await events.count("publication", 3);

  equal([true, true], [context.recovered, again.recovered], "recovered");
  equal([3, 6, 7], kit.payloads(publications).map(({ n }) => n), "only the latest ones");
}

const story = (n) => ({ text: "Lorem ipsum dolor sit amet, consectetur adipiscing elit.", n });

export async function delta(kit) {
  const channel = kit.channel("delta");
  const network = await kit.network();
  const { client, events: connection } = await kit.connected(kit.user(), {}, network);
  const { sub, events } = await kit.subscribed(client, channel, { delta: "fossil" });
  const counts = () => {
    const { numPublications, numFullPayloads, numDeltaPayloads } = sub.deltaStats();
    return [numPublications, numFullPayloads, numDeltaPayloads];
  };
  for (const n of numbers(1, 5)) await kit.publish(channel, story(n));
  await events.count("publication", 5);
  equal([5, 1, 4], counts(), "live: all, full, delta");
  await kit.publish(channel, { x: 1 });
  await events.count("publication", 6);
  equal([6, 2, 4], counts(), "an unrelated one: all, full, delta");
  await network.cut();
  await connection.next("connecting");
  for (const n of numbers(7, 9)) await kit.publish(channel, story(n));
  await network.restore();
  equal(true, (await events.next("subscribed")).recovered, "recovered");
  await kit.publish(channel, story(10));
  const publications = await events.count("publication", 10);

  equal([10, 3, 7], counts(), "recovered: all, full, delta");
  const expected = [...numbers(1, 5).map(story), { x: 1 }, ...numbers(7, 10).map(story)];
  equal(expected, kit.payloads(publications), "payloads");
}

export async function delta_beside_plain(kit) {
  const channel = kit.channel("delta");
  const [one, two] = [await kit.connected(kit.user("one")), await kit.connected(kit.user("two"))];
  const a = await kit.subscribed(one.client, channel, { delta: "fossil" });
  const b = await kit.subscribed(two.client, channel);
  for (const n of numbers(1, 3)) await kit.publish(channel, story(n));

  for (const { events } of [a, b]) {
    equal(numbers(1, 3).map(story), kit.payloads(await events.count("publication", 3)));
  }
  equal([2, 0], [a, b].map(({ sub }) => sub.deltaStats().numDeltaPayloads), "patches");
}

export async function tags_filter(kit) {
  const channel = kit.channel("tags");
  const { client } = await kit.connected();
  const tagsFilter = {
    op: "and",
    nodes: [{ key: "kind", cmp: "in", vals: ["a", "b"] }, { key: "n", cmp: "gt", val: "2" }],
  };
  const { events } = await kit.subscribed(client, channel, { tagsFilter });
  for (const n of numbers(1, 6)) {
    await kit.publish(channel, { n }, { tags: { kind: "abc"[n % 3], n: String(n) } });
  }
  const publications = await events.count("publication", 3);

  equal([3, 4, 6], kit.payloads(publications).map(({ n }) => n), "what matched");
}

export async function rpc(kit) {
  const { client } = await kit.connected();

  const { data } = await client.rpc("ping", kit.encode({}));

  equal(0, data?.length ?? 0, "length of the empty answer");
}

export async function rpc_of_the_application(kit) {
  const { client } = await kit.connected();
  const { data } = await client.rpc("sum", kit.encode({ a: 1, b: 2 }));

  equal({ sum: 3 }, kit.decode(data), "answer");
  const failed = client.rpc("fail", kit.encode({})).then(() => 0, (error) => error.code);
  equal(1000, await failed, "the application's own code");
}

export async function message_without_handler(kit) {
  const { client, events } = await kit.connected();
  await client.send(kit.encode({ hello: 1 }));

  equal(3508, (await events.next("disconnected")).code, "code");
}

export async function server_side_subscription(kit) {
  const channel = kit.channel("rec");
  const network = await kit.network();
  const token = await kit.token({ sub: kit.user(), channels: [channel] });
  const { client, events } = await kit.client({ token }, network);
  client.connect();
  const first = await events.next("subscribed");
  for (const n of numbers(1, 2)) await kit.publish(channel, { n });
  await events.count("publication", 2);
  await network.cut();
  await events.next("subscribing");
  for (const n of numbers(3, 4)) await kit.publish(channel, { n });
  await network.restore();
  const again = await events.next("subscribed");
  const publications = await events.count("publication", 4);

  equal([channel, true], [first.channel, first.recoverable]);
  equal([channel, true], [again.channel, again.recovered]);
  equal(numbers(1, 4), offsets(publications), "offsets");
}

export async function server_side_pushes(kit) {
  const channel = kit.channel("chat");
  const { events } = await kit.connected();
  await kit.api("subscribe", { user: kit.user(), channel, data: { welcome: 1 } });
  const subscribed = await events.next("subscribed");
  const join = await events.next("join");
  await kit.publish(channel, { n: 1 });
  const publication = await events.next("publication");
  await kit.api("unsubscribe", { user: kit.user(), channel });
  const unsubscribed = await events.next("unsubscribed");

  equal([channel, { welcome: 1 }], [subscribed.channel, kit.decode(subscribed.data)]);
  equal([channel, kit.user()], [join.channel, join.info.user]);
  equal([channel, { n: 1 }], [publication.channel, kit.decode(publication.data)]);
  equal(channel, unsubscribed.channel);
}

export async function server_unsubscribe(kit) {
  const channel = kit.channel("chat");
  const { client } = await kit.connected();
  const { sub, events } = await kit.subscribed(client, channel);
  await kit.api("unsubscribe", { user: kit.user(), channel });

  equal(2000, (await events.next("unsubscribed")).code, "code");
  equal("unsubscribed", sub.state);
}

export async function disconnect_codes(kit) {
  const codes = [[null, 3503, false], [3000, 3000, true], [3011, 3011, true], [3500, 3500, false],
    [4000, 4000, true], [4499, 4499, true], [4500, 4500, false], [4999, 4999, false]];
  for (const [sent, code, comesBack] of codes) {
    const user = kit.user(code);
    const { client, events } = await kit.connected(user);
    await kit.api("disconnect", sent ? { user, disconnect: { code: sent, reason: "r" } } : { user });
    const context = await events.next(comesBack ? "connecting" : "disconnected");

    equal(code, context.code, "code");
    if (comesBack) await events.next("connected");
    equal(comesBack ? "connected" : "disconnected", client.state, `state after ${code}`);
    client.disconnect();
  }
}

export async function refresh_by_api(kit) {
  const { events } = await kit.connected();
  await kit.api("refresh", { user: kit.user(), expired: true });

  equal(3005, (await events.next("connecting")).code, "code");
  await events.next("connected");
}

export async function server_pings(kit) {
  const { client, events } = await kit.connected(kit.user(), { maxServerPingDelay: 3000 });
  const started = Date.now();
  // Without pongs the server would close after 5.9 s, without pings the client after 6 s.
  await until(() => Date.now() - started > 7000, "two pings have passed");

  equal("connected", client.state);
  equal(1, events.list("connecting").length, "connection attempts");
}

export async function fallback(kit) {
  const other = kit.transport === "websocket" ? "sse" : "websocket";
  const endpoints = (base) => [
    { ...kit.endpoint(base, other), endpoint: kit.endpoint(`${base}/nowhere`, other).endpoint },
    kit.endpoint(base),
  ];
  const { context } = await kit.connected(kit.user(), { endpoints });

  equal(kit.transport, context.transport, "transport");
}


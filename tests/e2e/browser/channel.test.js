// @ts-check
/** Subscriptions on one connection, for one tab and for several. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { FakeServer, settle } from "./fakes.js";

/** @param {object} [options] @param {object} [subscribed] what the server answers */
async function start(options = {}, subscribed = { recoverable: true, positioned: true, epoch: "e", offset: 3 }) {
  const server = new FakeServer();
  await server.connect();
  await server.subscribe("news", { options });
  await server.accept();
  await server.link.reply({ id: 2, subscribe: subscribed });
  return server;
}

/** @param {FakeServer} server @returns {any[]} data of publications, as the tabs were told */
const told = (server) => server.events("publication").map(({ publication }) => publication.data);

test("a publication right behind the subscribe reply is handed on", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.subscribe("news");
  await server.accept();

  await server.link.reply({ id: 2, subscribe: {} }, { push: { channel: "news", pub: { data: "first" } } });

  assert.deepEqual(told(server), ["first"]);
});

test("after a loss exactly what is missing is asked for", async () => {
  const server = await start();
  await server.link.reply({ push: { channel: "news", pub: { data: 4, offset: 4 } } });
  await server.link.end(1006);
  assert.equal(server.events("subscribing").length, 1);
  await server.clock.advance(1000);

  const [, subscribe] = await server.accept();

  assert.deepEqual(subscribe.subscribe, { channel: "news", recover: true, epoch: "e", offset: 4 });
  const result = { recoverable: true, recovered: true, epoch: "e", offset: 4, publications: [{ data: 5, offset: 5 }] };
  await server.link.reply({ id: 2, subscribe: result });
  assert.deepEqual(server.events("subscribed").at(-1), { channel: "news", type: "subscribed", result, since: { epoch: "e", offset: 4 } });
});

test("unsubscribe 2500 asks again from where we are, 2000 does not", async () => {
  const server = await start();

  await server.link.reply({ push: { channel: "news", unsubscribe: { code: 2500, reason: "insufficient state" } } });
  assert.deepEqual(server.link.read(), [{ id: 3, subscribe: { channel: "news", recover: true, epoch: "e", offset: 3 } }]);
  await server.link.reply({ id: 3, subscribe: {} });
  await server.link.reply({ push: { channel: "news", unsubscribe: { code: 2000, reason: "by server" } } });

  assert.deepEqual(server.link.frames, []);
  assert.deepEqual(server.events("unsubscribed"), [{ channel: "news", type: "unsubscribed", code: 2000, reason: "by server" }]);
});

test("an invalidated state can never be taken for a known one", async () => {
  const server = await start();

  await server.link.reply({ push: { channel: "news", unsubscribe: { code: 2502 } } });

  assert.deepEqual(server.link.read()[0].subscribe, { channel: "news", recover: true, epoch: "_", offset: 0 });
});

test("a refused subscription ends, a temporary error is tried again", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.subscribe("one");
  await server.subscribe("two");
  await server.accept();

  const denied = { code: 103, message: "permission denied" };
  const busy = { code: 111, message: "too many requests", temporary: true };
  await server.link.reply({ id: 2, error: denied }, { id: 3, error: busy });
  await server.clock.advance(1000);

  assert.deepEqual(server.events("unsubscribed").map(({ channel, code }) => [channel, code]), [["one", 103]]);
  assert.deepEqual(server.link.read(), [{ id: 4, subscribe: { channel: "two" } }]);
});

test("a subscription token comes from a tab that wants the channel, and is renewed", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.subscribe("$news", { tab: "b", options: { hasToken: true } });
  await server.accept();
  const [question] = server.told.filter(({ event }) => event.type === "token");
  assert.equal(question?.tab, "b");
  server.engine.receive("b", { type: "token", id: question?.event.id, token: "t1", problem: "" });
  await settle();
  assert.deepEqual(server.link.read(), [{ id: 2, subscribe: { channel: "$news", token: "t1" } }]);
  await server.link.reply({ id: 2, subscribe: { expires: true, ttl: 10 } });

  await server.clock.advance(10_000);
  server.engine.receive("b", { type: "token", id: server.events("token").at(-1).id, token: "t2", problem: "" });
  await settle();
  assert.deepEqual(server.link.read(), [{ id: 3, sub_refresh: { channel: "$news", token: "t2" } }]);
  await server.link.reply({ id: 3, sub_refresh: { expires: true, ttl: 10 } });
  await server.clock.advance(10_000);
  server.engine.receive("b", { type: "token", id: server.events("token").at(-1).id, token: "", problem: "unauthorized" });
  await settle();

  assert.deepEqual(server.events("unsubscribed").map(({ code }) => code), [1]);
});

test("tabs share a subscription, and the last one that leaves ends it", async () => {
  const server = await start();
  await server.link.reply({ push: { channel: "news", pub: { data: 4, offset: 4 } } });

  await server.subscribe("news", { tab: "b" });
  assert.deepEqual(server.link.frames, []);
  const { tab, event } = server.told.at(-1) ?? { tab: "", event: {} };
  assert.deepEqual([tab, event.type, event.result.offset, event.result.recovered], ["b", "subscribed", 4, false]);
  server.engine.receive("a", { type: "unsubscribe", channel: "news" });
  await settle();
  assert.deepEqual(server.link.frames, []);
  server.engine.leave("b");
  await settle();

  assert.deepEqual(server.link.read(), [{ id: 3, unsubscribe: { channel: "news" } }]);
});

test("a tab that stands behind has the connection ask again from there", async () => {
  const server = await start();

  await server.subscribe("news", { tab: "b", position: { epoch: "e", offset: 1 } });

  assert.deepEqual(server.link.read(), [
    { id: 3, unsubscribe: { channel: "news" } },
    { id: 4, subscribe: { channel: "news", recover: true, epoch: "e", offset: 1 } },
  ]);
});

test("a tab that comes while the question is on its way is not forgotten", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.subscribe("news", { position: { epoch: "e", offset: 5 } });
  await server.accept();
  await server.subscribe("news", { tab: "b", position: { epoch: "e", offset: 4 } });

  await server.link.reply({ id: 2, subscribe: { recoverable: true, recovered: true, epoch: "e", offset: 5 } });

  assert.deepEqual(server.events("subscribed"), []);
  assert.deepEqual(server.link.read()[1].subscribe, { channel: "news", recover: true, epoch: "e", offset: 4 });
});

test("patches are taken apart, and one that does not fit asks for the whole again", async () => {
  const base = '{"text":"Lorem ipsum dolor sit amet, consectetur adipiscing elit.","n":2}';
  const patch = "19\n17@0,2:3}34bmTS;";
  const server = await start({ delta: "fossil" }, { recoverable: true, epoch: "e", offset: 1, delta: true });

  await server.link.reply({ push: { channel: "news", pub: { data: base, offset: 2 } } });
  await server.link.reply({ push: { channel: "news", pub: { data: patch, offset: 3, delta: true } } });
  assert.deepEqual(told(server), [JSON.parse(base), { ...JSON.parse(base), n: 3 }]);
  await server.link.reply({ push: { channel: "news", pub: { data: patch.replace("TS;", "TT;"), offset: 4, delta: true } } });

  assert.equal(told(server).length, 2);
  assert.deepEqual(server.link.read()[1].subscribe, { channel: "news", recover: true, epoch: "e", offset: 3 });
});

test("a subscribe command without an answer makes a new connection, as after a loss", async () => {
  let asked = 0;
  const server = new FakeServer({ getToken: async () => `t${++asked}` });
  await server.connect();
  await server.subscribe("news");
  await server.accept();

  await server.clock.advance(5000);
  assert.deepEqual([server.links.length, server.links[0]?.isClosed], [1, true]);
  assert.deepEqual([server.state.code, server.state.reason], [3, "subscribe timeout"]);
  await server.clock.advance(1000);

  assert.equal(server.links.length, 2);
  assert.equal(asked, 1);
});

const CACHED = { recoverable: true, positioned: true, recovered: true, was_recovering: true, epoch: "e", publications: [{ data: 7, offset: 7 }] };

test("who comes later to a channel that keeps its newest publication is given it", async () => {
  const server = await start({}, CACHED);
  await server.link.reply({ push: { channel: "news", pub: { data: 8, offset: 8 } } });
  server.told = [];

  await server.subscribe("news", { tab: "new" });
  await server.subscribe("news", { tab: "known", position: { epoch: "e", offset: 8 } });

  const [toNew, toKnown] = server.told;
  assert.deepEqual([toNew?.tab, toNew?.event.since, toNew?.event.result.recovered], ["new", null, true]);
  assert.deepEqual(toNew?.event.result.publications, [{ data: 8, offset: 8 }]);
  assert.deepEqual([toKnown?.event.result.recovered, toKnown?.event.result.publications], [true, undefined]);
  assert.deepEqual(server.link.frames, []);
});

test("who comes later is given nothing that was published before, elsewhere", async () => {
  const server = await start();
  await server.link.reply({ push: { channel: "news", pub: { data: 4, offset: 4 } } });
  server.told = [];

  await server.subscribe("news", { tab: "new" });

  const result = { recoverable: true, positioned: true, epoch: "e", offset: 4, recovered: false };
  assert.deepEqual(server.told, [{ tab: "new", event: { channel: "news", type: "subscribed", result, since: { epoch: "e", offset: 4 } } }]);
});

test("the newest publication of a channel that the server gave is handed on as well", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.accept({ subs: { given: CACHED } });
  await server.link.reply({ push: { channel: "given", pub: { data: 8, offset: 8 } } });
  server.told = [];

  await server.connect("new");
  server.engine.receive("known", { type: "connect", given: { given: { epoch: "e", offset: 8 } } });

  const [toNew, toKnown] = server.events("subscribed");
  assert.deepEqual([toNew.since, toNew.result.recovered, toNew.result.publications], [null, true, [{ data: 8, offset: 8 }]]);
  assert.deepEqual([toKnown.since, toKnown.result.recovered], [{ epoch: "e", offset: 8 }, true]);
});

test("one tab alone asks for what it wants with its options", async () => {
  const options = { filter: { key: "a", cmp: "ex" }, joinLeave: true, positioned: true, recoverable: true, data: { x: 1 } };
  const server = new FakeServer();
  await server.connect();
  await server.subscribe("news", { options });

  const [, { subscribe }] = await server.accept();

  assert.deepEqual(subscribe, { channel: "news", data: { x: 1 }, positioned: true, recoverable: true, join_leave: true, tf: options.filter });
});

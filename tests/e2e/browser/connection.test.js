// @ts-check
/** One connection, with a server that the test plays: connect, pings, tokens, codes, transports. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { UnauthorizedError } from "../../../clients/browser/codes.js";
import { FakeServer, settle } from "./fakes.js";

test("connect and what is wanted already go in one frame", async () => {
  const server = new FakeServer({ token: "t", data: { a: 1 }, name: "app" });
  await server.connect();
  await server.subscribe("news");

  const [connect, subscribe] = await server.accept({ data: { hello: 1 } });

  assert.deepEqual(connect, { id: 1, connect: { token: "t", data: { a: 1 }, name: "app" } });
  assert.deepEqual(subscribe, { id: 2, subscribe: { channel: "news" } });
  assert.deepEqual(server.state.connected, { client: "c", transport: "websocket", version: "1", data: { hello: 1 } });
});

test("a ping is answered, and only where the server wants it", async () => {
  for (const pong of [true, false]) {
    const server = new FakeServer();
    await server.connect();
    await server.accept({ pong });

    await server.link.reply({});

    assert.deepEqual(server.link.frames, pong ? ["{}"] : []);
  }
});

test("silence for the ping and 10 s more ends the connection, and any frame breaks it", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.accept();

  await server.clock.advance(34_000);
  await server.link.reply({ push: { message: { data: 1 } } });
  await server.clock.advance(34_999);
  assert.equal(server.state.state, "connected");
  await server.clock.advance(1);

  assert.equal(server.state.state, "connecting");
  assert.equal(server.state.reason, "no ping");
  assert.equal(server.links[0]?.isClosed, true);
});

test("the wait grows from attempt to attempt, and begins anew after a good connection", async () => {
  const server = new FakeServer({ names: ["websocket"] });
  await server.connect();
  const waits = [];
  for (let attempt = 0; attempt < 8; attempt++) {
    await server.link.end(1006);
    waits.push(server.state.retryAt - server.clock.time);
    await server.clock.advance(waits[attempt] ?? 0);
  }
  await server.accept();
  await server.clock.advance(5000);
  await server.link.end(1006);

  assert.deepEqual(waits, [750, 1000, 1500, 2500, 4500, 8500, 10_500, 10_500]);
  assert.equal(server.state.retryAt - server.clock.time, 750);
});

const CLOSES = [
  { code: 1006, state: "connecting", told: 1 },
  { code: 1009, state: "disconnected", told: 3 },
  { code: 3000, state: "connecting", told: 3000 },
  { code: 3012, state: "connecting", told: 3012 },
  { code: 3500, state: "disconnected", told: 3500 },
  { code: 3999, state: "disconnected", told: 3999 },
  { code: 4000, state: "connecting", told: 4000 },
  { code: 4500, state: "disconnected", told: 4500 },
];
for (const { code, state, told } of CLOSES) {
  test(`close code ${code} leads to ${state}`, async () => {
    const server = new FakeServer();
    await server.connect();
    await server.accept();

    await server.link.end(code, "why");

    assert.equal(server.state.state, state);
    assert.equal(server.state.code, told);
  });
}

test("a disconnect push counts like a close code, and what follows it is not read", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.accept();

  await server.link.reply({ push: { disconnect: { code: 3503, reason: "force disconnect" } } }, { push: { message: { data: 1 } } });

  assert.equal(server.state.state, "disconnected");
  assert.equal(server.state.reason, "force disconnect");
  assert.deepEqual(server.events("message"), []);
});

test("where a WebSocket does not come to a connect reply, the next transport is tried at once", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.link.end(1006);
  assert.equal(server.link.name, "http_stream");
  await server.link.open();
  // A proxy that holds back what streams.
  await server.clock.advance(5000);
  assert.equal(server.link.name, "sse");

  await server.accept({ session: "s", node: "n" });

  assert.equal(server.state.connected.transport, "sse");
  assert.equal(server.link.session, "s");
  assert.equal(server.events("state").filter(({ retryAt }) => retryAt !== null).length, 0);
});

test("where a browser refuses a transport at once, the next one is tried", async () => {
  const refuse = () => {
    throw new TypeError("refused by the page's policy");
  };
  const server = new FakeServer();
  server.engine.connection.options.openers.websocket = refuse;

  await server.connect();
  assert.equal(server.link.name, "http_stream");
  server.engine.connection.options.openers.sse = refuse;
  await server.link.end(0);

  assert.deepEqual([server.state.state, server.state.reason], ["connecting", "refused by the page's policy"]);
  assert.notEqual(server.state.retryAt, null);
});

test("a code of the server before the connect reply is no reason for another transport", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.link.open();

  await server.link.end(3503);

  assert.equal(server.links.length, 1);
  assert.equal(server.state.state, "disconnected");
});

test("an expired token is replaced, a temporary error is tried again, another one ends it", async () => {
  let asked = 0;
  const server = new FakeServer({ getToken: async () => `t${++asked}` });
  await server.connect();
  await server.link.open();
  assert.equal(server.link.read()[0].connect.token, "t1");
  await server.link.reply({ id: 1, error: { code: 109, message: "token expired" } });
  await server.clock.advance(1000);
  await server.link.open();
  assert.equal(server.link.read()[0].connect.token, "t2");
  await server.link.reply({ id: 1, error: { code: 100, message: "internal", temporary: true } });
  await server.clock.advance(1000);
  await server.link.open();
  assert.equal(server.link.read()[0].connect.token, "t2");

  await server.link.reply({ id: 1, error: { code: 103, message: "permission denied" } });

  assert.deepEqual([server.state.state, server.state.code], ["disconnected", 103]);
});

test("a token is renewed when its time is over, with patience where that fails", async () => {
  let asked = 0;
  const getToken = async () => {
    if (++asked === 2) throw new Error("the network");
    return `t${asked}`;
  };
  const server = new FakeServer({ getToken });
  await server.connect();
  await server.accept({ expires: true, ttl: 60 });
  await server.clock.advance(30_000);
  await server.link.reply({});
  await server.clock.advance(30_000);
  assert.equal(asked, 2);
  server.link.frames = [];

  await server.clock.advance(2000);

  assert.deepEqual(server.link.read(), [{ id: 2, refresh: { token: "t3" } }]);
  await server.link.reply({ id: 2, refresh: { expires: true, ttl: 5 } });
  await server.clock.advance(5000);
  assert.equal(asked, 4);
});

test("who may not have a token is disconnected for good", async () => {
  const server = new FakeServer({ getToken: () => Promise.reject(new UnauthorizedError()) });

  await server.connect();
  await settle();

  assert.deepEqual([server.state.state, server.state.code], ["disconnected", 1]);
});

test("calls wait for the connection, and are told when none comes", async () => {
  const server = new FakeServer();
  await server.connect();
  server.engine.receive("a", { type: "call", id: 7, method: "rpc", params: { method: "x" } });
  await server.accept();
  assert.deepEqual(server.link.read(), [{ id: 2, rpc: { method: "x" } }]);
  await server.link.reply({ id: 2, rpc: { data: 5 } });
  assert.deepEqual(server.events("reply"), [{ type: "reply", id: 7, result: { data: 5 } }]);
  server.engine.receive("a", { type: "call", id: 8, method: "rpc", params: {} });
  await settle();

  await server.link.end(1006);
  server.engine.receive("a", { type: "call", id: 9, method: "rpc", params: {} });
  await server.clock.advance(5000);

  assert.deepEqual(server.events("failure").map(({ id, code }) => [id, code]), [[8, 2], [9, 1]]);
});

test("channels that the server gave are recovered by their place", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.accept({ subs: { given: { recoverable: true, epoch: "e", offset: 3 } } });
  await server.link.reply({ push: { channel: "given", pub: { data: 4, offset: 4 } } });
  await server.link.end(3001);
  await server.clock.advance(1000);

  const [connect] = await server.accept({ subs: {} });

  assert.deepEqual(connect.connect.subs, { given: { recover: true, epoch: "e", offset: 4 } });
  assert.deepEqual(server.events("unsubscribed").map(({ channel }) => channel), ["given"]);
});

test("what is no reply ends the connection, and it comes back", async () => {
  const server = new FakeServer();
  await server.connect();
  await server.accept();

  server.link.handlers.onFrame("<html>");
  await settle();

  assert.equal(server.state.state, "connecting");
  assert.notEqual(server.state.retryAt, null);
});

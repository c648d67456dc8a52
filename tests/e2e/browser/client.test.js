// @ts-check
/** What an application has in hand, over sockets that the test plays. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client } from "../../../clients/browser/index.js";
import { FakeLocks, settle } from "./fakes.js";

class FakeSocket {
  /** @type {FakeSocket[]} */
  static all = [];
  /** @type {any[]} */
  commands = [];
  onopen = () => undefined;
  onmessage = (/** @type {{data: string}} */ _) => undefined;
  onclose = (/** @type {{code: number, reason: string}} */ _) => undefined;

  constructor() {
    FakeSocket.all.push(this);
    queueMicrotask(() => this.onopen?.());
  }

  /** @param {string} frame */
  send(frame) {
    const commands = frame.split("\n").map((line) => JSON.parse(line));
    this.commands.push(...commands);
    for (const { id, connect } of commands) {
      if (connect) this.reply({ id, connect: { client: "c" } });
    }
  }

  /** @param {object} reply */
  reply(reply) {
    queueMicrotask(() => this.onmessage?.({ data: JSON.stringify(reply) }));
  }

  close() {}
}
/** @type {any} */ (globalThis).WebSocket = FakeSocket;

/** @param {import("../../../clients/browser/client.js").ClientOptions} [options] */
async function connect(options = {}) {
  const client = new Client("/realtime", { shared: false, transports: ["websocket"], ...options });
  client.connect();
  for (let turn = 0; turn < 20; turn++) await settle();
  const socket = FakeSocket.all.at(-1);
  assert.ok(socket);
  return { client, socket };
}

test("what is sent is what the data was when it was given", async () => {
  const { client, socket } = await connect();
  const data = { n: 1, at: new Date(0) };

  void client.publish("news", data).catch(() => undefined);
  data.n = 2;
  client.send(data);
  data.n = 3;
  await settle();

  const at = "1970-01-01T00:00:00.000Z";
  assert.deepEqual(socket.commands.slice(1), [{ id: 2, publish: { channel: "news", data: { n: 1, at } } }, { send: { data: { n: 2, at } } }]);
  client.disconnect();
});

test("data that JSON cannot hold fails its own call, and no other", async () => {
  const { client, socket } = await connect();

  const refused = assert.rejects(client.rpc("sum", 1n), TypeError);
  const answer = client.rpc("sum", [1, 2]);
  await settle();
  socket.reply({ id: 2, rpc: { data: 3 } });

  await refused;
  assert.equal(await answer, 3);
  client.disconnect();
});

/** @param {() => boolean} isSo */
async function until(isSo) {
  for (const end = Date.now() + 5000; !isSo(); await settle()) assert.ok(Date.now() < end, isSo.toString());
}

test("a client that was disconnected for good comes back when it is asked to, not with another page", async () => {
  Object.defineProperty(globalThis, "navigator", { value: { locks: new FakeLocks() }, configurable: true });
  const { client: one, socket } = await connect({ shared: "for this test" });
  const { client: two } = await connect({ shared: "for this test" });
  await until(() => two.state === "connected");
  const { length } = FakeSocket.all;
  socket.onclose({ code: 3503, reason: "force disconnect" });
  await until(() => one.state === "disconnected" && two.state === "disconnected");

  one.disconnect();
  await until(() => two.isLeader);
  for (let turn = 0; turn < 20; turn++) await settle();
  assert.deepEqual([two.state, FakeSocket.all.length], ["disconnected", length]);
  two.connect();
  await until(() => two.state === "connected");

  assert.deepEqual([one.state, FakeSocket.all.length], ["disconnected", length + 1]);
  two.disconnect();
});

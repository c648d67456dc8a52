// @ts-check
/** Who leads among the pages of a browser, with locks and channels of the test's own. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Tabs } from "../../../clients/browser/tabs.js";
import { FakeLink, FakeLocks, ManualClock, settle } from "./fakes.js";

class Browser {
  locks = new FakeLocks();
  /** @type {FakeLink[]} */
  links = [];
  /** @type {Map<string, Set<any>>} */
  #channels = new Map();
  #pages = 0;

  /** @param {{isShared?: boolean, locks?: any, isVisible?: boolean, isChannelRefused?: boolean}} [how] */
  async open({ isShared = true, locks = this.locks, isVisible = true, isChannelRefused = false } = {}) {
    const clock = new ManualClock();
    const channels = this.#channels;
    class FakeChannel {
      /** @param {string} name */
      constructor(name) {
        if (isChannelRefused) throw new Error("storage is blocked");
        this.others = channels.get(name) ?? new Set();
        channels.set(name, this.others.add(this));
        this.onmessage = (/** @type {{data: any}} */ _) => undefined;
      }

      /** @param {any} data */
      postMessage(data) {
        const copy = structuredClone(data);
        for (const other of this.others) {
          if (other !== this) setImmediate(() => this.others.has(other) && other.onmessage({ data: copy }));
        }
      }

      close() {
        this.others.delete(this);
      }
    }
    const openers = (/** @type {any} */ _, /** @type {any} */ handlers) => {
      this.links.push(new FakeLink("websocket", handlers));
      return this.links.at(-1);
    };
    /** @type {any[]} */
    const events = [];
    let attached = 0;
    /** @type {any} */
    const engine = { clock, names: ["websocket"], openers: { websocket: openers }, transport: {}, isReachable: async () => true };
    /** @type {any} */
    const platform = { locks, BroadcastChannel: FakeChannel, createId: () => `id${++this.#pages}`, isVisible: () => isVisible };
    const tabs = new Tabs({
      key: "k",
      isShared,
      engine,
      platform,
      onAttach: () => {
        attached += 1;
        tabs.post({ type: "connect", given: {} });
        tabs.post({ type: "subscribe", channel: "news", options: {}, position: null });
      },
      onEvent: (event) => events.push(event),
    });
    tabs.join();
    await this.turn();
    const [channel] = [...(channels.get("k") ?? [])].slice(-1);
    /** A browser lets nothing of the page run any more, and its locks are still held. */
    const freeze = () => void (channel.onmessage = () => undefined);
    return { tabs, clock, events, attached: () => attached, freeze };
  }

  async turn() {
    for (let count = 0; count < 20; count++) await settle();
  }
}

test("the first page leads, and others speak through it", async () => {
  const browser = new Browser();
  const first = await browser.open();
  const second = await browser.open();
  const [link] = browser.links;

  await link?.open();
  await link?.reply({ id: 1, connect: { client: "c" } }, { id: 2, subscribe: {} }, { push: { channel: "news", pub: { data: 1 } } });
  await browser.turn();

  assert.deepEqual([first.tabs.isLeader, second.tabs.isLeader, browser.links.length], [true, false, 1]);
  for (const { events } of [first, second]) {
    assert.equal(events.filter(({ type }) => type === "publication").length, 1);
    assert.equal(events.filter(({ type }) => type === "state").at(-1).state, "connected");
  }
});

test("when the leader leaves, the next page leads and the others say again what they want", async () => {
  const browser = new Browser();
  const first = await browser.open();
  const second = await browser.open();
  const third = await browser.open();

  first.tabs.leave();
  await browser.turn();

  assert.deepEqual([second.tabs.isLeader, third.tabs.isLeader], [true, false]);
  assert.deepEqual([second.attached(), third.attached()], [2, 2]);
  assert.deepEqual(browser.links.map(({ isClosed }) => isClosed), [true, false]);
});

test("a page that has gone wants nothing any more", async () => {
  const browser = new Browser();
  const first = await browser.open();
  const second = await browser.open();
  first.tabs.post({ type: "unsubscribe", channel: "news" });
  const [link] = browser.links;
  await link?.open();
  await link?.reply({ id: 1, connect: { client: "c" } }, { id: 2, subscribe: {} });
  link?.read();

  second.tabs.leave();
  await browser.turn();

  assert.deepEqual(link?.read(), [{ id: 3, unsubscribe: { channel: "news" } }]);
});

test("a leader that is silent while somebody looks at another page loses its place", async () => {
  const browser = new Browser();
  const first = await browser.open();
  const second = await browser.open();
  await first.clock.advance(20_000);
  await browser.turn();
  await second.clock.advance(149_000);
  await browser.turn();
  assert.equal(first.tabs.isLeader, true);

  await second.clock.advance(1000);
  await browser.turn();

  assert.deepEqual([first.tabs.isLeader, second.tabs.isLeader], [false, true]);
  assert.equal(first.attached(), 2);
  assert.equal(browser.links[0]?.isClosed, true);
});

test("a page that nobody looks at takes nothing away", async () => {
  const browser = new Browser();
  const first = await browser.open();
  const hidden = await browser.open({ isVisible: false });

  await hidden.clock.advance(400_000);
  await browser.turn();

  assert.equal(first.tabs.isLeader, true);
});

test("a page that finds a frozen leader takes its place", async () => {
  const browser = new Browser();
  const frozen = await browser.open();
  frozen.freeze();
  const page = await browser.open();
  const hidden = await browser.open({ isVisible: false });
  assert.deepEqual([page.attached(), hidden.attached()], [0, 0]);

  await hidden.clock.advance(10_000);
  await page.clock.advance(9999);
  await browser.turn();
  assert.equal(frozen.tabs.isLeader, true);
  await page.clock.advance(1);
  await browser.turn();

  assert.deepEqual([page.tabs.isLeader, page.attached(), hidden.attached()], [true, 1, 1]);
});

test("a page that leaves and joins again is another one to the leader", async () => {
  const browser = new Browser();
  const [first, second] = [await browser.open(), await browser.open()];
  const before = second.tabs.id;

  second.tabs.leave();
  second.tabs.join();
  await browser.turn();

  assert.notEqual(second.tabs.id, before);
  assert.deepEqual([first.tabs.isLeader, second.attached()], [true, 2]);
});

test("where a browser refuses its locks or its channel, each page has its own connection", async () => {
  const browser = new Browser();
  const locks = { request: () => Promise.reject(new Error("storage is blocked")) };
  const refused = [await browser.open({ locks }), await browser.open({ locks }), await browser.open({ isChannelRefused: true })];

  assert.deepEqual(refused.map(({ tabs, attached }) => [tabs.isLeader, attached()]), [[true, 1], [true, 1], [true, 1]]);
  assert.equal(browser.links.length, 3);
  for (const { tabs } of refused) tabs.leave();
  assert.deepEqual(browser.links.map(({ isClosed }) => isClosed), [true, true, true]);
});

test("without locks, or when told so, each page has its own connection", async () => {
  const browser = new Browser();
  const pages = [await browser.open({ isShared: false }), await browser.open({ isShared: false }), await browser.open({ locks: undefined })];

  assert.deepEqual(pages.map(({ tabs }) => tabs.isLeader), [true, true, true]);
  assert.equal(browser.links.length, 3);
});

// @ts-check
/** The parts without time or input: backoff, codes, places. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { computeBackoff } from "../../../clients/browser/backoff.js";
import { FRAME_CHARACTERS_MAX, joinFrames } from "../../../clients/browser/codec.js";
import { isFinalDisconnect, isFinalUnsubscribe } from "../../../clients/browser/codes.js";
import { Place } from "../../../clients/browser/place.js";
import { TransportChoice } from "../../../clients/browser/transports/choice.js";
import { findEndpoints } from "../../../clients/browser/transports/transport.js";

test("a wait is drawn from the whole range, which doubles up to 20 s", () => {
  assert.equal(computeBackoff(0, 0), 500);
  assert.equal(computeBackoff(0, 1), 1000);
  assert.equal(computeBackoff(3, 1), 4500);
  assert.equal(computeBackoff(3, 0), 500);
  assert.equal(computeBackoff(1000, 0.999), 20_000);
  assert.equal(computeBackoff(10, 0.5, 100, 1000), 600);
});

test("codes that end a connection for good are those of the protocol", () => {
  const final = [1000, 1009, 2999, 3000, 3012, 3499, 3500, 3999, 4000, 4499, 4500, 4999, 5000].filter(isFinalDisconnect);

  assert.deepEqual(final, [1009, 3500, 3999, 4500, 4999]);
});

test("codes from 2500 on subscribe again", () => {
  assert.deepEqual([2000, 2499, 2500, 2502].filter(isFinalUnsubscribe), [2000, 2499]);
});

const publication = (/** @type {number} */ offset) => ({ offset, data: offset });

test("a place leaves out what it had, and says so when it cannot know", () => {
  const place = new Place({ offset: 5, epoch: "e" });
  const result = { recoverable: true, recovered: true, epoch: "e", offset: 3, publications: [4, 5, 6, 7].map(publication) };

  const { recovered, publications } = place.enter(result, { offset: 3, epoch: "e" });

  assert.equal(recovered, true);
  assert.deepEqual(publications.map(({ data }) => data), [6, 7]);
  assert.deepEqual(place.position, { offset: 7, epoch: "e" });
  assert.equal(place.pass(publication(7), "e"), false);
  assert.equal(place.pass(publication(8), "e"), true);
  assert.equal(place.pass({ data: "without a place" }, "e"), true);
});

test("a place behind what was asked for is not recovered", () => {
  const place = new Place({ offset: 1, epoch: "e" });
  const result = { recoverable: true, recovered: true, epoch: "e", offset: 3, publications: [publication(4)] };

  assert.deepEqual(place.enter(result, { offset: 3, epoch: "e" }), { recovered: false, publications: [] });
  assert.deepEqual(place.position, { offset: 4, epoch: "e" });
});

test("a place of another epoch is not recovered", () => {
  const place = new Place({ offset: 9, epoch: "old" });

  const entered = place.enter({ recoverable: true, recovered: false, epoch: "new", offset: 2 }, { offset: 9, epoch: "old" });

  assert.deepEqual(entered, { recovered: false, publications: [] });
  assert.equal(place.pass(publication(3), "new"), true);
});

test("a newcomer does not get what others missed", () => {
  const place = new Place();
  const result = { recoverable: true, recovered: true, epoch: "e", offset: 3, publications: [publication(4)] };

  assert.deepEqual(place.enter(result, { offset: 3, epoch: "e" }), { recovered: false, publications: [] });
  assert.deepEqual(place.position, { offset: 4, epoch: "e" });
});

test("a transport that worked is asked alone twice, then all are", () => {
  const choice = new TransportChoice(["websocket", "http_stream", "sse"]);

  assert.deepEqual(choice.list(0), ["websocket", "http_stream", "sse"]);
  choice.prove("sse");
  assert.deepEqual(choice.list(1), ["sse"]);
  choice.prove("websocket");
  choice.prove("http_stream");
  assert.deepEqual(choice.list(0), ["websocket"]);
  assert.deepEqual(choice.list(2), ["websocket", "http_stream", "sse"]);
});

test("frames keep the order and hold what a server takes", () => {
  const half = "x".repeat(FRAME_CHARACTERS_MAX / 2 - 1);
  const long = "y".repeat(2 * FRAME_CHARACTERS_MAX);
  const show = (/** @type {string} */ frame) => frame.split("\n").map((part) => part.slice(0, 2));

  assert.deepEqual(joinFrames([]), []);
  assert.deepEqual(joinFrames(["a", "b", "c"]), ["a\nb\nc"]);
  assert.deepEqual(joinFrames([half, half, half, "a", long, "b"]).map(show), [["xx", "xx"], ["xx", "a"], ["yy"], ["b"]]);
});

test("endpoints stand below the address, whatever its scheme", () => {
  const page = "https://example.com/board/";

  assert.equal(findEndpoints("/realtime", page).websocket, "wss://example.com/realtime/connection/websocket");
  assert.equal(findEndpoints("wss://other.example/", page).emulation, "https://other.example/emulation");
  assert.equal(findEndpoints("http://localhost:8000", page).sse, "http://localhost:8000/connection/sse");
});

// @ts-check
/** The golden frames that every codec and client of the protocol is judged by. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { decodeReplies, encodeCommands } from "../../../clients/browser/codec.js";
import { applyDelta } from "../../../clients/browser/delta.js";

/** @param {string} name @returns {any[]} */
const read = (name) => JSON.parse(readFileSync(new URL(`../../../protocol/vectors/${name}.json`, import.meta.url), "utf8")).cases;

const PAYLOADS = new Set(["data", "conn_info", "chan_info"]);

/**
 * @param {any} model a message as the vectors have it
 * @param {boolean} isText payloads are told as text, as those see them who negotiated patches
 * @returns {any} as JSON has it
 */
function toWire(model, isText) {
  if (Array.isArray(model)) return model.map((item) => toWire(item, isText));
  if (typeof model !== "object" || model === null) return model;
  const isQuoted = isText || "format" in model;
  // Those who take patches are not told the epoch again.
  const hidden = isText ? ["format", "epoch"] : ["format"];
  const entries = Object.entries(model).filter(([name]) => !hidden.includes(name) || "recoverable" in model);
  return Object.fromEntries(
    entries.map(([name, value]) => {
      if (!PAYLOADS.has(name)) return [name, toWire(value, isText || model.delta === true)];
      if (typeof value === "object") return [name, Buffer.from(value.bytes_hex, "hex").toString("base64")];
      if (isText && "format" in model) return [name, JSON.stringify(value)];
      return [name, isQuoted && name === "data" ? value : JSON.parse(value)];
    }),
  );
}

/** @param {any} decoded @param {any} expected zero values may be left out of it @param {string} path */
function assertIncludes(decoded, expected, path) {
  if (typeof expected !== "object" || expected === null) return assert.deepEqual(decoded, expected, path);
  if (Array.isArray(expected)) assert.equal(decoded.length, expected.length, path);
  for (const [name, value] of Object.entries(expected)) assertIncludes(decoded?.[name], value, `${path}.${name}`);
}

/** @param {string} line @returns {any} a command without what says nothing */
const parse = (line) => JSON.parse(line, (_, value) => (value === 0 || value === "" || value === false ? undefined : value));

const withJSON = (/** @type {any} */ one) => one.json !== undefined;

for (const { name, json, reply } of read("replies").filter(withJSON)) {
  test(`reply: ${name}`, () => {
    const [decoded, ...others] = decodeReplies(json);

    assert.deepEqual(others, []);
    assertIncludes(decoded, toWire(reply, reply.subscribe?.delta === true), "reply");
  });
}

for (const { name, json, push, is_bare: isBare, is_delta: isDelta } of read("pushes").filter(withJSON)) {
  test(`push: ${name}`, () => {
    const [decoded] = decodeReplies(json);

    assertIncludes(isBare ? decoded : decoded?.push, toWire(push, isDelta === true), "push");
  });
}

for (const { name, json, commands } of read("commands").filter(withJSON)) {
  test(`command: ${name}`, () => {
    const [frame = "", ...others] = encodeCommands(commands.map((/** @type {any} */ command) => toWire(command, false)));
    const lines = frame.split("\n");

    assert.deepEqual(others, []);

    assert.deepEqual(lines.map(parse), json.trimEnd().split("\n").map(parse));
  });
}

test("patches of the vectors lead from one publication to the next", () => {
  let count = 0;
  for (const { reply } of read("replies").filter(({ recorded }) => recorded)) {
    let base = "";
    for (const { data, delta } of reply.subscribe?.publications ?? []) {
      if (delta) {
        assert.doesNotThrow(() => JSON.parse(applyDelta(base, data)));
        count += 1;
      }
      base = delta ? applyDelta(base, data) : data;
    }
  }
  assert.ok(count >= 1);
});

test("a patch for another base is refused", () => {
  const { publications } = read("replies").find(({ name }) => name === "subscribe 2").reply.subscribe;
  const patch = publications.find((/** @type {any} */ one) => one.delta).data;

  for (const wrong of ["", publications[0].data.replace("Lorem", "lorem")]) {
    assert.throws(() => applyDelta(wrong, patch), RangeError);
  }
  for (const wrong of ["", "1", "1\n", "1\n1:", "5\n0@0,0;", "1\n1?", patch.slice(0, -3)]) {
    assert.throws(() => applyDelta(publications[0].data, wrong), RangeError);
  }
});

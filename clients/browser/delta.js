// @ts-check
/** Owns the Fossil delta format, the reading half: base + patch → target. Pure. */

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";
/** @type {Map<number, number>} byte → value */
const VALUES = new Map([...DIGITS].map((digit, value) => [digit.charCodeAt(0), value]));
const [COPY, COMMA, INSERT, END, NEWLINE] = [..."@,:;\n"].map((sign) => sign.charCodeAt(0));

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

class Reader {
  at = 0;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
  }

  /** @returns {number} the next byte; NaN at the end */
  next() {
    return this.bytes[this.at++] ?? NaN;
  }

  /** @returns {number} */
  number() {
    let value = 0;
    for (let digit; (digit = VALUES.get(this.bytes[this.at] ?? -1)) !== undefined; this.at++) {
      value = value * 64 + digit;
    }
    return value;
  }

  /** @param {number} count @returns {Uint8Array} */
  take(count) {
    this.at += count;
    if (this.at > this.bytes.length) throw new RangeError("the patch is cut off");
    return this.bytes.subarray(this.at - count, this.at);
  }
}

/** @param {Uint8Array} bytes @returns {number} Fossil's checksum: the sum of big-endian words */
export function computeChecksum(bytes) {
  let sum = 0;
  for (let at = 0; at < bytes.length; at++) sum = (sum + ((bytes[at] ?? 0) << (24 - (at % 4) * 8))) >>> 0;
  return sum;
}

/**
 * @param {Uint8Array} base
 * @param {Uint8Array} patch
 * @returns {Uint8Array}
 * @throws {RangeError} the patch is malformed, or made for another base
 */
export function applyBytes(base, patch) {
  const reader = new Reader(patch);
  const size = reader.number();
  if (reader.next() !== NEWLINE) throw new RangeError("the patch has no size");
  /** @type {Uint8Array[]} */
  const parts = [];
  let total = 0;
  while (total <= size) {
    const number = reader.number();
    const sign = reader.next();
    if (sign === END) {
      const target = join(parts, total);
      if (total !== size || computeChecksum(target) !== number) throw new RangeError("the patch is for another base");
      return target;
    }
    let part;
    if (sign === INSERT) part = reader.take(number);
    else if (sign === COPY) {
      const start = reader.number();
      if (reader.next() !== COMMA || start + number > base.length) throw new RangeError("the patch copies what is not there");
      part = base.subarray(start, start + number);
    } else throw new RangeError("the patch has an unknown step");
    if (number === 0) throw new RangeError("the patch has an empty step");
    parts.push(part);
    total += part.length;
  }
  throw new RangeError("the patch makes more than it says");
}

/** @param {Uint8Array[]} parts @param {number} size @returns {Uint8Array} */
function join(parts, size) {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {string} base @param {string} patch @returns {string} */
export const applyDelta = (base, patch) => decoder.decode(applyBytes(encoder.encode(base), encoder.encode(patch)));

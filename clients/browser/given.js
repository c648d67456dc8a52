// @ts-check
/** Owns the channels that the server subscribed us to, as one page sees them. */

import { toInfo, toPublication } from "./codec.js";
import { Place } from "./place.js";

/** @typedef {import("./channel.js").ChannelEvent} ChannelEvent */

export class GivenChannels {
  /** @type {Map<string, Place>} */
  #places = new Map();

  /** @param {Pick<import("./client.js").Client, "emit">} client tells the application */
  constructor(client) {
    this.client = client;
  }

  /** @returns {Record<string, import("./codec.js").Position>} where we are, in those that keep history */
  positions() {
    /** @type {Record<string, import("./codec.js").Position>} */
    const positions = {};
    for (const [channel, { position }] of this.#places) if (position) positions[channel] = position;
    return positions;
  }

  /** @param {ChannelEvent} event */
  handle(event) {
    const { channel, type } = event;
    if (type === "subscribed") {
      // Another page may have subscribed to what this one has not.
      if (event.isGiven) this.#handleSubscribed(event);
      return;
    }
    const place = this.#places.get(channel);
    if (!place) return;
    if (type === "publication") {
      if (place.pass(event.publication, event.epoch)) this.#hand(channel, event.publication, false);
    } else if (type === "join" || type === "leave") this.client.emit(type, { channel, ...toInfo(event.info) });
    else if (type === "subscribing") this.client.emit("subscribing", { channel, code: event.code, reason: event.reason });
    else if (type === "unsubscribed") {
      this.#places.delete(channel);
      this.client.emit("unsubscribed", { channel, code: event.code, reason: event.reason });
    }
  }

  /** @param {Extract<ChannelEvent, {type: "subscribed"}>} event */
  #handleSubscribed({ channel, result, since }) {
    const place = this.#places.get(channel) ?? new Place();
    this.#places.set(channel, place);
    const { recovered, publications } = place.enter(result, since);
    for (const publication of publications) this.#hand(channel, publication, true);
    this.client.emit("subscribed", { channel, recovered, missed: publications.length, data: result.data });
  }

  /** @param {string} channel @param {import("./codec.js").WirePublication} publication @param {boolean} recovered */
  #hand(channel, publication, recovered) {
    this.client.emit("publication", { channel, ...toPublication(publication), recovered });
  }
}

// Runs scenarios in Node: node node.mjs '{"control": ..., "prefix": ..., "jobs": [[variant, scenario]]}'
// Prints one JSON object a line for each.

import { Centrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
import WebSocket from "ws";

import { run, runAll } from "./kit.mjs";
import * as scenarios from "./scenarios.mjs";

const AT_ONCE = 12; // two cores also run the server

const VARIANTS = {
  websocket: { transport: "websocket", isProtobuf: false },
  "websocket-protobuf": { transport: "websocket", isProtobuf: true },
  sse: { transport: "sse", isProtobuf: false },
  http_stream: { transport: "http_stream", isProtobuf: false },
  "http_stream-protobuf": { transport: "http_stream", isProtobuf: true },
};

const { control, prefix, jobs } = JSON.parse(process.argv[2]);
const todo = jobs.map(([name, scenario]) => () => {
  const variant = { name, ...VARIANTS[name] };
  const world = {
    control,
    prefix,
    Centrifuge: variant.isProtobuf ? ProtobufCentrifuge : Centrifuge,
    options: { websocket: WebSocket, eventsource: EventSource },
  };
  return run(variant, scenario, scenarios[scenario], world);
});
await runAll(todo, AT_ONCE, (result) => console.log(JSON.stringify(result)));
process.exit(0); // whatever a client left open

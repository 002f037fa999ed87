// What the Node clients share: where they go, how Node is set, and the line in which they say where they arrived and in
// how long. `node CLIENT.js HOST PORT on|off ORDER`: autoSelectFamily, and the order of `dns.lookup`.
"use strict";

const dns = require("node:dns");
const net = require("node:net");

const [host, port, selects, order] = process.argv.slice(2);
net.setDefaultAutoSelectFamily(selects === "on");
// A test that must not depend on how busy the machine is.
if (process.env.ATTEMPT_MS) net.setDefaultAutoSelectFamilyAttemptTimeout(Number(process.env.ATTEMPT_MS));
dns.setDefaultResultOrder(order);

const authority = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
let start;

// The libraries are loaded; from now on it counts.
function begin() {
  start = process.hrtime.bigint();
}

// The server says at which of its addresses it was reached.
function end(said) {
  console.log(said.trim(), Number(process.hrtime.bigint() - start) / 1e6);
  process.exit(0);
}

function fail(error) {
  const inner = error.cause ?? error;
  const errors = inner.errors ?? [inner];
  console.error(errors.map((each) => each.code ?? each.message).join(", "));
  process.exit(1);
}

process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);

module.exports = { host, port: Number(port), authority, begin, end };

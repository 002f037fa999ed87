// A chat bridge: joins each room by a WebSocket of its own, says hello, hears it again and leaves. It begins with a room every
// 20 ms, whatever became of the one before.
// Where the chat is, CHAT_URL says. At the end it writes what it went through, a JSON object in a line.
"use strict";
const net = require("node:net");
const WebSocket = require("ws");

// Off as up to Node 18; later ones try the addresses of a name in turn, each for 250 ms.
net.setDefaultAutoSelectFamily?.(process.env.HAPPY_EYEBALLS === "on");

const ROOMS = Number(process.env.ROOMS ?? 100);
const PACE_MS = 20;
const TIMEOUT_MS = Number(process.env.TIMEOUT_MS ?? 10_000);

function join(room) {
  const started = performance.now();
  return new Promise((resolve) => {
    const socket = new WebSocket(process.env.CHAT_URL, { handshakeTimeout: TIMEOUT_MS });
    const ended = (outcome) => resolve({ outcome, ms: performance.now() - started });
    socket.on("open", () => {
      ended("success");
      socket.send(`hello, room ${room}`);
    });
    socket.on("message", () => socket.close());
    socket.on("error", (error) => {
      ended(/timed out/.test(error.message) ? "timeout" : (error.code ?? error.message));
    });
  });
}

async function main() {
  const joining = [];
  for (let room = 0; room < ROOMS; room++) {
    joining.push(join(room));
    await new Promise((resolve) => setTimeout(resolve, PACE_MS));
  }
  const attempts = await Promise.all(joining);
  const count = (outcome) => attempts.filter((attempt) => attempt.outcome === outcome).length;
  const times = attempts.map((attempt) => attempt.ms);
  const [enetunreach, timeouts, successes] = ["ENETUNREACH", "timeout", "success"].map(count);
  console.log(
    JSON.stringify({
      attempts: attempts.length,
      enetunreach,
      timeouts,
      successes,
      others: attempts.length - enetunreach - timeouts - successes,
      mean_ms: times.reduce((sum, ms) => sum + ms, 0) / times.length,
      slowest_ms: Math.max(...times),
    }),
  );
}

main();

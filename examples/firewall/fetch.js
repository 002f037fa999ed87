// Fetches a page from one address of the name, as up to Node 18. Writes a JSON object in a line.
"use strict";
const http = require("node:http");

const timeout = Number(process.env.TIMEOUT ?? 30) * 1000;
const started = performance.now();

function end(outcome) {
  console.log(JSON.stringify({ ...outcome, ms: Math.round((performance.now() - started) * 10) / 10 }));
  process.exit("failed" in outcome ? 1 : 0);
}

const request = http.get(process.argv[2], { autoSelectFamily: false, timeout }, async (page) => {
  let fetched = 0;
  for await (const chunk of page) {
    fetched += chunk.length;
  }
  end({ fetched });
});
request.on("timeout", () => end({ failed: "timed out" }));
request.on("error", (error) => end({ failed: error.message }));

// ioredis, which is told not to try again.
"use strict";

const Redis = require("ioredis");
const { host, port, begin, end } = require("./arrival.js");

async function main() {
  begin();
  const redis = new Redis({ host, port, retryStrategy: null, connectTimeout: 0, lazyConnect: true });
  redis.on("error", (error) => {
    throw error;
  });
  await redis.connect();
  const information = await redis.client("INFO");
  end(information.match(/ laddr=(\S+):\d+/)[1]);
}

main();

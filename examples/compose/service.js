// A service that asks its database for each request. It looks the database up by itself and keeps the answer, so it asks
// DNS and not the C library, which would leave out what this machine cannot reach; and it takes IPv6 first.
"use strict";
const dns = require("node:dns").promises;
const http = require("node:http");
const { Client } = require("pg");

const database = new URL(process.env.DATABASE_URL);
let addresses;

async function lookup() {
  if (addresses === undefined) {
    const found = await Promise.allSettled([dns.resolve6(database.hostname), dns.resolve4(database.hostname)]);
    addresses = found.flatMap((answer) => answer.value ?? []);
  }
  return addresses[0];
}

async function ask() {
  const client = new Client({
    host: await lookup(),
    port: Number(database.port),
    user: database.username,
    database: database.pathname.slice(1),
    connectionTimeoutMillis: 10_000,
  });
  client.on("error", () => {});
  try {
    await client.connect();
    const answer = await client.query("select host(inet_server_addr()) as server");
    return { ok: true, server: answer.rows[0].server, remote: client.connection.stream.remoteAddress };
  } catch (error) {
    return { ok: false, code: error.code ?? null, message: error.message };
  } finally {
    await client.end().catch(() => {});
  }
}

http
  .createServer(async (request, response) => {
    const answer = { service: process.env.SERVICE, ...(await ask()) };
    response.writeHead(answer.ok ? 200 : 503, { "content-type": "application/json" });
    response.end(`${JSON.stringify(answer)}\n`);
  })
  .listen(8080, () => console.log("listening"));

process.on("SIGTERM", () => process.exit(0));

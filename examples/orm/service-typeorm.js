// An order desk on TypeORM. Its database is whatever DATABASE_URL says; it writes a JSON object a line to its log.
"use strict";
const net = require("node:net");
const { DataSource, EntitySchema } = require("typeorm");

// One address of a name, as up to Node 18. Later ones give each address 250 ms unless a service turns that off, as many do
// whose databases are further away.
net.setDefaultAutoSelectFamily?.(false);

const ATTEMPTS = Number(process.env.DATABASE_ATTEMPTS ?? 3);
const TIMEOUT_MS = Number(process.env.DATABASE_TIMEOUT_MS ?? 10_000);
const PAUSE_MS = 250;

const Order = new EntitySchema({
  name: "Order",
  tableName: "typeorm_orders",
  columns: {
    id: { type: Number, primary: true, generated: true },
    item: { type: String },
  },
});

function log(entry) {
  console.log(JSON.stringify({ time: new Date().toISOString(), ...entry }));
}

async function start(attempt) {
  const database = new DataSource({
    type: "postgres",
    url: process.env.DATABASE_URL,
    connectTimeoutMS: TIMEOUT_MS,
    synchronize: true,
    entities: [Order],
  });
  const started = performance.now();
  const ms = () => Math.round((performance.now() - started) * 10) / 10;
  try {
    await database.initialize();
  } catch (error) {
    log({ event: "failed", attempt, ms: ms(), code: error.code ?? null, message: error.message });
    return false;
  }
  const connected = ms();
  const orders = database.getRepository(Order);
  await orders.save({ item: "tea" });
  log({ event: "ready", attempt, ms: connected, orders: await orders.count() });
  await database.destroy();
  return true;
}

async function main() {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    if (await start(attempt)) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  log({ event: "gave up", attempt: ATTEMPTS });
  process.exitCode = 1;
}

main();

// TypeORM, which is told a URL.
"use strict";

const { DataSource } = require("typeorm");
const { authority, begin, end } = require("./arrival.js");

async function main() {
  begin();
  const source = new DataSource({ type: "postgres", url: `postgresql://app@${authority}/postgres` });
  await source.initialize();
  const rows = await source.query("select host(inet_server_addr()) as address");
  end(rows[0].address);
}

main();

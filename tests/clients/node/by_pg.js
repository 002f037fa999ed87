// pg.
"use strict";

const { Client } = require("pg");
const { authority, begin, end } = require("./arrival.js");

async function main() {
  begin();
  const client = new Client({ connectionString: `postgresql://app@${authority}/postgres` });
  await client.connect();
  const { rows } = await client.query("select host(inet_server_addr()) as address");
  end(rows[0].address);
}

main();

// Sequelize, which is told a URL.
"use strict";

const { Sequelize, QueryTypes } = require("sequelize");
const { authority, begin, end } = require("./arrival.js");

async function main() {
  begin();
  const sequelize = new Sequelize(`postgresql://app@${authority}/postgres`, { logging: false });
  const rows = await sequelize.query("select host(inet_server_addr()) as address", { type: QueryTypes.SELECT });
  end(rows[0].address);
}

main();

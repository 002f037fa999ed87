// node:net with a lookup of its own, as caching resolvers for Node are: it asks the nameserver by c-ares, not the C library,
// prefers IPv6, and gives the first answer only. What is no name is not looked up.
"use strict";

const dns = require("node:dns");
const net = require("node:net");
const { host, port, begin, end } = require("./arrival.js");

function lookup(name, options, callback) {
  const done = (address, family) =>
    options.all ? callback(null, [{ address, family }]) : callback(null, address, family);
  dns.resolve6(name, (error, addresses) => {
    if (!error) return done(addresses[0], 6);
    dns.resolve4(name, (error, addresses) => (error ? callback(error) : done(addresses[0], 4)));
  });
}

begin();
let said = "";
const socket = net.connect({ host, port, lookup }, () => socket.write("GET / HTTP/1.0\r\n\r\n"));
socket.setEncoding("utf8");
socket.on("data", (data) => (said += data));
socket.on("end", () => end(said.split("\r\n\r\n")[1]));

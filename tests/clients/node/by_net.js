// node:net.
"use strict";

const net = require("node:net");
const { host, port, begin, end } = require("./arrival.js");

begin();
let said = "";
const socket = net.connect({ host, port }, () => socket.write("GET / HTTP/1.0\r\n\r\n"));
socket.setEncoding("utf8");
socket.on("data", (data) => (said += data));
socket.on("end", () => end(said.split("\r\n\r\n")[1]));

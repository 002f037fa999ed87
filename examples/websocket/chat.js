// The chat that the bridge joins: says again what it hears. Listens where LISTEN says.
"use strict";
const { WebSocketServer } = require("ws");

const [host, port] = process.env.LISTEN.split(":");
const server = new WebSocketServer({ host, port: Number(port) }, () => console.log("listening"));
server.on("connection", (socket) => {
  socket.on("message", (message) => socket.send(message.toString()));
  socket.on("error", (error) => console.error(error.message));
});

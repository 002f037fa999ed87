// ws. The server greets whoever opens a WebSocket.
"use strict";

const { WebSocket } = require("ws");
const { authority, begin, end } = require("./arrival.js");

begin();
new WebSocket(`ws://${authority}/`).on("message", (data) => end(data.toString()));

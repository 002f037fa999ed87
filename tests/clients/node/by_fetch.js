// fetch, which is undici.
"use strict";

const { authority, begin, end } = require("./arrival.js");

begin();
fetch(`http://${authority}/`).then(async (answer) => end(await answer.text()));

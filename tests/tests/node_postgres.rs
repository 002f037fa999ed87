//! A Node program that was given a database by a URL with an IPv6 address in it, for a PostgreSQL server that listens by
//! IPv4 only: there is nothing to fall back to, and a redirect makes it work.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, net::SocketAddr, path::PathBuf};

use enforcer_tests::{
    cgroup::CgroupFixture,
    enforcer::Enforcer,
    need::{Need, need},
    netns::NetnsFixture,
    place::Place,
    postgres::Postgres,
    process::{Finished, Running},
    wait::PATIENCE,
};
use serde_json::{Value, json};

/// Nobody here has an address in it, and no route leads to it.
const PREFIX: &str = "2001:db8:3::/48";
const FAR: &str = "2001:db8:3::5";
/// Where the server listens.
const NEAR: &str = "192.0.2.1";
/// PostgreSQL's own: the network namespace is the test's.
const PORT: u16 = 5432;

/// Speaks PostgreSQL's protocol by itself (version 3, "Message Formats" in PostgreSQL's manual): what a driver would add
/// says nothing about connects. Asks the server where the connection arrived.
const PROGRAM: &str = r#"
const net = require("node:net");

net.setDefaultAutoSelectFamily(false);
const url = new URL(process.argv[2]);
const socket = net.connect({ host: url.hostname.slice(1, -1), port: Number(url.port) });

function message(type, body) {
  const length = Buffer.alloc(4);
  length.writeInt32BE(body.length + 4);
  return Buffer.concat([Buffer.from(type), length, body]);
}

function end(said) {
  console.log(JSON.stringify(said));
  socket.destroy();
}

const rows = [];
function hear(type, body) {
  if (type === "E") {
    end({ refused: body.toString() });
  } else if (type === "D") {
    // The number of columns, and of each its length and text.
    const length = body.readInt32BE(2);
    rows.push(body.toString("utf8", 6, 6 + length));
  } else if (type === "Z" && rows.length === 0) {
    const question = "select host(inet_server_addr()) || ' ' || current_database()\0";
    socket.write(message("Q", Buffer.from(question)));
  } else if (type === "Z") {
    end({ rows, remoteAddress: socket.remoteAddress, remotePort: socket.remotePort, family: socket.remoteFamily });
  }
}

let heard = Buffer.alloc(0);
socket.on("data", (data) => {
  heard = Buffer.concat([heard, data]);
  while (heard.length >= 5 && heard.length >= 1 + heard.readInt32BE(1)) {
    const length = heard.readInt32BE(1);
    hear(heard.toString("latin1", 0, 1), heard.subarray(5, 1 + length));
    heard = heard.subarray(1 + length);
  }
});
socket.on("error", (error) => end({ code: error.code, address: error.address }));
socket.on("connect", () => {
  const version = Buffer.from([0, 3, 0, 0]);
  const database = url.pathname.slice(1);
  socket.write(message("", Buffer.concat([version, Buffer.from(`user\0${url.username}\0database\0${database}\0\0`)])));
});
"#;

/// What the program came to, in the workload's place.
fn node(place: &Place<'_>, program: &PathBuf, url: &str) -> Value {
    let mut command = place.command("node").unwrap();
    // What a person has set for every program may change how it connects.
    command.env_remove("NODE_OPTIONS").arg(program).arg(url);
    let finished: Finished = Running::start(command).unwrap().finish(PATIENCE * 3).unwrap();
    assert!(finished.status.success(), "{finished:?}");
    serde_json::from_str(&finished.stdout.concat()).unwrap()
}

#[test]
fn node_reaches_a_postgresql_server_on_ipv4_by_an_ipv6_url() {
    let test = "node_reaches_a_postgresql_server_on_ipv4_by_an_ipv6_url";
    if !need(test, Need::Node) || !need(test, Need::Postgres) {
        return;
    }
    let netns = NetnsFixture::new().unwrap();
    let near: SocketAddr = format!("{NEAR}:{PORT}").parse().unwrap();
    netns.add_local([near.ip()]).unwrap();
    let cgroup = CgroupFixture::new("test-node-postgres").unwrap();
    let _server = Postgres::start(&netns, &[near]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("client.js");
    fs::write(&program, PROGRAM).unwrap();
    let place = Place::new(&cgroup, &netns);
    let url = |host: &str| format!("postgresql://app@{host}:{PORT}/postgres");
    let far = url(&format!("[{FAR}]"));
    let unreachable = json!({"code": "ENETUNREACH", "address": FAR});
    assert_eq!(node(&place, &program, &far), unreachable, "before");

    let rule = format!("{PREFIX}={NEAR}");
    let path = cgroup.relative_path();
    let arguments = ["--output", "json", "--redirect", &rule, "--cgroup", &path];
    let enforcer = Enforcer::run(&Place::outside(&netns), arguments).unwrap();
    assert_eq!(
        node(&place, &program, &far),
        json!({
            "rows": [format!("{NEAR} postgres")],
            "remoteAddress": FAR,
            "remotePort": PORT,
            "family": "IPv6",
        })
    );
    let events = enforcer.wait_for_events(1).unwrap();
    assert_eq!(events[0]["verdict"], "redirect", "{}", events[0]);
    assert_eq!(events[0]["daddr"], FAR, "{}", events[0]);
    assert_eq!(events[0]["dport"], PORT, "{}", events[0]);
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));

    assert_eq!(node(&place, &program, &far), unreachable, "after");
}

//! A Node program that was given a database by a URL with an IPv6 address in it, for a PostgreSQL server that listens by
//! IPv4 only: there is nothing to fall back to, and a redirect makes it work.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    path::PathBuf,
    process::Command,
};

use enforcer_tests::{
    cgroup::CgroupFixture,
    enforcer::Enforcer,
    need::{Need, need, postgres_programs},
    netns::NetnsFixture,
    place::Place,
    process::{Finished, Running, Stream},
    wait::PATIENCE,
};
use rustix::{
    process::{Gid, Signal, Uid},
    thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe},
};
use serde_json::{Value, json};
use tempfile::TempDir;

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

/// A user that owns nothing: the server refuses to be root.
const NOBODY: u32 = 65534;

/// Makes the program one of [`NOBODY`]'s, once it is where it belongs. What it shares with others by System V's means is
/// gone with it, however it ends.
fn as_nobody(command: &mut Command) {
    let become_nobody = || -> io::Result<()> {
        // SAFETY: after fork there is one thread, and no System V semaphore of the test's is in use.
        unsafe { unshare_unsafe(UnshareFlags::NEWIPC) }?;
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        Ok(set_thread_res_uid(user, user, user)?)
    };
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe { command.pre_exec(become_nobody) };
}

/// A PostgreSQL server with an empty database. It ends, and its files go, on drop.
struct Postgres {
    process: Option<Running>,
    _folder: TempDir,
}

impl Postgres {
    /// Starts one that listens there only.
    fn start(netns: &NetnsFixture) -> Self {
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let data = folder.path().join("data");
        let programs = postgres_programs().unwrap();
        let command = |program: &str| {
            let mut command = Place::outside(netns).command(programs.join(program)).unwrap();
            as_nobody(&mut command);
            command
                .current_dir(folder.path())
                .env("LC_ALL", "C")
                .arg("-D")
                .arg(&data);
            command
        };
        let mut initdb = command("initdb");
        initdb.args([
            "--auth=trust",
            "--username=app",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        let made = Running::start(initdb).unwrap().finish(PATIENCE * 3).unwrap();
        assert!(made.status.success(), "{made:?}");
        let access = data.join("pg_hba.conf");
        fs::write(&access, format!("host all all {NEAR}/32 trust\n")).unwrap();

        let mut postgres = command("postgres");
        for setting in [
            format!("listen_addresses={NEAR}"),
            format!("port={PORT}"),
            // Only the network is of interest.
            "unix_socket_directories=".to_owned(),
            "fsync=off".to_owned(),
        ] {
            postgres.args(["-c", &setting]);
        }
        let process = Running::start(postgres).unwrap();
        let is_ready = |line: &str| line.contains("database system is ready to accept connections");
        process.wait_for_line(Stream::Stderr, PATIENCE, is_ready).unwrap();
        Self {
            process: Some(process),
            _folder: folder,
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The server's own children end with it: the quick way to shut down, which disconnects clients. Where it
            // has ended by itself, or does not heed that, it is killed, and they notice.
            let _ended_before = process.signal(Signal::INT);
            let _killed = process.finish(PATIENCE);
        }
    }
}

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
    let _server = Postgres::start(&netns);
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

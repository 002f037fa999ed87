//! [`Postgres`]: a real PostgreSQL server, of the distribution's packages, with an empty database.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    process::Command,
};

use anyhow::{Context as _, Result};
use rustix::{
    process::{Gid, Signal, Uid},
    thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe},
};
use tempfile::TempDir;

use crate::{
    need::postgres_programs,
    netns::NetnsFixture,
    place::Place,
    process::{Running, Stream},
    wait::PATIENCE,
};

/// The user that its clients are to be, without a password.
pub const USER: &str = "app";

/// The database that it has.
pub const DATABASE: &str = "postgres";

/// A user that owns nothing: the server refuses to be root.
const NOBODY: u32 = 65534;

/// A running server. It ends, and its files go, on drop.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Running>,
    _folder: TempDir,
}

impl Postgres {
    /// Starts one in that namespace that listens at these addresses only, which have one port, and waits until it accepts
    /// connections.
    ///
    /// # Errors
    ///
    /// When no package has brought the programs, or they say no.
    pub fn start(netns: &NetnsFixture, listening: &[SocketAddr]) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a directory for PostgreSQL")?;
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).context("give PostgreSQL its directory")?;
        let data = folder.path().join("data");
        let programs = postgres_programs().context("find PostgreSQL's programs")?;
        let command = |program: &str| -> Result<Command> {
            let mut command = Place::outside(netns).command(programs.join(program))?;
            as_nobody(&mut command);
            command
                .current_dir(folder.path())
                .env("LC_ALL", "C")
                .arg("-D")
                .arg(&data);
            Ok(command)
        };
        let mut initdb = command("initdb")?;
        initdb.args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        initdb.arg(format!("--username={USER}"));
        let made = Running::start(initdb)?.finish(PATIENCE * 3)?;
        anyhow::ensure!(
            made.status.success(),
            "make a database: {}",
            made.stderr.join(" | ")
        );
        // Whoever reaches it is let in: it can be reached from the test's own namespaces only.
        let access = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
        fs::write(data.join("pg_hba.conf"), access).context("let clients in")?;

        let addresses: Vec<_> = listening.iter().map(|address| address.ip().to_string()).collect();
        let port = listening.first().context("PostgreSQL needs an address")?.port();
        let mut postgres = command("postgres")?;
        for setting in [
            format!("listen_addresses={}", addresses.join(",")),
            format!("port={port}"),
            // Only the network is of interest.
            "unix_socket_directories=".to_owned(),
            "fsync=off".to_owned(),
        ] {
            postgres.args(["-c", &setting]);
        }
        let server = Self {
            process: Some(Running::start(postgres)?),
            _folder: folder,
        };
        let is_ready = |line: &str| line.contains("database system is ready to accept connections");
        if let Some(process) = &server.process {
            process.wait_for_line(Stream::Stderr, PATIENCE, is_ready)?;
        }
        Ok(server)
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

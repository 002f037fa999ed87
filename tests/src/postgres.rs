//! [`Postgres`]: a real PostgreSQL server, of the distribution's packages, with an empty database.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
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

/// The port that its clients expect.
pub const PORT: u16 = 5432;

/// The user that its clients are to be, without a password.
pub const USER: &str = "app";

/// The database that it has.
pub const DATABASE: &str = "postgres";

/// The URL of a database at that host.
#[must_use]
pub fn url(host: &str) -> String {
    format!("postgresql://{USER}@{host}:{PORT}/{DATABASE}")
}

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
        let folder = nobodys_folder().context("make a directory for PostgreSQL")?;
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
            "log_connections=on".to_owned(),
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

    /// Ends it, and says where each connection came from that it has had, in order.
    ///
    /// # Errors
    ///
    /// When it has ended before, or does not end in time.
    pub fn finish(mut self) -> Result<Vec<IpAddr>> {
        let mut process = self.process.take().context("end PostgreSQL: it has ended")?;
        process.signal(Signal::INT)?;
        let finished = process.finish(PATIENCE)?;
        Ok(finished
            .stderr
            .iter()
            .filter_map(|line| came_from(line))
            .collect())
    }
}

/// `… LOG:  connection received: host=192.0.2.2 port=41234`
fn came_from(line: &str) -> Option<IpAddr> {
    let (_, rest) = line.split_once("connection received: host=")?;
    rest.split(' ').next()?.parse().ok()
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

/// A directory that is [`NOBODY`]'s.
pub(crate) fn nobodys_folder() -> Result<TempDir> {
    let folder = tempfile::tempdir().context("make a directory")?;
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).context("give a directory to nobody")?;
    Ok(folder)
}

/// Makes the program one of [`NOBODY`]'s, once it is where it belongs. What it shares with others by System V's means is
/// gone with it, however it ends.
pub(crate) fn as_nobody(command: &mut Command) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_by_where_it_came_from() {
        let line = "2026-01-01 00:00:00.000 UTC [7] LOG:  connection received: host=192.0.2.2 port=4242";
        assert_eq!(came_from(line), Some(IpAddr::from([192, 0, 2, 2])));
        let line = "2026-01-01 00:00:00.000 UTC [7] LOG:  connection authorized: user=app database=postgres";
        assert_eq!(came_from(line), None);
    }
}

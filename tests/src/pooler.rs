//! [`Pooler`]: a real pgbouncer, of the distribution's packages, before a database.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    netns::NetnsFixture,
    place::Place,
    postgres::{DATABASE, USER, as_nobody, nobodys_folder},
    process::{Running, Stream},
    wait::PATIENCE,
};

/// The port that its clients expect.
pub const PORT: u16 = 6432;

/// A running pooler. Killed, and its files gone, on drop.
#[derive(Debug)]
pub struct Pooler {
    process: Running,
    _folder: TempDir,
}

impl Pooler {
    /// Starts one that listens at that address, at [`PORT`], for the database at `server`, and waits until it does.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not come up in time. Says what it said.
    pub fn start(netns: &NetnsFixture, at: IpAddr, server: SocketAddr) -> Result<Self> {
        let folder = nobodys_folder().context("make a directory for pgbouncer")?;
        let configuration = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{DATABASE} = host={} port={} dbname={DATABASE} user={USER}\n\
             [pgbouncer]\nlisten_addr = {at}\nlisten_port = {PORT}\nauth_type = any\n\
             unix_socket_dir =\nignore_startup_parameters = extra_float_digits\n",
            server.ip(),
            server.port()
        );
        fs::write(&configuration, text).with_context(|| format!("write {}", configuration.display()))?;
        let mut command = Place::outside(netns).command("pgbouncer")?;
        as_nobody(&mut command);
        command.current_dir(folder.path()).arg(&configuration);
        let process = Running::start(command)?;
        process.wait_for_line(Stream::Stderr, PATIENCE, |line| line.contains("process up"))?;
        Ok(Self {
            process,
            _folder: folder,
        })
    }

    /// Ends it, and says where each connection came from that it has had, in order.
    ///
    /// # Errors
    ///
    /// When it has ended before, or does not end in time.
    pub fn finish(self) -> Result<Vec<IpAddr>> {
        let mut process = self.process;
        // At once, whoever is connected.
        process.signal(Signal::TERM)?;
        let finished = process.finish(PATIENCE)?;
        Ok(finished
            .stderr
            .iter()
            .filter_map(|line| came_from(line))
            .collect())
    }
}

/// `… LOG C-0x5581…: postgres/app@192.0.2.2:41234 login attempt: db=postgres user=app tls=no`
fn came_from(line: &str) -> Option<IpAddr> {
    let (client, _) = line.split_once(" login attempt: ")?;
    let (_, from) = client.rsplit_once('@')?;
    Some(from.parse::<SocketAddr>().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_by_where_it_came_from() {
        let line = "2026-01-01 00:00:00.000 UTC [7] LOG C-0x5581: postgres/app@192.0.2.2:4242 login attempt: db=postgres";
        assert_eq!(came_from(line), Some(IpAddr::from([192, 0, 2, 2])));
        let line = "2026-01-01 00:00:00.000 UTC [7] LOG C-0x5581: postgres/app@192.0.2.2:4242 closing because: ended";
        assert_eq!(came_from(line), None);
    }
}

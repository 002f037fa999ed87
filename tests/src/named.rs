//! [`Named`]: a workload whose server has many addresses of both families, a nameserver that says which of them a name
//! has, and enforcer with a policy file about names.
//!
//! Ungoverned, every connect succeeds and arrives at the address that was asked for. So one that fails was rejected, and
//! one that arrived elsewhere was redirected.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    lab::Nameserver,
    netns::NetnsFixture,
    place::Place,
    process::Stream,
    protocol::{Answer, Connect, SocketKind},
    server::Server,
    wait::{PATIENCE, eventually},
};

/// The addresses that the server has by IPv6: three in one /48, and one outside of it.
pub const IPV6: [&str; 4] = ["2001:db8:a::1", "2001:db8:a::2", "2001:db8:a::3", "2001:db8:b::1"];

/// The addresses that it has by IPv4 (RFC 5737).
pub const IPV4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

/// Where the nameserver is.
pub const NAMESERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));

/// The shortest TTL that counts, in seconds: what is said with it is asked again soon.
const SHORT: u32 = 5;

/// What a connect tries to say, and hears again.
const WORD: &str = "hello";

/// A workload with a server and a nameserver. Fields are dropped in order: nobody serves, and then the places go.
#[derive(Debug)]
pub struct Named {
    /// What listens at all addresses, with one port.
    pub server: Server,
    /// The workload's cgroup.
    pub cgroup: CgroupFixture,
    /// Where all of it happens.
    pub netns: NetnsFixture,
    folder: TempDir,
}

impl Named {
    /// Makes one, without a nameserver yet. `what` is part of the cgroup's name.
    ///
    /// # Errors
    ///
    /// When a part of it cannot be made.
    pub fn new(what: &str) -> Result<Self> {
        let netns = NetnsFixture::new()?;
        netns.add_local([NAMESERVER])?;
        let mut addresses = Vec::new();
        for text in IPV6.into_iter().chain(IPV4) {
            let address: IpAddr = text.parse().context("understand an address of the fixture")?;
            netns.add_local([address])?;
            addresses.push(SocketAddr::new(address, 0));
        }
        let folder = tempfile::tempdir().context("make a directory")?;
        let resolv_conf = format!("nameserver {NAMESERVER}\noptions timeout:1 attempts:1\n");
        fs::write(folder.path().join("resolv.conf"), resolv_conf).context("write a resolv.conf")?;
        Ok(Self {
            server: Server::echo(&netns, addresses)?,
            cgroup: CgroupFixture::new(&format!("test-{what}"))?,
            netns,
            folder,
        })
    }

    /// A nameserver that says that.
    ///
    /// # Errors
    ///
    /// When there is one already, or a name or an address is none.
    pub fn nameserver(&self, records: &[(&str, &str)]) -> Result<Nameserver> {
        let nameserver = Nameserver::start(&self.netns, NAMESERVER, [])?;
        set(&nameserver, records)?;
        Ok(nameserver)
    }

    /// A directory of this fixture's own.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The port that the server has at all its addresses.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address().port()
    }

    /// Writes a policy file, and says what a verb needs to be told of it and of the surroundings.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn arguments(&self, policy: &str) -> Result<Vec<String>> {
        let path = |name: &str| self.folder().join(name).to_string_lossy().into_owned();
        fs::write(path("policy.toml"), format!("version = 1\n{policy}")).context("write a policy file")?;
        Ok(vec![
            "--policy".to_owned(),
            path("policy.toml"),
            "--resolv-conf".to_owned(),
            path("resolv.conf"),
            "--state-dir".to_owned(),
            path("state"),
        ])
    }

    /// Starts `enforcer run` on the workload's cgroup with those rules, and waits until it governs.
    ///
    /// # Errors
    ///
    /// As [`Enforcer::run`].
    pub fn govern(&self, policy: &str) -> Result<Enforcer> {
        let mut arguments = self.arguments(policy)?;
        arguments.extend(["--cgroup".to_owned(), self.cgroup.relative_path()]);
        self.run(&arguments)
    }

    /// Starts `enforcer run` in the network namespace, outside the cgroup, and waits until it governs.
    ///
    /// # Errors
    ///
    /// As [`Enforcer::run`].
    pub fn run(&self, arguments: &[String]) -> Result<Enforcer> {
        Enforcer::run(&Place::outside(&self.netns), arguments)
    }

    /// A client in the workload's cgroup.
    ///
    /// # Errors
    ///
    /// As [`Client::start`].
    pub fn client(&self) -> Result<Client> {
        Client::start(&Place::new(&self.cgroup, &self.netns))
    }

    /// A connect to that address of the server.
    ///
    /// # Errors
    ///
    /// When it is no address.
    pub fn connect(&self, address: &str) -> Result<Connect> {
        let ip = address
            .parse()
            .with_context(|| format!("understand address {address}"))?;
        Ok(Connect {
            send: Some(WORD.to_owned()),
            ..Connect::new(SocketKind::Tcp, SocketAddr::new(ip, self.port()))
        })
    }

    /// Connects to that address of the server: at which of its addresses that arrived, or else the errno. Fails when the
    /// client sees another peer than the one it asked for.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn arrives(&self, client: &mut Client, address: &str) -> Result<String> {
        let connect = self.connect(address)?;
        let to = connect.to;
        let answer = client.connect(connect)?;
        if answer.ok {
            anyhow::ensure!(
                answer.peer == Some(to) && answer.received.as_deref() == Some(WORD),
                "connect to {to}: {answer:?}"
            );
        }
        self.arrived(&answer)
    }

    /// At which of the server's addresses the connect of that answer arrived, or else the errno.
    ///
    /// # Errors
    ///
    /// When it arrived nowhere.
    pub fn arrived(&self, answer: &Answer) -> Result<String> {
        if !answer.ok {
            return Ok(answer.outcome());
        }
        let port = answer.local.context("a connected socket has an address")?.port();
        let accepted = self.server.accepted();
        let accepted = accepted
            .iter()
            .rev()
            .find(|accepted| accepted.from.port() == port);
        let at = accepted
            .with_context(|| format!("{answer:?} arrived nowhere"))?
            .at;
        Ok(at.ip().to_string())
    }

    /// Connects until that arrives there, or ends in that errno.
    ///
    /// # Errors
    ///
    /// When it does not in time.
    pub fn eventually_arrives(&self, client: &mut Client, address: &str, at: &str) -> Result<()> {
        let what = format!("connects to {address} to arrive at {at}");
        eventually(&what, PATIENCE, || {
            self.arrives(client, address).is_ok_and(|arrived| arrived == at)
        })
    }

    /// Fails unless connects to all addresses arrive there, as they do where nobody governs.
    ///
    /// # Errors
    ///
    /// Says which does not.
    pub fn untouched(&self, client: &mut Client) -> Result<()> {
        for address in IPV6.into_iter().chain(IPV4) {
            let arrived = self.arrives(client, address)?;
            anyhow::ensure!(arrived == address, "connect to {address}: {arrived}");
        }
        Ok(())
    }
}

/// From now on the nameserver says that, and that it may be remembered for the shortest time that counts.
///
/// # Errors
///
/// When a name or an address is none.
pub fn set(nameserver: &Nameserver, records: &[(&str, &str)]) -> Result<()> {
    let records = records.iter().map(|(name, address)| {
        let parsed = address.parse::<IpAddr>();
        parsed
            .map(|parsed| (*name, parsed))
            .with_context(|| format!("understand address {address}"))
    });
    nameserver.set(SHORT, records.collect::<Result<Vec<_>>>()?)
}

/// Waits until enforcer has said a line with that in it, and returns it.
///
/// # Errors
///
/// When it does not in time.
pub fn said(enforcer: &Enforcer, part: &str) -> Result<String> {
    enforcer.wait_for_line(Stream::Stderr, PATIENCE, |line| line.contains(part))
}

/// Ends enforcer and returns what it said.
///
/// # Errors
///
/// When it does not end in time, or fails.
pub fn ended(enforcer: Enforcer) -> Result<Vec<String>> {
    let finished = enforcer.terminate()?;
    anyhow::ensure!(finished.status.code() == Some(0), "{finished:?}");
    Ok(finished.stderr)
}

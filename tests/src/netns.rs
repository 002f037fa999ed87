//! [`NetnsFixture`]: a network namespace of our own, held by a descriptor and by nothing else.
//!
//! It has no name in `/run/netns`, so nothing of it can be left behind: it is gone with the fixture and the
//! processes in it, however they end. Addresses and routes go through rtnetlink, so that a guest with nothing
//! but the test binaries can run them, and `/sys` stays as it was, with the cgroup tree in it.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    panic, thread,
};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::Ipv6Net;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressHeaderFlags,
        link::{LinkAttribute, State},
        route::{RouteScope, RouteType},
    },
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::wait::{PATIENCE, eventually};

/// The loopback interface, in every namespace.
pub const LOOPBACK: &str = "lo";

/// What becomes of a packet that a route takes out of this world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadEnd {
    /// Nothing: it vanishes.
    BlackHole,
    /// Its sender is told that there is no route (ICMPv6 type 1, code 0).
    Unreachable,
    /// Its sender is told that an administrator prohibits it (ICMPv6 type 1, code 1).
    Prohibit,
}

/// A network namespace with loopback up and nothing else in it.
#[derive(Debug)]
pub struct NetnsFixture {
    handle: OwnedFd,
}

impl NetnsFixture {
    /// Makes a namespace and sets its loopback interface up.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be made (CAP_SYS_ADMIN) or loopback not set up.
    pub fn new() -> Result<Self> {
        let handle = on_a_thread(|| {
            // SAFETY: of what unshare can take apart, the flag takes the network namespace of this thread
            // only; no descriptor or memory is affected, and the thread ends with this closure.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("make a network namespace")?;
            let path = "/proc/thread-self/ns/net";
            File::open(path).with_context(|| format!("open {path}"))
        })?;
        let netns = Self {
            handle: handle.into(),
        };
        netns.set_up(LOOPBACK)?;
        Ok(netns)
    }

    /// The namespace that a process is in.
    ///
    /// # Errors
    ///
    /// When there is no such process, or its loopback interface cannot be set up.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        let handle = File::open(&path).with_context(|| format!("open {path}"))?;
        let netns = Self {
            handle: handle.into(),
        };
        netns.set_up(LOOPBACK)?;
        Ok(netns)
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay in the namespace.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, or what `work` returns. A panic in `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            enter(self.handle.as_fd()).context("enter the network namespace")?;
            work()
        })
    }

    /// Adds an address to an interface that is up. It is usable when this returns.
    ///
    /// On [`LOOPBACK`] with a full prefix length, any address at all becomes one that a server here can listen
    /// on and a client here can reach.
    ///
    /// # Errors
    ///
    /// When there is no such interface or the address is there already, or does not become usable in time.
    pub fn add_address(&self, interface: &str, address: IpAddr, prefix_len: u8) -> Result<()> {
        self.configure(
            format_args!("add address {address}/{prefix_len} to {interface}"),
            async |handle| {
                let index = interface_index(interface)?;
                let mut request = handle.address().add(index, address, prefix_len);
                if address.is_ipv6() {
                    request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
                }
                Ok(request.execute().await?)
            },
        )?;
        match address {
            IpAddr::V4(_) => Ok(()),
            // The kernel answers before it has made the address's local route, also without duplicate address
            // detection: that is left to a work queue.
            IpAddr::V6(address) => {
                self.run(|| eventually(&format!("{address} to be usable"), PATIENCE, || is_local(address)))
            }
        }
    }

    /// Adds addresses to [`LOOPBACK`], each with its full prefix length.
    ///
    /// # Errors
    ///
    /// As [`add_address`](Self::add_address).
    pub fn add_local(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
        addresses.into_iter().try_for_each(|address| {
            self.add_address(LOOPBACK, address, if address.is_ipv6() { 128 } else { 32 })
        })
    }

    /// Sets an interface up.
    ///
    /// # Errors
    ///
    /// When there is no such interface.
    pub fn set_up(&self, interface: &str) -> Result<()> {
        self.configure(format_args!("set {interface} up"), async |handle| {
            let index = interface_index(interface)?;
            let change = LinkUnspec::new_with_index(index).up().build();
            Ok(handle.link().set(change).execute().await?)
        })
    }

    /// Adds a route to `prefix`, through `gateway` or, without one, to whoever is on the link.
    ///
    /// # Errors
    ///
    /// When families differ, there is no such interface, or the route is there already.
    pub fn add_route(
        &self,
        prefix: impl Into<ipnet::IpNet>,
        interface: &str,
        gateway: Option<IpAddr>,
    ) -> Result<()> {
        let prefix = prefix.into();
        self.configure(
            format_args!("add route {prefix} through {interface}"),
            async |handle| {
                let mut route = RouteMessageBuilder::<IpAddr>::new()
                    .destination_prefix(prefix.addr(), prefix.prefix_len())?
                    .output_interface(interface_index(interface)?);
                route = match gateway {
                    Some(gateway) => route.gateway(gateway)?,
                    None => route.scope(RouteScope::Link),
                };
                Ok(handle.route().add(route.build()).execute().await?)
            },
        )
    }

    /// Adds a route that leads nowhere.
    ///
    /// # Errors
    ///
    /// When there is a route to that prefix already.
    pub fn add_dead_end(&self, prefix: Ipv6Net, end: DeadEnd) -> Result<()> {
        self.configure(format_args!("add {end:?} route to {prefix}"), async |handle| {
            let kind = match end {
                DeadEnd::BlackHole => RouteType::BlackHole,
                DeadEnd::Unreachable => RouteType::Unreachable,
                DeadEnd::Prohibit => RouteType::Prohibit,
            };
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(prefix.addr(), prefix.prefix_len())
                .kind(kind);
            Ok(handle.route().add(route.build()).execute().await?)
        })
    }

    /// Joins this namespace and another by a virtual cable, `here` on this end and `there` on the other. Both
    /// ends are up, and carry what is sent.
    ///
    /// # Errors
    ///
    /// When the kernel has no veth, or one of the names is taken.
    pub fn add_cable(&self, here: &str, other: &Self, there: &str) -> Result<()> {
        self.configure(format_args!("add veth pair {here}, {there}"), async |handle| {
            handle
                .link()
                .add(LinkVeth::new(here, there).build())
                .execute()
                .await?;
            let index = interface_index(there)?;
            let change = LinkUnspec::new_with_index(index)
                .setns_by_fd(other.handle.as_raw_fd())
                .build();
            Ok(handle.link().set(change).execute().await?)
        })?;
        self.set_up(here)?;
        other.set_up(there)?;
        self.wait_until_up(here)?;
        other.wait_until_up(there)
    }

    /// Waits until an interface that was set up carries what is sent: until a work queue of the kernel's has
    /// noticed the other end of its cable, it drops everything.
    fn wait_until_up(&self, interface: &str) -> Result<()> {
        eventually(&format!("{interface} to be up"), PATIENCE, || {
            let mut state = None;
            self.configure(format_args!("look at {interface}"), async |handle| {
                let links = handle.link().get().match_name(interface.to_owned()).execute();
                let link = links.try_collect::<Vec<_>>().await?.pop();
                state = link.and_then(|link| {
                    link.attributes.into_iter().find_map(|attribute| match attribute {
                        LinkAttribute::OperState(state) => Some(state),
                        _ => None,
                    })
                });
                Ok(())
            })
            .map(|()| state == Some(State::Up))
            .unwrap_or(false)
        })
    }

    /// Writes a setting of this namespace: `name` is a path below `/proc/sys/net`.
    ///
    /// # Errors
    ///
    /// When the kernel has no such setting or refuses the value.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| {
            let path = format!("/proc/sys/net/{name}");
            fs::write(&path, value).with_context(|| format!("write {value:?} to {path}"))
        })
    }

    /// Reads a setting of this namespace: `name` is a path below `/proc/sys/net`.
    ///
    /// # Errors
    ///
    /// When the kernel has no such setting.
    pub fn get(&self, name: &str) -> Result<String> {
        self.run(|| {
            let path = format!("/proc/sys/net/{name}");
            let value = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            Ok(value.trim_end().to_owned())
        })
    }

    /// How many TCP connections have been begun here, by either family: each is a socket that has sent a SYN.
    ///
    /// # Errors
    ///
    /// When the kernel's counters cannot be read or understood.
    pub fn tcp_connects(&self) -> Result<u64> {
        self.run(|| {
            // One line of names and one of numbers for each protocol (RFC 4022: tcpActiveOpens).
            let path = "/proc/thread-self/net/snmp";
            let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
            let mut lines = text.lines().filter(|line| line.starts_with("Tcp: "));
            let mut words = || lines.next().unwrap_or_default().split_whitespace();
            let found = words().zip(words()).find(|(name, _)| *name == "ActiveOpens");
            let (_, count) = found.with_context(|| format!("find ActiveOpens in {path}"))?;
            count
                .parse()
                .with_context(|| format!("understand {count:?} in {path}"))
        })
    }

    /// The namespace's descriptor, for a process about to start.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd> {
        self.handle
            .try_clone()
            .context("duplicate the descriptor of a network namespace")
    }

    /// Runs one conversation with rtnetlink inside the namespace.
    fn configure(
        &self,
        what: std::fmt::Arguments<'_>,
        work: impl AsyncFnOnce(Handle) -> Result<()> + Send,
    ) -> Result<()> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .context("start the runtime of rtnetlink")?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().context("connect to rtnetlink")?;
                let conversation = tokio::spawn(connection);
                let done = work(handle).await;
                conversation.abort();
                done
            })
        })
        .with_context(|| what.to_string())
    }
}

/// Moves the calling thread into a network namespace. Makes one system call and nothing else, so it may be used
/// between fork and exec.
pub(crate) fn enter(netns: BorrowedFd<'_>) -> std::io::Result<()> {
    Ok(move_into_link_name_space(
        netns,
        Some(LinkNameSpaceType::Network),
    )?)
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panicked) => panic::resume_unwind(panicked),
    })
}

/// Whether the calling thread's namespace has the local route of an address; by then it is no longer tentative.
fn is_local(address: Ipv6Addr) -> bool {
    // `include/uapi/linux/ipv6_route.h`
    const RTF_LOCAL: u32 = 0x8000_0000;
    // Destination, its length, source, its length, next hop, metric, references, uses, flags, interface
    // (`net/ipv6/route.c`, `rt6_info_route`); all hexadecimal.
    let wanted = format!("{:032x}", address.to_bits());
    fs::read_to_string("/proc/thread-self/net/ipv6_route").is_ok_and(|routes| {
        routes.lines().any(|route| {
            let fields: Vec<_> = route.split_whitespace().collect();
            let flags = fields
                .get(8)
                .and_then(|flags| u32::from_str_radix(flags, 16).ok());
            fields[..2.min(fields.len())] == [wanted.as_str(), "80"]
                && flags.is_some_and(|flags| flags & RTF_LOCAL != 0)
        })
    })
}

/// Index of an interface in the calling thread's namespace.
fn interface_index(interface: &str) -> Result<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).context("make a socket")?;
    name_to_index(&socket, interface).with_context(|| format!("find interface {interface}"))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_address_added_to_loopback_can_be_served_and_reached_at_once() {
        let netns = NetnsFixture::new().unwrap();
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        netns.add_local([address]).unwrap();
        netns
            .run(|| {
                let listener = TcpListener::bind((address, 0))?;
                TcpStream::connect(listener.local_addr()?)?;
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn a_setting_is_that_of_the_namespace_alone() {
        let (one, other) = (NetnsFixture::new().unwrap(), NetnsFixture::new().unwrap());
        one.set("ipv4/ping_group_range", "0 4242").unwrap();
        assert_eq!(one.get("ipv4/ping_group_range").unwrap(), "0\t4242");
        assert_ne!(other.get("ipv4/ping_group_range").unwrap(), "0\t4242");
    }

    #[test]
    fn an_error_names_the_operation_and_its_subject() {
        let netns = NetnsFixture::new().unwrap();
        let error = netns.set_up("nothere0").unwrap_err();
        assert_eq!(
            format!("{error:#}").split(": ").take(2).collect::<Vec<_>>(),
            ["set nothere0 up", "find interface nothere0"]
        );
    }
}

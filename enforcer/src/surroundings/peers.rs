//! Evidence that IPv6 works, without sending a packet: TCP connections that are established right now.
//!
//! What it sees: connections of every process in one network namespace, in either direction, at the moment
//! of looking. What it cannot see: other namespaces; UDP and QUIC; connections that were short or are over.
//! So a peer found is good evidence that its prefix is reachable, and none found is no evidence at all.

use std::{io, net::IpAddr, net::Ipv6Addr};

use procfs::{ProcError, net::TcpState, process::Process};

/// The remote addresses of established TCP connections over IPv6 proper, each once, sorted.
pub(super) fn read(process: &Process) -> io::Result<Vec<Ipv6Addr>> {
    let entries = match process.tcp6() {
        Ok(entries) => entries,
        // Not there where the kernel was booted with ipv6.disable=1.
        Err(ProcError::NotFound(_)) => return Ok(Vec::new()),
        Err(ProcError::Io(error, _)) => return Err(error),
        Err(other) => return Err(io::Error::other(other)),
    };
    let mut peers: Vec<Ipv6Addr> = entries
        .iter()
        .filter(|entry| entry.state == TcpState::Established)
        .filter_map(|entry| match entry.remote_address.ip() {
            IpAddr::V6(addr) if leaves_the_host(addr) => Some(addr),
            _ => None,
        })
        .collect();
    peers.sort_unstable();
    peers.dedup();
    Ok(peers)
}

/// Whether packets to the address take IPv6 beyond this host's own links. Addresses of the host itself are
/// not known here.
fn leaves_the_host(addr: Ipv6Addr) -> bool {
    !(addr.is_loopback()
        || addr.is_unspecified()
        || addr.is_unicast_link_local()
        || addr.to_ipv4_mapped().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_beyond_the_host_count() {
        for local in ["::1", "::", "fe80::1", "::ffff:192.0.2.1"] {
            assert!(!leaves_the_host(local.parse().unwrap()), "{local}");
        }
        assert!(leaves_the_host("2001:db8::1".parse().unwrap()));
        assert!(leaves_the_host("fd00::1".parse().unwrap()));
    }

    #[test]
    fn own_connection_over_loopback_is_no_evidence() {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let process = Process::myself().unwrap();
        let seen = process.tcp6().unwrap();
        assert!(
            seen.iter()
                .any(|it| it.remote_address == listener.local_addr().unwrap()),
            "the connection is listed"
        );
        assert!(!read(&process).unwrap().contains(&Ipv6Addr::LOCALHOST));
    }
}

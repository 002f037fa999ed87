//! The IPv6 addresses and subnets of a network namespace, from `/proc/<pid>/net/if_inet6`.
//!
//! This file, rather than a request to the kernel's routing socket, because it can be read for another
//! process's namespace without entering it.

use std::{net::Ipv6Addr, path::Path};

use ipnet::Ipv6Net;

/// An address of an interface, with its subnet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceAddr {
    /// The address, with the length of its subnet's prefix.
    pub net: Ipv6Net,
    /// The interface.
    pub interface: String,
}

impl InterfaceAddr {
    /// The address itself.
    #[must_use]
    pub fn addr(&self) -> Ipv6Addr {
        self.net.addr()
    }
}

pub(super) fn read(proc_dir: &Path) -> std::io::Result<Vec<InterfaceAddr>> {
    match std::fs::read_to_string(proc_dir.join("net/if_inet6")) {
        Ok(text) => Ok(parse(&text)),
        // Not there where the kernel was booted with ipv6.disable=1.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && proc_dir.join("net").is_dir() => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Lines of `if6_seq_show` (`net/ipv6/addrconf.c`): address as 32 hexadecimal digits, interface index, prefix
/// length, scope and flags, all hexadecimal, then the interface's name. `::1` is left out: it is exempt from
/// rules. Other addresses of the loopback interface count.
fn parse(text: &str) -> Vec<InterfaceAddr> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let addr = Ipv6Addr::from_bits(u128::from_str_radix(fields.next()?, 16).ok()?);
            let prefix_len = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
            let interface = fields.nth(2)?;
            let net = Ipv6Net::new(addr, prefix_len).ok()?;
            (!addr.is_loopback()).then(|| InterfaceAddr {
                net,
                interface: interface.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefix_lengths_are_hexadecimal() {
        let found = parse(
            "20010db8000500000000000000000002 04 40 00 82     eth0\n\
             00000000000000000000000000000001 01 80 10 80       lo\n\
             fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
             20010db8000500000000000000000003 0a 80 00 80     wg-long-name0\n\
             20010db8000600000000000000000001 01 80 00 80       lo\n\
             rubbish\n",
        );
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.net.to_string(), it.interface.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("2001:db8:5::2/64".to_owned(), "eth0"),
                ("fe80::fc:ff:fe00:1/64".to_owned(), "eth0"),
                ("2001:db8:5::3/128".to_owned(), "wg-long-name0"),
                ("2001:db8:6::1/128".to_owned(), "lo"),
            ]
        );
    }

    #[test]
    fn process_that_is_not_there_is_an_error() {
        read(Path::new("/proc/self")).unwrap();
        assert!(read(Path::new("/proc/0")).is_err());
    }
}

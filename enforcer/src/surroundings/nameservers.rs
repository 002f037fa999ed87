//! The nameservers that the C library asks, from `resolv.conf`.
//!
//! Only this host's own file is read. A container has another one, but its file system belongs to whoever
//! runs it, and a privileged reader has no business there.

use std::{
    fs::File,
    io::{self, Read as _},
    net::Ipv6Addr,
    path::Path,
};

use resolv_conf::{Config, ScopedIp};

/// No real file is longer; the rest is not read.
const MAX_BYTES: u64 = 1 << 20;

/// `MAXNS` of `resolv.h`, in glibc and musl: nameservers beyond the third are not asked.
const MAX_NAMESERVERS: usize = 3;

/// An IPv6 nameserver in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nameserver {
    /// Its address.
    pub addr: Ipv6Addr,
    /// The interface of a link-local one, as written after the `%`.
    pub scope: Option<String>,
}

/// The IPv6 nameservers named in a file, in its order. A file that does not exist names none.
pub(super) fn read(path: &Path) -> io::Result<Vec<Nameserver>> {
    // Opening a pipe would wait for a writer.
    let file = match std::fs::metadata(path).map(|found| found.is_file()) {
        Ok(true) => File::open(path)?,
        Ok(false) => return Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// Lines that make no sense are skipped, as the C library does (resolv.conf(5)).
fn parse(text: &[u8]) -> Vec<Nameserver> {
    let (config, _lines_not_understood) = Config::parse_with_errors(text);
    config
        .nameservers
        .into_iter()
        .take(MAX_NAMESERVERS)
        .filter_map(|nameserver| match nameserver {
            ScopedIp::V6(addr, scope) => Some(Nameserver { addr, scope }),
            ScopedIp::V4(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_6_ones_among_the_first_three_are_found_with_their_scope() {
        let found = parse(
            b"# made by hand\nsearch example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::53\nnonsense here\n\
              options ndots:5 no-such-option\nnameserver not-an-address\nnameserver fe80::1%eth0\n\xff\xfe\n\
              nameserver 2001:db8::54\n",
        );
        let expected = [("2001:db8::53", None), ("fe80::1", Some("eth0"))].map(|(addr, scope)| Nameserver {
            addr: addr.parse().unwrap(),
            scope: scope.map(str::to_owned),
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn file_that_is_not_there_names_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("resolv.conf")).unwrap(), []);
        assert!(
            read(folder.path()).is_err(),
            "a folder is an error, not an empty file"
        );
    }
}

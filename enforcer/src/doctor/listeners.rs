//! Which Unix sockets somebody listens at, from the kernel's list of them. Nothing is connected to: systemd listens at
//! sockets of services that do not run, and the first connection would start them.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::sight;

/// The sockets of this process's network namespace, and of no other.
const SOCKETS: &str = "/proc/self/net/unix";

/// `__SO_ACCEPTCON` (`include/linux/net.h`): the socket is in listen(2).
const LISTENING: u32 = 1 << 16;

/// Whether somebody listens at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel lists a listener.
    Somebody,
    /// It lists none where the services of this host would be listed.
    NobodyFound,
    /// It lists none here, and the listener may be in a network namespace whose list was not looked at.
    Unknown,
}

/// Sockets that are listened at, as seen from here.
#[derive(Debug)]
pub(super) struct Listeners {
    /// Without symbolic links, as far as the paths lead somewhere here.
    paths: BTreeSet<PathBuf>,
    /// Whether this is the network namespace in which the host's services listen.
    is_hosts: bool,
}

impl Listeners {
    /// # Errors
    ///
    /// When the list cannot be read.
    pub(super) fn find() -> io::Result<Self> {
        let paths = listening(&fs::read(SOCKETS)?)
            .into_iter()
            .map(|path| fs::canonicalize(&path).unwrap_or(path))
            .collect();
        Ok(Self {
            paths,
            is_hosts: sight::is_hosts_network(),
        })
    }

    /// `socket` is without symbolic links. `leaves_network` says of the listener that its kind puts itself into a network
    /// namespace of its own.
    pub(super) fn at(&self, socket: &Path, leaves_network: bool) -> Answer {
        if self.paths.contains(socket) {
            Answer::Somebody
        } else if self.is_hosts && !leaves_network {
            Answer::NobodyFound
        } else {
            Answer::Unknown
        }
    }
}

/// The absolute paths of listening sockets, from lines of `unix_seq_show` (net/unix/af_unix.c): address, reference count,
/// protocol, flags, type, state (all hexadecimal), inode, and, if it is bound, the path as it was given to bind(2).
///
/// Connections that were accepted have the path of the listener, and not its flag.
fn listening(text: &[u8]) -> Vec<PathBuf> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut rest = line;
            let mut columns = [""; 7];
            for column in &mut columns {
                rest = rest.trim_ascii_start();
                let end = rest.iter().position(|byte| *byte == b' ')?;
                *column = std::str::from_utf8(&rest[..end]).ok()?;
                rest = &rest[end..];
            }
            // A path may begin with a space; what separates it is one.
            let path = rest.strip_prefix(b" ")?;
            let flags = u32::from_str_radix(columns[3], 16).ok()?;
            (flags & LISTENING != 0 && path.starts_with(b"/")).then(|| PathBuf::from(OsStr::from_bytes(path)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_path_is_listened_at_by_the_flag_and_not_by_the_name() {
        let text = b"\
Num       RefCount Protocol Flags    Type St Inode Path
00000000d6c471dd: 00000003 00000000 00000000 0001 03  1072
0000000000000001: 00000002 00000000 00010000 0001 01 15872 /run/docker.sock
0000000000000002: 00000003 00000000 00000000 0001 03 15873 /run/accepted.sock
0000000000000003: 00000002 00000000 00010000 0005 01   104 /run/a b\xff
0000000000000004: 00000002 00000000 00010000 0001 01 15874 @/abstract
0000000000000005: 00000002 00000000 00010000 0001 01 15875 relative
";
        let expected = [
            Path::new("/run/docker.sock"),
            Path::new(OsStr::from_bytes(b"/run/a b\xff")),
        ];
        assert_eq!(listening(text), expected);
    }

    #[test]
    fn listeners_are_found_and_what_is_merely_bound_or_left_behind_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let [here, left] = ["here", "left"].map(|name| folder.join(name));
        let _listener = UnixListener::bind(&here).unwrap();
        drop(UnixListener::bind(&left).unwrap());
        let found = Listeners::find().unwrap();
        assert_eq!(found.at(&here, false), Answer::Somebody);
        assert_ne!(found.at(&left, false), Answer::Somebody);
        assert_eq!(found.at(&left, true), Answer::Unknown);
        assert!(UnixStream::connect(&left).is_err());
    }
}

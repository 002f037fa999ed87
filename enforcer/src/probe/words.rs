//! Words for what was found. Pure.

use std::io;

use nix::errno::Errno;

use super::fate::Fate;

/// An error's name, `ECONNREFUSED`; what it says of itself where it has none.
pub(super) fn errno(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::UnknownErrno) | None => error.to_string(),
        Some(known) => format!("{known:?}"),
    }
}

impl Fate {
    /// What becomes of connects, as the end of a sentence that begins with who is connected to.
    #[must_use]
    pub const fn means(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::NoSockets => "cannot be tried (this kernel makes no IPv6 sockets)",
            Self::NoAddress => "ends at once (this network namespace has no IPv6 address to send from)",
            Self::NoRoute => "ends at once (this network namespace has no route there)",
            Self::Denied => "ends at once (a program at the cgroup of this process, or above, rejects it)",
            Self::Redirected => "is redirected to IPv4 by a program at the cgroup of this process, or above",
            Self::Filtered => "ends at once (a packet filter of this host forbids it)",
            Self::Refused => "is refused (the host answers, and nothing listens there)",
            Self::RouterNoRoute => "ends when a router says that it has no route",
            Self::Prohibited => "ends when a router says that it is prohibited",
            Self::Unreachable => "ends when a router, or the last link, says that the address is not there",
            Self::Silent => "is a black hole (nothing answers, and clients wait for minutes)",
            Self::Slow => "is slow (connects come about only after packets were lost, each time)",
            Self::Stalls => "stalls (connects come about, and no data comes through after them)",
            Self::LosesLongPackets => {
                "loses long packets (connects come about, and what fills a packet vanishes)"
            }
            Self::Stranger => "leads to a server that does not speak the protocol of the port",
            Self::Fails => "ends in an error",
            Self::Unknown => "could not be measured in time",
        }
    }

    /// Why a rule is there, in a few words.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Works | Self::Unknown => "IPv6 works",
            Self::NoSockets | Self::NoAddress => "no IPv6 address here",
            Self::NoRoute => "no IPv6 route here",
            Self::Denied | Self::Redirected | Self::Filtered => "filtered here",
            Self::Refused => "nothing listens by IPv6",
            Self::RouterNoRoute => "a router has no IPv6 route",
            Self::Prohibited => "a router prohibits IPv6",
            Self::Unreachable => "its IPv6 address is not there",
            Self::Silent => "nothing answers by IPv6",
            Self::Slow => "IPv6 loses the first packets",
            Self::Stalls => "no data comes through by IPv6",
            Self::LosesLongPackets => "IPv6 loses long packets",
            Self::Stranger => "another server answers by IPv6",
            Self::Fails => "connects by IPv6 fail",
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names() {
        assert_eq!(
            errno(&io::Error::from_raw_os_error(libc::ENETUNREACH)),
            "ENETUNREACH"
        );
        assert_eq!(errno(&io::Error::other("no such thing")), "no such thing");
    }

    #[test]
    fn lists_read_as_people_write_them() {
        let items = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(list(&items[..1]), "a");
        assert_eq!(list(&items[..2]), "a and b");
        assert_eq!(list(&items), "a, b and c");
    }
}

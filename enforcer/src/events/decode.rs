//! Bytes of the ring buffer to a typed [`Record`].
//!
//! No I/O, no names, no clock: a pure function, total over all inputs, and fuzzed. A number that this version
//! has no name for is kept as the number ([`Checked::Unknown`]), because half an event at 3 a.m. is worth more
//! than none.

use std::{borrow::Cow, net::Ipv6Addr};

use enforcer_common::{
    address,
    clause::{Action, IPPROTO_ICMPV6, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, NO_RULE},
    decide::{Mode, Unmovable},
    record::{COMM_LEN, ConnectRecord, DatagramKey, Hook, NO_ACTION},
};
use thiserror::Error;
use zerocopy::FromBytes;

/// A number of the record, checked: what it stands for, or the number where this version has no name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checked<T> {
    /// What the number stands for.
    Known(T),
    /// The number, as the kernel wrote it.
    Unknown(u8),
}

impl<T> Checked<T> {
    fn of(raw: u8, from_raw: impl FnOnce(u8) -> Option<T>) -> Self {
        from_raw(raw).map_or(Self::Unknown(raw), Self::Known)
    }
}

/// The socket's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `IPPROTO_TCP`.
    Tcp,
    /// `IPPROTO_UDP`.
    Udp,
    /// `IPPROTO_ICMPV6`: a ping socket.
    Icmpv6,
    /// `IPPROTO_MPTCP`, which rules treat as TCP.
    Mptcp,
    /// Any other, `IPPROTO_*`.
    Unknown(u16),
}

impl Protocol {
    const fn of(raw: u16) -> Self {
        match raw {
            IPPROTO_TCP => Self::Tcp,
            IPPROTO_UDP => Self::Udp,
            IPPROTO_ICMPV6 => Self::Icmpv6,
            IPPROTO_MPTCP => Self::Mptcp,
            other => Self::Unknown(other),
        }
    }
}

/// The socket's type. The numbers are those of `enum sock_type` (`include/linux/net.h`) on every
/// architecture but MIPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// `SOCK_STREAM`, 1.
    Stream,
    /// `SOCK_DGRAM`, 2.
    Dgram,
    /// Any other.
    Unknown(u8),
}

impl SocketType {
    const fn of(raw: u8) -> Self {
        match raw {
            1 => Self::Stream,
            2 => Self::Dgram,
            other => Self::Unknown(other),
        }
    }
}

/// Name of a thread: what `prctl(PR_SET_NAME)` was last given. Anyone can set it to anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Comm([u8; COMM_LEN]);

impl Comm {
    /// The bytes before the first zero, or all of them; not necessarily UTF-8, not necessarily printable.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The name as text, with U+FFFD for what is not UTF-8; `None` if it is empty, as it is where the kernel
    /// does not say.
    #[must_use]
    pub fn to_text(&self) -> Option<Cow<'_, str>> {
        let bytes = self.as_bytes();
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes))
    }
}

impl std::fmt::Debug for Comm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Comm(\"{}\")", self.as_bytes().escape_ascii())
    }
}

/// One governed connect, with typed fields. Indices are still numbers: [`enrich`](super::enrich) names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds on CLOCK_BOOTTIME.
    pub time_boot_ns: u64,
    /// The governed cgroup.
    pub cgroup_id: u64,
    /// The cgroup of the calling task.
    pub task_cgroup_id: u64,
    /// Destination address asked for.
    pub daddr: Ipv6Addr,
    /// Destination port asked for, host byte order.
    pub dport: u16,
    /// Where it was redirected to (IPv4 is IPv4-mapped; port in host byte order), or where it could not be
    /// moved to if `unmovable` is set.
    pub redirect: Option<(Ipv6Addr, u16)>,
    /// Thread group: what people call the process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Real user of the thread.
    pub uid: u32,
    /// Index of the target.
    pub target: u32,
    /// Generation of the policy that decided.
    pub generation: u32,
    /// Index of the rule that acted, among the rules of that generation.
    pub rule: Option<u32>,
    /// Index of the rule that would have acted.
    pub would_rule: Option<u32>,
    /// Index of the first rule that would have decided if its rollout included the connect.
    pub left_out_rule: Option<u32>,
    /// The socket's protocol.
    pub protocol: Protocol,
    /// The socket's type.
    pub socket_type: SocketType,
    /// The rule's errno, positive, where the verdict is reject.
    pub errno: Option<u16>,
    /// What was done.
    pub verdict: Checked<Action>,
    /// What would have been done.
    pub would: Option<Checked<Action>>,
    /// Mode of the governed cgroup.
    pub mode: Checked<Mode>,
    /// Why a redirect became a rejection.
    pub unmovable: Option<Checked<Unmovable>>,
    /// By which of its hooks the kernel asked.
    pub hook: Checked<Hook>,
    /// The key under which datagrams that share this record are counted; meaningless for a connect.
    pub datagram_key: DatagramKey,
    /// Name of the thread.
    pub comm: Comm,
}

/// A record of the wrong size: the programs and this controller are not of the same version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "decoding an event of {actual_bytes} bytes: expected {expected_bytes} bytes\n\
         hint: the loaded programs belong to another version of enforcer; stop it and start this one"
)]
pub struct DecodeError {
    /// Size of the record that came.
    pub actual_bytes: usize,
    /// Size of every record of this version.
    pub expected_bytes: usize,
}

/// Decodes one record. The bytes need no alignment.
///
/// # Errors
///
/// [`DecodeError`] if they are not exactly one record long. No content is an error.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let raw = ConnectRecord::read_from_bytes(bytes).map_err(|_| DecodeError {
        actual_bytes: bytes.len(),
        expected_bytes: size_of::<ConnectRecord>(),
    })?;
    let verdict = Checked::of(raw.verdict, Action::from_raw);
    let redirect = Ipv6Addr::from(address::octets_from_words(raw.redirect_be));
    let is_redirect = verdict == Checked::Known(Action::Redirect) || !redirect.is_unspecified();
    Ok(Record {
        time_boot_ns: raw.time_boot_ns,
        cgroup_id: raw.cgroup_id,
        task_cgroup_id: raw.task_cgroup_id,
        daddr: Ipv6Addr::from(address::octets_from_words(raw.daddr_be)),
        dport: raw.dport,
        redirect: is_redirect.then_some((redirect, raw.redirect_port)),
        pid: raw.pid,
        tid: raw.tid,
        uid: raw.uid,
        target: raw.target,
        generation: raw.generation,
        rule: (raw.rule != NO_RULE).then_some(raw.rule),
        would_rule: (raw.would_rule != NO_RULE).then_some(raw.would_rule),
        left_out_rule: (raw.left_out_rule != NO_RULE).then_some(raw.left_out_rule),
        protocol: Protocol::of(raw.protocol),
        socket_type: SocketType::of(raw.socket_type),
        errno: (raw.errno != 0).then_some(raw.errno),
        verdict,
        would: (raw.would != NO_ACTION).then(|| Checked::of(raw.would, Action::from_raw)),
        mode: Checked::of(raw.mode, Mode::from_raw),
        unmovable: (raw.unmovable != 0).then(|| Checked::of(raw.unmovable, Unmovable::from_raw)),
        hook: Checked::of(raw.hook, Hook::from_raw),
        datagram_key: DatagramKey::of(&raw),
        comm: Comm(raw.comm),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::events::fixture;

    #[test]
    fn every_size_but_one_is_an_error_that_names_both_sizes() {
        let bytes = [0; 3 * size_of::<ConnectRecord>()];
        for len in 0..=bytes.len() {
            let decoded = decode(&bytes[..len]);
            if len == size_of::<ConnectRecord>() {
                assert!(decoded.is_ok());
            } else {
                let error = decoded.unwrap_err();
                assert_eq!((error.actual_bytes, error.expected_bytes), (len, 128));
            }
        }
    }

    #[test]
    fn a_rejected_connect_comes_out_as_it_went_in() {
        let record = decode(fixture::rejected().as_bytes()).unwrap();
        assert_eq!(record.verdict, Checked::Known(Action::Reject));
        assert_eq!(record.mode, Checked::Known(Mode::Enforce));
        assert_eq!(record.daddr, "2406:da1a:7::5".parse::<Ipv6Addr>().unwrap());
        assert_eq!((record.dport, record.errno), (5432, Some(101)));
        assert_eq!((record.rule, record.would_rule), (Some(0), None));
        assert_eq!(
            (record.would, record.unmovable, record.redirect),
            (None, None, None)
        );
        assert_eq!(record.protocol, Protocol::Tcp);
        assert_eq!(record.socket_type, SocketType::Stream);
        assert_eq!(record.comm.to_text().unwrap(), "psql");
    }

    #[test]
    fn unknown_numbers_are_kept_as_numbers() {
        let record = decode(
            ConnectRecord {
                verdict: 9,
                would: 8,
                mode: 7,
                unmovable: 6,
                hook: 4,
                socket_type: 5,
                protocol: 132,
                ..fixture::rejected()
            }
            .as_bytes(),
        )
        .unwrap();
        assert_eq!(record.verdict, Checked::Unknown(9));
        assert_eq!(record.would, Some(Checked::Unknown(8)));
        assert_eq!(record.mode, Checked::Unknown(7));
        assert_eq!(record.unmovable, Some(Checked::Unknown(6)));
        assert_eq!(record.hook, Checked::Unknown(4));
        assert_eq!(record.socket_type, SocketType::Unknown(5));
        assert_eq!(record.protocol, Protocol::Unknown(132));
    }

    #[test]
    fn a_comm_ends_at_its_zero_or_at_its_length() {
        let text = |comm| Comm(comm).to_text().map(Cow::into_owned);
        assert_eq!(text(*b"curl\0leftover\0\0\0").as_deref(), Some("curl"));
        assert_eq!(text(*b"sixteen-bytes-16").as_deref(), Some("sixteen-bytes-16"));
        assert_eq!(
            text(*b"a\xffb\0\0\0\0\0\0\0\0\0\0\0\0\0").as_deref(),
            Some("a\u{fffd}b")
        );
        assert_eq!(text([0; 16]), None);
    }

    proptest! {
        #[test]
        fn no_content_is_an_error(bytes in prop::collection::vec(any::<u8>(), size_of::<ConnectRecord>())) {
            prop_assert!(decode(&bytes).is_ok());
        }
    }
}

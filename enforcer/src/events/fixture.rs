//! Records, rules and a catalog for the unit tests of events and sinks, as a kernel would have sent them.
//! Nothing here imitates what the kernel does.

use std::{net::Ipv6Addr, net::SocketAddrV6, sync::Arc};

use enforcer_common::{
    address::words_from_octets,
    clause::{Action, IPPROTO_TCP, IPPROTO_UDP, NO_RULE},
    decide::{Mode, Unmovable},
    record::{COMM_LEN, ConnectRecord, Hook, NO_ACTION},
};
use jiff::Timestamp;
use zerocopy::IntoBytes;

use super::{
    decode::decode,
    enrich::{CallerErrno, Catalog},
    event::Event,
};
use crate::policy::rule::{Origin, RedirectTo, Rule, RuleAction, RuleGroups};

pub(crate) fn comm(name: &[u8]) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    comm[..name.len()].copy_from_slice(name);
    comm
}

pub(crate) fn words(addr: &str) -> [u32; 4] {
    words_from_octets(addr.parse::<Ipv6Addr>().unwrap().octets())
}

/// 2026-03-01T02:59:58.417000123Z, on a machine that booted at the epoch.
pub(crate) const TIME_NS: u64 = 1_772_333_998_417_000_123;

/// `psql` to 2406:da1a:7::5, port 5432, rejected by rule 0.
pub(crate) fn rejected() -> ConnectRecord {
    ConnectRecord {
        time_boot_ns: TIME_NS,
        cgroup_id: 4711,
        task_cgroup_id: 4712,
        socket_cookie: 0,
        daddr_be: words("2406:da1a:7::5"),
        redirect_be: [0; 4],
        pid: 4242,
        tid: 4243,
        uid: 1000,
        target: 1,
        generation: 1,
        rule: 0,
        would_rule: NO_RULE,
        left_out_rule: NO_RULE,
        dport: 5432,
        redirect_port: 0,
        protocol: IPPROTO_TCP,
        errno: 101,
        verdict: Action::Reject as u8,
        would: NO_ACTION,
        mode: Mode::Enforce as u8,
        socket_type: 1,
        unmovable: 0,
        hook: Hook::Connect as u8,
        reserved: [0; 2],
        comm: comm(b"psql"),
    }
}

/// The same to 2001:db8:3::1, redirected by rule 1 to 10.77.0.1.
pub(crate) fn redirected() -> ConnectRecord {
    ConnectRecord {
        daddr_be: words("2001:db8:3::1"),
        redirect_be: words("::ffff:10.77.0.1"),
        redirect_port: 5432,
        rule: 1,
        errno: 0,
        verdict: Action::Redirect as u8,
        ..rejected()
    }
}

/// The same to 2a00:1450:4001:829::200e, which no rule covers.
pub(crate) fn allowed() -> ConnectRecord {
    ConnectRecord {
        daddr_be: words("2a00:1450:4001:829::200e"),
        rule: NO_RULE,
        errno: 0,
        verdict: Action::Allow as u8,
        ..rejected()
    }
}

/// A datagram that [`redirected`] covers, of a socket that is not connected.
pub(crate) fn sent() -> ConnectRecord {
    ConnectRecord {
        socket_cookie: 77,
        dport: 443,
        redirect_port: 443,
        protocol: IPPROTO_UDP,
        errno: 101,
        verdict: Action::Reject as u8,
        socket_type: 2,
        unmovable: Unmovable::Unconnected as u8,
        hook: Hook::Sendmsg as u8,
        comm: comm(b"h3-client"),
        ..redirected()
    }
}

/// [`rejected`] in audit mode.
pub(crate) fn audited() -> ConnectRecord {
    ConnectRecord {
        rule: NO_RULE,
        would_rule: 0,
        errno: 0,
        verdict: Action::Allow as u8,
        would: Action::Reject as u8,
        mode: Mode::Audit as u8,
        ..rejected()
    }
}

pub(crate) fn rule(label: &str, prefixes: &[&str], action: RuleAction) -> Rule {
    Rule {
        groups: RuleGroups::All,
        ..Rule::plain(
            label.to_owned(),
            Origin::Argument(label.to_owned()),
            prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            action,
        )
    }
}

pub(crate) fn catalog(caller_errno: CallerErrno) -> Catalog {
    let to = SocketAddrV6::new("::ffff:10.77.0.1".parse().unwrap(), 0, 0, 0);
    let mut catalog = Catalog::new(caller_errno);
    catalog.name_target(1, "web");
    catalog.name_cgroup(4711, "/system.slice/web.service");
    let aws = ["2406:da1a::/32", "2406:da1b::/32"];
    catalog.publish_rules(
        1,
        0,
        Arc::new([
            rule("aws-apse1-has-no-route-here", &aws, RuleAction::Reject),
            rule(
                "policy.toml:12",
                &["2001:db8:3::/48"],
                RuleAction::Redirect(RedirectTo::Address(to)),
            ),
        ]),
    );
    catalog
}

pub(crate) fn event_with(catalog: &Catalog, record: ConnectRecord) -> Event {
    let record = decode(record.as_bytes()).unwrap();
    let time = Timestamp::from_nanosecond(record.time_boot_ns.into()).unwrap();
    catalog.event(&record, time)
}

pub(crate) fn event_of(record: ConnectRecord) -> Event {
    event_with(&catalog(CallerErrno::AsRuled), record)
}

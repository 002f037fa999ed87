//! `enforcer probe` in each breakage of the lab: it names the breakage, says what helps, and the rule that it gives does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    lab::{Breakage, HTTP_PORT, Lab, NAME, SERVER_IPV4, SERVER_IPV6},
    need::{Need, need},
    process::Finished,
    protocol::{Connect, SocketKind},
    wait::{PATIENCE, eventually},
};
use serde_json::Value;

/// What a connect is given: enough for a third SYN, and for a machine that is busy.
const TIMEOUT: &str = "12s";
const DEADLINE: &str = "50s";

/// Longer than the deadline.
const LIMIT: Duration = PATIENCE.saturating_mul(2);

/// What to look at in a lab.
fn host(lab: &Lab) -> String {
    match lab.name() {
        Some(name) => format!("{name}:{HTTP_PORT}"),
        None => format!("[{SERVER_IPV6}]:{HTTP_PORT}"),
    }
}

fn run(lab: &Lab, arguments: &[&str]) -> Finished {
    let limits = ["probe", "--timeout", TIMEOUT, "--deadline", DEADLINE];
    let arguments = limits.iter().chain(arguments);
    Enforcer::output(&lab.outside(), arguments, LIMIT).unwrap()
}

/// What is found of that host, as JSON, and the exit code.
fn probe(lab: &Lab, host: &str) -> (Value, Option<i32>) {
    let finished = run(lab, &[host, "--output", "json"]);
    assert_eq!(finished.stdout.len(), 1, "{finished:?}");
    (
        serde_json::from_str(&finished.stdout[0]).unwrap(),
        finished.status.code(),
    )
}

struct Row {
    breakage: Breakage,
    diagnosis: &'static str,
    only: Option<&'static str>,
    code: i32,
    reject: &'static str,
    redirect: &'static str,
    /// Arguments of each rule.
    rules: &'static [&'static str],
    /// Where a client without happy eyeballs hangs.
    hangs: bool,
}

const REDIRECT: &str =
    "--redirect 2001:db8:a::80/128=203.0.113.1,proto=tcp --reject 2001:db8:a::80/128,proto=udp";
const REJECT_SITE: &str = "--reject 2001:db8:a::/48";

const fn helped(breakage: Breakage, diagnosis: &'static str) -> Row {
    Row {
        breakage,
        diagnosis,
        only: None,
        code: 10,
        reject: "helps",
        redirect: "helps",
        rules: &[REJECT_SITE, REDIRECT],
        hangs: false,
    }
}

const ROWS: [Row; 10] = [
    Row {
        code: 0,
        reject: "harms",
        redirect: "harms",
        rules: &[],
        ..helped(Breakage::Healthy, "healthy")
    },
    Row {
        reject: "no-effect",
        rules: &[REDIRECT],
        ..helped(Breakage::NoAddress, "no-address")
    },
    Row {
        reject: "no-effect",
        rules: &[REDIRECT],
        ..helped(Breakage::NoRoute, "no-route")
    },
    Row {
        hangs: true,
        ..helped(Breakage::BlackHole, "black-hole")
    },
    helped(Breakage::IcmpNoRoute, "icmp-no-route"),
    helped(Breakage::Prohibited, "prohibited"),
    Row {
        rules: &[
            "--reject 2001:db8:a::80/128,port=80",
            "--redirect 2001:db8:a::80/128=203.0.113.1,proto=tcp,port=80 --reject 2001:db8:a::80/128,proto=udp,port=80",
        ],
        ..helped(Breakage::Refused, "refused")
    },
    helped(Breakage::Slow, "slow"),
    Row {
        only: Some("aaaa-only"),
        code: 11,
        reject: "only-faster",
        redirect: "needs-address",
        rules: &[REJECT_SITE],
        hangs: true,
        ..helped(Breakage::AaaaOnly, "black-hole")
    },
    Row {
        only: Some("literal"),
        code: 11,
        reject: "only-faster",
        redirect: "needs-address",
        rules: &[REJECT_SITE],
        hangs: true,
        ..helped(Breakage::Literal, "black-hole")
    },
];

/// `check` takes the policy. It has nothing to say against it either, but that a rule for one port does not steer every C
/// library: where a port is refused, nothing is known of the others.
fn assert_policy(lab: &Lab, policy: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pasted.toml");
    std::fs::write(&file, policy).unwrap();
    let arguments = ["check", "--no-resolve", file.to_str().unwrap()];
    let finished = Enforcer::output(&lab.outside(), arguments, PATIENCE).unwrap();
    let warnings = finished.stderr.iter().filter(|line| line.starts_with("warning"));
    assert_eq!(
        warnings.count(),
        policy.matches("ports ").count(),
        "{policy}\n{finished:?}"
    );
    assert!(finished.status.success(), "{policy}\n{finished:?}");
}

/// The rule does what it is promised to do: the client, governed by it, gets to the server by IPv4.
fn assert_helps(lab: &Lab, rule: &Value) {
    let cgroup = CgroupFixture::new("test-probe").unwrap();
    let mut client = Client::start(&lab.inside(&cgroup)).unwrap();
    let path = cgroup.relative_path();
    let arguments: Vec<&str> = rule["arguments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    let arguments = ["--cgroup", &path].into_iter().chain(arguments);
    let enforcer = Enforcer::run(&lab.outside(), arguments).unwrap();
    // What a client tries that has a name, or only the address.
    let first = if rule["purpose"] == "ipv4-at-once" {
        client.resolve(NAME, HTTP_PORT).unwrap()[0]
    } else {
        SocketAddr::new(SERVER_IPV6.into(), HTTP_PORT)
    };
    let answer = client.connect(Connect::new(SocketKind::Tcp, first)).unwrap();
    assert_eq!(answer.outcome(), "ok", "{rule} {answer:?}");
    let local = answer.local.unwrap();
    let from = SocketAddr::new(local.ip().to_canonical(), local.port());
    // It is accepted after the client is through.
    let at = eventually("the connection to arrive", PATIENCE, || {
        let accepted = lab.http.accepted();
        accepted.iter().find(|it| it.from == from).map(|it| it.at.ip())
    });
    assert_eq!(at.unwrap(), IpAddr::from(SERVER_IPV4), "{rule}");
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
}

#[track_caller]
fn check(test: &str, breakage: Breakage) {
    if !need(test, Need::Glibc) || (breakage == Breakage::Slow && !need(test, Need::Nft)) {
        return;
    }
    let row = ROWS.iter().find(|row| row.breakage == breakage).unwrap();
    let lab = Lab::new(breakage).unwrap();
    let (found, code) = probe(&lab, &host(&lab));
    let verdict = &found["verdict"];
    let shown = format!("{breakage}: {found:#}");
    assert_eq!(verdict["diagnosis"], row.diagnosis, "{shown}");
    assert_eq!(verdict["only"].as_str(), row.only, "{shown}");
    assert_eq!(code, Some(row.code), "{shown}");
    assert_eq!(verdict["reject"]["effect"], row.reject, "{shown}");
    assert_eq!(verdict["redirect"]["effect"], row.redirect, "{shown}");
    let rules = verdict["rules"].as_array().unwrap();
    let words = |rule: &Value| -> Vec<String> {
        let arguments = rule["arguments"].as_array().unwrap();
        arguments
            .iter()
            .map(|it| it.as_str().unwrap().to_owned())
            .collect()
    };
    let arguments: Vec<_> = rules.iter().map(|rule| words(rule).join(" ")).collect();
    assert_eq!(arguments, row.rules, "{shown}");
    let hangs = found["clients"]["one_by_one"]["time_us"].is_null();
    assert_eq!(hangs, row.hangs, "{shown}");
    for rule in rules {
        assert_policy(&lab, rule["policy"].as_str().unwrap());
        if rule["purpose"] != "failing-fast" {
            assert_helps(&lab, rule);
        }
    }
    // All of it was measured.
    assert_eq!(found["findings"]["out_of_time"], false, "{shown}");
}

macro_rules! rows {
    ($($test:ident: $breakage:ident;)*) => {
        $(
            #[test]
            fn $test() {
                check(stringify!($test), Breakage::$breakage);
            }
        )*
    };
}

rows! {
    healthy_is_called_healthy: Healthy;
    that_there_is_no_address_is_told_and_only_a_redirect_is_offered: NoAddress;
    that_there_is_no_route_is_told_and_only_a_redirect_is_offered: NoRoute;
    a_black_hole_is_told_and_the_rules_help: BlackHole;
    a_router_without_a_route_is_told_and_the_rules_help: IcmpNoRoute;
    a_router_that_prohibits_is_told_and_the_rules_help: Prohibited;
    a_refused_port_is_told_and_the_rules_are_about_that_port: Refused;
    lost_syns_are_told_and_the_rules_help: Slow;
    a_name_without_ipv4_is_told_and_no_help_promised: AaaaOnly;
    an_address_without_a_name_is_told_and_no_help_promised: Literal;
}

#[test]
fn every_breakage_has_its_row() {
    assert_eq!(ROWS.map(|row| row.breakage), Breakage::ALL);
}

#[test]
fn an_ipv4_address_says_nothing_of_ipv6() {
    let lab = Lab::new(Breakage::BlackHole).unwrap();
    let (found, code) = probe(&lab, &format!("{SERVER_IPV4}:{HTTP_PORT}"));
    assert_eq!(
        (found["verdict"]["diagnosis"].as_str(), code),
        (Some("ipv4-only"), Some(0))
    );
    assert!(found["findings"]["names"].is_null());
    // Nobody listens there by either family.
    let (found, code) = probe(&lab, &format!("{SERVER_IPV4}:1"));
    assert_eq!(
        (found["verdict"]["diagnosis"].as_str(), code),
        (Some("ipv4-broken"), Some(11))
    );
}

#[test]
fn what_no_rule_can_mend_is_said_to_be_so() {
    let lab = Lab::new(Breakage::Healthy).unwrap();
    // IPv6 alone is served there.
    let _server = lab.serve_http(&[SERVER_IPV6.into()], 8080).unwrap();
    for (host, diagnosis) in [
        (format!("{NAME}:8080"), "ipv4-broken"),
        (format!("{NAME}:1"), "both-broken"),
        ("nobody.example:80".to_owned(), "no-such-name"),
    ] {
        let (found, code) = probe(&lab, &host);
        assert_eq!(found["verdict"]["diagnosis"], diagnosis, "{found:#}");
        assert_eq!(code, Some(11), "{found:#}");
        assert_eq!(found["verdict"]["rules"], Value::Array(Vec::new()), "{found:#}");
    }
}

#[test]
fn lost_long_packets_are_told_and_the_rule_helps() {
    let test = "lost_long_packets_are_told_and_the_rule_helps";
    if !need(test, Need::Nft) || !need(test, Need::Glibc) {
        return;
    }
    let lab = Lab::new(Breakage::Healthy).unwrap();
    let (found, _) = probe(&lab, &host(&lab));
    assert_eq!(
        found["findings"]["addresses"][0]["echo"]["large"]["end"], "done",
        "{found:#}"
    );
    lab.lose_long_packets().unwrap();
    let (found, code) = probe(&lab, &host(&lab));
    assert_eq!(found["verdict"]["diagnosis"], "path-mtu", "{found:#}");
    assert_eq!(code, Some(10));
    let address = &found["findings"]["addresses"][0];
    assert_eq!(address["connects"][0]["end"], "done", "{found:#}");
    assert_eq!(address["exchange"]["end"], "silent", "{found:#}");
    assert_eq!(address["echo"]["large"]["end"], "silent", "{found:#}");
    assert_helps(&lab, &found["verdict"]["rules"][0]);
}

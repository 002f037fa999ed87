//! `enforcer probe` as a verb: from a target, of a list, again and again; and what it says of reverse names.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::IpAddr, time::Duration};

use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    lab::{Breakage, HTTP_PORT, Lab, NAME, SERVER_IPV4, SERVER_IPV6},
    place::Place,
    process::{Finished, Stream},
    wait::PATIENCE,
};
use serde_json::Value;

const TIMEOUT: &str = "8s";
const DEADLINE: &str = "50s";
const LIMIT: Duration = PATIENCE.saturating_mul(2);

/// The records that would make the lab's addresses lead back to its name.
const RECORD_IPV6: &str =
    "0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. IN PTR shop.example.";
const RECORD_IPV4: &str = "1.113.0.203.in-addr.arpa. IN PTR shop.example.";

const V6: IpAddr = IpAddr::V6(SERVER_IPV6);
const V4: IpAddr = IpAddr::V4(SERVER_IPV4);

fn run(place: &Place<'_>, arguments: &[&str]) -> Finished {
    let limits = ["probe", "--timeout", TIMEOUT, "--deadline", DEADLINE];
    Enforcer::output(place, limits.iter().chain(arguments), LIMIT).unwrap()
}

fn host() -> String {
    format!("{NAME}:{HTTP_PORT}")
}

fn found(finished: &Finished) -> Vec<Value> {
    let lines = finished.stdout.iter();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// State, names and record of each address.
fn reverse(lab: &Lab, host: &str) -> Vec<(String, Value, Value)> {
    let finished = run(&lab.outside(), &[host, "--output", "json"]);
    let found = found(&finished);
    let addresses = found[0]["findings"]["addresses"].as_array().unwrap();
    let of = |address: &Value| {
        let reverse = &address["reverse"];
        let state = reverse["state"].as_str().unwrap().to_owned();
        (state, reverse["names"].clone(), reverse["record"].clone())
    };
    addresses.iter().map(of).collect()
}

#[test]
fn a_reverse_name_that_is_missing_or_wrong_gets_the_right_record() {
    let lab = Lab::new(Breakage::Healthy).unwrap();
    let own = [(NAME, V6), (NAME, V4), ("farm.example", V4)];
    let names = |names: &[&str]| serde_json::json!(names);
    let missing = |record: &str| ("missing".to_owned(), names(&[]), record.into());
    assert_eq!(
        reverse(&lab, &host()),
        [missing(RECORD_IPV6), missing(RECORD_IPV4)]
    );

    let server = &lab.nameserver;
    server
        .set_with_pointers(60, own, [(V6, "old.example"), (V4, "farm.example")])
        .unwrap();
    assert_eq!(
        reverse(&lab, &host()),
        [
            ("wrong".to_owned(), names(&["old.example"]), RECORD_IPV6.into()),
            (
                "other-name".to_owned(),
                names(&["farm.example"]),
                RECORD_IPV4.into()
            ),
        ]
    );

    server
        .set_with_pointers(60, own, [(V6, NAME), (V4, NAME)])
        .unwrap();
    let confirmed = ("confirmed".to_owned(), names(&[NAME]), Value::Null);
    assert_eq!(reverse(&lab, &host()), [confirmed.clone(), confirmed.clone()]);
    assert_eq!(reverse(&lab, &format!("[{V6}]:{HTTP_PORT}")), [confirmed]);

    // For people, as a line that can be copied.
    server.set(60, own).unwrap();
    let finished = run(&lab.outside(), &[&host()]);
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert!(
        finished.stdout.iter().any(|line| line.trim() == RECORD_IPV6),
        "{finished:?}"
    );
}

#[test]
fn an_address_that_leads_back_to_a_name_with_ipv4_can_be_redirected_there() {
    let lab = Lab::new(Breakage::Literal).unwrap();
    let own = [(NAME, V6), (NAME, V4)];
    lab.nameserver.set_with_pointers(60, own, [(V6, NAME)]).unwrap();
    let finished = run(
        &lab.outside(),
        &[&format!("[{V6}]:{HTTP_PORT}"), "--output", "json"],
    );
    assert_eq!(finished.status.code(), Some(10), "{finished:?}");
    let verdict = &found(&finished)[0]["verdict"];
    assert_eq!(verdict["only"], "literal");
    assert_eq!(
        verdict["rules"][0]["command"],
        "enforcer exec --redirect 2001:db8:a::80/128=203.0.113.1,proto=tcp --reject 2001:db8:a::80/128,proto=udp -- COMMAND"
    );
}

#[test]
fn behind_a_nat64_that_does_not_work_the_address_inside_is_found() {
    let lab = Lab::new(Breakage::Healthy).unwrap();
    let inside: IpAddr = "64:ff9b::203.0.113.1".parse().unwrap();
    let made_up: IpAddr = "64:ff9b::192.0.0.170".parse().unwrap();
    lab.nameserver
        .set(60, [(NAME, inside), ("ipv4only.arpa", made_up)])
        .unwrap();
    let finished = run(&lab.outside(), &[&host(), "--output", "json"]);
    assert_eq!(finished.status.code(), Some(10), "{finished:?}");
    let found = found(&finished);
    assert_eq!(found[0]["findings"]["nat64"], serde_json::json!(["64:ff9b::/96"]));
    assert_eq!(found[0]["verdict"]["only"], "aaaa-only");
    // The router has no route there.
    assert_eq!(found[0]["verdict"]["diagnosis"], "icmp-no-route");
    assert_eq!(
        found[0]["verdict"]["rules"][0]["arguments"][1],
        "64:ff9b::cb00:7101/128=203.0.113.1,proto=tcp"
    );
}

#[test]
fn a_target_is_looked_at_from_where_it_is_and_not_as_it_is_governed() {
    let lab = Lab::new(Breakage::BlackHole).unwrap();
    let cgroup = CgroupFixture::new("test-probe-from").unwrap();
    let client = Client::start(&lab.inside(&cgroup)).unwrap();
    let path = cgroup.relative_path();
    let look = |from: &str| {
        // Where the test is there is no such name, and no way there.
        let finished = run(&Place::default(), &[&host(), "--from", from, "--output", "json"]);
        assert_eq!(finished.status.code(), Some(10), "{finished:?}");
        let found = found(&finished).remove(0);
        assert_eq!(found["verdict"]["diagnosis"], "black-hole", "{found:#}");
        assert_eq!(found["findings"]["order"]["by"], "rfc6724");
        assert_eq!(
            found["findings"]["order"]["addresses"],
            serde_json::json!([V6.to_string(), V4.to_string()])
        );
        let way = &found["findings"]["addresses"][0]["way"];
        assert_eq!(way["interface"], "uplink", "{found:#}");
        // Its sockets were made before it gave up the privilege for that.
        assert_eq!(
            found["findings"]["addresses"][0]["echo"]["end"], "silent",
            "{found:#}"
        );
        found
    };
    let found = look(&path);
    assert_eq!(
        found["verdict"]["rules"][0]["command"],
        format!("enforcer run --cgroup {path} --reject 2001:db8:a::/48")
    );
    assert_eq!(found["judged"]["target"], found["judged"]["probe"], "{found:#}");
    look(&format!("pid:{}", client.pid()));

    let arguments = ["--cgroup", &path, "--reject", "2001:db8:a::/48"];
    let enforcer = Enforcer::run(&lab.outside(), arguments).unwrap();
    let governed = look(&path);
    let count = |found: &Value| found["judged"]["target"].as_u64().unwrap();
    assert_eq!(count(&governed), count(&found) + 1, "{governed:#}");
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
}

#[test]
fn what_cannot_be_looked_from_is_said() {
    let cgroup = CgroupFixture::new("test-probe-from").unwrap();
    let path = cgroup.relative_path();
    for (from, said) in [
        ("/enforcer-test-nobody-made-this", "cannot resolve target"),
        (path.as_str(), "the target has no process"),
    ] {
        let finished = run(&Place::default(), &["shop.example", "--from", from]);
        assert_eq!(finished.status.code(), Some(1), "{finished:?}");
        assert!(finished.stderr.join("\n").contains(said), "{finished:?}");
        assert!(finished.stdout.is_empty(), "{finished:?}");
    }
}

#[test]
fn a_list_becomes_a_table_and_the_worst_counts() {
    let lab = Lab::new(Breakage::NoRoute).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts.txt");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    write(&format!("# mine\n{}\n{V4}:{HTTP_PORT}  # by address\n", host()));
    let finished = run(&lab.outside(), &["--all", file]);
    assert_eq!(finished.status.code(), Some(10), "{finished:?}");
    let words: Vec<Vec<&str>> = finished
        .stdout
        .iter()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(words[0][..2], ["HOST", "DIAGNOSIS"]);
    assert_eq!(words[1][..3], ["shop.example:80", "no-route", "ENETUNREACH"]);
    assert!(
        finished.stdout[1].contains("--redirect 2001:db8:a::80/128=203.0.113.1"),
        "{finished:?}"
    );
    assert_eq!(words[2][..3], ["203.0.113.1:80", "ipv4-only", "-"]);
    assert_eq!(words.len(), 3);

    write(&format!("{}\nnobody.example\n", host()));
    let finished = run(&lab.outside(), &["--all", file, "--output", "json"]);
    assert_eq!(finished.status.code(), Some(11), "{finished:?}");
    let diagnoses: Vec<_> = found(&finished)
        .iter()
        .map(|it| it["verdict"]["diagnosis"].clone())
        .collect();
    assert_eq!(diagnoses, ["no-route", "no-such-name"]);

    write("shop.example:0\n");
    let finished = run(&lab.outside(), &["--all", file]);
    assert_eq!(finished.status.code(), Some(2), "{finished:?}");
    assert!(finished.stderr.join("\n").contains("line 1"), "{finished:?}");
}

#[test]
fn it_looks_again_until_it_is_told_to_stop() {
    let lab = Lab::new(Breakage::NoRoute).unwrap();
    let arguments = [
        "probe",
        "--timeout",
        TIMEOUT,
        "--deadline",
        DEADLINE,
        "--watch",
        "1s",
        &host(),
    ];
    let enforcer = Enforcer::start(Enforcer::command(&lab.outside(), arguments).unwrap()).unwrap();
    enforcer
        .wait_for_line(Stream::Stdout, LIMIT, |line| line == "Verdict")
        .unwrap();
    enforcer
        .wait_for_line(Stream::Stdout, LIMIT, |line| {
            line.contains("unchanged: IPv6 to shop.example:80")
        })
        .unwrap();
    // What changes is said in full.
    lab.nameserver.set(60, [(NAME, V4)]).unwrap();
    enforcer
        .wait_for_line(Stream::Stdout, LIMIT, |line| {
            line.contains("has no IPv6 address and works")
        })
        .unwrap();
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert!(finished.stderr.is_empty(), "{finished:?}");
}

#[test]
fn what_is_no_host_is_a_malformed_argument() {
    for arguments in [
        &["probe"][..],
        &["probe", "https://shop.example"],
        &["probe", "shop.example:0"],
        &["probe", "fe80::1%eth0"],
        &["probe", "shop.example", "--all", "hosts.txt"],
        &["probe", "shop.example", "--watch", "soon"],
        &["probe", "shop.example", "--from", "a b"],
        &["probe", "--all", "/nowhere/hosts.txt"],
    ] {
        let finished = Enforcer::output(&Place::default(), arguments, PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(2), "{arguments:?} {finished:?}");
        assert!(finished.stdout.is_empty(), "{finished:?}");
    }
}

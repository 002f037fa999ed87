//! Rules about names, against a real nameserver and by real connects: where connects to a name's addresses go, and what
//! becomes of that when the nameserver says something else, or nothing any more.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use enforcer_tests::{
    client::Client,
    enforcer::Enforcer,
    kernel::caller_sees,
    named::{IPV4, IPV6, Named, ended, said, set},
    place::Place,
    protocol::{Connect, Request},
    wait::PATIENCE,
};

const NAME: &str = "db.example";
const OTHER: &str = "cache.example";

/// An errno that the network gives to nobody.
const ERRNO: &str = "EHOSTDOWN";

/// A rule about a name, with its other keys.
fn rule(name: &str, keys: &str) -> String {
    format!("[[rule]]\nhost = \"{name}\"\nerrno = \"{ERRNO}\"\n{keys}\n")
}

fn redirect(name: &str) -> String {
    rule(name, "action = \"redirect\"")
}

#[test]
fn a_name_is_rejected_by_its_addresses_and_its_neighbours_are_not() {
    let world = Named::new("host-reject").unwrap();
    let mut client = world.client().unwrap();
    world.untouched(&mut client).unwrap();
    let _nameserver = world.nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    let enforcer = world.govern(&rule(NAME, "action = \"reject\"")).unwrap();
    for (to, arrives) in [
        (IPV6[0], caller_sees(ERRNO)),
        (IPV6[1], IPV6[1]),
        (IPV6[0], caller_sees(ERRNO)),
        (IPV6[3], IPV6[3]),
        (IPV4[0], IPV4[0]),
    ] {
        assert_eq!(world.arrives(&mut client, to).unwrap(), arrives, "{to}");
    }
    let lines = ended(enforcer).unwrap();
    // The fourth is in another /48, and the fifth is no IPv6 connect.
    let names = "names: hit_ratio 0.667: 2 to known addresses, 1 to others in the same /48";
    assert!(lines.iter().any(|line| line == names), "{lines:#?}");
    world.untouched(&mut client).unwrap();
}

#[test]
fn a_name_is_redirected_and_what_is_open_stays_when_its_address_changes() {
    let world = Named::new("host-redirect").unwrap();
    let mut client = world.client().unwrap();
    world.untouched(&mut client).unwrap();
    let two = [(NAME, IPV6[0]), (NAME, IPV6[1])];
    let nameserver = world.nameserver(&[two[0], two[1], (NAME, IPV4[0])]).unwrap();
    let enforcer = world.govern(&redirect(NAME)).unwrap();
    for to in &IPV6[..2] {
        assert_eq!(world.arrives(&mut client, to).unwrap(), IPV4[0], "{to}");
    }
    for to in &IPV6[2..] {
        assert_eq!(world.arrives(&mut client, to).unwrap(), *to);
    }
    let open = client
        .connect(Connect {
            hold: true,
            ..world.connect(IPV6[0]).unwrap()
        })
        .unwrap();
    assert_eq!(world.arrived(&open).unwrap(), IPV4[0]);

    set(&nameserver, &[two[0], two[1], (NAME, IPV4[1])]).unwrap();
    for to in &IPV6[..2] {
        world.eventually_arrives(&mut client, to, IPV4[1]).unwrap();
    }
    let id = open.id.unwrap();
    let answer = client
        .ask(&Request::Exchange {
            id,
            send: "still here".to_owned(),
            timeout_ms: open_patience(),
        })
        .unwrap();
    assert_eq!(answer.received.as_deref(), Some("still here"), "{answer:?}");
    let names = client.ask(&Request::Names { id }).unwrap();
    assert_eq!(names.peer, open.peer, "{names:?}");
    assert_eq!(names.local, open.local, "{names:?}");
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

fn open_patience() -> u64 {
    u64::try_from(PATIENCE.as_millis()).unwrap()
}

#[test]
fn an_address_of_two_names_goes_where_both_may_go_or_nowhere() {
    let world = Named::new("host-shared").unwrap();
    let mut client = world.client().unwrap();
    world.untouched(&mut client).unwrap();
    let shared = [
        (NAME, IPV6[0]),
        (NAME, IPV4[0]),
        (OTHER, IPV6[0]),
        (OTHER, IPV4[1]),
    ];
    let nameserver = world
        .nameserver(&[&shared[..], &[(NAME, IPV6[1]), (NAME, IPV4[1])]].concat())
        .unwrap();
    let enforcer = world.govern(&(redirect(NAME) + &redirect(OTHER))).unwrap();
    for _ in 0..8 {
        assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), IPV4[1]);
    }
    let own = world.arrives(&mut client, IPV6[1]).unwrap();
    assert!(IPV4[..2].contains(&own.as_str()), "{own}");

    // What a name had a moment ago still counts, as long as the names share nothing newer. These never did.
    drop(enforcer);
    set(&nameserver, &shared).unwrap();
    let enforcer = world.govern(&(redirect(NAME) + &redirect(OTHER))).unwrap();
    let line = said(&enforcer, "share no IPv4 address").unwrap();
    for part in [IPV6[0], NAME, OTHER] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), caller_sees(ERRNO));

    let agreed = [&shared[..], &[(NAME, IPV4[2]), (OTHER, IPV4[2])]].concat();
    set(&nameserver, &agreed).unwrap();
    world.eventually_arrives(&mut client, IPV6[0], IPV4[2]).unwrap();
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

#[test]
fn a_rule_that_is_only_tried_takes_no_address_from_another() {
    let world = Named::new("host-audit").unwrap();
    let mut client = world.client().unwrap();
    let _nameserver = world
        .nameserver(&[
            (NAME, IPV6[0]),
            (NAME, IPV4[0]),
            (OTHER, IPV6[0]),
            (OTHER, IPV4[1]),
        ])
        .unwrap();
    let tried = rule(OTHER, "action = \"redirect\"\nmode = \"audit\"");
    let enforcer = world.govern(&(redirect(NAME) + &tried)).unwrap();
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), IPV4[0]);
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

#[test]
fn answers_that_rotate_accumulate() {
    let world = Named::new("host-rotate").unwrap();
    let mut client = world.client().unwrap();
    world.untouched(&mut client).unwrap();
    let nameserver = world.nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    let enforcer = world.govern(&redirect(NAME)).unwrap();
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), IPV4[0]);
    for turn in 1..3 {
        assert_eq!(world.arrives(&mut client, IPV6[turn]).unwrap(), IPV6[turn]);
        set(&nameserver, &[(NAME, IPV6[turn]), (NAME, IPV4[0])]).unwrap();
        world
            .eventually_arrives(&mut client, IPV6[turn], IPV4[0])
            .unwrap();
        for earlier in &IPV6[..turn] {
            assert_eq!(world.arrives(&mut client, earlier).unwrap(), IPV4[0]);
        }
    }
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

#[test]
fn a_nameserver_that_stops_changes_nothing_and_is_heard_again() {
    let world = Named::new("host-silent").unwrap();
    let mut client = world.client().unwrap();
    world.untouched(&mut client).unwrap();
    let nameserver = world.nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    let enforcer = world.govern(&redirect(NAME)).unwrap();
    drop(nameserver);
    let line = said(&enforcer, "cannot look up").unwrap();
    assert!(
        line.contains(NAME) && line.contains("known addresses stay"),
        "{line}"
    );
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), IPV4[0]);
    let _nameserver = world.nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[1])]).unwrap();
    said(&enforcer, "found again").unwrap();
    world.eventually_arrives(&mut client, IPV6[0], IPV4[1]).unwrap();
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

#[test]
fn nobody_who_answers_at_the_start_is_no_reason_not_to_govern() {
    let world = Named::new("host-late").unwrap();
    let mut client = world.client().unwrap();
    let other = format!(
        "[[rule]]\nprefix = \"{}/128\"\nerrno = \"{ERRNO}\"\naction = \"reject\"\n",
        IPV6[3]
    );
    let enforcer = world.govern(&(redirect(NAME) + &other)).unwrap();
    said(&enforcer, "cannot look up").unwrap();
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), IPV6[0]);
    assert_eq!(world.arrives(&mut client, IPV6[3]).unwrap(), caller_sees(ERRNO));
    let _nameserver = world.nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    world.eventually_arrives(&mut client, IPV6[0], IPV4[0]).unwrap();
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

#[test]
fn a_name_with_ipv6_addresses_only_is_told_and_becomes_what_the_rule_says() {
    let world = Named::new("host-six").unwrap();
    let mut client = world.client().unwrap();
    world.untouched(&mut client).unwrap();
    let nameserver = world.nameserver(&[(NAME, IPV6[0])]).unwrap();
    for (keys, arrives, tells) in [
        (
            "action = \"reject\"",
            caller_sees(ERRNO),
            "cannot make it reachable",
        ),
        (
            "action = \"redirect\"\nwithout_twin = \"reject\"",
            caller_sees(ERRNO),
            "cannot make it reachable",
        ),
        (
            "action = \"redirect\"\nwithout_twin = \"allow\"",
            IPV6[0],
            "as if there were no rule",
        ),
    ] {
        let enforcer = world.govern(&rule(NAME, keys)).unwrap();
        let line = said(&enforcer, "IPv6 addresses only").unwrap();
        assert!(line.contains(NAME) && line.contains(tells), "{line}");
        assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), arrives, "{keys}");
        let lines = ended(enforcer).unwrap();
        let told = lines.iter().filter(|line| line.contains("IPv6 addresses only"));
        assert_eq!(told.count(), 1, "{lines:#?}");
        // Whatever becomes of it, it was an address that is known.
        let names = "names: hit_ratio 1.000: 1 to known addresses, 0 to others in the same /48";
        assert!(lines.iter().any(|line| line == names), "{lines:#?}");
    }
    let enforcer = world.govern(&redirect(NAME)).unwrap();
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), caller_sees(ERRNO));
    set(&nameserver, &[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    world.eventually_arrives(&mut client, IPV6[0], IPV4[0]).unwrap();
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

#[test]
fn a_prefix_goes_to_where_a_name_is_as_soon_as_that_is_known() {
    let world = Named::new("to-host").unwrap();
    let mut client = world.client().unwrap();
    world.untouched(&mut client).unwrap();
    let nameserver = world.nameserver(&[]).unwrap();
    // A port below those that the kernel chooses, so it is not the server's.
    let policy = format!(
        "[[rule]]\nprefix = \"2001:db8:a::/48\"\naction = \"redirect\"\nto_host = \"{NAME}:{}\"\nports = [{}, 443]\n",
        world.port(),
        world.port()
    );
    let enforcer = world.govern(&policy).unwrap();
    said(&enforcer, "there is no such name").unwrap();
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), IPV6[0]);
    set(&nameserver, &[(NAME, IPV4[0])]).unwrap();
    world.eventually_arrives(&mut client, IPV6[0], IPV4[0]).unwrap();
    let mut connect = world.connect(IPV6[1]).unwrap();
    connect.to.set_port(443);
    let answer = client.connect(connect.clone()).unwrap();
    assert_eq!(answer.peer, Some(connect.to), "{answer:?}");
    assert_eq!(world.arrived(&answer).unwrap(), IPV4[0]);
    set(&nameserver, &[(NAME, IPV4[1])]).unwrap();
    world.eventually_arrives(&mut client, IPV6[2], IPV4[1]).unwrap();
    assert_eq!(world.arrives(&mut client, IPV6[3]).unwrap(), IPV6[3]);
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

#[test]
fn a_retry_on_another_socket_can_reach_another_address() {
    let world = Named::new("host-several").unwrap();
    let mut client = world.client().unwrap();
    world.untouched(&mut client).unwrap();
    let _nameserver = world
        .nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[0]), (NAME, IPV4[1]), (NAME, IPV4[2])])
        .unwrap();
    let enforcer = world.govern(&redirect(NAME)).unwrap();
    for wanted in IPV4 {
        world.eventually_arrives(&mut client, IPV6[0], wanted).unwrap();
    }
    ended(enforcer).unwrap();
    world.untouched(&mut client).unwrap();
}

#[test]
fn a_command_of_exec_is_governed_by_names_while_they_change() {
    exec("host-exec", "action = \"redirect\"");
}

#[test]
fn the_nameservers_of_a_command_of_exec_are_those_of_the_host() {
    exec("host-exec-own", "action = \"redirect\"\nresolve = \"target\"");
}

#[track_caller]
fn exec(what: &str, keys: &str) {
    let world = Named::new(what).unwrap();
    let nameserver = world.nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    let mut arguments = vec!["exec".to_owned()];
    arguments.extend(world.arguments(&rule(NAME, keys)).unwrap());
    arguments.push("--".to_owned());
    let mut command = Enforcer::command(&Place::outside(&world.netns), arguments).unwrap();
    command.arg(Client::program().unwrap());
    let mut client = Client::start_by(command).unwrap();
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), IPV4[0]);
    assert_eq!(world.arrives(&mut client, IPV6[1]).unwrap(), IPV6[1]);
    set(&nameserver, &[(NAME, IPV6[0]), (NAME, IPV4[1])]).unwrap();
    world.eventually_arrives(&mut client, IPV6[0], IPV4[1]).unwrap();
    let mut outsider = world.client().unwrap();
    world.untouched(&mut outsider).unwrap();
}

#[test]
fn a_state_directory_that_cannot_be_written_is_no_reason_not_to_govern() {
    let world = Named::new("host-state").unwrap();
    let mut client = world.client().unwrap();
    let _nameserver = world.nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    // Nobody, not even root, makes a directory where a file is.
    fs::write(world.folder().join("state"), "").unwrap();
    let keys = "action = \"reject\"\nexpires = \"1h\"";
    let enforcer = world.govern(&rule(NAME, keys)).unwrap();
    let line = said(&enforcer, "rules that expire after a duration").unwrap();
    assert!(line.contains("warning: ") && line.contains("state"), "{line}");
    assert_eq!(world.arrives(&mut client, IPV6[0]).unwrap(), caller_sees(ERRNO));
    let lines = ended(enforcer).unwrap();
    assert!(
        lines.iter().any(|line| line.contains("hint: `--state-dir`")),
        "{lines:#?}"
    );
    world.untouched(&mut client).unwrap();
}

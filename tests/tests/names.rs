//! Names followed over time, with real nameservers: what they say next, what they stop saying, and when they are
//! gone. In network namespaces of the tests' own; nothing is governed here.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::PathBuf,
};

use enforcer::names::{
    Answers, Change, Families, Follower, Note, Options, Request, Resolver,
    twins::{Claim, Twin, WithoutTwin, twins},
};
use enforcer_tests::{
    lab::{Asked, Nameserver},
    netns::NetnsFixture,
    wait::PATIENCE,
};
use tempfile::TempDir;
use tokio::{runtime, time::timeout};

const NAMESERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
const SILENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 54));
const NAME: &str = "db.example";

/// The shortest TTL that counts, in seconds: what is said with it is asked again soon.
const SHORT: u32 = 5;

/// A host with a resolver.
struct Host {
    folder: TempDir,
    netns: NetnsFixture,
}

impl Host {
    fn new(resolv_conf: &str) -> Self {
        let netns = NetnsFixture::new().unwrap();
        netns.add_local([NAMESERVER, SILENT]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("resolv.conf"), resolv_conf).unwrap();
        Self { folder, netns }
    }

    fn asking_the_nameserver() -> Self {
        Self::new(&format!("nameserver {NAMESERVER}\n"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn nameserver(&self, records: &[(&str, &str)]) -> Nameserver {
        let nameserver = Nameserver::start(&self.netns, NAMESERVER, []).unwrap();
        set(&nameserver, records);
        nameserver
    }

    /// Follows the names and does that with them, in this host's network namespace.
    fn follow(&self, names: &[&str], work: impl AsyncFnOnce(&mut Following) + Send) {
        self.netns
            .run(|| {
                let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let mut follower = Follower::new(Options {
                        resolv_conf: self.file("resolv.conf"),
                        hosts: self.file("hosts"),
                        ..Options::default()
                    });
                    follower.follow(names.iter().copied().map(request)).unwrap();
                    work(&mut Following(follower)).await;
                });
                Ok(())
            })
            .unwrap();
    }
}

fn set(nameserver: &Nameserver, records: &[(&str, &str)]) {
    let records = records
        .iter()
        .map(|(name, address)| (*name, address.parse().unwrap()));
    nameserver.set(SHORT, records).unwrap();
}

fn request(name: &str) -> Request {
    Request {
        name: name.parse().unwrap(),
        families: Families::Both,
        resolver: Resolver::Host,
        allow_private: false,
    }
}

struct Following(Follower);

impl Following {
    async fn change(&mut self) -> Change {
        timeout(PATIENCE, self.0.changed()).await.unwrap()
    }

    async fn settled(&mut self) -> Vec<Note> {
        let mut notes = Vec::new();
        loop {
            let change = self.change().await;
            notes.extend(change.notes);
            if change.settled {
                return notes;
            }
        }
    }

    fn answers(&self, name: &str) -> Answers {
        let mut all = self.0.answers();
        all.find(|(request, _)| request.name.as_str() == name).unwrap().1
    }

    /// All addresses, those of the last answer with a star.
    fn addresses(&self, name: &str) -> Vec<String> {
        let answers = self.answers(name);
        let star = |current| if current { "*" } else { "" };
        let aaaa = answers
            .aaaa
            .iter()
            .map(|seen| format!("{}{}", seen.address, star(seen.current)));
        let a = answers
            .a
            .iter()
            .map(|seen| format!("{}{}", seen.address, star(seen.current)));
        aaaa.chain(a).collect()
    }
}

#[test]
fn an_address_that_changes_is_seen_when_its_ttl_has_passed() {
    let host = Host::asking_the_nameserver();
    let nameserver = host.nameserver(&[(NAME, "2001:db8::1"), (NAME, "192.0.2.1")]);
    host.follow(&[NAME], async |following| {
        following.settled().await;
        assert_eq!(following.addresses(NAME), ["2001:db8::1*", "192.0.2.1*"]);
        set(&nameserver, &[(NAME, "2001:db8::1"), (NAME, "192.0.2.2")]);
        let change = following.change().await;
        assert_eq!(change.changed, [request(NAME)]);
        assert_eq!(
            following.addresses(NAME),
            ["2001:db8::1*", "192.0.2.1", "192.0.2.2*"]
        );
        assert_eq!(following.answers(NAME).current_a(), [Ipv4Addr::new(192, 0, 2, 2)]);
    });
}

#[test]
fn rotating_answers_accumulate() {
    let host = Host::asking_the_nameserver();
    let nameserver = host.nameserver(&[(NAME, "2001:db8::1"), (NAME, "192.0.2.1")]);
    host.follow(&[NAME], async |following| {
        following.settled().await;
        for last in ["2", "3"] {
            let (aaaa, a) = (format!("2001:db8::{last}"), format!("192.0.2.{last}"));
            set(&nameserver, &[(NAME, &aaaa), (NAME, &a)]);
            following.change().await;
        }
        assert_eq!(
            following.addresses(NAME),
            [
                "2001:db8::1",
                "2001:db8::2",
                "2001:db8::3*",
                "192.0.2.1",
                "192.0.2.2",
                "192.0.2.3*"
            ]
        );
    });
}

#[test]
fn a_nameserver_that_stops_takes_nothing_with_it_and_is_heard_again() {
    let host = Host::asking_the_nameserver();
    let nameserver = host.nameserver(&[(NAME, "2001:db8::1"), (NAME, "192.0.2.1")]);
    host.follow(&[NAME], async |following| {
        following.settled().await;
        drop(nameserver);
        let change = following.change().await;
        assert!(matches!(change.notes[..], [Note::Failed { .. }]), "{change:?}");
        assert_eq!(change.changed, []);
        assert_eq!(following.addresses(NAME), ["2001:db8::1*", "192.0.2.1*"]);
        let _nameserver = host.nameserver(&[(NAME, "2001:db8::1"), (NAME, "192.0.2.9")]);
        let change = following.change().await;
        assert!(matches!(change.notes[..], [Note::Recovered { .. }]), "{change:?}");
        assert_eq!(
            following.addresses(NAME),
            ["2001:db8::1*", "192.0.2.1", "192.0.2.9*"]
        );
    });
}

#[test]
fn a_name_that_ceases_to_exist_loses_nothing() {
    let host = Host::asking_the_nameserver();
    let nameserver = host.nameserver(&[(NAME, "2001:db8::1"), (NAME, "192.0.2.1")]);
    host.follow(&[NAME], async |following| {
        following.settled().await;
        set(&nameserver, &[]);
        let change = following.change().await;
        assert!(
            matches!(change.notes[..], [Note::NoAddress { exists: false, .. }]),
            "{change:?}"
        );
        assert_eq!(change.changed, []);
        assert_eq!(following.addresses(NAME), ["2001:db8::1*", "192.0.2.1*"]);
    });
}

#[test]
fn names_that_share_an_address_share_their_twins_and_a_name_without_any_is_told() {
    let host = Host::asking_the_nameserver();
    let _nameserver = host.nameserver(&[
        ("a.example", "2001:db8::1"),
        ("a.example", "192.0.2.1"),
        ("a.example", "192.0.2.2"),
        ("b.example", "2001:db8::1"),
        ("b.example", "192.0.2.2"),
        ("c.example", "2001:db8::1"),
        ("c.example", "192.0.2.3"),
        ("six.example", "2001:db8::6"),
    ]);
    host.follow(
        &["a.example", "b.example", "c.example", "six.example"],
        async |following| {
            following.settled().await;
            let found = |names: &[&str]| {
                let answers: Vec<_> = names
                    .iter()
                    .map(|name| (*name, following.answers(name)))
                    .collect();
                twins(answers.iter().map(|(name, answers)| Claim {
                    name,
                    resolver: Resolver::Host,
                    allow_private: false,
                    answers,
                    without_twin: WithoutTwin::Allow,
                }))
            };
            let both = found(&["a.example", "b.example"]);
            let shared = (
                "2001:db8::1".parse().unwrap(),
                Twin::To(vec![Ipv4Addr::new(192, 0, 2, 2)]),
            );
            assert_eq!((both.twins, both.notes), (vec![shared], vec![]));
            let all = found(&["a.example", "b.example", "c.example", "six.example"]);
            assert!(
                matches!(all.twins[..], [(_, Twin::Reject(_)), (_, Twin::Allow)]),
                "{all:?}"
            );
            let said: Vec<_> = all.notes.iter().map(ToString::to_string).collect();
            assert!(
                said[0].contains("a.example and b.example and c.example"),
                "{said:?}"
            );
            assert!(
                said[1].starts_with("six.example has IPv6 addresses only"),
                "{said:?}"
            );
        },
    );
}

#[test]
fn an_answer_too_long_for_a_datagram_comes_whole() {
    let host = Host::asking_the_nameserver();
    let addresses: Vec<_> = (1..=60).map(|last| format!("192.0.2.{last}")).collect();
    let records: Vec<_> = addresses.iter().map(|address| (NAME, address.as_str())).collect();
    let nameserver = host.nameserver(&records);
    host.follow(&[NAME], async |following| {
        following.settled().await;
        assert_eq!(following.answers(NAME).current_a().len(), 60);
    });
    assert!(
        nameserver.asked().iter().any(|asked| asked.tcp),
        "{:?}",
        nameserver.asked()
    );
}

#[test]
fn only_a_name_without_a_dot_is_searched_for() {
    let host = Host::new(&format!(
        "nameserver {NAMESERVER}\nsearch one.example two.example\noptions ndots:5\n"
    ));
    let nameserver = host.nameserver(&[("db.two.example", "192.0.2.1"), ("db.one", "192.0.2.2")]);
    host.follow(&["db", "db.one"], async |following| {
        following.settled().await;
        assert_eq!(following.addresses("db"), ["192.0.2.1*"]);
        assert_eq!(following.addresses("db.one"), ["192.0.2.2*"]);
    });
    let mut names: Vec<_> = nameserver.asked().into_iter().map(|asked| asked.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names, ["db.one", "db.one.example", "db.two.example"]);
}

#[test]
fn behind_a_nameserver_that_is_silent_the_next_is_asked() {
    let host = Host::new(&format!(
        "nameserver {SILENT}\nnameserver {NAMESERVER}\noptions timeout:5\n"
    ));
    let _nameserver = host.nameserver(&[(NAME, "192.0.2.1")]);
    // Takes what is sent, and says nothing.
    let _silent = host.netns.run(|| Ok(UdpSocket::bind((SILENT, 53))?)).unwrap();
    host.follow(&[NAME], async |following| {
        assert_eq!(following.settled().await, []);
        assert_eq!(following.addresses(NAME), ["192.0.2.1*"]);
    });
}

#[test]
fn a_resolv_conf_that_is_replaced_is_used_from_then_on() {
    // Nobody is there.
    let host = Host::new(&format!("nameserver {SILENT}\n"));
    let nameserver = host.nameserver(&[(NAME, "192.0.2.1")]);
    host.follow(&[NAME], async |following| {
        assert!(matches!(following.settled().await[..], [Note::Failed { .. }]));
        assert_eq!(nameserver.asked(), [] as [Asked; 0]);
        fs::write(host.file("new"), format!("nameserver {NAMESERVER}\n")).unwrap();
        fs::rename(host.file("new"), host.file("resolv.conf")).unwrap();
        following.change().await;
        assert_eq!(following.addresses(NAME), ["192.0.2.1*"]);
    });
}

#[test]
fn many_names_are_all_asked_for() {
    let host = Host::asking_the_nameserver();
    let names: Vec<_> = (0..200).map(|number| format!("n{number}.example")).collect();
    let records: Vec<_> = names.iter().map(|name| (name.as_str(), "192.0.2.1")).collect();
    let _nameserver = host.nameserver(&records);
    host.follow(
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
        async |following| {
            assert_eq!(following.settled().await, []);
            for name in &names {
                assert_eq!(following.addresses(name), ["192.0.2.1*"], "{name}");
            }
        },
    );
}

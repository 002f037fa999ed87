//! Several targets with rules about names: each gets the addresses of its own rules, and with `resolve = "target"` those
//! that its own nameserver says.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{ffi::CStr, io, net::IpAddr, os::unix::process::CommandExt as _};

use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    kernel::caller_sees,
    lab::Nameserver,
    named::{IPV4, IPV6, Named, ended, said, set},
    netns::NetnsFixture,
    place::Place,
    protocol::{Connect, SocketKind},
    server::Server,
    wait::{PATIENCE, eventually},
};
use rustix::{
    fs::{Mode, OFlags, open},
    io::write,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

const NAME: &str = "db.example";
const OTHER: &str = "cache.example";

/// An errno that the network gives to nobody.
const ERRNO: &str = "EHOSTDOWN";

fn target(name: &str, cgroup: &CgroupFixture, groups: &str) -> String {
    format!(
        "[[target]]\nname = \"{name}\"\ncgroup = \"{}\"\nuse = {groups}\n",
        cgroup.relative_path()
    )
}

fn rule(group: &str, name: &str, keys: &str) -> String {
    format!("[[rule]]\ngroups = [\"{group}\"]\nhost = \"{name}\"\nerrno = \"{ERRNO}\"\n{keys}\n")
}

#[test]
fn targets_of_other_groups_have_the_names_of_their_own() {
    let world = Named::new("names-of-one").unwrap();
    let second = CgroupFixture::new("test-names-of-two").unwrap();
    let third = CgroupFixture::new("test-names-of-none").unwrap();
    let in_cgroup = |cgroup| Client::start(&Place::new(cgroup, &world.netns)).unwrap();
    let mut one = in_cgroup(&world.cgroup);
    let mut two = in_cgroup(&second);
    let mut none = in_cgroup(&third);
    world.untouched(&mut one).unwrap();
    let nameserver = world
        .nameserver(&[
            (NAME, IPV6[0]),
            (NAME, IPV4[0]),
            (OTHER, IPV6[1]),
            (OTHER, IPV4[1]),
        ])
        .unwrap();
    let policy = [
        target("one", &world.cgroup, "[\"first\"]"),
        target("two", &second, "[\"second\"]"),
        target("none", &third, "[\"third\"]"),
        rule("first", NAME, "action = \"redirect\""),
        rule("second", OTHER, "action = \"redirect\""),
        "[[rule]]\ngroups = [\"third\"]\nprefix = \"2001:db8:ffff::/48\"\naction = \"reject\"\n".to_owned(),
    ];
    let arguments = world.arguments(&policy.concat()).unwrap();
    let enforcer = world.run(&arguments).unwrap();
    for (client, arrives) in [
        (&mut one, [IPV4[0], IPV6[1]]),
        (&mut two, [IPV6[0], IPV4[1]]),
        (&mut none, [IPV6[0], IPV6[1]]),
    ] {
        for (to, arrives) in IPV6.iter().zip(arrives) {
            assert_eq!(world.arrives(client, to).unwrap(), arrives);
        }
    }
    set(
        &nameserver,
        &[
            (NAME, IPV6[0]),
            (NAME, IPV4[2]),
            (OTHER, IPV6[1]),
            (OTHER, IPV4[1]),
        ],
    )
    .unwrap();
    world.eventually_arrives(&mut one, IPV6[0], IPV4[2]).unwrap();
    assert_eq!(world.arrives(&mut two, IPV6[0]).unwrap(), IPV6[0]);
    assert_eq!(world.arrives(&mut two, IPV6[1]).unwrap(), IPV4[1]);
    ended(enforcer).unwrap();
    world.untouched(&mut two).unwrap();
}

/// Where containers of Docker's find their nameserver: nobody outside their network namespace reaches it.
const INSIDE: &str = "127.0.0.11";

/// Gives the calling process a mount namespace of its own, with an `/etc` that names [`INSIDE`]. Makes system calls only.
fn replace_etc() -> io::Result<()> {
    // SAFETY: after fork there is one thread, and only mounts and the working directory are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let options: Option<&CStr> = Some(c"mode=755");
    mount(c"tmpfs", c"/etc", c"tmpfs", MountFlags::empty(), options)?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = open(c"/etc/resolv.conf", flags, Mode::from_raw_mode(0o644))?;
    write(&file, b"nameserver 127.0.0.11\noptions timeout:1 attempts:1\n")?;
    Ok(())
}

/// A workload with a network namespace, a nameserver and an `/etc` of its own, as a container has them.
struct Container {
    client: Client,
    nameserver: Nameserver,
    server: Server,
    cgroup: CgroupFixture,
    _netns: NetnsFixture,
}

impl Container {
    fn new(what: &str) -> Self {
        let netns = NetnsFixture::new().unwrap();
        let addresses: Vec<IpAddr> = [IPV6[0], IPV4[0], IPV4[1]]
            .map(|text| text.parse().unwrap())
            .into();
        netns.add_local(addresses.clone()).unwrap();
        let server = Server::echo(&netns, addresses.into_iter().map(|ip| (ip, 0).into())).unwrap();
        let cgroup = CgroupFixture::new(&format!("test-{what}")).unwrap();
        let mut command = Client::command(&Place::new(&cgroup, &netns)).unwrap();
        // SAFETY: between fork and exec the closure makes system calls only.
        unsafe { command.pre_exec(replace_etc) };
        let client = Client::start_by(command).unwrap();
        let nameserver = Nameserver::start(&netns, INSIDE.parse().unwrap(), []).unwrap();
        Self {
            client,
            nameserver,
            server,
            cgroup,
            _netns: netns,
        }
    }

    /// Where a connect to the first address arrives, or its errno.
    fn arrives(&mut self) -> String {
        let to = self.server.address();
        let connect = Connect {
            send: Some("hello".to_owned()),
            ..Connect::new(SocketKind::Tcp, to)
        };
        let answer = self.client.connect(connect).unwrap();
        if !answer.ok {
            return answer.outcome();
        }
        assert_eq!(answer.peer, Some(to), "{answer:?}");
        let port = answer.local.unwrap().port();
        let accepted = self.server.accepted();
        let accepted = accepted.iter().rfind(|accepted| accepted.from.port() == port);
        accepted.unwrap().at.ip().to_string()
    }

    #[track_caller]
    fn eventually_arrives(&mut self, at: &str) {
        let what = format!("connects to arrive at {at}");
        eventually(&what, PATIENCE, || self.arrives() == at).unwrap();
    }
}

#[test]
fn what_a_target_resolves_steers_that_target_alone() {
    let world = Named::new("inside-host").unwrap();
    let mut one = Container::new("inside-one");
    let mut two = Container::new("inside-two");
    for container in [&mut one, &mut two] {
        assert_eq!(container.arrives(), IPV6[0]);
    }
    set(&one.nameserver, &[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    set(&two.nameserver, &[(NAME, IPV6[0]), (NAME, IPV4[1])]).unwrap();
    // The host's, which the rule does not ask.
    let host = world.nameserver(&[(NAME, IPV6[0]), (NAME, IPV4[2])]).unwrap();
    let policy = [
        target("one", &one.cgroup, "[\"names\"]"),
        target("two", &two.cgroup, "[\"names\"]"),
        rule("names", NAME, "action = \"redirect\"\nresolve = \"target\""),
    ];
    let enforcer = world.run(&world.arguments(&policy.concat()).unwrap()).unwrap();
    one.eventually_arrives(IPV4[0]);
    two.eventually_arrives(IPV4[1]);
    assert_eq!(host.asked(), []);

    // One lies about where the name is, and claims what it cannot have.
    set(
        &one.nameserver,
        &[
            (NAME, IPV6[0]),
            (NAME, IPV4[1]),
            (NAME, "127.0.0.1"),
            (NAME, "169.254.169.254"),
        ],
    )
    .unwrap();
    one.eventually_arrives(IPV4[1]);
    let line = said(&enforcer, "169.254.169.254 is left out").unwrap();
    assert!(line.contains("as its target resolves it"), "{line}");
    set(&two.nameserver, &[(NAME, IPV6[0]), (NAME, IPV4[0])]).unwrap();
    two.eventually_arrives(IPV4[0]);
    for _ in 0..8 {
        assert_eq!(one.arrives(), IPV4[1]);
        assert_eq!(two.arrives(), IPV4[0]);
    }
    ended(enforcer).unwrap();
    for container in [&mut one, &mut two] {
        assert_eq!(container.arrives(), IPV6[0]);
    }
}

#[test]
fn a_target_that_resolves_nothing_leaves_others_their_rejections() {
    let world = Named::new("inside-mute").unwrap();
    let mut one = Container::new("mute-one");
    let mut two = Container::new("mute-two");
    set(&two.nameserver, &[(NAME, IPV6[0])]).unwrap();
    let policy = [
        target("one", &one.cgroup, "[\"names\"]"),
        target("two", &two.cgroup, "[\"names\"]"),
        rule("names", NAME, "action = \"reject\"\nresolve = \"target\""),
    ];
    let enforcer = world.run(&world.arguments(&policy.concat()).unwrap()).unwrap();
    two.eventually_arrives(caller_sees(ERRNO));
    assert_eq!(one.arrives(), IPV6[0]);
    let lines = ended(enforcer).unwrap();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("no such name"))
        .collect();
    assert_eq!(told.len(), 1, "{lines:#?}");
    assert_eq!(two.arrives(), IPV6[0]);
}

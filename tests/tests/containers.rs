//! `enforcer run --container`, with real engines and real containers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use enforcer_tests::{
    client::Client,
    enforcer::{Enforcer, is_ready},
    engine::{Container, Engine, Kind},
    kernel::caller_sees,
    need::{need, place},
    netns::NetnsFixture,
    place::Place,
    process::{Finished, Stream},
    scene::{A, IPV4},
    server::Server,
    wait::{PATIENCE, eventually},
};
use rustix::process::Signal;

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

/// A container with something to connect to in its network, and a client in it. Fields are dropped in order.
struct Workload {
    client: Client,
    server: Server,
    /// Keeps the container's network for the server.
    _netns: NetnsFixture,
    container: Container,
}

impl Workload {
    /// With IPv6: an ungoverned connect to [`A`] succeeds.
    fn with_ipv6(engine: &Arc<Engine>, name: &str) -> Self {
        let container = engine.run(name).unwrap();
        let netns = container.netns().unwrap();
        netns.set("ipv6/conf/lo/disable_ipv6", "0").unwrap();
        netns.add_local([A, IPV4]).unwrap();
        Self::serving(
            container,
            netns,
            &[A, IPV4].map(|address| SocketAddr::new(address, 0)),
        )
    }

    /// As engines make them: without any IPv6. What listens does so on IPv4 only.
    fn without_ipv6(engine: &Arc<Engine>, name: &str) -> Self {
        let container = engine.run(name).unwrap();
        let netns = container.netns().unwrap();
        netns.set("ipv6/conf/all/disable_ipv6", "1").unwrap();
        netns.add_local([IPV4]).unwrap();
        Self::serving(container, netns, &[SocketAddr::new(IPV4, 0)])
    }

    fn serving(container: Container, netns: NetnsFixture, addresses: &[SocketAddr]) -> Self {
        Self {
            server: Server::echo(&netns, addresses.iter().copied()).unwrap(),
            client: container.client().unwrap(),
            _netns: netns,
            container,
        }
    }

    /// How a connect to [`A`] ends.
    fn outcome(&mut self) -> String {
        let to = SocketAddr::new(A, self.server.address().port());
        self.client.connect_tcp(to).unwrap().outcome()
    }
}

/// A name nobody else has, in no engine: more than the one that a test means may be asked for it.
fn named(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("enforcer-test-{what}-{}-{count}", std::process::id())
}

fn command(engine: &Engine, arguments: &[&str]) -> std::process::Command {
    verb(engine, "run", arguments)
}

fn verb(engine: &Engine, verb: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = Enforcer::command(&Place::default(), [verb]).unwrap();
    let variable = match engine.kind() {
        Kind::Docker => "DOCKER_HOST",
        Kind::Podman => "CONTAINER_HOST",
    };
    command
        .args(arguments)
        .env_remove("DOCKER_HOST")
        .env_remove("CONTAINER_HOST");
    if !engine.is_usual() {
        command.env(variable, engine.host());
    }
    command
}

fn govern(engine: &Engine, arguments: &[&str]) -> Enforcer {
    Enforcer::start_governing(command(engine, arguments)).unwrap()
}

/// Runs enforcer where it is to refuse, and says what it said.
fn refused(command: std::process::Command) -> String {
    let finished: Finished = Enforcer::start(command).unwrap().finish(PATIENCE).unwrap();
    let said = finished.stderr.join("\n");
    assert_eq!(finished.status.code(), Some(1), "{said}");
    assert!(finished.stdout.is_empty(), "{:?}", finished.stdout);
    assert!(!finished.stderr.iter().any(|line| is_ready(line)), "{said}");
    assert!(said.contains("hint: "), "{said}");
    said
}

fn is_governed_by_name_and_another_is_not(kind: Kind) {
    let engine = Engine::shared(kind).unwrap();
    let mut web = Workload::with_ipv6(&engine, &named("web"));
    let mut other = Workload::with_ipv6(&engine, &named("other"));
    assert_eq!([web.outcome(), other.outcome()], ["ok", "ok"]);
    let name = web.container.name().to_owned();
    let arguments = ["--container", &name, "--reject", REJECT_A, "--output", "json"];
    let enforcer = govern(&engine, &arguments);
    let (id, socket) = (web.container.id()[..12].to_owned(), engine.socket());
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line.starts_with(&format!(
                "enforcer: note: container {name} ({id}, {} at {}) is cgroup /",
                kind.name(),
                socket.display()
            ))
        })
        .unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == "enforcing 1 rule on 1 cgroup"
        })
        .unwrap();
    assert_eq!([web.outcome(), other.outcome()], [caller_sees("EHOSTDOWN"), "ok"]);
    let events = enforcer.wait_for_events(1).unwrap();
    assert_eq!(events[0]["target"], name);
    assert!(
        events[0]["cgroup"].as_str().unwrap().contains(web.container.id()),
        "{}",
        events[0]
    );
    if place() == "systemd" {
        // Where systemd makes the cgroups, this is where production has them.
        let expected = match kind {
            Kind::Docker => format!("/system.slice/docker-{}.scope", web.container.id()),
            Kind::Podman => format!("/machine.slice/libpod-{}.scope", web.container.id()),
        };
        assert_eq!(events[0]["cgroup"], expected);
    }
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0));
    assert_eq!(finished.stdout.len(), 1);
    assert_eq!([web.outcome(), other.outcome()], ["ok", "ok"]);
}

fn without_ipv6_is_redirected_to_ipv4(kind: Kind) {
    let engine = Engine::shared(kind).unwrap();
    let mut web = Workload::without_ipv6(&engine, &named("no-ipv6"));
    let before = web.outcome();
    assert_ne!(before, "ok");
    let redirect = format!("2001:db8:a::/48={IPV4}");
    let arguments = ["--container", web.container.id(), "--redirect", &redirect];
    let enforcer = govern(&engine, &arguments);
    assert_eq!(web.outcome(), "ok");
    // A connect ends when the kernel has taken it; the server learns of it a moment later.
    eventually("the connection to arrive", PATIENCE, || {
        !web.server.accepted().is_empty()
    })
    .unwrap();
    assert_eq!(web.server.accepted()[0].at, web.server.address());
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    assert_eq!(web.outcome(), before);
    assert_eq!(web.server.accepted().len(), 1);
}

fn is_looked_from_by_name(kind: Kind) {
    let engine = Engine::shared(kind).unwrap();
    let web = Workload::with_ipv6(&engine, &named("probed"));
    let host = SocketAddr::new(A, web.server.address().port()).to_string();
    let diagnosis = |from: &[&str]| {
        let arguments = [&[&host, "--output", "json"], from].concat();
        let probe = Enforcer::start(verb(&engine, "probe", &arguments)).unwrap();
        let finished = probe.finish(PATIENCE).unwrap();
        assert_eq!(finished.stdout.len(), 1, "{finished:?}");
        let found: serde_json::Value = serde_json::from_str(&finished.stdout[0]).unwrap();
        found["verdict"]["diagnosis"].as_str().unwrap().to_owned()
    };
    let from = format!("container:{}", web.container.name());
    assert_eq!(diagnosis(&["--from", &from]), "healthy");
    // Where the test is nobody has that address.
    assert_ne!(diagnosis(&[]), "healthy");
}

#[test]
fn a_docker_container_is_looked_from_by_name() {
    if need("a_docker_container_is_looked_from_by_name", Kind::Docker.need()) {
        is_looked_from_by_name(Kind::Docker);
    }
}

#[test]
fn a_podman_container_is_looked_from_by_name() {
    if need("a_podman_container_is_looked_from_by_name", Kind::Podman.need()) {
        is_looked_from_by_name(Kind::Podman);
    }
}

#[test]
fn a_docker_container_is_governed_by_name_and_another_is_not() {
    if need(
        "a_docker_container_is_governed_by_name_and_another_is_not",
        Kind::Docker.need(),
    ) {
        is_governed_by_name_and_another_is_not(Kind::Docker);
    }
}

#[test]
fn a_podman_container_is_governed_by_name_and_another_is_not() {
    if need(
        "a_podman_container_is_governed_by_name_and_another_is_not",
        Kind::Podman.need(),
    ) {
        is_governed_by_name_and_another_is_not(Kind::Podman);
    }
}

#[test]
fn a_docker_container_without_ipv6_is_redirected_to_ipv4() {
    if need(
        "a_docker_container_without_ipv6_is_redirected_to_ipv4",
        Kind::Docker.need(),
    ) {
        without_ipv6_is_redirected_to_ipv4(Kind::Docker);
    }
}

#[test]
fn a_podman_container_without_ipv6_is_redirected_to_ipv4() {
    if need(
        "a_podman_container_without_ipv6_is_redirected_to_ipv4",
        Kind::Podman.need(),
    ) {
        without_ipv6_is_redirected_to_ipv4(Kind::Podman);
    }
}

#[test]
fn a_container_named_several_ways_is_governed_once() {
    if !need(
        "a_container_named_several_ways_is_governed_once",
        Kind::Docker.need(),
    ) {
        return;
    }
    let engine = Engine::shared(Kind::Docker).unwrap();
    let mut web = Workload::with_ipv6(&engine, &named("twice"));
    let name = web.container.name().to_owned();
    // Engines take the beginning of an identifier for the whole.
    let beginning = &web.container.id()[..16];
    let targets = [
        "--container",
        beginning,
        "--container",
        &name,
        "--reject",
        REJECT_A,
    ];
    let enforcer = govern(&engine, &targets);
    let once = format!("is named more than once: it is governed once, as target {name}");
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| line.ends_with(&once))
        .unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == "enforcing 1 rule on 1 cgroup"
        })
        .unwrap();
    assert_eq!(web.outcome(), caller_sees("EHOSTDOWN"));
    assert_eq!(enforcer.terminate().unwrap().stdout.len(), 1);
    assert_eq!(web.outcome(), "ok");
}

#[test]
fn a_container_that_stops_is_told_and_ends_the_run() {
    if !need(
        "a_container_that_stops_is_told_and_ends_the_run",
        Kind::Docker.need(),
    ) {
        return;
    }
    let engine = Engine::shared(Kind::Docker).unwrap();
    let mut web = Workload::with_ipv6(&engine, &named("stops"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let policy = format!(
        "version = 1\n[[target]]\nname = \"shop\"\ncontainer = \"{}\"\n\
         [[rule]]\nprefix = \"2001:db8:a::/48\"\naction = \"reject\"\nerrno = \"EHOSTDOWN\"\n",
        web.container.name()
    );
    std::fs::write(&file, policy).unwrap();
    assert_eq!(web.outcome(), "ok");
    let enforcer = govern(&engine, &["--policy", file.to_str().unwrap()]);
    assert_eq!(web.outcome(), caller_sees("EHOSTDOWN"));
    web.container.tell("kill").unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line.starts_with("enforcer: note: cgroup /") && line.ends_with(" of target shop is gone")
        })
        .unwrap();
    let finished = enforcer.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1));
    let said = finished.stderr.join("\n");
    assert!(
        said.ends_with("enforcer: error: the last target is gone"),
        "{said}"
    );
}

#[test]
fn a_container_that_does_not_run_is_refused_or_waited_for() {
    if !need(
        "a_container_that_does_not_run_is_refused_or_waited_for",
        Kind::Docker.need(),
    ) {
        return;
    }
    let engine = Engine::shared(Kind::Docker).unwrap();
    let name = named("later");
    let target = ["--container", &name, "--reject", REJECT_A];
    let refusal = |status: &str| {
        let said = refused(command(&engine, &target));
        let expected = format!(
            "cannot resolve target {name}: container {name} of Docker at {} does not run: it is {status}",
            engine.socket().display()
        );
        assert!(said.contains(&expected), "{said}");
    };
    let waiting = || {
        let arguments = [&target[..], &["--wait"]].concat();
        let enforcer = Enforcer::start(command(&engine, &arguments)).unwrap();
        let note = format!("enforcer: note: waiting for container {name}");
        enforcer
            .wait_for_line(Stream::Stderr, PATIENCE, |line| line == note)
            .unwrap();
        enforcer
    };
    for signal in [Signal::INT, Signal::TERM] {
        let mut enforcer = waiting();
        enforcer.process().signal(signal).unwrap();
        assert_eq!(enforcer.finish(PATIENCE).unwrap().status.code(), Some(0));
    }
    // It is not even there.
    let enforcer = waiting();
    let container = engine.create(&name).unwrap();
    refusal("created");
    container.tell("start").unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, is_ready)
        .unwrap();
    container.tell("pause").unwrap();
    refusal("paused");
    container.tell("unpause").unwrap();
    container.tell("kill").unwrap();
    let again = "enforcer: note: the last target is gone; waiting for the targets to come back";
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| line == again)
        .unwrap();
    refusal("exited");
    // It comes back in another cgroup.
    container.tell("start").unwrap();
    let governs = || {
        enforcer
            .lines(Stream::Stderr)
            .iter()
            .filter(|line| is_ready(line))
            .count()
    };
    eventually("it to govern again", PATIENCE, || (governs() == 2).then_some(())).unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
}

#[test]
fn a_container_that_is_not_there_is_answered_with_one_that_is() {
    if !need(
        "a_container_that_is_not_there_is_answered_with_one_that_is",
        Kind::Docker.need(),
    ) {
        return;
    }
    let engine = Engine::shared(Kind::Docker).unwrap();
    let container = engine.create(&named("similar-1")).unwrap();
    let missing = named("similar-2");
    let said = refused(command(&engine, &["--container", &missing, "--reject", REJECT_A]));
    let expected = format!(
        "there is no container {missing}: asked Docker at {}",
        engine.socket().display()
    );
    assert!(said.contains(&expected), "{said}");
    assert!(
        said.contains(&format!("hint: did you mean {}", container.name())),
        "{said}"
    );
}

/// Of 17 containers two have identifiers that begin alike.
fn what_several_begin_with_is_refused(kind: Kind) {
    let engine = Engine::shared(kind).unwrap();
    let mut containers: Vec<Container> = Vec::new();
    let beginning = loop {
        let container = engine.create(&named("begins")).unwrap();
        let first = container.id()[..1].to_owned();
        let is_second = containers.iter().any(|it| it.id().starts_with(&first));
        containers.push(container);
        if is_second {
            break first;
        }
    };
    let arguments = ["--container", &beginning, "--reject", REJECT_A];
    for more in [&[][..], &["--wait"]] {
        let said = refused(command(&engine, &[&arguments[..], more].concat()));
        let expected = format!(
            "cannot learn what container {beginning} is: {} answers with status ",
            engine.socket().display()
        );
        assert!(said.contains(&expected), "{said}");
        assert!(
            said.contains("hint: give more of the identifier, or the whole name"),
            "{said}"
        );
    }
}

#[test]
fn what_several_docker_containers_begin_with_is_refused() {
    if need(
        "what_several_docker_containers_begin_with_is_refused",
        Kind::Docker.need(),
    ) {
        what_several_begin_with_is_refused(Kind::Docker);
    }
}

#[test]
fn what_several_podman_containers_begin_with_is_refused() {
    if need(
        "what_several_podman_containers_begin_with_is_refused",
        Kind::Podman.need(),
    ) {
        what_several_begin_with_is_refused(Kind::Podman);
    }
}

#[test]
fn a_name_that_two_engines_know_is_refused_and_an_identifier_is_not() {
    let this = "a_name_that_two_engines_know_is_refused_and_an_identifier_is_not";
    if !need(this, Kind::Docker.need()) || !need(this, Kind::Podman.need()) {
        return;
    }
    let [docker, podman] = [Kind::Docker, Kind::Podman].map(|kind| Engine::shared(kind).unwrap());
    let name = named("both");
    let mut in_docker = Workload::with_ipv6(&docker, &name);
    let mut in_podman = Workload::with_ipv6(&podman, &name);
    let both = |target: &str| {
        let mut command = command(&docker, &["--container", target, "--reject", REJECT_A]);
        command.env("CONTAINER_HOST", podman.host());
        command
    };
    let said = refused(both(&name));
    for engine in [&docker, &podman] {
        let named = format!("{} at {}", engine.kind().name(), engine.socket().display());
        assert!(said.contains(&named), "{said}");
    }
    assert!(
        said.contains(&format!("{name} is a container of more than one engine")),
        "{said}"
    );
    let enforcer = Enforcer::start_governing(both(in_podman.container.id())).unwrap();
    assert_eq!(
        [in_docker.outcome(), in_podman.outcome()],
        ["ok", caller_sees("EHOSTDOWN")]
    );
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    assert_eq!([in_docker.outcome(), in_podman.outcome()], ["ok", "ok"]);
}

//! `enforcer check`: what is said of a policy file, and with which exit code. It needs no privilege: here it has none.
//! What it says of each mistake is in `enforcer/src/policy/tests`; bad files are in `bad_input`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use enforcer_tests::{
    deprive::{Deprivation, deprive},
    enforcer::Enforcer,
    names::NamesFixture,
    need::tests_directory,
    netns::NetnsFixture,
    place::Place,
    process::Finished,
    wait::PATIENCE,
};

/// A host on which nothing is surprising: no global addresses, and a nameserver that nobody rejects.
struct Host {
    names: NamesFixture,
    netns: NetnsFixture,
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let names = NamesFixture::new([])
            .and_then(|names| names.with_nameservers(["192.0.2.53".parse().unwrap()]))
            .unwrap();
        Self {
            names,
            netns: NetnsFixture::new().unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, text: &str) -> String {
        let file = self.directory.path().join("policy.toml");
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn check(&self, arguments: &[&str]) -> Finished {
        self.check_from(arguments, None)
    }

    fn check_from(&self, arguments: &[&str], stdin: Option<&str>) -> Finished {
        let place = Place::outside(&self.netns).with_names(&self.names);
        let mut command = Enforcer::command(&place, ["check"]).unwrap();
        command.args(arguments);
        deprive(&mut command, Deprivation::AllCapabilities);
        let mut enforcer = Enforcer::start(command).unwrap();
        for line in stdin.into_iter().flat_map(str::lines) {
            enforcer.process().write_line(line).unwrap();
        }
        enforcer.finish(PATIENCE).unwrap()
    }
}

const GOOD: &str = r#"version = 1
[[target]]
name = "web"
cgroup = "/web"
[[rule]]
name = "doc"
prefix = "2001:db8::/32"
action = "reject"
[[rule]]
groups = ["other"]
prefixes = ["2001:db8:1::/48", "2001:db8:2::/48"]
action = "allow"
"#;

#[test]
fn a_good_file_is_one_line_on_stdout_strict_or_not() {
    let host = Host::new();
    let file = host.file(GOOD);
    for arguments in [&[file.as_str()][..], &["--strict", &file]] {
        let finished = host.check(arguments);
        assert_eq!(finished.status.code(), Some(0), "{finished:?}");
        assert_eq!(finished.stderr, [""; 0]);
        assert_eq!(
            finished.stdout,
            [format!("{file}: 2 rules, 3 prefixes, 1 target, 2 groups")]
        );
    }
    let finished = host.check_from(&["-", "--strict"], Some(GOOD));
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert_eq!(
        finished.stdout,
        ["<stdin>: 2 rules, 3 prefixes, 1 target, 2 groups"]
    );
}

#[test]
fn all_errors_are_told_at_once_with_code_3_and_nothing_on_stdout() {
    let host = Host::new();
    let cases = tests_directory().join("cases/mistakes");
    let file = cases.join("ten.toml");
    let finished = host.check(&[file.to_str().unwrap()]);
    assert_eq!(finished.status.code(), Some(3));
    assert_eq!(finished.stdout, [""; 0]);
    let said = finished.stderr.join("\n");
    assert_eq!(said.matches("error: ").count(), 10, "{said}");
    let from_stdin = host.check_from(&["-"], Some(&fs::read_to_string(&file).unwrap()));
    assert_eq!(from_stdin.status.code(), Some(3));
    let name = file.to_str().unwrap();
    assert_eq!(from_stdin.stderr.join("\n"), said.replace(name, "<stdin>"));
}

/// What a file says beyond the beginning of every policy, and what it is warned of.
const ODD: [(&str, &str); 14] = [
    ("", "there are no rules: enforcer will only observe"),
    (
        "[[target]]\nname = \"a\"\ncgroup = \"/a\"\n[[rule]]\ngroups = [\"x\"]\nprefix = \"fd00::/8\"\naction = \"reject\"\n",
        "the target `a` has no rules",
    ),
    (
        "[[rule]]\nname = \"dead\"\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n[[rule]]\n\
         prefixes = [\"2001:db8::/33\", \"2001:db8:8000::/33\"]\naction = \"allow\"\n",
        "`dead` can never match",
    ),
    (
        "[[rule]]\nname = \"a\"\nprefix = \"fd00::/8\"\naction = \"allow\"\n[[rule]]\nname = \"b\"\nprefix = \"fd00::/8\"\n\
         action = \"allow\"\n",
        "`b` is an exact duplicate of `a`",
    ),
    (
        "[[rule]]\nname = \"dead\"\nprefix = \"::/127\"\naction = \"reject\"\n",
        "`dead` can never match",
    ),
    (
        "[[rule]]\nname = \"half\"\nprefix = \"fd00::/8\"\nproto = \"tcp\"\naction = \"reject\"\n",
        "`half` is limited to TCP",
    ),
    (
        "[[rule]]\nname = \"db\"\nprefix = \"fd00::/8\"\nto = \"192.0.2.1:5432\"\naction = \"redirect\"\nproto = \"tcp\"\n\
         [[rule]]\nname = \"udp\"\nprefix = \"fd00::/8\"\naction = \"reject\"\nproto = \"udp\"\n",
        "`db` moves PostgreSQL (port 5432) to IPv4",
    ),
    (
        "[[rule]]\nname = \"sends\"\nprefix = \"fd00::/8\"\nto = \"192.0.2.1\"\naction = \"redirect\"\n",
        "`sends` redirects UDP, too: what is sent without a connect cannot be moved, and gets ENETUNREACH",
    ),
    (
        "[[rule]]\nname = \"none\"\nprefix = \"fd00::/8\"\naction = \"reject\"\nrollout = 0\n",
        "`none` acts on nothing",
    ),
    (
        "[[rule]]\nname = \"all\"\nprefix = \"fd00::/8\"\naction = \"reject\"\nrollout = 100\n",
        "`all` acts on everything",
    ),
    (
        "[[rule]]\nname = \"over\"\nprefix = \"fd00::/8\"\naction = \"reject\"\nexpires = 2020-01-31T18:00:00Z\n",
        "`over` ended at 2020-01-31T18:00:00Z",
    ),
    (
        "[[rule]]\nname = \"named\"\nhost = \"db.example.com\"\n",
        "cannot look up db.example.com: ",
    ),
    (
        "[[rule]]\nname = \"all\"\nprefix = \"2001:4860::/32\"\naction = \"reject\"\n",
        "rule all rejects 2001:4860::/32, which covers 2001:4860:4860::8888",
    ),
    (
        "[[rule]]\nname = \"ours\"\nprefix = \"2001:db8:77::/48\"\naction = \"reject\"\n",
        "rule ours rejects 2001:db8:77::/48, which covers local networks: address 2001:db8:77::2",
    ),
];

#[test]
fn each_oddity_is_a_warning_and_with_strict_a_failure() {
    let host = Host::new();
    host.netns.add_local(["2001:db8:77::2".parse().unwrap()]).unwrap();
    for (text, expected) in ODD {
        let file = host.file(&format!("version = 1\n{text}"));
        let lax = host.check(&[&file]);
        let said = lax.stderr.join("\n");
        assert_eq!(lax.status.code(), Some(0), "{expected}: {lax:?}");
        assert_eq!(lax.stdout.len(), 1, "{lax:?}");
        assert_eq!(said.matches("warning: ").count(), 1, "{said}");
        assert!(
            said.contains(&format!("warning: {expected}")),
            "{expected}: {said}"
        );
        assert!(said.contains(&file) && said.contains("= hint: "), "{said}");
        // Whoever says it, the line that it is about is shown.
        if let Some((_, after)) = said.split_once(&format!("--> {file}:")) {
            assert!(after.contains(" | [["), "{said}");
        }
        let strict = host.check(&[&file, "--strict"]);
        assert_eq!(strict.status.code(), Some(3), "{expected}: {strict:?}");
        assert_eq!(strict.stdout, [""; 0]);
        let told = format!("{said}\nenforcer: error: --strict takes no warnings, and there is 1");
        assert_eq!(strict.stderr.join("\n"), told);
    }
}

#[test]
fn names_that_are_known_give_no_warning_and_nobody_is_asked_where_that_is_not_wanted() {
    let mut host = Host::new();
    let file = host.file("version = 1\n[[rule]]\nname = \"named\"\nhost = \"db.example.com\"\n");
    let asked = host.check(&[&file, "--strict"]);
    assert_eq!(asked.status.code(), Some(3), "{asked:?}");
    let not_asked = host.check(&[&file, "--strict", "--no-resolve", "--compiled"]);
    assert_eq!(not_asked.status.code(), Some(0), "{not_asked:?}");
    let shown = not_asked.stdout.join("\n");
    assert!(
        shown.contains("each IPv6 address of db.example.com\n    1. reject with ENETUNREACH: named"),
        "{shown}"
    );
    host.names = NamesFixture::new([("db.example.com", "2001:db8::1".parse().unwrap())])
        .and_then(|names| names.with_nameservers(["192.0.2.53".parse().unwrap()]))
        .unwrap();
    let known = host.check(&[&file, "--strict"]);
    assert_eq!(known.status.code(), Some(0), "{known:?}");
    assert_eq!(known.stderr, [""; 0]);
}

/// Each example with what strict finds in it, because that is what the example is about.
const EXAMPLES: [(&str, &str, &[&str]); 3] = [
    (
        "broken-ipv6.toml",
        include_str!("../../examples/broken-ipv6.toml"),
        &["2001:4860:4860::8888"],
    ),
    (
        "groups-and-exceptions.toml",
        include_str!("../../examples/groups-and-exceptions.toml"),
        &["`office-mail-does-not` is limited to TCP", "2001:4860:4860::8888"],
    ),
    (
        "redirect-to-pooler.toml",
        include_str!("../../examples/redirect-to-pooler.toml"),
        &["`database-by-pooler` moves PostgreSQL"],
    ),
];

/// The policies of the stories, in the same way. Their names are known to no nameserver but that of the story.
const STORIES: [(&str, &str, &[&str]); 7] = [
    (
        "compose/policy.toml",
        include_str!("../../examples/compose/policy.toml"),
        &[],
    ),
    (
        "firewall/policy.toml",
        include_str!("../../examples/firewall/policy.toml"),
        &["2001:4860:4860::8888"],
    ),
    (
        "firewall/rollout.toml",
        include_str!("../../examples/firewall/rollout.toml"),
        &["2001:4860:4860::8888"],
    ),
    (
        "orm/black-hole.toml",
        include_str!("../../examples/orm/black-hole.toml"),
        &[],
    ),
    (
        "orm/to.toml",
        include_str!("../../examples/orm/to.toml"),
        &["`database-by-pooler` moves PostgreSQL"],
    ),
    (
        "orm/to-host.toml",
        include_str!("../../examples/orm/to-host.toml"),
        &["`database-by-pooler` moves PostgreSQL"],
    ),
    (
        "websocket/policy.toml",
        include_str!("../../examples/websocket/policy.toml"),
        &[],
    ),
];

#[test]
fn each_policy_of_a_story_is_good_and_strict_finds_only_what_it_must() {
    let host = Host::new();
    for (name, text, warnings) in STORIES {
        let finished = host.check(&[&host.file(text), "--no-resolve", "--strict"]);
        let said = finished.stderr.join("\n");
        let code = if warnings.is_empty() { 0 } else { 3 };
        assert_eq!(finished.status.code(), Some(code), "{name}: {said}");
        assert_eq!(
            said.matches("warning: ").count(),
            warnings.len(),
            "{name}: {said}"
        );
        for expected in warnings {
            assert!(said.contains(expected), "{name}: {expected}: {said}");
        }
    }
}

#[test]
fn each_example_is_good_and_strict_finds_only_what_it_must() {
    let host = Host::new();
    let list = host.directory.path().join("unreachable-networks.txt");
    fs::write(list, include_str!("../../examples/unreachable-networks.txt")).unwrap();
    for (name, text, warnings) in EXAMPLES {
        let file = host.file(text);
        let finished = host.check(&[&file, "--compiled"]);
        assert_eq!(finished.status.code(), Some(0), "{name}: {finished:?}");
        assert!(finished.stdout.len() > 4, "{name}: {finished:?}");
        let said = finished.stderr.join("\n");
        assert_eq!(
            said.matches("warning: ").count(),
            warnings.len(),
            "{name}: {said}"
        );
        for expected in warnings {
            assert!(said.contains(expected), "{name}: {expected}: {said}");
        }
        assert_eq!(host.check(&[&file, "--strict"]).status.code(), Some(3), "{name}");
    }
}

#[test]
fn a_reader_that_has_enough_and_a_full_disk_are_told_apart() {
    let host = Host::new();
    let file = host.file(GOOD);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let place = Place::outside(&host.netns).with_names(&host.names);
    let arguments = ["check", &file, "--compiled"];
    let closed = Enforcer::command(&place, arguments).unwrap();
    let closed = Enforcer::start_writing_to(closed, writer).unwrap();
    assert_eq!(closed.finish(PATIENCE).unwrap().status.code(), Some(0));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let command = Enforcer::command(&place, arguments).unwrap();
    let finished = Enforcer::start_writing_to(command, full).unwrap();
    let finished = finished.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert_eq!(
        finished.stderr,
        ["enforcer: error: cannot write to stdout: No space left on device (os error 28)"]
    );
}

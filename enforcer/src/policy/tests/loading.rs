//! Whole files, good ones and such as cannot be read.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use enforcer_common::{clause::Proto, decide::Mode};

use super::{
    super::{
        MAX_DIAGNOSTICS, MAX_POLICY_BYTES, Policy, Selector,
        argument::RuleArgument,
        compile::compile,
        live::Live,
        rule::{DEFAULT_GROUP, RedirectTo, RuleAction, RuleGroups},
    },
    check, lines,
};

/// The example of the manual, with everything a file can say.
const FULL: &str = r#"
version = 1
[defaults]
mode = "audit"
errno = "EHOSTUNREACH"

[[target]]
name = "web"
cgroup = "/system.slice/web.service"
use = ["b", "a", "b"]
[[target]]
name = "one"
pid = 4711

[[rule]]
name = "named"
groups = ["a", "b"]
prefix = "2406:da1a::/32"
action = "reject"
ports = [443, "8000-8999", 444]
proto = "tcp"
[[rule]]
prefixes = ["2001:db8:2::/48", "2001:db8:1::/48", "2001:db8:2::/48"]
action = "redirect"
errno = "EACCES"
to = "192.0.2.1:6543"
"#;

/// A directory of its own with one file in it.
fn file_of(content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    fs::write(&path, content).unwrap();
    (directory, path)
}

/// What is said about a file that cannot be used. It must be said soon, and blame the file.
fn refusal(path: &Path) -> String {
    let started = Instant::now();
    let error = Policy::load(Some(path), Vec::new()).unwrap_err();
    assert!(error.is_about_file(), "{error}");
    assert!(!error.render(true).is_empty());
    // A second is promised of a release build; this one is slower, and the machine may be busy.
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    error.to_string()
}

#[test]
fn everything_a_file_says_arrives() {
    let (policy, _) = check(FULL).unwrap();
    assert_eq!((policy.mode, policy.errno.name), (Mode::Audit, "EHOSTUNREACH"));
    let [web, one] = policy.targets.as_slice() else {
        panic!("{:?}", policy.targets)
    };
    assert_eq!(web.selector, Selector::Cgroup("/system.slice/web.service".into()));
    assert_eq!(
        (web.name.as_str(), web.groups.as_slice()),
        ("web", &["a".to_owned(), "b".to_owned()][..])
    );
    assert_eq!(
        (&one.selector, one.groups.as_slice()),
        (&Selector::Pid(4711), &[DEFAULT_GROUP.to_owned()][..])
    );
    assert_eq!(one.origin.to_string(), "policy.toml:11");
    let [named, other] = policy.rules.as_slice() else {
        panic!("{:?}", policy.rules)
    };
    assert_eq!(
        (named.label.as_str(), named.action.clone(), named.errno.name),
        ("named", RuleAction::Reject, "EHOSTUNREACH")
    );
    assert_eq!(
        (named.ports.as_slice(), named.proto),
        (&[443..=444, 8000..=8999][..], Some(Proto::Tcp))
    );
    assert_eq!(
        named.groups,
        RuleGroups::Named(vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(
        (other.label.as_str(), other.errno.name),
        ("policy.toml:22", "EACCES")
    );
    assert_eq!(
        other.action,
        RuleAction::Redirect(RedirectTo::Address("[::ffff:192.0.2.1]:6543".parse().unwrap()))
    );
    assert_eq!(other.action.to_string(), "redirect to 192.0.2.1:6543");
    assert_eq!(
        other.prefixes,
        [
            "2001:db8:1::/48".parse().unwrap(),
            "2001:db8:2::/48".parse().unwrap()
        ]
    );
    assert_eq!(
        other.covering_prefix("2001:db8:2::9".parse().unwrap()),
        Some("2001:db8:2::/48".parse().unwrap())
    );
    assert_eq!(other.covering_prefix("2001:db8:3::9".parse().unwrap()), None);
}

#[test]
fn rules_of_the_command_line_belong_to_every_group_and_take_the_files_errno() {
    let argument = RuleArgument::reject("2001:db8:9::/48,name=late").unwrap();
    let plain = RuleArgument::allow("2001:db8:8::/48").unwrap();
    let (policy, _) =
        Policy::from_text(Path::new("policy.toml"), FULL.to_owned(), vec![argument, plain]).unwrap();
    assert_eq!(policy.rules.len(), 4);
    assert_eq!(policy.rules[2].errno.name, "EHOSTUNREACH");
    assert_eq!(policy.rules[2].label, "late");
    assert_eq!(policy.rules[3].label, "--allow 2001:db8:8::/48");
    for group in ["a", DEFAULT_GROUP, "anything"] {
        let compiled = compile(&policy.rules, &[group.to_owned()], &Live::default()).unwrap();
        assert!(
            compiled.entry_for("2001:db8:9::1".parse().unwrap()).is_some(),
            "{group}"
        );
    }
}

#[test]
fn rules_on_one_line_are_called_by_their_columns_and_others_by_their_line() {
    let text = "version = 1\n\
                rule = [{prefix = '2001:db8:1::/48', action = 'reject'}, {prefix = '2001:db8:2::/48', action = 'allow'},\n\
                {prefix = '2001:db8:3::/48', action = 'allow'}, {name = 'x', prefix = '2001:db8:4::/48', action = 'allow'}]\n";
    let (policy, _) = check(text).unwrap();
    let labels: Vec<_> = policy.rules.iter().map(|rule| rule.label.as_str()).collect();
    assert_eq!(
        labels,
        ["policy.toml:2:9", "policy.toml:2:58", "policy.toml:3", "x"]
    );
}

#[test]
fn a_file_and_the_command_line_are_checked_together() {
    let file = "version = 1\n[[rule]]\nname = \"x\"\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n";
    let with = |argument: &str| {
        let arguments = vec![RuleArgument::allow(argument).unwrap()];
        Policy::from_text(Path::new("policy.toml"), file.to_owned(), arguments)
    };
    let error = with("2001:db8::/32").unwrap_err();
    assert_eq!(
        error.to_string(),
        "--allow 2001:db8::/32: error: `x` and `--allow 2001:db8::/32` tie at 2001:db8::/32"
    );
    assert!(error.is_about_file());
    assert!(
        with("::/0,name=x")
            .unwrap_err()
            .to_string()
            .contains("two rules are named `x`")
    );
    assert!(with("2001:db8:1::/48").is_ok());
}

#[test]
fn without_a_file_and_without_rules_there_is_only_observing() {
    let (policy, warnings) = Policy::load(None, Vec::new()).unwrap();
    assert!(policy.rules.is_empty() && policy.targets.is_empty() && policy.mode == Mode::Enforce);
    assert_eq!(
        lines(&warnings),
        ["warning: there are no rules: enforcer will only observe"]
    );
    // Nothing is pointed at where there is nothing.
    assert_eq!(
        warnings[0].render(false),
        "warning: there are no rules: enforcer will only observe\n\
         hint: connects are allowed and reported; add a rule to change that"
    );
}

#[test]
fn files_that_cannot_be_read_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    assert!(refusal(&missing).contains("missing.toml`: No such file or directory"));
    assert!(refusal(directory.path()).contains("it is a directory"));
    let dangling = directory.path().join("dangling.toml");
    symlink(&missing, &dangling).unwrap();
    let error = Policy::load(Some(&dangling), Vec::new()).unwrap_err();
    assert!(error.render(false).contains("symbolic link"), "{error}");
    assert!(refusal(Path::new("/dev/zero")).contains("it is a device"));
    let stream = Policy::load(Some(Path::new("-")), Vec::new()).unwrap_err();
    let hint = "hint: only `enforcer check -` reads a stream";
    assert!(stream.render(false).contains(hint), "{stream}");
    assert!(refusal(&missing.join("x")).contains("missing.toml/x"));
}

#[test]
fn a_fifo_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    assert!(refusal(&fifo).contains("it is a pipe"));
    let text = "version = 1\n[[rule]]\nprefixes_file = \"fifo\"\naction = \"reject\"\n";
    let policy = directory.path().join("policy.toml");
    fs::write(&policy, text).unwrap();
    assert!(refusal(&policy).contains("policy.toml:3:17: error: cannot read the prefixes file"));
}

#[test]
fn an_empty_file_lacks_its_version() {
    let (_directory, path) = file_of("");
    assert!(refusal(&path).ends_with("policy.toml:1:1: error: the policy file does not say its `version`"));
}

#[test]
fn what_is_not_utf8_is_refused_with_its_place() {
    let (_directory, path) = file_of(b"version = 1\nname = \"caf\xe9\"\n");
    assert!(refusal(&path).ends_with("policy.toml:2:12: error: the policy file is not UTF-8"));
}

#[test]
fn files_over_the_limit_are_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    let file = fs::File::create(&path).unwrap();
    file.set_len(100 << 20).unwrap();
    assert!(refusal(&path).contains("longer than 32 MiB"));
    let error = Policy::load(Some(&path), Vec::new()).unwrap_err();
    assert!(error.render(false).contains("`prefixes_file`"));
    // At the limit the file is read, and found to be all NULs.
    file.set_len(MAX_POLICY_BYTES).unwrap();
    assert!(refusal(&path).contains("policy.toml:1:1: error: the policy file has a NUL character"));
}

#[test]
fn random_bytes_and_random_text_are_refused_soon_and_not_at_length() {
    let mut state = 42_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let (_directory, path) = file_of((0..1 << 20).map(|_| random()).collect::<Vec<_>>());
    assert!(refusal(&path).contains("is not UTF-8"));
    for alphabet in [
        &b"abc=[]{}\"'\n.#,0 1\\"[..],
        b"[[[[[]{\n",
        b"a=1\n",
        b"rule[]=\"\n",
    ] {
        let text: Vec<u8> = (0..1 << 18)
            .map(|_| alphabet[random() as usize % alphabet.len()])
            .collect();
        let (_directory, path) = file_of(text);
        let said = refusal(&path);
        assert!(said.lines().count() <= MAX_DIAGNOSTICS + 1, "{said}");
    }
    for nested in ["[", "a=[", "a={a=", "a."] {
        let (_directory, path) = file_of(nested.repeat(100_000));
        refusal(&path);
    }
}

#[test]
fn problems_beyond_the_limit_are_counted() {
    let mut text = "version = 1\n".to_owned();
    for n in 0..MAX_DIAGNOSTICS + 17 {
        writeln!(text, "key{n} = 1").unwrap();
    }
    let error = check(&text).unwrap_err();
    assert_eq!(error.diagnostics().len(), MAX_DIAGNOSTICS + 1);
    assert!(
        error
            .to_string()
            .ends_with("\nerror: 17 more errors are not shown"),
        "{error}"
    );
}

#[test]
fn an_error_does_not_hide_those_of_other_stages() {
    let error = check(
        r#"
            version = 1
            [[rule]]
            prefix = "2001:db8::/32"
            action = "reject"
            [[rule]]
            prefix = "2001:db8::/32"
            action = "allow"
            [[rule]]
            prefix = "nonsense"
            action = "reject"
            colour = "red"
        "#,
    )
    .unwrap_err();
    assert_eq!(error.diagnostics().len(), 3, "{error}");
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
    let text = format!("\u{feff}{}", FULL.replace('\n', "\r\n"));
    assert_eq!(check(&text).unwrap().0.rules.len(), 2);
}

#[test]
fn a_prefixes_file_is_looked_for_beside_the_policy_and_may_have_comments() {
    let (directory, path) = file_of("version = 1\n[[rule]]\nprefixes_file = \"list\"\naction = \"reject\"\n");
    fs::write(
        directory.path().join("list"),
        "\u{feff}# comment\r\n\r\n  2001:db8:2::/48 # why\r\n2001:db8:1::/48\n2001:db8:1::/48\n::2",
    )
    .unwrap();
    let (policy, warnings) = Policy::load(Some(&path), Vec::new()).unwrap();
    let expected = ["::2/128", "2001:db8:1::/48", "2001:db8:2::/48"].map(|prefix| prefix.parse().unwrap());
    assert_eq!(policy.rules[0].prefixes, expected);
    assert_eq!(lines(&warnings), [""; 0]);
}

#[test]
fn a_prefixes_file_that_is_none_is_told_once_or_a_hundred_times_but_not_a_million() {
    let (directory, path) = file_of("version = 1\n[[rule]]\nprefixes_file = \"list\"\naction = \"reject\"\n");
    let list = directory.path().join("list");
    fs::write(&list, "nonsense\n".repeat(1_000_000)).unwrap();
    assert!(refusal(&path).lines().count() <= MAX_DIAGNOSTICS + 1);
    fs::write(&list, b"::1\n\xff\xfe\n".repeat(1000)).unwrap();
    assert!(refusal(&path).ends_with("list` is not UTF-8"));
    fs::write(&list, vec![b'x'; 1 << 20]).unwrap();
    assert!(refusal(&path).ends_with("list:1:1: error: the line is longer than 64 KiB"));
    fs::File::create(&list).unwrap().set_len(1 << 30).unwrap();
    assert!(refusal(&path).contains("longer than 64 KiB"));
}

#[test]
fn long_lists_load_in_seconds_from_a_file_and_from_an_array() {
    // As many as a policy holds, where the compiler has optimised.
    const COUNT: u32 = if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    };
    let mut list = String::new();
    let mut array = "version = 1\n[[rule]]\naction = \"reject\"\nprefixes = [".to_owned();
    for n in 0..COUNT {
        writeln!(list, "2001:{:x}:{:x}::/48", n >> 16, n & 0xffff).unwrap();
        write!(array, "\"2001:{:x}:{:x}::/48\",", n >> 16, n & 0xffff).unwrap();
    }
    array.push(']');
    let (directory, path) = file_of("version = 1\n[[rule]]\nprefixes_file = \"list\"\naction = \"reject\"\n");
    fs::write(directory.path().join("list"), list).unwrap();
    let started = Instant::now();
    let (from_list, _) = Policy::load(Some(&path), Vec::new()).unwrap();
    let list_took = started.elapsed();
    let started = Instant::now();
    let (from_array, _) = check(&array).unwrap();
    let array_took = started.elapsed();
    assert_eq!(from_list.rules[0].prefixes.len(), COUNT as usize);
    assert_eq!(from_list.rules[0].prefixes, from_array.rules[0].prefixes);
    // Not a benchmark: this is where something quadratic would be noticed.
    let limit = Duration::from_secs(60);
    assert!(
        list_took < limit && array_took < limit,
        "{list_took:?}, {array_took:?}"
    );
}

#[test]
fn thousands_of_groups_are_checked_in_seconds() {
    let mut text = "version = 1\n".to_owned();
    for n in 0..5000 {
        writeln!(
            text,
            "[[rule]]\ngroups = [\"g{n}\"]\nprefix = \"2001:db8::/32\"\naction = \"reject\""
        )
        .unwrap();
    }
    let started = Instant::now();
    assert_eq!(check(&text).unwrap().0.rules.len(), 5000);
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
}

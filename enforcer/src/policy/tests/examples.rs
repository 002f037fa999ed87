//! What is shown to people works: the examples, and everything in `docs/policy.md` that can be tried.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use enforcer_common::{
    address::EXEMPT_PREFIXES,
    clause::{MAX_CANARY_LISTS, MAX_ENTRIES, MAX_WALK},
    errno::CHOICES,
};
use ipnet::Ipv6Net;

use super::super::{
    MAX_DIAGNOSTICS, MAX_POLICY_BYTES, MAX_PREFIXES_FILE_BYTES, Policy, argument::RuleArgument,
    compile::compile, document::*, live::Live, value::MAX_REASON_BYTES,
};
use crate::names::MAX_NAMES;

const EXAMPLES: &str = "../examples";
const MANUAL: &str = include_str!("../../../../docs/policy.md");
const REDIRECTS: &str = include_str!("../../../../docs/redirect.md");

/// The code blocks of the manual in one language.
fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(MANUAL, language)
}

fn blocks_of(page: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Every policy of the manual, and of the page on redirects.
pub(super) fn policies() -> Vec<&'static str> {
    [MANUAL, REDIRECTS]
        .into_iter()
        .flat_map(|page| blocks_of(page, "toml"))
        .collect()
}

/// Every policy among the examples, in their folder and in the folders there.
pub(super) fn examples() -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let mut files = entries(Path::new(EXAMPLES));
    let folders: Vec<_> = files.extract_if(.., |path| path.is_dir()).collect();
    files.extend(folders.iter().flat_map(|folder| entries(folder)));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert!(files.len() >= 10, "only {files:?} in {EXAMPLES}");
    files
}

/// The policy compiles for each of its targets.
fn compiles(policy: &Policy, what: &str) {
    for target in &policy.targets {
        let compiled = compile(&policy.rules, &target.groups, &Live::default()).unwrap();
        // What is about names alone has no prefixes yet.
        let is_of_names = policy.rules.iter().any(|rule| rule.host.is_some());
        assert!(
            is_of_names || !compiled.entries().is_empty(),
            "{what}: {}",
            target.name
        );
    }
    assert!(!policy.rules.is_empty(), "{what}");
}

#[test]
fn each_example_compiles() {
    for file in examples() {
        let (policy, _) =
            Policy::load(Some(&file), Vec::new()).unwrap_or_else(|error| panic!("{}", error.render(false)));
        compiles(&policy, &file.display().to_string());
    }
}

#[test]
fn each_policy_of_the_manual_compiles() {
    let policies = policies();
    assert!(policies.len() >= 10);
    for text in policies {
        // Prefixes files that it names are those of the examples.
        let path = Path::new(EXAMPLES).join("policy.md");
        let (policy, _) = Policy::from_text(&path, text.to_owned(), Vec::new())
            .unwrap_or_else(|error| panic!("{text}\n{}", error.render(false)));
        compiles(&policy, text);
    }
}

#[test]
fn each_rule_on_a_command_line_of_the_manual_is_understood() {
    let mut rules = 0;
    for block in blocks("sh") {
        for line in block.lines() {
            let mut words = line.split(' ');
            while let Some(word) = words.next() {
                let parse = match word {
                    "--reject" => RuleArgument::reject,
                    "--redirect" => RuleArgument::redirect,
                    "--allow" => RuleArgument::allow,
                    _ => continue,
                };
                rules += 1;
                parse(words.next().unwrap()).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }
    assert!(rules >= 6);
}

#[test]
fn the_manual_lists_every_errno_with_its_number() {
    for errno in CHOICES {
        let row = format!("| `{}` | {} | {} |\n", errno.name, errno.number, errno.meaning);
        assert!(MANUAL.contains(&row), "no row {row}");
    }
    let rows = MANUAL.lines().filter(|line| line.starts_with("| `E")).count();
    assert_eq!(rows, CHOICES.len());
}

#[test]
fn the_manual_lists_every_key() {
    let tables = [DefaultsTable::KEYS, TargetTable::KEYS, RuleTable::KEYS];
    let keys: BTreeSet<&str> = tables.into_iter().flatten().copied().collect();
    for key in keys {
        assert!(MANUAL.contains(&format!("\n| `{key}` |")), "no row for {key}");
    }
}

#[test]
fn the_manual_lists_every_exempt_prefix() {
    for exempt in EXEMPT_PREFIXES {
        let prefix = Ipv6Net::new(exempt.octets.into(), exempt.prefix_len)
            .unwrap()
            .to_string();
        // Displayed as IPv4 within IPv6, written in the usual way.
        let prefix = prefix.replace("::ffff:0.0.0.0", "::ffff:0:0");
        assert!(
            MANUAL.contains(&format!("\n| `{prefix}` |")),
            "no row for {prefix}"
        );
    }
}

#[test]
fn the_manual_states_the_limits_as_they_are() {
    for row in [
        format!(
            "| prefixes of one compiled policy | {},000,000 |",
            MAX_ENTRIES / 1_000_000
        ),
        format!("| clauses on one list | {MAX_WALK} |"),
        format!("| policy file | {} MiB |", MAX_POLICY_BYTES >> 20),
        format!(
            "| names that are looked up | {},{:03} |",
            MAX_NAMES / 1000,
            MAX_NAMES % 1000
        ),
        format!("| different lists of canaries | {MAX_CANARY_LISTS} |"),
        format!("one line of at most {MAX_REASON_BYTES} bytes |"),
        format!(
            "| prefixes file | {} MiB, 64 KiB a line |",
            MAX_PREFIXES_FILE_BYTES >> 20
        ),
        format!("After {MAX_DIAGNOSTICS} errors"),
    ] {
        assert!(MANUAL.contains(&row), "not in the manual: {row}");
    }
}

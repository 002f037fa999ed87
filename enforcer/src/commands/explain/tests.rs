//! The manual: its examples are what is printed, and its tables list what there is.

use std::{collections::BTreeSet, path::Path, time::Duration};

use clap::Parser as _;
use serde_json::Value;

use super::{
    super::cli::{Cli, Verb},
    *,
};

const MANUAL: &str = include_str!("../../../../docs/explain.md");

/// What comes after a line of the manual, up to the end of its block.
fn block_after(line: &str) -> &'static str {
    let (_, after) = MANUAL.split_once(&format!("{line}\n")).unwrap();
    after.split_once("```").unwrap().0
}

/// A moment at which little has expired.
fn now() -> Now {
    Now {
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        boot_ns: 1_000_000_000,
    }
}

fn arguments(command: &str) -> Box<ExplainArgs> {
    let Verb::Explain(arguments) = Cli::parse_from(command.split(' ')).verb else {
        panic!("{command}");
    };
    Box::new(arguments)
}

/// What is said of a command line under a policy.
fn said_of(arguments: &ExplainArgs, policy: &Policy, names: &Names) -> String {
    let who = who(arguments).unwrap();
    let subjects = subjects(arguments, policy).unwrap();
    let answer = answer(arguments, policy, subjects, who, names, now()).unwrap();
    written(&answer, arguments.output).unwrap()
}

/// The manual's policy, with the rules of a command line.
fn manual_policy(arguments: &ExplainArgs) -> Policy {
    let path = Path::new("web.toml");
    let text = block_after("```toml").to_owned();
    Policy::from_text(path, text, arguments.rules.rules()).unwrap().0
}

/// What is said of a command line of the manual under its policy.
fn said(command: &str) -> String {
    let arguments = arguments(command);
    said_of(&arguments, &manual_policy(&arguments), &Names::default())
}

#[test]
fn the_examples_of_the_manual_are_what_is_printed() {
    let mut seen = 0;
    for line in MANUAL.lines().filter(|line| line.starts_with("$ enforcer ")) {
        seen += 1;
        assert_eq!(said(&line[2..]), block_after(line), "{line}");
    }
    assert!(seen >= 3);
}

/// Names of all fields of all objects in it.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn the_manual_lists_every_field_of_the_object_and_no_other() {
    let mut found = BTreeSet::new();
    for destination in ["fe80::1", "2001:db8:3::1"] {
        let command = format!(
            "enforcer explain {destination} --policy web.toml --output json --reject ::/0 \
             --redirect 2001:db8:3::/48=192.0.2.1"
        );
        fields(&serde_json::from_str(&said(&command)).unwrap(), &mut found);
    }
    let listed: BTreeSet<String> = MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(found, listed);
}

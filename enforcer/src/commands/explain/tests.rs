//! The manual: its examples are what is printed, and its tables list what there is.

use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use clap::Parser as _;
use serde_json::Value;

use super::{
    super::cli::{Cli, Verb},
    names::Name,
    *,
};
use crate::{
    daemon::request,
    names::{Answers, Seen},
};

const MANUAL: &str = include_str!("../../../../docs/explain.md");

/// What comes after a line of the manual, up to the end of its block.
fn block_after(line: &str) -> &'static str {
    let (_, after) = MANUAL.split_once(&format!("{line}\n")).unwrap();
    after.split_once("```").unwrap().0
}

/// A moment at which little has expired.
fn now() -> Moment {
    Moment {
        wall: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
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

/// What is said of a command line of the manual under the policy it names.
fn said(command: &str) -> String {
    let arguments = arguments(command);
    let path = arguments.rules.policy.clone().unwrap();
    let text = block_after(&format!("with this as `{}`:\n\n```toml", path.display()));
    let (policy, _) = Policy::from_text(&path, text.to_owned(), arguments.rules.rules()).unwrap();
    let is_named = policy.rules.iter().any(|rule| rule.host.is_some());
    let names = if is_named {
        names(&policy.rules)
    } else {
        Names::default()
    };
    said_of(&arguments, &policy, &names)
}

/// What the manual's names are.
fn names(rules: &[Rule]) -> Names {
    let mut names = Names::default();
    for (text, aaaa, a) in [
        ("db.example.com", &["2001:db8:5::1"][..], &["192.0.2.5"][..]),
        ("pooler.example.com", &[], &["192.0.2.7", "192.0.2.8"]),
    ] {
        let name = Name {
            aaaa: aaaa.iter().map(|address| address.parse().unwrap()).collect(),
            a: a.iter().map(|address| address.parse().unwrap()).collect(),
            looked_up: true,
            notes: Vec::new(),
        };
        let answers = Answers {
            aaaa: name.aaaa.iter().map(|address| current(*address)).collect(),
            a: name.a.iter().map(|address| current(*address)).collect(),
            a_answered: true,
        };
        let requests = rules.iter().filter_map(|rule| request(rule, None));
        let of_name = requests.filter(|request| request.name.as_str() == text);
        names
            .answers
            .extend(of_name.map(|request| (request, answers.clone())));
        names.names.insert(text.parse().unwrap(), name);
    }
    names
}

const fn current<A>(address: A) -> Seen<A> {
    Seen {
        address,
        current: true,
    }
}

#[test]
fn the_examples_of_the_manual_are_what_is_printed() {
    let mut seen = 0;
    for line in MANUAL.lines().filter(|line| line.starts_with("$ enforcer ")) {
        seen += 1;
        assert_eq!(said(&line[2..]), block_after(line), "{line}");
    }
    assert!(seen >= 6);
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
    for destination in ["2001:db8::1", "2001:db8:7::1"] {
        let command = format!("enforcer explain {destination} --policy careful.toml --output json");
        fields(&serde_json::from_str(&said(&command)).unwrap(), &mut found);
    }
    let listed: BTreeSet<String> = MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(found, listed);
}

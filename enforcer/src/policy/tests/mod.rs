//! Tests of the whole room: from text to compiled policy.

mod advice;
mod compiled;
mod compiling;
mod examples;
mod explained;
mod explaining;
mod garbage;
mod language;
mod limits;
mod loading;
mod many;
mod mistakes;
mod overlaying;
mod property;
mod reference;
mod schema;
mod trees;

use std::path::Path;

use super::{
    Policy,
    argument::RuleArgument,
    diagnostic::{Diagnostic, PolicyError},
};

/// Checks a policy file's text.
fn check(text: &str) -> Result<(Policy, Vec<Diagnostic>), PolicyError> {
    Policy::from_text(Path::new("policy.toml"), text.to_owned(), Vec::new())
}

/// A policy of rules as they are written on the command line.
fn policy_of(rules: &[&str]) -> Result<(Policy, Vec<Diagnostic>), PolicyError> {
    let arguments = rules
        .iter()
        .map(|rule| match rule.split_once(' ') {
            Some(("reject", value)) => RuleArgument::reject(value).unwrap(),
            Some(("allow", value)) => RuleArgument::allow(value).unwrap(),
            Some(("redirect", value)) => RuleArgument::redirect(value).unwrap(),
            _ => panic!("{rule}"),
        })
        .collect();
    Policy::load(None, arguments)
}

/// Messages in one-line form.
fn lines(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(ToString::to_string).collect()
}

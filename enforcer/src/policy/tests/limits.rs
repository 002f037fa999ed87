//! Limits of a whole policy: which rule is held to be at fault, and from which number on.

use enforcer_common::clause::{MAX_CLAUSES, MAX_ENTRIES, NO_RULE};
use ipnet::Ipv6Net;

use super::{
    super::{diagnostic::Place, review::Findings, rule::Rule},
    lines, policy_of,
    property::parse,
};

/// Three rules, and what is said once that was noted of them.
fn told(note: impl FnOnce(&mut Findings)) -> Vec<String> {
    let rules = [
        "reject 2001:db8:1::/48",
        "reject 2001:db8:2::/48",
        "reject 2001:db8:3::/48",
    ];
    let (policy, _) = policy_of(&rules).unwrap();
    let mut findings = Findings::new(policy.rules.len());
    note(&mut findings);
    lines(&findings.diagnostics(&policy.rules, &|rule: &Rule| Place::from(&rule.origin)))
}

/// Prefixes of rules, whichever they are.
fn members(rules: &[u32]) -> Vec<(Ipv6Net, u32)> {
    rules.iter().map(|rule| (parse("2001:db8::/32"), *rule)).collect()
}

#[test]
fn of_more_entries_than_a_policy_holds_the_rule_with_the_most_prefixes_is_told() {
    let most = MAX_ENTRIES as usize;
    // Exempt prefixes are nobody's.
    let of_exempt = [0, 1, 1, NO_RULE, NO_RULE, NO_RULE, 2];
    assert_eq!(
        told(|findings| findings.entries(most, &members(&of_exempt))),
        [""; 0]
    );
    let told_of = |rules: &[u32]| told(|findings| findings.entries(most + 1, &members(rules)));
    assert_eq!(
        told_of(&of_exempt),
        ["--reject 2001:db8:2::/48: error: the policy has 1000001 entries, but 1000000 is the most"]
    );
    // Of those with as many it is the last.
    assert!(told_of(&[0, 0, 2, 1, 2])[0].starts_with("--reject 2001:db8:3::/48: "));
    assert_eq!(told_of(&[NO_RULE]), [""; 0]);
}

#[test]
fn of_more_clauses_than_have_numbers_the_last_rule_is_told() {
    let most = MAX_CLAUSES as usize;
    assert_eq!(told(|findings| findings.clauses(most, &[0, 2])), [""; 0]);
    let told = told(|findings| findings.clauses(most + 1, &[0, 2]));
    assert_eq!(
        told,
        [format!(
            "--reject 2001:db8:3::/48: error: the policy has {} clauses, but {MAX_CLAUSES} is the most",
            most + 1
        )]
    );
}

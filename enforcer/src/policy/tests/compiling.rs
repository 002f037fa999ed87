//! What the compiler makes of rules: order, shared tails, barriers, limits.

use std::time::{Duration, Instant};

use enforcer_common::{
    address::words_from_octets,
    clause::{Action, CLAUSE_AUDIT, CLAUSE_OPAQUE, MAX_ENTRIES, MAX_WALK, NO_CLAUSE},
    decide::{Connect, Known, Mode, Unmovable, decide},
};
use ipnet::Ipv6Net;

use super::{
    super::{
        compile::compile,
        compiled::CompiledPolicy,
        diagnostic::Diagnostic,
        live::Live,
        rule::{DEFAULT_GROUP, Origin, Rule, RuleAction, RuleGroups},
    },
    check, lines, policy_of,
};

fn default_group() -> Vec<String> {
    vec![DEFAULT_GROUP.to_owned()]
}

fn compiled(rules: &[&str]) -> CompiledPolicy {
    let (policy, _) = policy_of(rules).unwrap();
    compile(&policy.rules, &default_group(), &Live::default()).unwrap()
}

/// Rules on the list of an address, in their order.
fn order(policy: &CompiledPolicy, address: &str) -> Vec<u32> {
    let head = policy
        .entry_for(address.parse().unwrap())
        .map_or(NO_CLAUSE, |entry| entry.head);
    policy.list(head).map(|clause| clause.rule).collect()
}

fn prefixes(policy: &CompiledPolicy) -> Vec<String> {
    policy
        .entries()
        .iter()
        .map(|entry| entry.prefix.to_string())
        .collect()
}

/// A rejecting rule.
fn reject(prefixes: Vec<Ipv6Net>) -> Rule {
    Rule {
        groups: RuleGroups::All,
        ..Rule::plain(
            "x".to_owned(),
            Origin::Argument("x".to_owned()),
            prefixes,
            RuleAction::Reject,
        )
    }
}

/// That many /64 prefixes.
fn many(count: u32) -> Vec<Ipv6Net> {
    (0..u128::from(count))
        .map(|n| Ipv6Net::new(((0x2001_0db8 << 96) | (n << 64)).into(), 64).unwrap())
        .collect()
}

#[test]
fn no_rules_compile_to_nothing_at_all() {
    assert_eq!(
        compile(&[], &default_group(), &Live::default()).unwrap(),
        CompiledPolicy::default()
    );
}

#[test]
fn a_longer_prefix_goes_before_a_wider_one_whose_list_it_continues() {
    let policy = compiled(&["reject 2001:db8::/32", "allow 2001:db8:1::/48,port=443"]);
    assert_eq!(order(&policy, "2001:db8:1::1"), [1, 0]);
    assert_eq!(order(&policy, "2001:db8:2::1"), [0]);
    assert_eq!(order(&policy, "2001:db9::1"), [0_u32; 0]);
}

#[test]
fn at_one_prefix_more_conditions_go_first_whatever_the_order_of_writing() {
    let rules = [
        "allow 2001:db8::/32",
        "reject 2001:db8::/32,port=443",
        "allow 2001:db8::/32,port=443,proto=tcp",
    ];
    assert_eq!(order(&compiled(&rules), "2001:db8::1"), [2, 1, 0]);
    let reversed = [rules[2], rules[1], rules[0]];
    assert_eq!(order(&compiled(&reversed), "2001:db8::1"), [0, 1, 2]);
}

#[test]
fn rules_that_no_connect_matches_both_stand_in_the_order_of_writing() {
    let policy = compiled(&["reject ::/0,port=80", "allow ::/0,port=443", "allow ::/0,port=22"]);
    assert_eq!(order(&policy, "2001:db8::1"), [0, 1, 2]);
}

#[test]
fn a_list_ends_with_the_first_clause_that_matches_everything() {
    let policy = compiled(&[
        "reject ::/0",
        "allow 2001:db8::/32",
        "reject 2001:db8:1::/48,port=1",
    ]);
    assert_eq!(order(&policy, "2001:db8:1::1"), [2, 1]);
}

#[test]
fn several_port_ranges_are_consecutive_clauses_of_one_rule() {
    let policy = compiled(&["reject ::/0", "allow 2001:db8::/32,port=443,port=80-81"]);
    assert_eq!(order(&policy, "2001:db8::1"), [1, 1, 0]);
    let ports: Vec<_> = policy
        .list(policy.entry_for("2001:db8::1".parse().unwrap()).unwrap().head)
        .collect();
    assert_eq!((ports[0].port_min, ports[0].port_max), (80, 81));
    assert_eq!((ports[1].port_min, ports[1].port_max), (443, 443));
}

#[test]
fn a_nested_prefix_of_the_same_rule_adds_nothing() {
    let (policy, _) = check(
        r#"
            version = 1
            [[rule]]
            prefixes = ["2001:db8::/32", "2001:db8:1::/48", "2001:db8:1:1::/64"]
            action = "reject"
            ports = [80, 443]
        "#,
    )
    .unwrap();
    let compiled = compile(&policy.rules, &default_group(), &Live::default()).unwrap();
    assert_eq!(prefixes(&compiled), ["2001:db8::/32"]);
    assert_eq!(compiled.clauses().len(), 2);
}

#[test]
fn equal_rules_for_different_groups_compile_to_equal_policies() {
    let (policy, _) = check(
        r#"
            version = 1
            [[rule]]
            groups = ["a", "b"]
            prefix = "2001:db8::/32"
            action = "reject"
            [[rule]]
            groups = ["c"]
            prefix = "2001:db8:1::/48"
            action = "allow"
        "#,
    )
    .unwrap();
    let of = |group: &str| compile(&policy.rules, &[group.to_owned()], &Live::default()).unwrap();
    assert_eq!(of("a"), of("b"));
    assert_ne!(of("a"), of("c"));
    // Identifiers are indices of the whole policy's rules.
    assert_eq!(of("c").clauses()[0].rule, 1);
}

#[test]
fn no_wide_rule_reaches_an_exempt_prefix() {
    let policy = compiled(&["reject ::/0"]);
    for address in ["::ffff:192.0.2.1", "::1", "::", "fe80::1", "ff02::1"] {
        assert_eq!(order(&policy, address), [0_u32; 0], "{address}");
    }
    for address in ["::2", "::fffe:c000:201", "2001:db8::1", "fec0::1", "fe7f::1"] {
        assert_eq!(order(&policy, address), [0], "{address}");
    }
}

#[test]
fn a_rule_within_an_exempt_prefix_acts_there_and_continues_with_nothing_wider() {
    let policy = compiled(&[
        "reject ::/0",
        "reject fe80::/10,port=80",
        "allow fe80::1,port=443",
        "reject ::1",
    ]);
    assert_eq!(order(&policy, "fe80::1"), [2, 1]);
    assert_eq!(order(&policy, "fe80::2"), [1]);
    assert_eq!(order(&policy, "::1"), [3]);
    assert_eq!(order(&policy, "::"), [0_u32; 0]);
}

#[test]
fn barriers_stand_only_where_a_wider_rule_could_reach_in() {
    assert_eq!(prefixes(&compiled(&["reject internet"])), ["2000::/3"]);
    assert_eq!(
        prefixes(&compiled(&["reject f000::/4"])),
        ["f000::/4", "fe80::/10", "ff00::/8"]
    );
    assert_eq!(compiled(&["reject ::/0"]).entries().len(), 6);
}

#[test]
fn a_redirect_carries_its_address_and_its_errno() {
    let v6only = Known {
        unmovable: Some(Unmovable::V6Only),
        ..Known::default()
    };
    let policy = compiled(&["redirect 2001:db8::/32=192.0.2.1:80,errno=ECONNREFUSED"]);
    let address = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap();
    let connect = Connect::new(words_from_octets(address.octets()), 443, 6, Mode::Enforce);
    let decision = decide(&policy, &v6only, &connect).unwrap();
    assert_eq!(decision.verdict, Action::Reject);
    assert_eq!((decision.errno, decision.to.port), (111, 80));
    let mapped = "::ffff:192.0.2.1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert_eq!(decision.to.addr_be, words_from_octets(mapped));
}

#[test]
fn only_a_redirect_that_does_not_hide_where_it_went_says_so() {
    let flags = |rule: &str| compiled(&[rule]).clauses()[0].flags & CLAUSE_OPAQUE != 0;
    assert!(flags("redirect 2001:db8::/32=192.0.2.1,transparent=false"));
    assert!(!flags("redirect 2001:db8::/32=192.0.2.1,transparent=true"));
    assert!(!flags("redirect 2001:db8::/32=192.0.2.1"));
    // Nor does that take away what else there is to say.
    let audit = compiled(&["redirect 2001:db8::/32=192.0.2.1,transparent=false,mode=audit"]);
    assert_eq!(audit.clauses()[0].flags, CLAUSE_AUDIT | CLAUSE_OPAQUE);
}

#[test]
fn a_list_of_as_many_clauses_as_the_kernel_walks_is_taken_and_one_more_is_not() {
    let rule = |ports: u32| {
        let ports: String = (0..ports).map(|n| format!(",port={}", 2 * n + 1)).collect();
        format!("reject 2001:db8::/32{ports}")
    };
    assert!(policy_of(&[&rule(MAX_WALK)]).is_ok());
    let error = policy_of(&[&rule(MAX_WALK + 1)]).unwrap_err();
    assert!(!error.is_about_file());
    assert!(
        error.to_string().contains("33 clauses would have to be tried"),
        "{error}"
    );
    // An unconditional rule cuts the list short.
    let wide = rule(20).replace("2001:db8::/32", "::/0");
    assert!(policy_of(&[&wide, &rule(20)]).is_err());
    assert!(policy_of(&[&wide, &rule(20), "allow 2001:db8::/31"]).is_ok());
}

#[test]
fn what_stands_behind_a_rule_without_conditions_makes_no_list_too_long() {
    let ports = |first: u32, count: u32| -> String {
        let ports = (0..count).map(|n| format!(",port={}", first + 2 * n));
        ports.collect()
    };
    let wide = format!("reject ::/0{}", ports(1, 20));
    let inner = format!("reject 2001:db8::/32{}", ports(1, MAX_WALK - 1));
    // Alone it would go on with the wide one. The rule without conditions is behind it, and the last to be tried.
    let error = policy_of(&[&wide, &inner]).unwrap_err().to_string();
    assert!(error.contains("51 clauses would have to be tried"), "{error}");
    assert!(policy_of(&[&wide, &inner, "allow 2001:db8::/32"]).is_ok());
    let error = policy_of(&[&wide, &format!("{inner},port=9999"), "allow 2001:db8::/32"]).unwrap_err();
    assert!(
        error.to_string().contains("33 clauses would have to be tried"),
        "{error}"
    );
    // Rules that end stand behind one that does not and is written first.
    let ending: Vec<String> = (1..=MAX_WALK + 1)
        .map(|hours| format!("reject 2001:db8::/32,expires={hours}h"))
        .collect();
    let ending: Vec<&str> = ending.iter().map(String::as_str).collect();
    assert!(policy_of(&ending[1..]).is_ok());
    assert!(policy_of(&ending).is_err());
    assert!(policy_of(&[&["reject 2001:db8::/32"], &ending[..]].concat()).is_ok());
}

#[test]
fn a_rule_of_as_many_prefixes_as_a_policy_holds_has_one_clause_and_one_more_is_refused() {
    let mut rules = [reject(many(MAX_ENTRIES + 1))];
    let errors = compile(&rules, &default_group(), &Live::default()).unwrap_err();
    assert!(lines(&errors)[0].contains("the policy has 1000001 entries, but 1000000 is the most"));
    rules[0].prefixes.pop();
    let started = Instant::now();
    let policy = compile(&rules, &default_group(), &Live::default()).unwrap();
    assert_eq!(
        (policy.entries().len(), policy.clauses().len()),
        (MAX_ENTRIES as usize, 1)
    );
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn tails_are_shared_so_memory_is_that_of_the_rules() {
    let mut inner = reject(many(10_000));
    inner.ports = vec![80..=80, 443..=443];
    let wide = |prefix: &str| reject(vec![prefix.parse().unwrap()]);
    let policy = compile(
        &[inner, wide("::/0"), wide("2001:db8::/51")],
        &default_group(),
        &Live::default(),
    )
    .unwrap();
    // Two for each of the two wide rules that the lists go on with, and those two.
    assert_eq!(policy.clauses().len(), 6);
}

#[test]
fn rules_of_the_command_line_tie_with_each_other_only_where_they_contradict() {
    let error = policy_of(&["reject ::/0", "allow ::/0"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--allow ::/0: error: `--reject ::/0` and `--allow ::/0` tie at ::/0"
    );
    let (policy, warnings) = policy_of(&["reject ::/0", "reject ::/0"]).unwrap();
    assert_eq!(policy.rules.len(), 2);
    assert_eq!(lines(&warnings).len(), 1);
    assert!(lines(&warnings)[0].contains("exact duplicate"));
    // The errno of an allow means nothing, so it makes no difference.
    assert!(policy_of(&["reject ::/0,port=1-10", "reject ::/0,port=5-20"]).is_ok());
    assert!(policy_of(&["reject ::/0,port=1-10", "reject ::/0,port=5-20,errno=EACCES"]).is_err());
    assert!(policy_of(&["reject ::/0,proto=tcp", "allow ::/0,proto=udp"]).is_ok());
    assert!(policy_of(&["reject ::/0,proto=tcp", "allow ::/0,port=443"]).is_err());
}

#[test]
fn rules_are_duplicates_only_if_they_live_as_long_and_mean_the_same_name() {
    let duplicates = |warnings: &[Diagnostic]| {
        let all = lines(warnings);
        all.iter().filter(|line| line.contains("exact duplicate")).count()
    };
    for (second, count) in [("expires=1h", 1), ("expires=2h", 0)] {
        let second = format!("reject ::/0,{second}");
        let (_, warnings) = policy_of(&["reject ::/0,expires=1h", &second]).unwrap();
        assert_eq!(duplicates(&warnings), count, "{second}");
    }
    let rule = |more: &str| format!("[[rule]]\nhost = \"db.example\"\n{more}\n");
    for (more, count) in [("", 1), ("resolve = \"target\"", 0)] {
        let (_, warnings) = check(&format!("version = 1\n{}{}", rule(""), rule(more))).unwrap();
        assert_eq!(duplicates(&warnings), count, "{more}");
    }
}

#[test]
fn a_rule_that_can_never_match_is_told_with_the_one_that_decides_in_its_place() {
    let (_, warnings) = policy_of(&[
        "allow 2001:100::/32",
        "allow 2001:db8:9::/48",
        "reject 2001:db8::/32,port=1-9",
        "reject 2001:db8::/32,port=5",
    ])
    .unwrap();
    let mut never = warnings
        .iter()
        .filter(|warning| warning.message.contains("can never match"));
    let related = &never.next().unwrap().related;
    assert_eq!(
        related[0].message,
        "`--reject 2001:db8::/32,port=1-9` decides connects to 2001:db8::, for example"
    );
    assert_eq!(never.next(), None);
}

#[test]
fn a_redirect_may_not_lead_into_what_is_rejected_or_redirected_by_itself() {
    for (rules, allowed) in [
        (
            &["redirect 2001:db8:1::/48=2001:db8:2::1", "reject 2001:db8:2::/48"][..],
            false,
        ),
        // The rejection holds for other ports or protocols only.
        (
            &[
                "redirect 2001:db8:1::/48=[2001:db8:2::1]:80",
                "reject 2001:db8:2::/48,port=443",
            ],
            true,
        ),
        (
            &[
                "redirect 2001:db8:1::/48=2001:db8:2::1,port=80",
                "reject 2001:db8:2::/48,port=443",
            ],
            true,
        ),
        (
            &[
                "redirect 2001:db8:1::/48=2001:db8:2::1",
                "reject 2001:db8:2::/48,port=443",
            ],
            false,
        ),
        (
            &[
                "redirect 2001:db8:1::/48=2001:db8:2::1,proto=udp",
                "reject 2001:db8:2::/48,proto=tcp",
            ],
            true,
        ),
        // A more specific rule allows the address.
        (
            &[
                "redirect 2001:db8:1::/48=2001:db8:2::1",
                "reject 2001:db8:2::/48",
                "allow 2001:db8:2::1",
            ],
            true,
        ),
        (&["redirect 2001:db8:1::/48=2001:db8:1::1"], false),
        (
            &["redirect 2001:db8:1::/48=2001:db8:1::1", "allow 2001:db8:1::1"],
            true,
        ),
        // From one port to another of the same address.
        (&["redirect 2001:db8:1::1=[2001:db8:1::1]:8080,port=80"], true),
        // No rule speaks of IPv4.
        (&["redirect ::/0=192.0.2.1"], true),
    ] {
        let outcome = policy_of(rules);
        assert_eq!(outcome.is_ok(), allowed, "{rules:?} gave {outcome:?}");
    }
}

#[test]
fn rules_that_can_never_match_are_told_and_no_others() {
    let never = |rules: &[&str]| -> Vec<String> {
        let (_, warnings) = policy_of(rules).unwrap();
        lines(&warnings)
            .into_iter()
            .filter(|line| line.contains("can never match"))
            .collect()
    };
    // Both halves have rules of their own.
    assert_eq!(
        never(&["reject ::/0", "allow ::/1", "allow 8000::/1"]),
        ["--reject ::/0: warning: `--reject ::/0` can never match"]
    );
    assert_eq!(never(&["reject ::/0", "allow ::/1"]), [""; 0]);
    // What a longer prefix leaves over, a wider rule gets.
    assert_eq!(
        never(&["reject ::/0", "allow ::/1,port=443", "allow 8000::/1"]),
        [""; 0]
    );
    // Ports are covered one by one.
    assert_eq!(
        never(&["reject ::/0,port=5", "reject ::/0,port=1-9"]),
        [""; 0],
        "the first written is reached first"
    );
    assert_eq!(
        never(&["reject ::/0,port=1-9", "reject ::/0,port=5"]),
        ["--reject ::/0,port=5: warning: `--reject ::/0,port=5` can never match"]
    );
}

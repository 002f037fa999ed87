//! [`explain`], by example: how few cases there are, and what each says.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    time::Duration,
};

use enforcer_common::{
    clause::{Action, rollout_below, rollout_hash, text_hash},
    decide::{Mode, Unmovable},
};

use super::{
    super::{
        compile::compile,
        explain::{Case, Grounds, Kind, Membership, Question, Reason, Target, explain},
        live::Live,
        overlay::{Answers, Becomes, overlay},
        rule::{
            Expires, GroupName, HostClause, Origin, RedirectTo, Rollout, RolloutBy, Rule, RuleAction,
            WithoutTwin,
        },
    },
    policy_of,
    property::parse,
};

/// What is known of times and names.
#[derive(Default)]
struct Known {
    live: Live,
    answers: Answers,
}

fn question(address: &str) -> Question {
    Question::new(parse(address), None, None, Mode::Enforce)
}

fn explained(rules: &[Rule], known: &Known, question: &Question) -> Vec<Case> {
    let groups: Vec<GroupName> = vec!["default".to_owned()];
    let base = compile(rules, &groups, &known.live).unwrap();
    let overlay = overlay(rules, &groups, &known.live, &base, &known.answers);
    let grounds = Grounds {
        rules,
        groups: &groups,
        live: &known.live,
        answers: &known.answers,
        base: &base,
        overlay: &overlay,
    };
    explain(&grounds, question).unwrap()
}

/// Rules as on the command line.
fn written(rules: &[&str]) -> Vec<Rule> {
    policy_of(rules).unwrap().0.rules
}

fn rule(label: &str, prefix: &str, action: RuleAction) -> Rule {
    let origin = Origin::Argument(format!("--rule {label}"));
    Rule::plain(label.to_owned(), origin, vec![parse(prefix)], action)
}

fn reject(label: &str, prefix: &str) -> Rule {
    rule(label, prefix, RuleAction::Reject)
}

fn rollout(percent: u8, by: RolloutBy) -> Option<Rollout> {
    Some(Rollout {
        percent,
        by,
        canary: Vec::new(),
        canary_list: 0,
    })
}

fn reasons(case: &Case) -> Vec<(u32, Reason)> {
    case.losers
        .iter()
        .map(|loser| (loser.rule, loser.reason))
        .collect()
}

#[test]
fn one_answer_is_enough_where_nothing_depends_on_port_or_protocol() {
    let cases = explained(
        &written(&["reject internet"]),
        &Known::default(),
        &question("2001:db8::1"),
    );
    assert_eq!(cases.len(), 1);
    assert_eq!(cases[0].kinds, [Kind::Tcp, Kind::Udp, Kind::Ping]);
    assert!(cases[0].is_any_port() && cases[0].is_any_user() && cases[0].losers.is_empty());
    assert_eq!(cases[0].outcome.verdict, Action::Reject);
    assert_eq!(cases[0].immovable, None);
}

#[test]
fn a_redirect_to_ipv4_says_what_sockets_get_that_cannot_be_moved() {
    let asked = question("2001:db8::1");
    let rules = written(&["redirect 2001:db8::/32=192.0.2.1:80,errno=EACCES"]);
    let cases = explained(&rules, &Known::default(), &asked);
    assert_eq!(cases.len(), 2);
    assert_eq!(cases[0].outcome.verdict, Action::Redirect);
    assert_eq!(cases[0].outcome.to, [parse("192.0.2.1:80")]);
    let immovable = cases[0].immovable.as_ref().unwrap();
    assert_eq!(
        (immovable.verdict, immovable.errno.map(|errno| errno.name)),
        (Action::Reject, Some("EACCES"))
    );
    assert_eq!(cases[1].kinds, [Kind::Ping]);
    assert_eq!(cases[1].outcome.unmovable, Some(Unmovable::Ping));
    let rules = written(&["redirect 2001:db8::/32=3fff::1"]);
    let to_ipv6 = explained(&rules, &Known::default(), &asked);
    assert_eq!(to_ipv6.len(), 1);
    assert_eq!(to_ipv6[0].immovable, None);
}

#[test]
fn computed_redirects_say_the_address_they_come_to() {
    let prefix = RuleAction::Redirect(RedirectTo::Prefix(parse("::ffff:198.51.100.0/120")));
    for (rule, address, to) in [
        (
            rule("low", "2001:db8::/120", prefix),
            "2001:db8::7",
            "198.51.100.7:0",
        ),
        (
            rule(
                "nat64",
                "64:ff9b::/96",
                RuleAction::Redirect(RedirectTo::Embedded),
            ),
            "64:ff9b::c000:221",
            "192.0.2.33:0",
        ),
    ] {
        let cases = explained(&[rule], &Known::default(), &question(address));
        assert_eq!(cases[0].outcome.to, [parse(to)], "{address}");
    }
}

#[test]
fn users_are_told_apart_only_where_a_rule_does() {
    let rules = [
        Rule {
            uids: vec![1000..=1001],
            ..reject("narrow", "2001:db8::/48")
        },
        reject("wide", "2001:db8::/32"),
        Rule {
            uids: vec![0..=0],
            ..reject("moot", "2001::/16")
        },
    ];
    let asked = question("2001:db8::1");
    let cases = explained(&rules, &Known::default(), &asked);
    let told: Vec<_> = cases
        .iter()
        .map(|case| (case.users.clone(), case.outcome.rule))
        .collect();
    assert_eq!(
        told,
        [
            (vec![0..=999, 1002..=u32::MAX], Some(1)),
            (vec![1000..=1001], Some(0))
        ]
    );
    // What would have lost anyway has not lost by its users, unless one user is asked about.
    assert_eq!(reasons(&cases[0]), [(0, Reason::Uid), (2, Reason::ShorterPrefix)]);
    let one = Question {
        uid: Some(5),
        ..asked
    };
    let cases = explained(&rules, &Known::default(), &one);
    assert_eq!(cases.len(), 1);
    assert_eq!(reasons(&cases[0]), [(0, Reason::Uid), (2, Reason::Uid)]);
}

fn membership(rule: u32, included: bool) -> Membership {
    Membership {
        rule,
        included,
        as_canary: false,
    }
}

#[test]
fn rollouts_of_whom_nothing_is_known_are_answered_both_ways_and_no_more() {
    let rules = [
        Rule {
            rollout: rollout(25, RolloutBy::Process),
            ..reject("narrow", "2001:db8::/48")
        },
        Rule {
            rollout: rollout(50, RolloutBy::Target),
            ..reject("wide", "2001:db8::/32")
        },
        // Whoever is asked: nobody.
        Rule {
            rollout: rollout(0, RolloutBy::Process),
            ..reject("none", "2001::/16")
        },
    ];
    let asked = question("2001:db8::1");
    let cases = explained(&rules, &Known::default(), &asked);
    let told: Vec<_> = cases
        .iter()
        .map(|case| (case.memberships.clone(), case.outcome.rule, reasons(case)))
        .collect();
    let both_out = vec![membership(0, false), membership(1, false)];
    assert_eq!(
        told,
        [
            (
                vec![membership(0, true)],
                Some(0),
                vec![(1, Reason::ShorterPrefix), (2, Reason::ShorterPrefix)]
            ),
            (
                vec![membership(0, false), membership(1, true)],
                Some(1),
                vec![(0, Reason::LeftOut), (2, Reason::ShorterPrefix)]
            ),
            (
                both_out,
                None,
                vec![(0, Reason::LeftOut), (1, Reason::LeftOut), (2, Reason::LeftOut)]
            ),
        ]
    );

    // Of a process and a target there is one answer: what their hashes say.
    let is_in =
        |label: &str, key, percent| rollout_hash(text_hash(label.as_bytes()), key) < rollout_below(percent);
    let process = (1..).find(|process| !is_in("narrow", *process, 25)).unwrap();
    let rollout_key = (1..).find(|key| is_in("wide", *key, 50)).unwrap();
    let known = Question {
        process: Some(process),
        target: Some(Target {
            rollout_key,
            canaries: 0,
        }),
        ..asked
    };
    let cases = explained(&rules, &Known::default(), &known);
    assert_eq!(cases.len(), 1);
    assert_eq!((cases[0].outcome.rule, cases[0].memberships.len()), (Some(1), 0));
    assert_eq!(
        reasons(&cases[0]),
        [(0, Reason::LeftOut), (2, Reason::ShorterPrefix)]
    );
}

#[test]
fn as_many_rollouts_as_fit_on_a_walk_stay_few_cases() {
    let by_process = |index: u8, mode| Rule {
        rollout: rollout(50, RolloutBy::Process),
        mode,
        ..reject(&format!("r{index}"), &format!("2001:db8::/{}", 32 + index))
    };
    let acting: Vec<Rule> = (0..30).map(|index| by_process(index, Mode::Enforce)).collect();
    let asked = question("2001:db8::1");
    assert_eq!(explained(&acting, &Known::default(), &asked).len(), 31);
    // Of those in audit mode only the first is reported: whether others are included makes no difference.
    let audit: Vec<Rule> = (0..30).map(|index| by_process(index, Mode::Audit)).collect();
    assert_eq!(explained(&audit, &Known::default(), &asked).len(), 31);
}

#[test]
fn canaries_are_answered_both_ways_until_the_target_is_known() {
    let rules = [Rule {
        rollout: Some(Rollout {
            percent: 0,
            by: RolloutBy::Target,
            canary: vec!["web-1".to_owned()],
            canary_list: 1,
        }),
        ..reject("careful", "2001:db8::/32")
    }];
    let asked = question("2001:db8::1");
    let cases = explained(&rules, &Known::default(), &asked);
    let told: Vec<_> = cases
        .iter()
        .map(|case| {
            let membership = case.memberships[0];
            (membership.included, membership.as_canary, case.outcome.rule)
        })
        .collect();
    assert_eq!(told, [(true, true, Some(0)), (false, true, None)]);
    for (canaries, rule) in [(1, Some(0)), (0b10, None)] {
        let target = Some(Target {
            rollout_key: 7,
            canaries,
        });
        let cases = explained(&rules, &Known::default(), &Question { target, ..asked });
        assert_eq!(cases.len(), 1);
        assert_eq!(cases[0].outcome.rule, rule);
    }
}

#[test]
fn what_is_switched_off_ended_or_in_audit_mode_says_so() {
    let rules = [
        Rule {
            enabled: false,
            ..reject("off", "2001:db8::/48")
        },
        Rule {
            mode: Mode::Audit,
            ..reject("audit", "2001:db8::/47")
        },
        Rule {
            expires: Some(Expires::After(Duration::from_secs(1))),
            ..reject("ended", "2001:db8::/46")
        },
        reject("wide", "2001:db8::/32"),
    ];
    let mut known = Known::default();
    known.live.deadlines_boot_ns = HashMap::from([(2, 100)]);
    let asked = question("2001:db8::1");
    let after = Question {
        boot_ns: 100,
        ..asked
    };
    let cases = explained(&rules, &known, &after);
    assert_eq!(cases[0].outcome.rule, Some(3));
    assert_eq!(cases[0].outcome.would, Some((1, Action::Reject)));
    assert_eq!(
        reasons(&cases[0]),
        [(0, Reason::Disabled), (1, Reason::Audit), (2, Reason::Expired)]
    );
    let before = Question { boot_ns: 99, ..asked };
    let cases = explained(&rules, &known, &before);
    assert_eq!(cases[0].outcome.rule, Some(2));
    assert_eq!(reasons(&cases[0])[2], (3, Reason::ShorterPrefix));
}

#[test]
fn names_say_where_connects_go_and_what_is_not_known() {
    let address = parse("2001:db8::1");
    let named = |label: &str| Rule {
        prefixes: Vec::new(),
        host: Some(HostClause {
            name: parse(&format!("{label}.example")),
            without_twin: WithoutTwin::Reject,
        }),
        ..rule(label, "::/0", RuleAction::Redirect(RedirectTo::Twin))
    };
    let to_host = |label: &str| {
        let to = RedirectTo::Host {
            name: parse("pooler.example"),
            port: 6543,
        };
        rule(label, "2001:db8::/32", RuleAction::Redirect(to))
    };
    let ipv4 = |last| Ipv4Addr::new(192, 0, 2, last);
    let asked = question("2001:db8::1");

    let rules = [named("db"), to_host("pooler")];
    let mut known = Known::default();
    // Nobody has the address yet, and there is nowhere to go.
    let cases = explained(&rules, &known, &asked);
    assert_eq!(cases[0].outcome.rule, None);
    assert_eq!(reasons(&cases[0]), [(1, Reason::NotYetResolved)]);

    known.live.destinations.insert(1, vec![ipv4(1), ipv4(2)]);
    let cases = explained(&rules, &known, &asked);
    assert_eq!(cases[0].outcome.rule, Some(1));
    assert_eq!(
        cases[0].outcome.to,
        [parse("192.0.2.1:6543"), parse("192.0.2.2:6543")]
    );

    for (becomes, rule, verdict, is_without_twin, loser) in [
        (
            Becomes::To(vec![ipv4(9)]),
            0,
            Action::Redirect,
            false,
            (1, Reason::ShorterPrefix),
        ),
        (
            Becomes::Rejected,
            0,
            Action::Reject,
            true,
            (1, Reason::ShorterPrefix),
        ),
        (
            Becomes::Absent,
            1,
            Action::Redirect,
            false,
            (0, Reason::WithoutTwin),
        ),
    ] {
        known.answers.insert(0, BTreeMap::from([(address, becomes)]));
        let cases = explained(&rules, &known, &asked);
        let outcome = &cases[0].outcome;
        assert_eq!(
            (outcome.rule, outcome.verdict, outcome.is_without_twin),
            (Some(rule), verdict, is_without_twin)
        );
        assert_eq!(reasons(&cases[0]), [loser]);
    }
}

#[test]
fn rules_for_one_address_that_go_second_say_so() {
    let named = |label: &str, action| Rule {
        prefixes: Vec::new(),
        host: Some(HostClause {
            name: parse(&format!("{label}.example")),
            without_twin: WithoutTwin::Reject,
        }),
        ..rule(label, "::/0", action)
    };
    let rules = [
        named("first", RuleAction::Reject),
        named("second", RuleAction::Allow),
        named("third", RuleAction::Reject),
    ];
    let known = Known {
        answers: (0..3)
            .map(|rule| (rule, BTreeMap::from([(parse("2001:db8::1"), Becomes::AsRuled)])))
            .collect(),
        ..Known::default()
    };
    let cases = explained(&rules, &known, &question("2001:db8::1"));
    assert_eq!(cases[0].outcome.rule, Some(0));
    assert_eq!(
        reasons(&cases[0]),
        [(1, Reason::GoesSecond), (2, Reason::WrittenLater)]
    );
    // In audit mode of the cgroup, a rule that is in audit mode itself goes before one that is not.
    let rules = [
        reject("acts", "2001:db8::/32"),
        Rule {
            mode: Mode::Audit,
            ..rule("tries", "2001:db8::/32", RuleAction::Allow)
        },
    ];
    let asked = Question {
        mode: Mode::Audit,
        ..question("2001:db8::1")
    };
    let cases = explained(&rules, &Known::default(), &asked);
    assert_eq!(cases[0].outcome.would, Some((1, Action::Allow)));
    assert_eq!(reasons(&cases[0]), [(0, Reason::GoesSecond)]);
}

//! What rules say about names, times, shares and users, from text to [`Rule`].

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use enforcer_common::{clause::MAX_CANARY_LISTS, decide::Mode};

use super::{
    super::rule::{
        Expires, HostClause, RedirectTo, Resolve, Rollout, RolloutBy, Rule, RuleAction, WithoutTwin,
    },
    check, lines,
};
use crate::names::MAX_NAMES;

fn rules(text: &str) -> Vec<Rule> {
    match check(&format!("version = 1\n{text}")) {
        Ok((policy, _)) => policy.rules,
        Err(error) => panic!("{}", error.render(false)),
    }
}

fn refusal(text: &str) -> String {
    check(&format!("version = 1\n{text}")).unwrap_err().to_string()
}

#[test]
fn each_key_of_a_rule_is_taken() {
    let found = rules(
        r#"
        [[rule]]
        name = "all"
        host = "DB.example.com."
        action = "redirect"
        resolve = "target"
        allow_private = true
        without_twin = "allow"
        transparent = false
        uid = [1000, "1001-1999", 0]
        reason = "why"
        enabled = false
        mode = "audit"
        expires = "2h"
        rollout = 25
        by = "destination"
        canary = ["b", "a", "b"]
        "#,
    );
    let rule = &found[0];
    assert_eq!(
        rule.host,
        Some(HostClause {
            name: "db.example.com".parse().unwrap(),
            without_twin: WithoutTwin::Allow,
        })
    );
    assert_eq!(rule.action, RuleAction::Redirect(RedirectTo::Twin));
    assert_eq!((rule.resolve, rule.allow_private), (Resolve::Target, true));
    assert_eq!((rule.transparent, rule.enabled), (false, false));
    assert_eq!(rule.uids, [0..=0, 1000..=1999]);
    assert_eq!(rule.reason.as_deref(), Some("why"));
    assert_eq!(rule.mode, Mode::Audit);
    assert_eq!(rule.expires, Some(Expires::After(Duration::from_secs(7200))));
    assert_eq!(
        rule.rollout,
        Some(Rollout {
            percent: 25,
            by: RolloutBy::Destination,
            canary: vec!["a".to_owned(), "b".to_owned()],
            // Lists of disabled rules are not numbered.
            canary_list: 0,
        })
    );
}

#[test]
fn what_a_rule_does_not_say_has_its_default() {
    let found =
        rules("[[rule]]\nhost = \"a.example\"\n[[rule]]\nname = \"x\"\nhost = \"b.example\"\nrollout = 5\n");
    let plain = &found[0];
    assert_eq!(plain.action, RuleAction::Reject);
    assert!(plain.is_certain() && plain.transparent && !plain.allow_private);
    assert!(plain.uids.is_empty() && plain.reason.is_none() && plain.resolve == Resolve::Host);
    let rollout = found[1].rollout.as_ref().unwrap();
    assert_eq!((rollout.by, rollout.canary_list), (RolloutBy::Target, 0));
}

#[test]
fn a_date_of_toml_and_its_text_are_one_time() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    for written in ["2030-03-17T17:46:40Z", "\"2030-03-17T18:46:40+01:00\""] {
        let found = rules(&format!(
            "[[rule]]\nprefix = \"2001:db8::/32\"\naction = \"reject\"\nexpires = {written}\n"
        ));
        assert_eq!(found[0].expires, Some(Expires::At(time)), "{written}");
    }
}

#[test]
fn a_lone_user_or_range_needs_no_brackets() {
    for (written, expected) in [("33", 33..=33), ("\"1000-1999\"", 1000..=1999), ("[0]", 0..=0)] {
        let found = rules(&format!(
            "[[rule]]\nprefix = \"2001:db8::/32\"\naction = \"reject\"\nuid = {written}\n"
        ));
        assert_eq!(found[0].uids, [expected], "{written}");
    }
}

/// That many rules with a list of canaries each; every other one has the same.
fn with_canaries(lists: usize) -> String {
    let mut text = String::new();
    for n in 0..lists {
        for (part, canary) in [("a", format!("t{n}")), ("b", "t0".to_owned())] {
            writeln!(
                text,
                "[[rule]]\nname = \"{part}{n}\"\nprefix = \"2001:db8:{part}:{n}::/64\"\naction = \"reject\"\n\
                 rollout = 5\ncanary = [\"{canary}\"]"
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn equal_lists_of_canaries_share_a_number_and_there_are_only_so_many() {
    let found = rules(&with_canaries(MAX_CANARY_LISTS));
    let number = |rule: &Rule| usize::from(rule.rollout.as_ref().unwrap().canary_list);
    for (n, pair) in found.chunks(2).enumerate() {
        assert_eq!((number(&pair[0]), number(&pair[1])), (n + 1, 1));
    }
    let one_more = refusal(&with_canaries(MAX_CANARY_LISTS + 1));
    assert!(
        one_more.contains("more than 64 different lists of canaries"),
        "{one_more}"
    );
    // Disabled, it is not counted.
    let disabled = with_canaries(MAX_CANARY_LISTS + 1).replace(
        &format!("name = \"a{MAX_CANARY_LISTS}\""),
        &format!("enabled = false\nname = \"a{MAX_CANARY_LISTS}\""),
    );
    assert_eq!(rules(&disabled).len(), 2 * (MAX_CANARY_LISTS + 1));
}

#[test]
fn there_are_only_so_many_names() {
    let named = |count: usize| {
        let mut text = String::new();
        for n in 0..count {
            writeln!(text, "[[rule]]\nhost = \"n{n}.example\"").unwrap();
        }
        text
    };
    assert_eq!(rules(&named(MAX_NAMES)).len(), MAX_NAMES);
    let too_many = refusal(&named(MAX_NAMES + 1));
    assert!(too_many.contains("more than 4096 names to look up"), "{too_many}");
    // Asked of their own nameservers, each for each target that uses it; asked of the host's, once.
    let targets = "[[target]]\nname = \"a\"\ncgroup = \"/a\"\n[[target]]\nname = \"b\"\ncgroup = \"/b\"\n";
    let of_targets =
        |count| targets.to_owned() + &named(count).replace(".example\"", ".example\"\nresolve = \"target\"");
    assert_eq!(rules(&of_targets(MAX_NAMES / 2)).len(), MAX_NAMES / 2);
    let too_many = refusal(&of_targets(MAX_NAMES / 2 + 1));
    assert!(too_many.contains("more than 4096 names to look up"), "{too_many}");
    let shared = targets.to_owned() + &named(MAX_NAMES);
    assert_eq!(rules(&shared).len(), MAX_NAMES);
}

#[test]
fn a_disabled_rule_is_not_held_against_others_and_gives_no_warning() {
    let (_, warnings) = check(
        r#"
        version = 1
        [[rule]]
        name = "a"
        prefix = "2001:db8::/32"
        action = "reject"
        [[rule]]
        name = "b"
        enabled = false
        prefix = "2001:db8::/32"
        action = "redirect"
        to = "192.0.2.1:5432"
        proto = "tcp"
        rollout = 100
        expires = 2020-01-01T00:00:00Z
        "#,
    )
    .unwrap();
    assert_eq!(lines(&warnings), [""; 0]);
    let (_, warnings) =
        check("version = 1\n[[rule]]\nenabled = false\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n")
            .unwrap();
    assert_eq!(
        lines(&warnings),
        ["policy.toml: warning: every rule is disabled: enforcer will only observe"]
    );
}

/// The warnings about UDP, for a redirect and what stands beside it.
fn of_udp(redirect: &str, beside: &str) -> Vec<String> {
    let text = format!(
        "version = 1\n[[rule]]\nname = \"r\"\naction = \"redirect\"\nto = \"192.0.2.1\"\n{redirect}\n{beside}"
    );
    let text = if redirect.contains("host") {
        text.replace("to = \"192.0.2.1\"\n", "")
    } else {
        text
    };
    let (_, warnings) = check(&text).unwrap_or_else(|error| panic!("{}", error.render(false)));
    lines(&warnings)
        .into_iter()
        .filter_map(|line| {
            let about = ["`r` redirects UDP", "`r` is limited to TCP"];
            about
                .into_iter()
                .find(|about| line.contains(about))
                .map(str::to_owned)
        })
        .collect()
}

#[test]
fn a_rule_for_udp_beside_a_redirect_answers_both_questions() {
    const COVERS: &str = "prefixes = [\"2001:db8:1::/48\", \"2001:db8:2::/48\"]";
    const NAME: &str = "host = \"db.example\"";
    let (sends, order) = ("`r` redirects UDP", "`r` is limited to TCP");
    for covers in [COVERS, NAME] {
        let tcp = format!("{covers}\nproto = \"tcp\"");
        let ports = format!("{covers}\nports = [443]");
        let beside = |more: &str| format!("[[rule]]\nname = \"u\"\n{covers}\naction = \"reject\"\n{more}\n");
        let udp = beside("proto = \"udp\"");
        for (redirect, beside, expected) in [
            (covers, "", Some(sends)),
            (covers, udp.as_str(), None),
            (&tcp, "", Some(order)),
            (&tcp, &udp, None),
            // Whatever is no TCP.
            (&tcp, &beside(""), None),
            (&ports, &beside("proto = \"udp\"\nports = [443]"), None),
            (&ports, &beside("proto = \"udp\"\nports = [444]"), Some(sends)),
            // What does not always act says nothing about what becomes of UDP.
            (covers, &beside("proto = \"udp\"\nmode = \"audit\""), Some(sends)),
            (covers, &beside("proto = \"udp\"\nenabled = false"), Some(sends)),
            (
                covers,
                &beside("proto = \"udp\"\ngroups = [\"other\"]"),
                Some(sends),
            ),
            (covers, &beside("proto = \"udp\"\nuid = 0"), Some(sends)),
            (&tcp, &udp.replace("reject", "allow"), Some(order)),
        ] {
            assert_eq!(
                of_udp(redirect, beside),
                Vec::from_iter(expected),
                "{redirect} {beside}"
            );
        }
    }
    // Part of the prefixes is not enough.
    let part = "[[rule]]\nprefix = \"2001:db8:1::/48\"\naction = \"reject\"\nproto = \"udp\"\n";
    assert_eq!(of_udp(COVERS, part), [sends]);
}

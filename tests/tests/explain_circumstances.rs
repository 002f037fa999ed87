//! `enforcer explain` on rules that are for some only: users, processes, targets, times, names. Without privilege.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use enforcer_common::clause::{rollout_below, rollout_hash, text_hash};
use enforcer_tests::{
    deprive::{Deprivation, deprive},
    enforcer::Enforcer,
    names::NamesFixture,
    place::Place,
    process::Finished,
    wait::PATIENCE,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A policy file.
struct Policy {
    directory: TempDir,
}

impl Policy {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("policy.toml"),
            format!("version = 1\n{text}"),
        )
        .unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("policy.toml")
    }

    /// Runs `enforcer explain` on it, which has no capability left.
    fn explain(&self, place: &Place<'_>, arguments: &[&str]) -> Finished {
        let mut command = Enforcer::command(place, ["explain"]).unwrap();
        command.args(arguments).arg("--policy").arg(self.path());
        deprive(&mut command, Deprivation::AllCapabilities);
        Enforcer::start(command).unwrap().finish(PATIENCE).unwrap()
    }

    /// What people are told.
    fn said(&self, place: &Place<'_>, arguments: &[&str]) -> String {
        let finished = self.explain(place, arguments);
        assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
        finished.stdout.join("\n")
    }

    /// The answer as JSON.
    fn ask(&self, place: &Place<'_>, arguments: &[&str]) -> Value {
        let finished = self.explain(place, &[arguments, &["--output", "json"]].concat());
        assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
        assert_eq!(finished.stdout.len(), 1, "one object on one line");
        serde_json::from_str(&finished.stdout[0]).unwrap()
    }

    /// The cases of the only list of groups.
    fn cases(&self, arguments: &[&str]) -> Vec<Value> {
        let answer = self.ask(&Place::default(), arguments);
        assert_eq!(answer["policies"].as_array().unwrap().len(), 1, "{answer}");
        answer["policies"][0]["cases"].as_array().unwrap().clone()
    }
}

/// Rules that lost, with why.
fn lost(case: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lost = case["lost"].as_array().unwrap().iter();
    lost.map(|lost| (text(&lost["rule"]), text(&lost["reason"])))
        .collect()
}

fn pair(rule: &str, reason: &str) -> (String, String) {
    (rule.to_owned(), reason.to_owned())
}

#[test]
fn users_are_told_apart_and_a_process_brings_its_own() {
    let own = rustix::process::getuid().as_raw();
    let policy = Policy::new(&format!(
        "[[rule]]\nname = \"some\"\nprefix = \"2001:db8::/32\"\naction = \"reject\"\nuid = [{own}]\n"
    ));
    let everybody = policy.cases(&["2001:db8::1", "--proto", "tcp"]);
    let mine = everybody
        .iter()
        .find(|case| case["users"] == json!([own.to_string()]))
        .expect("a case of the user");
    assert_eq!(
        (&mine["rule"], everybody.len()),
        (&json!("some"), 2),
        "{everybody:?}"
    );

    let pid = std::process::id().to_string();
    let other = (own + 1).to_string();
    for (who, rule) in [
        (&["--pid", &pid][..], json!("some")),
        (&["--uid", &own.to_string()], json!("some")),
        (&["--uid", &other], json!(null)),
        // What is said of the user counts, whoever's the process is.
        (&["--pid", &pid, "--uid", &other], json!(null)),
    ] {
        let cases = policy.cases(&[&["2001:db8::1", "--proto", "tcp"], who].concat());
        assert_eq!(cases.len(), 1);
        assert_eq!(cases[0]["rule"], rule, "{who:?}: {cases:?}");
        if rule.is_null() {
            assert_eq!(lost(&cases[0]), [pair("some", "uid")]);
        }
    }
}

#[test]
fn a_process_that_is_not_there_is_an_error_with_a_way_out() {
    let policy = Policy::new("[[rule]]\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n");
    // No kernel has so many (PID_MAX_LIMIT).
    for pid in ["4194305", "4294967295"] {
        let finished = policy.explain(&Place::default(), &["2001:db8::1", "--pid", pid]);
        assert_eq!(finished.status.code(), Some(1));
        let said = finished.stderr.join("\n");
        assert!(
            said.contains(&format!("--pid {pid}: there is no such process")),
            "{said}"
        );
        assert!(said.contains("hint: "), "{said}");
    }
}

#[test]
fn rollouts_by_process_are_answered_for_the_process_or_both_ways() {
    let policy = Policy::new(
        "[[rule]]\nname = \"part\"\nprefix = \"2001:db8::/32\"\naction = \"reject\"\nrollout = 50\nby = \"process\"\n",
    );
    let asked = ["2001:db8::1", "--proto", "tcp"];
    let told: Vec<_> = policy
        .cases(&asked)
        .iter()
        .map(|case| {
            let membership = &case["memberships"][0];
            assert_eq!(
                membership["rollout"],
                json!({"percent": 50, "by": "process", "canary": []})
            );
            (membership["included"].clone(), case["rule"].clone())
        })
        .collect();
    assert_eq!(told, [(json!(true), json!("part")), (json!(false), json!(null))]);
    let said = policy.said(&Place::default(), &asked);
    for words in [
        ", of the 50 % of processes that the rollout of part includes:",
        ", of the 50 % of processes that the rollout of part leaves out:",
    ] {
        assert!(said.contains(words), "{words:?} in {said}");
    }

    let process = std::process::id();
    let is_in = rollout_hash(text_hash(b"part"), process) < rollout_below(50);
    let cases = policy.cases(&[&asked[..], &["--pid", &process.to_string()]].concat());
    assert_eq!(cases.len(), 1);
    if is_in {
        assert_eq!(cases[0]["rule"], json!("part"));
    } else {
        assert_eq!(lost(&cases[0]), [pair("part", "left-out")]);
    }
}

#[test]
fn each_target_whose_rollout_differs_is_answered() {
    let is_in = |name: &str| rollout_hash(text_hash(b"part"), text_hash(name.as_bytes())) < rollout_below(50);
    let names: Vec<String> = (0..8).map(|number| format!("web-{number}")).collect();
    let canary = names.iter().find(|name| !is_in(name)).expect("one of eight");
    let targets: String = names
        .iter()
        .map(|name| format!("[[target]]\nname = \"{name}\"\ncgroup = \"/{name}\"\n"))
        .collect();
    let policy = Policy::new(&format!(
        "{targets}[[rule]]\nname = \"part\"\nprefix = \"2001:db8::/32\"\naction = \"reject\"\nrollout = 50\n\
         canary = [\"{canary}\"]\n"
    ));
    let answer = policy.ask(&Place::default(), &["2001:db8::1"]);
    let mut told = 0;
    for part in answer["policies"].as_array().unwrap() {
        let acts = part["cases"][0]["rule"] == json!("part");
        assert_eq!(part["cases"][0]["memberships"], json!([]), "{answer}");
        for target in part["targets"].as_array().unwrap() {
            let target = target.as_str().unwrap();
            assert_eq!(acts, is_in(target) || target == canary, "{target}: {answer}");
            told += 1;
        }
    }
    assert_eq!(told, names.len(), "{answer}");
    let one = policy.cases(&["2001:db8::1", "--target", canary]);
    assert_eq!(one[0]["rule"], json!("part"));
}

#[test]
fn what_has_ended_is_switched_off_or_only_tries_says_so() {
    let policy = Policy::new(
        "[[rule]]\nname = \"off\"\nprefix = \"2001:db8::/48\"\naction = \"reject\"\nenabled = false\n\
         [[rule]]\nname = \"tries\"\nprefix = \"2001:db8::/47\"\naction = \"reject\"\nmode = \"audit\"\n\
         [[rule]]\nname = \"ended\"\nprefix = \"2001:db8::/46\"\naction = \"reject\"\nexpires = \"2001-01-01T00:00:00Z\"\n\
         [[rule]]\nname = \"now\"\nprefix = \"2001:db8::/45\"\naction = \"reject\"\nexpires = \"2h\"\nreason = \"why not\"\n",
    );
    let cases = policy.cases(&["2001:db8::1", "--proto", "tcp"]);
    assert_eq!(cases.len(), 1);
    let case = &cases[0];
    assert_eq!(
        lost(case),
        [
            pair("off", "disabled"),
            pair("tries", "audit"),
            pair("ended", "expired")
        ]
    );
    assert_eq!(case["rule"], json!("now"));
    assert_eq!(
        (&case["would_rule"], &case["would"]),
        (&json!("tries"), &json!("reject"))
    );
    assert_eq!(case["lost"][2]["expires"], json!("2001-01-01T00:00:00Z"));
    assert_eq!(
        (&case["expires"], &case["expires_after_secs"]),
        (&json!(null), &json!(7200))
    );
    assert_eq!(case["rule_reason"], json!("why not"));
    let said = policy.said(&Place::default(), &["2001:db8::1"]);
    for words in [
        "which would reject: it is switched off",
        "which would reject: it is in audit mode",
        "which would reject: it ended at 2001-01-01T00:00:00Z",
        "    it ends 2h after its first load; when that was is not known here",
        "    its reason: why not",
    ] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
}

const NAMES: &str = "\
    [[rule]]\nname = \"db\"\nhost = \"db.explain.test\"\naction = \"redirect\"\n\
    [[rule]]\nname = \"shared\"\nhost = \"shared.explain.test\"\naction = \"redirect\"\n\
    [[rule]]\nname = \"six\"\nhost = \"six.explain.test\"\naction = \"redirect\"\nwithout_twin = \"allow\"\n\
    [[rule]]\nname = \"pooled\"\nprefix = \"2001:db8:7::/48\"\naction = \"redirect\"\n\
    to_host = \"pooler.explain.test:6543\"\n\
    [[rule]]\nname = \"wide\"\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n";

#[test]
fn names_are_looked_up_and_say_where_connects_go() {
    let names = NamesFixture::new(
        [
            ("db.explain.test", "2001:db8:1::1"),
            ("db.explain.test", "192.0.2.1"),
            ("db.explain.test", "2001:db8:2::1"),
            ("shared.explain.test", "2001:db8:2::1"),
            ("shared.explain.test", "192.0.2.2"),
            ("six.explain.test", "2001:db8:3::1"),
            ("pooler.explain.test", "192.0.2.7"),
        ]
        .map(|(name, address)| (name, address.parse().unwrap())),
    )
    .unwrap();
    let place = Place::default().with_names(&names);
    let policy = Policy::new(NAMES);
    for (address, verdict, rule, to, note) in [
        ("2001:db8:1::1", "redirect", "db", json!("192.0.2.1"), None),
        (
            "2001:db8:2::1",
            "reject",
            "db",
            json!(null),
            Some("they share no IPv4 address"),
        ),
        (
            "2001:db8:3::1",
            "reject",
            "wide",
            json!(null),
            Some("six.explain.test has IPv6 addresses only: connects to them go on"),
        ),
        (
            "2001:db8:7::9",
            "redirect",
            "pooled",
            json!("192.0.2.7:6543"),
            None,
        ),
        ("2001:db8:4::1", "reject", "wide", json!(null), None),
    ] {
        let asked = [address, "--proto", "tcp"];
        let answer = policy.ask(&place, &asked);
        let case = &answer["policies"][0]["cases"][0];
        assert_eq!(
            (&case["verdict"], &case["rule"], &case["redirect_to"]),
            (&json!(verdict), &json!(rule), &to),
            "{answer}"
        );
        let notes = answer["policies"][0]["notes"].as_array().unwrap();
        assert_eq!(notes.len(), usize::from(note.is_some()), "{answer}");
        let said = policy.said(&place, &asked);
        if let Some(note) = note {
            assert!(said.contains(note), "{note:?} in {said}");
        }
        if rule == "pooled" {
            assert!(
                said.contains("    redirect to 192.0.2.7:6543, by pooled"),
                "{said}"
            );
            assert!(said.contains("pooler.explain.test is 192.0.2.7\n"), "{said}");
        }
        let found = answer["names"].as_array().unwrap();
        let db = found.iter().find(|name| name["name"] == json!("db.explain.test"));
        assert_eq!(
            db.expect("a name of a rule")["aaaa"],
            json!(["2001:db8:1::1", "2001:db8:2::1"])
        );
    }
    let six = policy.ask(&place, &["2001:db8:3::1", "--proto", "tcp"]);
    assert_eq!(
        lost(&six["policies"][0]["cases"][0]),
        [pair("six", "without-twin")]
    );
    let shared = policy.ask(&place, &["2001:db8:2::1", "--proto", "tcp"]);
    assert_eq!(
        shared["policies"][0]["cases"][0]["without_twin"],
        json!(true),
        "{shared}"
    );
}

#[test]
fn names_that_cannot_be_looked_up_or_are_not_to_be_say_so() {
    let policy = Policy::new(NAMES);
    let nowhere = policy.directory.path().join("resolv.conf");
    let nowhere = nowhere.to_str().unwrap();
    for (options, why, looked_up) in [
        (&["--no-lookup"][..], "not looked up", false),
        (&["--resolv-conf", nowhere], "cannot read", true),
    ] {
        let asked = [&["2001:db8:7::9", "--proto", "tcp"], options].concat();
        let answer = policy.ask(&Place::default(), &asked);
        let names = answer["names"].as_array().unwrap();
        assert_eq!(names.len(), 4, "{answer}");
        for name in names {
            assert_eq!(name["looked_up"], json!(looked_up), "{name}");
            assert!(name["notes"][0].as_str().unwrap().contains(why), "{name}");
        }
        // Nobody knows where to go: the next rule counts.
        let case = &answer["policies"][0]["cases"][0];
        assert_eq!(case["rule"], json!("wide"), "{answer}");
        assert_eq!(lost(case), [pair("pooled", "not-yet-resolved")]);
        let said = policy.said(&Place::default(), &asked);
        assert!(
            said.contains("no IPv4 address of pooler.explain.test is known"),
            "{said}"
        );
        assert!(said.contains(why), "{said}");
    }
}

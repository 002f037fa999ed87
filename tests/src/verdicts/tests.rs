//! The table's own checks, and how many cases there are.

use enforcer_common::errno;

use super::*;

/// One group with one case. `m` and `e` are limited to prefixes of their own within that of `r`.
fn table(mode: &str, case: &str, expect: &str) -> String {
    format!(
        "[[group]]\nname = \"g\"\nmode = \"{mode}\"\n\
         rules = [\"--reject 2001:db8::/32,name=r\", \"--redirect 2001:db8:3::/48=192.0.2.7,errno=EACCES,name=m\", \
         \"--allow 2001:db8:4::/48,name=e\"]\n\
         case = [{{ dest = \"2001:db8:3::1\", port = 443{case}, expect = {{ {expect} }} }}]\n"
    )
}

/// One group with a policy and one case.
fn with_policy(case: &str, expect: &str) -> String {
    let rule = |name: &str, rest: &str| {
        format!("[[rule]]\nname = \"{name}\"\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n{rest}\n")
    };
    let policy = [
        rule("r", ""),
        rule("audited", "mode = \"audit\""),
        rule("off", "enabled = false\nerrno = \"EACCES\""),
        rule("all", "rollout = 100\nports = [1]"),
        rule("few", "rollout = 1\nby = \"process\"\nports = [2]"),
        rule("half", "rollout = 50\nby = \"process\"\nports = [3]"),
    ];
    format!(
        "[[group]]\nname = \"g\"\npolicy = '''{}'''\n\
         case = [{{ dest = \"2001:db8:3::1\", port = 443{case}, expect = {{ {expect} }} }}]\n",
        policy.concat()
    )
}

fn parse(text: &str) -> Result<Vec<Group>> {
    let table: Table = toml::from_str(text)?;
    check::check(&table.group)?;
    Ok(table.group)
}

#[track_caller]
fn assert_refused(text: &str, why: &str) {
    let error = parse(text).map(|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains(why), "{text}\n{error:#}");
}

#[test]
fn the_table_makes_sense_and_has_its_150_cases() {
    let groups = load().unwrap();
    let cases: usize = groups.iter().map(|group| group.cases.len()).sum();
    assert!(cases >= 150, "{cases} cases");
    let of_policies = groups.iter().filter(|group| group.policy.is_some());
    let of_policies: usize = of_policies.map(|group| group.cases.len()).sum();
    assert!(of_policies >= 100, "{of_policies} cases of policy files");
}

#[test]
fn every_file_of_the_table_is_included() {
    let cases = tests_directory().join("cases");
    let mut there: Vec<_> = fs::read_dir(cases.join("verdicts"))
        .unwrap()
        .map(|entry| format!("verdicts/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    let mut included = read(&cases.join("verdicts.toml")).unwrap().include;
    there.sort_unstable();
    included.sort_unstable();
    assert_eq!(there, included);
}

#[test]
fn rules_become_arguments() {
    let groups = parse(&table("audit", "", "verdict = \"allow\"")).unwrap();
    assert_eq!(
        groups[0].arguments(),
        [
            "--reject",
            "2001:db8::/32,name=r",
            "--redirect",
            "2001:db8:3::/48=192.0.2.7,errno=EACCES,name=m",
            "--allow",
            "2001:db8:4::/48,name=e",
            "--audit"
        ]
    );
    let batches = batches(&groups).unwrap();
    assert_eq!(batches[0].policy_file(&["/x".to_owned()]).unwrap(), None);
}

#[test]
fn groups_with_policies_are_governed_together_and_stay_apart() {
    let one = |name: &str, rule: &str, rest: &str| {
        format!(
            "[[group]]\nname = \"{name}\"\n{rest}\npolicy = \"\"\"\n[[rule]]\nname = \"r\"\nprefix = \"internet\"\n\
             action = \"reject\"\n{rule}\n\"\"\"\ncase = [{{ dest = \"fd00::1\", port = 1, expect = {{ verdict = \"allow\" }} }}]\n"
        )
    };
    let text = [
        one("a", "", ""),
        one("audited", "", "mode = \"audit\""),
        one(
            "b",
            "groups = [\"g\", \"h\"]",
            "target = { name = \"t\", use = [\"g\"] }",
        ),
        one("c", "rollout = 1", ""),
        one("same rollout", "rollout = 2", ""),
        one("same target", "", "target = { name = \"t\" }"),
    ];
    let groups = parse(&(text.concat() + &table("enforce", "", "verdict = \"allow\""))).unwrap();
    let batches = batches(&groups).unwrap();
    let names =
        |batch: &Batch<'_>| -> Vec<_> { batch.groups.iter().map(|group| group.name.clone()).collect() };
    assert_eq!(
        batches.iter().map(names).collect::<Vec<_>>(),
        [
            &["a", "b", "c"][..],
            &["audited"],
            &["same rollout", "same target"],
            &["g"]
        ]
    );
    let cgroups = ["/1", "/2", "/3"].map(str::to_owned);
    let file = batches[0].policy_file(&cgroups).unwrap().unwrap();
    let (policy, _) = Policy::from_text(Path::new("policy.toml"), file, Vec::new()).unwrap();
    let labels: Vec<_> = policy.rules.iter().map(|rule| rule.label.as_str()).collect();
    assert_eq!(labels, ["a: r", "b: r", "r"]);
    for (index, (target, name)) in policy.targets.iter().zip(["a", "t", "c"]).enumerate() {
        assert_eq!(target.name, name);
        let of_target = policy.rules.iter().map(|rule| rule.is_in(&target.groups));
        assert_eq!(of_target.collect::<Vec<_>>(), [0, 1, 2].map(|rule| rule == index));
    }
}

#[test]
fn a_rollout_by_process_tells_processes_apart() {
    let text = with_policy(", excluded_by = [\"half\", \"few\"]", "verdict = \"allow\"")
        .replace("rollout = 1\n", "rollout = 10\n");
    let group = parse(&text).unwrap().remove(0);
    let rules = group.checked_policy().unwrap().rules;
    let share = |case: &Case| {
        (0..10_000)
            .filter(|process| case.is_about(&rules, *process))
            .count()
    };
    let case = group.cases[0].clone();
    assert!(
        (4_200..4_800).contains(&share(&case)),
        "neither of 10 % and 50 %: {}",
        share(&case)
    );
    let included = Case {
        included_by: vec!["half".to_owned()],
        excluded_by: Vec::new(),
        ..case
    };
    assert!((4_700..5_300).contains(&share(&included)), "{}", share(&included));
}

#[test]
fn cases_that_contradict_themselves_or_their_rules_are_refused() {
    let rejected = "verdict = \"reject\", errno = \"ENETUNREACH\", rule = \"r\"";
    parse(&table("enforce", "", rejected)).unwrap();
    for (mode, case, expect, why) in [
        (
            "enforce",
            "",
            "verdict = \"reject\", errno = \"ENETUNREACH\"",
            "needs the rule",
        ),
        (
            "enforce",
            "",
            "verdict = \"reject\", rule = \"r\"",
            "has an errno",
        ),
        (
            "enforce",
            "",
            "verdict = \"reject\", rule = \"r\", errno = \"EACCES\"",
            "rule \"r\" has errno ENETUNREACH",
        ),
        (
            "enforce",
            "",
            "verdict = \"allow\", rule = \"x\"",
            "no rule is named \"x\"",
        ),
        (
            "enforce",
            "",
            "verdict = \"allow\", rule = \"e\"",
            "does not cover the destination",
        ),
        (
            "enforce",
            "",
            "verdict = \"allow\", rule = \"r\"",
            "rule \"r\" can only reject",
        ),
        (
            "enforce",
            "",
            "verdict = \"redirect\", rule = \"m\"",
            "arrives somewhere",
        ),
        (
            "enforce",
            "",
            "verdict = \"allow\", would = \"reject\", would_rule = \"r\"",
            "would is for audit",
        ),
        ("audit", "", rejected, "no rule acts in audit"),
        (
            "audit",
            "",
            "verdict = \"allow\", would = \"reject\"",
            "belong together",
        ),
        (
            "audit",
            "",
            "verdict = \"allow\", would = \"redirect\", would_rule = \"r\"",
            "rule \"r\" can only reject",
        ),
        (
            "enforce",
            "",
            "verdict = \"reject\", errno = \"EACCES\", rule = \"m\"",
            "becomes a rejection where",
        ),
        (
            "enforce",
            ", v6only = true",
            "verdict = \"reject\", rule = \"m\", errno = \"EACCES\", unmovable = \"v6only\"",
            "does not say what it needs",
        ),
        (
            "enforce",
            "",
            "verdict = \"reject\", rule = \"m\", errno = \"EACCES\", unmovable = \"unconnected\"",
            "not unmovable for that reason",
        ),
        (
            "enforce",
            ", call = \"sendto\"",
            rejected,
            "datagrams are sent with udp",
        ),
        (
            "enforce",
            ", socket = \"udp\", call = \"sendto\"",
            "verdict = \"redirect\", rule = \"m\", redirect_to = \"192.0.2.7:443\"",
            "are not redirected",
        ),
        (
            "enforce",
            ", socket = \"udp\", call = \"connect-and-send\"",
            rejected,
            "nothing is sent after",
        ),
        (
            "enforce",
            "",
            "verdict = \"allow\", left_out = \"r\"",
            "leaves nobody out",
        ),
        (
            "enforce",
            ", sockets = \"udp\"",
            "verdict = \"allow\"",
            "unknown field `sockets`",
        ),
        (
            "shadow",
            "",
            "verdict = \"allow\"",
            "\"shadow\" is not one of enforce, audit",
        ),
        (
            "enforce",
            "",
            "verdict = \"deny\"",
            "\"deny\" is not one of allow, reject, redirect",
        ),
    ] {
        assert_refused(&table(mode, case, expect), why);
    }
}

#[test]
fn cases_that_contradict_their_policy_are_refused() {
    let said = ", excluded_by = [\"half\"]";
    let acts = |rule: &str| {
        format!(
            "verdict = \"reject\", errno = {:?}, rule = {rule:?}",
            errno::DEFAULT.name
        )
    };
    for (case, expect, why) in [
        (said, acts("off").as_str(), "rule \"off\" is not enabled"),
        (said, &acts("audited"), "rule \"audited\" is in audit mode"),
        (
            said,
            "verdict = \"allow\", would = \"reject\", would_rule = \"r\"",
            "neither the cgroup nor rule \"r\"",
        ),
        (
            said,
            "verdict = \"allow\", left_out = \"all\"",
            "rule \"all\" leaves nobody out",
        ),
        (
            ", excluded_by = [\"few\"]",
            &acts("r"),
            "rule \"few\" has no rollout by process of 10 to 90 percent",
        ),
        (
            ", excluded_by = [\"r\"]",
            &acts("r"),
            "rule \"r\" has no rollout by process",
        ),
        (
            ", excluded_by = [\"half\"], included_by = [\"half\"]",
            &acts("r"),
            "cannot both",
        ),
        (
            "",
            &acts("r"),
            "whether rule \"few\" includes the process is not said",
        ),
    ] {
        assert_refused(&with_policy(case, expect), why);
    }
    let both = with_policy(said, &acts("r")).replace("[[group]]", "[[group]]\nrules = [\"--reject ::/0\"]");
    assert_refused(&both, "rules of the command line and a policy");
    let nameless = table("enforce", "", &acts("r")).replace(",name=r", "");
    assert_refused(&nameless, "has no name");
    let host =
        with_policy(said, &acts("r")).replacen("prefix = \"2001:db8::/32\"", "host = \"a.example\"", 1);
    assert_refused(&host, "asks nameservers");
    let no_policy = with_policy(said, &acts("r")).replace("ports = [1]", "ports = [0]");
    assert_refused(&no_policy, "group \"g\"");
}

//! Whether the table makes sense: no case contradicts itself, its policy, or what its rules can do at all. What comes
//! of a connect is not worked out here: that is for `decide` and for the kernel.

use anyhow::{Context as _, Result, ensure};
use enforcer::policy::rule::{RolloutBy, Rule, RuleAction};
use enforcer_common::{
    clause::Action,
    decide::{Mode, Unmovable},
};

use super::{Call, Case, Expect, Group, Needs, repeated};
use crate::protocol::SocketKind;

/// Checks all groups.
pub(super) fn check(groups: &[Group]) -> Result<()> {
    if let Some(name) = repeated(groups.iter().map(|group| group.name.as_str())) {
        anyhow::bail!("two groups are named {name:?}");
    }
    groups
        .iter()
        .try_for_each(|group| check_group(group).with_context(|| format!("group {:?}", group.name)))
}

fn check_group(group: &Group) -> Result<()> {
    ensure!(!group.cases.is_empty(), "it has no cases");
    ensure!(
        group.rules.is_empty() || group.policy.is_none(),
        "it has rules of the command line and a policy"
    );
    let rules = group.checked_policy()?.rules;
    ensure!(!rules.is_empty(), "it has no rules");
    for rule in &rules {
        ensure!(!rule.is_nameless(), "rule {:?} has no name", rule.label);
        ensure!(rule.host.is_none(), "rule {:?} asks nameservers", rule.label);
    }
    if let Some(name) = repeated(rules.iter().map(|rule| rule.label.as_str())) {
        anyhow::bail!("two rules are named {name:?}");
    }
    group.cases.iter().enumerate().try_for_each(|(index, case)| {
        check_case(case, group.mode, &rules)
            .with_context(|| format!("case {index}, to {} port {}", case.dest, case.port))
    })
}

fn find<'rules>(rules: &'rules [Rule], name: &str) -> Result<&'rules Rule> {
    rules
        .iter()
        .find(|rule| rule.label == name)
        .with_context(|| format!("no rule is named {name:?}"))
}

fn check_case(case: &Case, mode: Mode, rules: &[Rule]) -> Result<()> {
    let expect = &case.expect;
    let rule = |name: &Option<String>| -> Result<Option<&Rule>> {
        let Some(name) = name else { return Ok(None) };
        let rule = find(rules, name)?;
        ensure!(
            rule.covering_prefix(case.dest).is_some(),
            "rule {name:?} does not cover the destination"
        );
        ensure!(rule.enabled, "rule {name:?} is not enabled");
        Ok(Some(rule))
    };
    let (acts, would, left_out) = (
        rule(&expect.rule)?,
        rule(&expect.would_rule)?,
        rule(&expect.left_out)?,
    );
    ensure!(
        expect.verdict == Action::Allow || acts.is_some(),
        "a verdict other than allow needs the rule that acts"
    );
    ensure!(
        expect.errno.is_some() == (expect.verdict == Action::Reject),
        "a rejection has an errno, and nothing else has one"
    );
    ensure!(
        expect.redirect_to.is_some() == (expect.verdict == Action::Redirect),
        "a redirected connect arrives somewhere, and nothing else does"
    );
    ensure!(
        expect.would.is_some() == would.is_some(),
        "would and would_rule belong together"
    );
    if let Some(rule) = acts {
        check_acting(rule, expect)?;
    }
    if let (Some(rule), Some(action)) = (would, expect.would) {
        ensure!(
            can_do(rule, action),
            "rule {:?} can only {}",
            rule.label,
            rule.action
        );
        ensure!(
            mode == Mode::Audit || rule.mode == Mode::Audit,
            "would is for audit mode, and neither the cgroup nor rule {:?} is in it",
            rule.label
        );
    }
    ensure!(
        mode == Mode::Enforce || expect.verdict == Action::Allow && acts.is_none(),
        "no rule acts in audit mode"
    );
    if let Some(rule) = left_out {
        let share = rule.rollout.as_ref().map(|rollout| rollout.percent);
        ensure!(
            share.is_some_and(|percent| percent < 100),
            "rule {:?} leaves nobody out",
            rule.label
        );
    }
    check_processes(case, rules)?;
    check_socket(case)
}

/// What a rule can do that acts.
fn check_acting(rule: &Rule, expect: &Expect) -> Result<()> {
    ensure!(
        rule.mode == Mode::Enforce,
        "rule {:?} is in audit mode and does not act",
        rule.label
    );
    ensure!(
        can_do(rule, expect.verdict),
        "rule {:?} can only {}",
        rule.label,
        rule.action
    );
    if let Some(errno) = expect.errno {
        ensure!(
            errno == rule.errno,
            "rule {:?} has errno {}",
            rule.label,
            rule.errno.name
        );
        let is_redirect = matches!(rule.action, RuleAction::Redirect(_));
        ensure!(
            is_redirect == expect.unmovable.is_some(),
            "a redirect becomes a rejection where something cannot be moved, and nothing else has to do with that"
        );
    }
    Ok(())
}

fn can_do(rule: &Rule, action: Action) -> bool {
    match rule.action {
        RuleAction::Allow => action == Action::Allow,
        RuleAction::Reject => action == Action::Reject,
        RuleAction::Redirect(_) => action != Action::Allow,
    }
}

/// Processes are chosen by rollouts that there are, and that take some and leave some.
fn check_processes(case: &Case, rules: &[Rule]) -> Result<()> {
    for name in case.included_by.iter().chain(&case.excluded_by) {
        let rollout = find(rules, name)?.rollout.as_ref();
        ensure!(
            rollout.is_some_and(
                |rollout| rollout.by == RolloutBy::Process && (10..=90).contains(&rollout.percent)
            ),
            "rule {name:?} has no rollout by process of 10 to 90 percent"
        );
        ensure!(
            !(case.included_by.contains(name) && case.excluded_by.contains(name)),
            "rule {name:?} cannot both include and exclude the process"
        );
    }
    for rule in rules {
        let rollout = rule.rollout.as_ref();
        if let Some(rollout) = rollout.filter(|rollout| rollout.by == RolloutBy::Process) {
            let is_said = case.included_by.contains(&rule.label) || case.excluded_by.contains(&rule.label);
            ensure!(
                is_said || matches!(rollout.percent, 0 | 100) || rule.covering_prefix(case.dest).is_none(),
                "whether rule {:?} includes the process is not said",
                rule.label
            );
        }
    }
    Ok(())
}

/// What can be done with the socket.
fn check_socket(case: &Case) -> Result<()> {
    let expect = &case.expect;
    ensure!(
        case.call == Call::Connect || case.socket == SocketKind::Udp,
        "datagrams are sent with udp"
    );
    ensure!(
        case.call != Call::Sendto
            || expect.verdict != Action::Redirect && expect.would != Some(Action::Redirect),
        "datagrams of unconnected sockets are not redirected"
    );
    ensure!(
        case.call != Call::ConnectAndSend || expect.verdict != Action::Reject,
        "nothing is sent after a connect that is rejected"
    );
    let rejected = expect.verdict == Action::Reject || expect.would == Some(Action::Reject);
    ensure!(
        match expect.unmovable {
            None => true,
            Some(Unmovable::Unconnected) => rejected && case.call == Call::Sendto,
            Some(Unmovable::Ping) => rejected && case.socket == SocketKind::Ping,
            Some(Unmovable::Bound) => rejected && case.bind.is_some_and(|bind| !bind.is_unspecified()),
            Some(Unmovable::V6Only) =>
                rejected && case.v6only == Some(true) && case.needs == Some(Needs::V6only),
        },
        "the socket is not unmovable for that reason, or the case does not say what it needs, or is not rejected"
    );
    Ok(())
}

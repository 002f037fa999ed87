//! The claim on which the verdict table rests: ungoverned, every connect in it succeeds. So a connect that fails
//! under a policy failed because of the policy.

use enforcer_tests::{
    need::{Need, need_given},
    place::Place,
    protocol::SocketKind,
    verdicts::{Callers, World, load},
    wait::{PATIENCE, eventually},
};

#[test]
fn every_connect_of_the_table_succeeds_ungoverned() {
    let mut failures = Vec::new();
    let mut has_mptcp = true;
    for group in load().unwrap() {
        let world = World::new(&group).unwrap();
        let rules = group.checked_policy().unwrap().rules;
        let mut callers = Callers::default();
        let mut arrivals = 0;
        for case in &group.cases {
            let place = Place::outside(&world.netns);
            let answer = callers.call(&place, &rules, case).unwrap();
            if case.socket == SocketKind::Mptcp && answer.step.as_deref() == Some("socket") {
                has_mptcp = false;
                continue;
            }
            if !answer.ok {
                failures.push(format!("{}: {case:?}: {answer:?}", group.name));
                continue;
            }
            if matches!(case.socket, SocketKind::Udp | SocketKind::Ping) {
                continue;
            }
            arrivals += 1;
            let arrived = eventually("the connection to arrive", PATIENCE, || {
                world.accepted().get(arrivals - 1).copied()
            })
            .unwrap();
            if !case.dest.is_unspecified() {
                assert_eq!(
                    arrived.at.ip(),
                    case.dest.to_canonical(),
                    "{}: {case:?}",
                    group.name
                );
            }
            assert_eq!(arrived.at.port(), case.port, "{}: {case:?}", group.name);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let _ = need_given(
        "every_connect_of_the_table_succeeds_ungoverned",
        Need::Mptcp,
        has_mptcp,
    );
}

//! A rule that ends at a time of the wall clock, and the wall clock is set: in guests, whose clock is nobody else's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use enforcer_tests::{
    need::{Need, need_given},
    scene::{A, Scene},
    wait::{PATIENCE, eventually},
};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

const NAME: &str = "a_set_clock_moves_the_end_of_a_rule_back_and_forth";

/// Sets the wall clock ahead, or back.
fn advance(secs: i64) {
    let now = clock_gettime(ClockId::Realtime);
    let then = Timespec {
        tv_sec: now.tv_sec + secs,
        ..now
    };
    clock_settime(ClockId::Realtime, then).unwrap();
}

#[test]
fn a_set_clock_moves_the_end_of_a_rule_back_and_forth() {
    let is_guest = std::env::var("ENFORCER_PLACE").is_ok_and(|place| place != "host");
    if !need_given(NAME, Need::Guest, is_guest) {
        return;
    }
    let scene = Scene::new("wall-clock").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    let in_two_hours = jiff::Timestamp::now() + std::time::Duration::from_secs(7200);
    let text = format!(
        "version = 1\n[[rule]]\nprefix = \"2001:db8:a::/48\"\naction = \"reject\"\nerrno = \"EHOSTDOWN\"\nexpires = {in_two_hours:.0}\n"
    );
    fs::write(&policy, text).unwrap();
    let enforcer = scene.govern(["--policy".as_ref(), policy.as_os_str()]).unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    advance(3 * 3600);
    let ended = eventually("the rule to end", PATIENCE, || {
        scene.connects(&mut client, A).is_ok()
    });
    advance(-3 * 3600);
    ended.unwrap();
    // By the clock as it is now, there is time left.
    let acts = || scene.rejects(&mut client, A, "EHOSTDOWN").is_ok();
    eventually("the rule to act again", PATIENCE, acts).unwrap();
    drop(enforcer);
    scene.connects(&mut client, A).unwrap();
}

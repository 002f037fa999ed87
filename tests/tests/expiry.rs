//! Rules that end: in the kernel, so also while the controller does not run; and never a second time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use enforcer_tests::{
    client::Client,
    enforcer::Enforcer,
    process::Stream,
    scene::{A, B, Scene},
    wait::{PATIENCE, eventually},
};
use rustix::process::Signal;

/// A policy whose rule for [`A`] ends after that long, and one for [`B`] that does not.
struct Ending {
    scene: Scene,
    client: Client,
    directory: tempfile::TempDir,
}

impl Ending {
    fn new(what: &str, expires: &str) -> Self {
        let scene = Scene::new(what).unwrap();
        let mut client = scene.client().unwrap();
        scene.connects(&mut client, A).unwrap();
        scene.connects(&mut client, B).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ending = Self {
            scene,
            client,
            directory,
        };
        ending.write(expires, "");
        ending
    }

    /// Long enough for enforcer to begin here, and for some connects before the end.
    fn life_secs(&self) -> u64 {
        self.write("\"1h\"", "# to see how long it takes\n");
        let began = Instant::now();
        drop(self.govern());
        5 + 3 * began.elapsed().as_secs()
    }

    fn write(&self, expires: &str, above: &str) {
        let text = format!(
            r#"
            version = 1
            {above}
            [[rule]]
            name = "for-a-while"
            prefix = "2001:db8:a::/48"
            action = "reject"
            errno = "EHOSTDOWN"
            expires = {expires}
            [[rule]]
            prefix = "2001:db8:b::/48"
            action = "reject"
            errno = "ENETDOWN"
            "#
        );
        fs::write(self.policy(), text).unwrap();
    }

    fn policy(&self) -> PathBuf {
        self.directory.path().join("policy.toml")
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn govern(&self) -> Enforcer {
        let (policy, state) = (self.policy(), self.state());
        let arguments = [
            "--policy".as_ref(),
            policy.as_os_str(),
            "--state-dir".as_ref(),
            state.as_os_str(),
        ];
        self.scene.govern(arguments).unwrap()
    }

    /// Waits until the rule has ended, and checks that the other has not.
    fn ends(&mut self, life_secs: u64) {
        let Self { scene, client, .. } = self;
        let patience = PATIENCE + Duration::from_secs(life_secs);
        eventually("the rule to end", patience, || scene.connects(client, A).is_ok()).unwrap();
        scene.rejects(client, B, "ENETDOWN").unwrap();
    }
}

#[test]
fn a_rule_ends_while_the_controller_is_stopped_and_is_not_revived_by_a_restart() {
    let mut ending = Ending::new("expiry-stopped", "\"1h\"");
    let life_secs = ending.life_secs();
    let life = format!("\"{life_secs}s\"");
    ending.write(&life, "");
    let mut enforcer = ending.govern();
    let scene = &ending.scene;
    scene.rejects(&mut ending.client, A, "EHOSTDOWN").unwrap();
    enforcer.process().signal(Signal::STOP).unwrap();
    ending.ends(life_secs);
    enforcer.process().signal(Signal::CONT).unwrap();
    let said = enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| line.contains("has expired"))
        .unwrap();
    assert!(
        said.contains("`for-a-while` has expired: it is as if absent"),
        "{said}"
    );
    assert!(enforcer.terminate().unwrap().status.success());
    ending.scene.connects(&mut ending.client, B).unwrap();

    // Where the rule stands, and why, changes nothing; what it says does.
    ending.write(&life, "# moved\n\n");
    let enforcer = ending.govern();
    ending.scene.connects(&mut ending.client, A).unwrap();
    ending.scene.rejects(&mut ending.client, B, "ENETDOWN").unwrap();
    drop(enforcer);
    ending.write("\"2h\"", "");
    let enforcer = ending.govern();
    ending.scene.rejects(&mut ending.client, A, "EHOSTDOWN").unwrap();
    drop(enforcer);
    ending.scene.connects(&mut ending.client, A).unwrap();
}

#[test]
fn a_time_of_the_wall_clock_ends_a_rule_too() {
    let mut ending = Ending::new("expiry-time", "\"1h\"");
    let life = ending.life_secs();
    fs::remove_dir_all(ending.state()).unwrap();
    let soon = jiff::Timestamp::now() + Duration::from_secs(life + 1);
    ending.write(&format!("{soon:.0}"), "");
    let enforcer = ending.govern();
    ending.scene.rejects(&mut ending.client, A, "EHOSTDOWN").unwrap();
    ending.ends(life);
    drop(enforcer);
    // Nothing had to be remembered for that.
    assert!(!ending.state().exists());
    // By now it lies in the past, which is said, and the rule never acts.
    let enforcer = ending.govern();
    ending.scene.connects(&mut ending.client, A).unwrap();
    ending.scene.rejects(&mut ending.client, B, "ENETDOWN").unwrap();
    drop(enforcer);
}

#[test]
fn without_a_place_to_remember_it_a_duration_counts_from_now_and_that_is_said() {
    let mut ending = Ending::new("expiry-no-state", "\"1h\"");
    // A file where the directory should be: also root cannot make one there.
    fs::write(ending.state(), "").unwrap();
    let enforcer = ending.govern();
    let said = enforcer.lines(Stream::Stderr).join("\n");
    assert!(
        said.contains("rules that expire after a duration count from now: cannot make the directory"),
        "{said}"
    );
    assert!(said.contains("hint: `--state-dir` names a directory"), "{said}");
    ending.scene.rejects(&mut ending.client, A, "EHOSTDOWN").unwrap();
    drop(enforcer);
    ending.scene.connects(&mut ending.client, A).unwrap();
}

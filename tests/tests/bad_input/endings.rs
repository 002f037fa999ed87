//! What ends `run` once it governs, targets that vanish among it: the right exit code, a last word, and connects as
//! before. When during the start or the end that happens is varied in the package's `endings.rs` and `target_lifetimes.rs`.

use enforcer_tests::{
    client::Client,
    enforcer::Enforcer,
    place::Place,
    process::Stream,
    scene::{A, Scene},
    wait::PATIENCE,
};
use rustix::process::Signal;

use crate::table::{Ending, Table};

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

#[test]
fn whatever_ends_governing_has_its_exit_code() {
    let scene = Scene::new("bad-ends").unwrap();
    let mut table = Table::new("endings", &scene);
    let path = scene.path();
    let mut client = scene.client().unwrap();
    for (what, signal, code, said) in [
        ("SIGTERM", Signal::TERM, Some(0), "events: 1 delivered, 0 lost"),
        ("SIGINT", Signal::INT, Some(0), "events: 1 delivered, 0 lost"),
        // It cannot be caught, so nobody says anything; the links go with the process.
        ("SIGKILL", Signal::KILL, None, ""),
    ] {
        let command = table.command(&["run", "--cgroup", &path, "--reject", REJECT_A]);
        let mut enforcer = Enforcer::start_governing(command).unwrap();
        scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
        enforcer.process().line(Stream::Stdout, 0, PATIENCE).unwrap();
        enforcer.process().signal(signal).unwrap();
        let finished = enforcer.finish(PATIENCE).unwrap();
        table.ended(what, &finished, &Ending { code, said });
    }
    table.finish();
}

#[test]
fn targets_that_vanish_end_with_code_1() {
    let scene = Scene::new("bad-gone").unwrap();
    let mut table = Table::new("vanishing targets", &scene);
    let [first, second] = ["first", "second"].map(|name| format!("{}/{name}", scene.path()));
    let one = ["--cgroup", &first];
    let two = ["--cgroup", &first, "--cgroup", &second];
    for (what, targets) in [
        ("the only target goes", &one[..]),
        ("two targets go, one after the other", &two),
        ("the process goes, and then its cgroup", &one),
    ] {
        let mut there: Vec<_> = ["first", "second"]
            .into_iter()
            .take(targets.len() / 2)
            .map(|name| scene.cgroup.child(name).unwrap())
            .collect();
        let inside = Client::start(&Place::new(&there[0], &scene.netns)).unwrap();
        let arguments = [&["run"], targets, &["--reject", REJECT_A]].concat();
        let enforcer = Enforcer::start_governing(table.command(&arguments)).unwrap();
        drop(inside);
        for cgroup in there.drain(..) {
            let gone = format!("cgroup {} of target", cgroup.relative_path());
            cgroup.remove().unwrap();
            enforcer
                .wait_for_line(Stream::Stderr, PATIENCE, |line| line.contains(&gone))
                .unwrap();
        }
        let finished = enforcer.finish(PATIENCE).unwrap();
        let said = "enforcer: error: the last target is gone";
        table.ended(what, &finished, &Ending { code: Some(1), said });
    }
    table.finish();
}

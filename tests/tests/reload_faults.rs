//! A reload of which the kernel refuses one operation: the n-th, for every n that there is. What was in force is whole
//! afterwards, there is one error, and the next reload is like any other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;

use enforcer_tests::{
    client::Client,
    enforcer::{Enforcer, is_ready},
    place::Place,
    policy::{PolicyFile, rejecting, target, told_to_reload},
    process::Stream,
    refuse::Refuser,
    scene::{A, B, Scene},
    wait::PATIENCE,
};

const PREFIX_A: &str = "2001:db8:a::/48";
const PREFIX_B: &str = "2001:db8:b::/48";

/// Two cgroups, one within the other, with a client in each, and who judges their connects to [`A`] and [`B`]: the errno,
/// or nobody.
struct World {
    scene: Scene,
    outside: Client,
    inside: Client,
    inner: String,
}

type Verdicts = [[Option<&'static str>; 2]; 2];

impl World {
    fn new(what: &str) -> Self {
        let scene = Scene::new(what).unwrap();
        let inner = scene.cgroup.child("inner").unwrap();
        let outside = scene.client().unwrap();
        let inside = Client::start(&Place::new(&inner, &scene.netns)).unwrap();
        // The outer cgroup's end removes it.
        let path = inner.relative_path();
        std::mem::forget(inner);
        Self {
            scene,
            outside,
            inside,
            inner: path,
        }
    }

    #[track_caller]
    fn assert(&mut self, verdicts: Verdicts, when: &str) {
        for (client, verdicts) in [&mut self.outside, &mut self.inside].into_iter().zip(verdicts) {
            for (address, verdict) in [A, B].into_iter().zip(verdicts) {
                let judged = match verdict {
                    Some(errno) => self.scene.rejects(client, address, errno),
                    None => self.scene.connects(client, address),
                };
                assert!(judged.is_ok(), "{when}: {judged:?}");
            }
        }
    }
}

/// Refuses each operation of the reload from one policy to the other, in turn. There are at `least` so many.
fn each_operation(world: &mut World, texts: [&str; 2], verdicts: [Verdicts; 2], least: usize) {
    let [from, to] = texts;
    let file = PolicyFile::new(from).unwrap();
    let mut command = Enforcer::command(&world.scene.outside(), ["run"]).unwrap();
    command.args(file.arguments());
    let mut refuser = Refuser::prepare(&mut command).unwrap();
    let mut enforcer = Enforcer::start(command).unwrap();
    refuser.watch().unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, is_ready)
        .unwrap();
    let (mut refused, mut which) = (0, 0);
    loop {
        which += 1;
        let when = format!("with operation {which} refused");
        world.assert(verdicts[0], &when);
        file.write(to).unwrap();
        refuser.refuse(which);
        let said = told_to_reload(&mut enforcer).unwrap();
        let errors = said.iter().filter(|line| line.contains("error: ")).count();
        let is_reloaded = said.last().unwrap().starts_with("reloaded: ");
        if is_reloaded {
            // What was refused was done after the new policy was in force, or not at all.
            assert_eq!(errors, 0, "{when}: {said:#?}");
            world.assert(verdicts[1], &when);
        } else {
            refused += 1;
            assert_eq!(errors, 1, "{when}: {said:#?}");
            assert!(
                said.iter().any(|line| line.contains("Cannot allocate memory")),
                "{when}: {said:#?}"
            );
            world.assert(verdicts[0], &when);
        }
        // A reload that is told of may still be freeing what was in force, so it is the next that ends it. Where rules end
        // some day that one puts something into force, too, and what is refused may be of it.
        let again = told_to_reload(&mut enforcer).unwrap();
        let is_over = is_reloaded && refuser.made() < which;
        refuser.refuse(0);
        if !again.last().unwrap().starts_with("reloaded: ") {
            assert!(is_reloaded, "{when}: {again:#?}");
            world.assert(verdicts[1], &when);
            file.reload(&mut enforcer, to).unwrap();
        }
        world.assert(verdicts[1], &when);
        file.reload(&mut enforcer, from).unwrap();
        if is_over {
            break;
        }
    }
    assert!(
        refused >= least,
        "{refused} operations were refused, {which} tried"
    );
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.stderr);
    let faults = finished.stderr.iter().find(|line| line.starts_with("faults"));
    assert_eq!(faults, None);
}

#[test]
fn whatever_is_refused_while_a_target_comes_below_another_the_old_policy_is_whole() {
    let mut world = World::new("faults-come");
    world.assert([[None; 2]; 2], "ungoverned");
    let outer = target("outer", &world.scene.path(), &["outer"]);
    let inner = target("inner", &world.inner, &["inner"]);
    let before = [outer.clone(), rejecting("outer", PREFIX_A, "EHOSTDOWN")].concat();
    let mut after = [outer, inner, rejecting("outer", PREFIX_A, "ENETDOWN")].concat();
    write!(after, "{}", rejecting("inner", PREFIX_B, "ECONNABORTED")).unwrap();
    each_operation(
        &mut world,
        [&before, &after],
        [
            [[Some("EHOSTDOWN"), None]; 2],
            [[Some("ENETDOWN"), None], [None, Some("ECONNABORTED")]],
        ],
        10,
    );
    world.assert([[None; 2]; 2], "ungoverned");
}

/// The same where rules end some day: what is built for them is written into maps that were in use before.
#[test]
fn whatever_is_refused_while_maps_are_used_again_the_old_policy_is_whole() {
    let mut world = World::new("faults-again");
    let outer = target("outer", &world.scene.path(), &["outer"]);
    let inner = target("inner", &world.inner, &["inner"]);
    let ends = |rule: String| format!("{rule}expires = 2100-01-01T00:00:00Z\n");
    let [before, after] =
        [["EHOSTDOWN", "ENETDOWN"], ["ENETDOWN", "ECONNABORTED"]].map(|[of_outer, of_inner]| {
            let rules = [
                ends(rejecting("outer", PREFIX_A, of_outer)),
                ends(rejecting("inner", PREFIX_B, of_inner)),
            ];
            [outer.clone(), inner.clone(), rules.concat()].concat()
        });
    let verdicts = |of_outer, of_inner| [[Some(of_outer), None], [None, Some(of_inner)]];
    each_operation(
        &mut world,
        [&before, &after],
        [
            verdicts("EHOSTDOWN", "ENETDOWN"),
            verdicts("ENETDOWN", "ECONNABORTED"),
        ],
        // How many maps there are to be written into, and how many have to be made, depends on what is given back by then.
        3,
    );
    world.assert([[None; 2]; 2], "ungoverned");
}

#[test]
fn whatever_is_refused_while_targets_come_above_and_go_the_old_policy_is_whole() {
    let mut world = World::new("faults-above");
    let outer = target("outer", &world.scene.path(), &["outer"]);
    let inner = target("inner", &world.inner, &["inner"]);
    let before = [inner.clone(), rejecting("inner", PREFIX_A, "EHOSTDOWN")].concat();
    let after = [
        outer,
        inner,
        rejecting("outer", PREFIX_B, "ENETDOWN"),
        rejecting("inner", PREFIX_A, "ECONNABORTED"),
    ];
    each_operation(
        &mut world,
        [&before, &after.concat()],
        [
            [[None; 2], [Some("EHOSTDOWN"), None]],
            [[None, Some("ENETDOWN")], [Some("ECONNABORTED"), None]],
        ],
        10,
    );
    world.assert([[None; 2]; 2], "ungoverned");
}

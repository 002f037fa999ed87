//! More governed cgroups than there are descriptors for their links.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, os::unix::process::ExitStatusExt as _};

use enforcer::kernel::attached::{AttachType, programs_at};
use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    deprive::{Deprivation, deprive},
    enforcer::{Enforcer, is_ready},
    place::Place,
    policy::{PolicyFile, rejecting, target},
    process::Stream,
    scene::{A, PREFIX, Scene},
    wait::{PATIENCE, eventually},
};
use rustix::process::Signal;

/// Each takes six descriptors where there are enough of them.
const CGROUPS: usize = 150;

const DESCRIPTORS: u64 = 512;

const ERRNO: &str = "EHOSTDOWN";

/// Cgroups that are looked into: among the first, in the middle, and the last.
const LOOKED_AT: [usize; 4] = [0, 1, 74, CGROUPS - 1];

struct World {
    scene: Scene,
    cgroups: Vec<CgroupFixture>,
    file: PolicyFile,
    enforcer: Enforcer,
    /// In the cgroups that are looked into.
    clients: Vec<Client>,
}

impl World {
    fn new(what: &str) -> Self {
        let scene = Scene::new(what).unwrap();
        let cgroups: Vec<_> = (0..CGROUPS)
            .map(|number| scene.cgroup.child(&number.to_string()).unwrap())
            .collect();
        let mut clients: Vec<_> = LOOKED_AT
            .iter()
            .map(|&at| Client::start(&Place::new(&cgroups[at], &scene.netns)).unwrap())
            .collect();
        for client in &mut clients {
            scene.connects(client, A).unwrap();
        }
        let file = PolicyFile::new(&text(&cgroups, |_| true)).unwrap();
        let mut command = Enforcer::command(&scene.outside(), ["run"]).unwrap();
        command.args(file.arguments());
        deprive(&mut command, Deprivation::Descriptors(DESCRIPTORS));
        let enforcer = Enforcer::start(command).unwrap();
        enforcer
            .wait_for_line(Stream::Stderr, PATIENCE, is_ready)
            .unwrap();
        Self {
            scene,
            cgroups,
            file,
            enforcer,
            clients,
        }
    }

    /// Fails unless those that are looked into are governed where they should be.
    #[track_caller]
    fn governed(&mut self, is_governed: impl Fn(usize) -> bool) {
        for (client, at) in self.clients.iter_mut().zip(LOOKED_AT) {
            let as_it_should = if is_governed(at) {
                self.scene.rejects(client, A, ERRNO)
            } else {
                self.scene.connects(client, A)
            };
            assert!(as_it_should.is_ok(), "cgroup {at}: {as_it_should:?}");
        }
    }

    /// How many programs there are at all the cgroups.
    fn programs(&self) -> usize {
        let at = |cgroup: &CgroupFixture| -> usize {
            let directory = fs::File::open(cgroup.path()).unwrap();
            let programs = AttachType::ALL.map(|at| programs_at(&directory, at).unwrap().programs.len());
            programs.iter().sum()
        };
        self.cgroups.iter().map(at).sum()
    }
}

/// Those of the cgroups are targets.
fn text(cgroups: &[CgroupFixture], is_target: impl Fn(usize) -> bool) -> String {
    let targets = cgroups.iter().enumerate().filter(|(at, _)| is_target(*at));
    let targets =
        targets.map(|(at, cgroup)| target(&format!("t{at}"), &cgroup.relative_path(), &["default"]));
    targets.chain([rejecting("default", PREFIX, ERRNO)]).collect()
}

#[test]
fn all_are_governed_and_leave_at_once_when_they_are_to() {
    let mut world = World::new("many");
    world.governed(|_| true);
    assert_eq!(world.programs(), 5 * CGROUPS);
    let is_even = |at: usize| at.is_multiple_of(2);
    let text_of = |world: &World, even: bool| text(&world.cgroups, |at| is_even(at) == even);
    for even in [true, false] {
        let text = text_of(&world, even);
        world.file.reload(&mut world.enforcer, &text).unwrap();
        world.governed(|at| is_even(at) == even);
        assert_eq!(world.programs(), 5 * CGROUPS / 2);
    }
    let World {
        scene,
        enforcer,
        mut clients,
        ..
    } = world;
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.stderr);
    for client in &mut clients {
        scene.connects(client, A).unwrap();
    }
}

#[test]
fn nobody_is_governed_by_who_was_killed() {
    let mut world = World::new("many-killed");
    world.governed(|_| true);
    world.enforcer.process().signal(Signal::KILL).unwrap();
    let process = world.enforcer.process();
    let status = eventually("enforcer to end", PATIENCE, || process.exited().unwrap()).unwrap();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    eventually("all programs to be detached", PATIENCE, || world.programs() == 0).unwrap();
    world.governed(|_| false);
}

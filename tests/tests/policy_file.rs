//! Policy files: those that cannot be used are refused with exit code 3, soon, and with nothing attached; one that can
//! is carried out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use enforcer_tests::{
    enforcer::{Enforcer, is_ready},
    need::tests_directory,
    process::Finished,
    scene::{A, B, Scene},
    wait::PATIENCE,
};

/// Far longer than refusing takes, far shorter than waiting for a writer to come.
const SOON: Duration = Duration::from_secs(30);

/// Runs with that file, for a target that exists: only the file can be at fault.
fn run(scene: &Scene, file: &Path) -> Finished {
    let path = scene.path();
    let file = file.to_str().unwrap();
    Enforcer::output(
        &scene.outside(),
        ["run", "--policy", file, "--cgroup", &path],
        PATIENCE,
    )
    .unwrap()
}

#[test]
fn files_that_cannot_be_policies_are_refused_soon_and_nothing_is_attached() {
    let scene = Scene::new("files").unwrap();
    let mut client = scene.client().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    fs::write(place("empty"), "").unwrap();
    // The same noise each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(4096)
    .collect();
    fs::write(place("random"), noise).unwrap();
    fs::write(place("latin1"), b"version = 1\n# caf\xe9\n").unwrap();
    fs::create_dir(place("directory")).unwrap();
    symlink(place("nowhere"), place("dangling")).unwrap();
    symlink(place("circle"), place("circle")).unwrap();
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        place("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    );
    made.unwrap();
    for (name, cause) in [
        ("missing", "No such file or directory"),
        ("directory", "directory"),
        ("empty", "version"),
        ("random", "UTF-8"),
        ("latin1", "UTF-8"),
        ("fifo", "pipe"),
        ("dangling", "No such file or directory"),
        ("circle", "symbolic link"),
    ] {
        let start = Instant::now();
        let finished = run(&scene, &place(name));
        let took = start.elapsed();
        let said = finished.stderr.join("\n");
        assert_eq!(finished.status.code(), Some(3), "{name}: {said}");
        assert!(took < SOON, "{name} took {took:?}");
        assert!(
            said.contains(&place(name).display().to_string()),
            "{name}: {said}"
        );
        assert!(said.contains(cause), "{name}: {said}");
        assert!(
            !said.contains("panicked") && !finished.stderr.iter().any(|line| is_ready(line)),
            "{said}"
        );
        scene.connects(&mut client, A).unwrap();
    }
}

#[test]
fn ten_mistakes_are_ten_diagnostics_with_line_and_column() {
    let scene = Scene::new("ten-mistakes").unwrap();
    let mut client = scene.client().unwrap();
    let cases = tests_directory().join("cases/mistakes");
    let file = cases.join("ten.toml");
    let expected = fs::read_to_string(cases.join("ten.expected")).unwrap();
    // The last lines of the expectation are the diagnostics in short: FILE:LINE:COLUMN: error: MESSAGE
    let diagnostics: Vec<_> = expected
        .lines()
        .filter_map(|line| line.strip_prefix("ten.toml:"))
        .filter_map(|line| line.split_once(": error: "))
        .collect();
    assert_eq!(diagnostics.len(), 10);
    for verb in [&["run"][..], &["exec"]] {
        let file = file.to_str().unwrap();
        let tail = if verb == ["exec"] {
            &["--", "echo", "ran"][..]
        } else {
            &[]
        };
        let arguments = [verb, &["--policy", file], tail].concat();
        let finished = Enforcer::output(&scene.inside(), arguments, PATIENCE).unwrap();
        let said = finished.stderr.join("\n");
        assert_eq!(finished.status.code(), Some(3), "{said}");
        assert!(finished.stdout.is_empty(), "{:?}", finished.stdout);
        assert_eq!(said.matches("error: ").count(), 10, "{said}");
        for (place, message) in &diagnostics {
            assert!(said.contains(&format!("error: {message}")), "{message} in {said}");
            assert!(
                said.contains(&format!(" --> {file}:{place}\n")),
                "{place} in {said}"
            );
        }
        assert!(!said.contains('\x1b'), "{said}");
    }
    scene.connects(&mut client, A).unwrap();
    assert!(scene.cgroups_below().unwrap().is_empty());
}

#[test]
fn a_good_file_is_carried_out_with_the_prefix_list_beside_it() {
    let scene = Scene::new("good-file").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    fs::create_dir(directory.path().join("lists")).unwrap();
    fs::write(
        directory.path().join("lists/broken.txt"),
        "# what does not work here\n2001:db8:c::/48\n\n2001:db8:a::/48  # since Monday\n",
    )
    .unwrap();
    fs::write(
        &file,
        format!(
            r#"
            version = 1
            [defaults]
            errno = "EHOSTDOWN"
            [[target]]
            name = "web"
            cgroup = "{}"
            [[rule]]
            name = "broken"
            prefixes_file = "lists/broken.txt"
            action = "reject"
            "#,
            scene.path()
        ),
    )
    .unwrap();
    // Relative to the file, not to where enforcer is started.
    let file = file.to_str().unwrap();
    let enforcer = Enforcer::run(&scene.outside(), ["--policy", file, "--output", "json"]).unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    scene.connects(&mut client, B).unwrap();
    let events = enforcer.wait_for_events(2).unwrap();
    assert_eq!(events[0]["rule"], "broken");
    assert_eq!(events[0]["prefix"], "2001:db8:a::/48");
    assert_eq!(events[0]["target"], "web");
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn a_prefix_list_that_is_not_there_or_wrong_is_refused_with_its_place() {
    let scene = Scene::new("lists").unwrap();
    let mut client = scene.client().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    fs::write(
        &file,
        "version = 1\n[[rule]]\nprefixes_file = \"list.txt\"\naction = \"reject\"\n",
    )
    .unwrap();
    let finished = run(&scene, &file);
    let said = finished.stderr.join("\n");
    assert_eq!(finished.status.code(), Some(3), "{said}");
    assert!(said.contains("policy.toml:3:"), "{said}");
    fs::write(directory.path().join("list.txt"), "2001:db8:a::/48\n10.0.0.0/8\n").unwrap();
    let finished = run(&scene, &file);
    let said = finished.stderr.join("\n");
    assert_eq!(finished.status.code(), Some(3), "{said}");
    assert!(said.contains("list.txt:2:1"), "{said}");
    scene.connects(&mut client, A).unwrap();
}

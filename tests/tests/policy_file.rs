//! Policy files: all mistakes of one are told at once, and one without is carried out. Files that cannot be policies at
//! all are in `bad_input`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use enforcer_tests::{
    enforcer::Enforcer,
    need::tests_directory,
    process::Finished,
    scene::{A, B, Scene},
    wait::PATIENCE,
};

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

#[test]
fn a_file_without_a_rule_in_the_default_group_is_told_with_its_groups() {
    let scene = Scene::new("no-default").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let rule = "[[rule]]\ngroups = [\"web\"]\nprefix = \"2001:db8:a::/48\"\naction = \"reject\"\n";
    fs::write(&file, format!("version = 1\n{rule}")).unwrap();
    let policy = ["--policy", file.to_str().unwrap()];
    let expected = [
        "enforcer: warning: no rule is in the group `default`: connects are only observed".to_owned(),
        format!(
            "enforcer: hint: `--use GROUP` chooses; the groups of {} are: web",
            policy[1]
        ),
    ];
    let is_told = |stderr: &[String]| stderr.windows(2).any(|lines| lines == expected);
    let is_warned = |stderr: &[String]| stderr.iter().any(|line| line.contains("no rule is in"));
    for (chosen, told) in [
        (&[][..], true),
        (&["--use", "web"], false),
        (&["--use", "default"], true),
    ] {
        let exec = [&["exec"], &policy[..], chosen, &["--", "true"]].concat();
        let finished = Enforcer::output(&scene.inside(), exec, PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished:?}");
        assert_eq!(is_told(&finished.stderr), told, "{finished:?}");
        assert_eq!(is_warned(&finished.stderr), told, "{finished:?}");
        let run = scene.govern([&policy[..], chosen].concat()).unwrap();
        let finished = run.terminate().unwrap();
        assert_eq!(is_told(&finished.stderr), told, "{finished:?}");
    }
}

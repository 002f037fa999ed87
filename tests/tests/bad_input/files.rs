//! Policy files that cannot be policies: exit code 3, soon, from every verb that reads one.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use enforcer_tests::{
    deprive::{Deprivation, deprive},
    scene::Scene,
};
use rustix::{
    fs::{CWD, FileType, mknodat},
    thread::CapabilitySet,
};

use crate::table::{Refusal, Table};

/// Far longer than refusing takes anywhere, far shorter than waiting for a writer to come.
const SOON: Duration = Duration::from_secs(30);

/// Name of the file, what is said about it, and what helps.
const FILES: [(&str, &str, &str); 15] = [
    ("missing", "No such file or directory", ""),
    ("unreadable", "Permission denied", ""),
    (
        "directory",
        "it is a directory",
        "give the path of a regular file",
    ),
    (
        "empty",
        "does not say its `version`",
        "begin it with `version = 1`",
    ),
    ("random", "is not UTF-8", "is this the right file?"),
    ("latin1", "is not UTF-8", "is this the right file?"),
    ("zeroes", "has a NUL character", "is this the right file?"),
    ("json", "syntax: ", "policy files are TOML"),
    ("fifo", "it is a pipe", "give the path of a regular file"),
    ("socket", "it is a socket", "give the path of a regular file"),
    ("device", "it is a device", "give the path of a regular file"),
    (
        "dangling",
        "No such file or directory",
        "it is a symbolic link, and what it points to does not exist",
    ),
    ("circle", "symbolic link", ""),
    (
        "100-mib",
        "is longer than 32 MiB",
        "put long lists of prefixes into a `prefixes_file`",
    ),
    (
        "100-mib-of-rules",
        "is longer than 32 MiB",
        "put long lists of prefixes into a `prefixes_file`",
    ),
];

/// Makes all of them.
fn make(directory: &Path) {
    let place = |name: &str| -> PathBuf { directory.join(name) };
    fs::write(place("unreadable"), "version = 1\n").unwrap();
    fs::set_permissions(place("unreadable"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::create_dir(place("directory")).unwrap();
    fs::write(place("empty"), "").unwrap();
    // The same noise each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    fs::write(place("random"), noise.take(1 << 20).collect::<Vec<u8>>()).unwrap();
    fs::write(place("latin1"), b"version = 1\n# caf\xe9\n").unwrap();
    fs::write(place("zeroes"), [0; 4096]).unwrap();
    fs::write(place("json"), r#"{"version": 1, "rule": []}"#).unwrap();
    mknodat(CWD, place("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
    UnixListener::bind(place("socket")).unwrap();
    symlink("/dev/zero", place("device")).unwrap();
    symlink(place("nowhere"), place("dangling")).unwrap();
    symlink(place("circle"), place("circle")).unwrap();
    // Sparse: it takes no room.
    let long = fs::File::create(place("100-mib")).unwrap();
    long.set_len(100 << 20).unwrap();
    let rule = "[[rule]]\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n";
    let rules = rule.repeat((33 << 20) / rule.len());
    fs::write(place("100-mib-of-rules"), format!("version = 1\n{rules}")).unwrap();
    let long = fs::OpenOptions::new().write(true).open(place("100-mib-of-rules"));
    long.unwrap().set_len(100 << 20).unwrap();
}

#[test]
fn files_that_cannot_be_policies_end_with_code_3_soon() {
    let scene = Scene::new("files").unwrap();
    let directory = tempfile::tempdir().unwrap();
    make(directory.path());
    let mut table = Table::new("policy files", &scene);
    let path = scene.path();
    for (name, cause, hint) in FILES {
        let file = directory.path().join(name);
        let file = file.to_str().unwrap();
        for arguments in [
            &["run", "--cgroup", &path, "--policy", file][..],
            &["exec", "--policy", file, "--", "echo", "ran"],
            &["check", file],
            &["explain", "2001:db8::1", "--policy", file],
        ] {
            let mut command = table.command(arguments);
            if name == "unreadable" {
                // Root reads everything by these.
                let reads_all = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
                deprive(&mut command, Deprivation::Capabilities(reads_all));
            }
            let start = Instant::now();
            table.row(
                &format!("{} of a policy file: {name}", arguments[0]),
                command,
                &Refusal { code: 3, cause, hint },
            );
            let took = start.elapsed();
            assert!(took < SOON, "{name} took {took:?}");
        }
    }
    table.finish();
}

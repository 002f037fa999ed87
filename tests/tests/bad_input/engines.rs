//! Container engines that are not there, or are something else: exit code 1, and what was asked is named. How engines
//! behave in full is in the package's `engines.rs`.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    thread,
};

use enforcer_tests::scene::Scene;

use crate::table::{Refusal, Table};

/// A name that no container has, with an engine that is there either.
fn nobody() -> String {
    format!("enforcer-test-nobody-{}", std::process::id())
}

fn answer(mut stream: UnixStream, text: &str) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    let _ = stream.write_all(text.as_bytes());
}

#[test]
fn engines_that_are_none_end_with_code_1() {
    const MAIL: &str = "220 mail.example ESMTP\r\n";
    const WEB: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
    let scene = Scene::new("bad-engines").unwrap();
    let mut table = Table::new("engines", &scene);
    let directory = tempfile::tempdir().unwrap();
    // Whoever waits there for a connection does so until the test's process ends.
    let socket = |name: &str, says: &'static str| {
        let path = directory.path().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            listener
                .incoming()
                .flatten()
                .for_each(|stream| answer(stream, says))
        });
        format!("unix://{}", path.display())
    };
    let absent = format!("unix://{}", directory.path().join("absent").display());
    let folder = format!("unix://{}", directory.path().display());
    for (what, host, cause) in [
        ("a socket that is not there", absent, "cannot connect to "),
        ("a folder", folder, "cannot connect to "),
        (
            "a mail server",
            socket("mail", MAIL),
            "does not answer as a container engine does",
        ),
        (
            "a web server",
            socket("web", WEB),
            "does not answer as a container engine does: status 200 and no Api-Version",
        ),
        (
            "nobody, without a word",
            socket("silent", ""),
            "does not answer as a container engine does",
        ),
        (
            "an engine elsewhere",
            "tcp://192.0.2.1:2376".to_owned(),
            "only unix:// leads to an engine of this machine",
        ),
        (
            "a path without a scheme",
            "/run/docker.sock".to_owned(),
            "only unix:// leads to an engine of this machine",
        ),
    ] {
        let mut command = table.command(&["run", "--container", &nobody(), "--reject", "2001:db8::/32"]);
        command.env("DOCKER_HOST", host).env_remove("CONTAINER_HOST");
        let hint = "hint: ";
        table.row(what, command, &Refusal { code: 1, cause, hint });
    }
    table.finish();
}

//! `enforcer run --container` where there is no engine, or one that does not behave: what is said, and that it is
//! said in time. An engine that runs on this machine is asked too, and does not know the container either.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use enforcer_tests::{
    enforcer::{Enforcer, is_ready},
    place::Place,
    process::Stream,
    wait::{PATIENCE, eventually},
};
use rustix::process::Signal;
use tempfile::TempDir;

/// Who is nobody, on every Linux.
const NOBODY: u32 = 65_534;

/// What a socket does with each connection; it returns when it is done with it.
type Behaviour = fn(UnixStream);

/// A socket, and the directory it is in. Whoever waits there for a connection does so until the test's process ends.
fn engine(behaviour: impl Fn(UnixStream) + Send + 'static) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(behaviour));
    (directory, path)
}

/// What an engine says to a question about a container: status and message.
type Complaint = (u16, &'static str);

/// A socket that has the manners of an engine, has no container, and says of each that is asked for what it shall say at
/// the moment.
struct Complaining {
    _directory: TempDir,
    socket: PathBuf,
    complaint: Arc<Mutex<Complaint>>,
    /// The paths of all requests.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Complaining {
    fn new(status: u16, message: &'static str) -> Self {
        let complaint = Arc::new(Mutex::new((status, message)));
        let asked = Arc::default();
        let (its_complaint, its_asked) = (Arc::clone(&complaint), Arc::clone(&asked));
        let (directory, socket) = engine(move |stream| {
            // Who asks may hang up at any time.
            drop(complain(&stream, &its_complaint, &its_asked));
        });
        Self {
            _directory: directory,
            socket,
            complaint,
            asked,
        }
    }

    fn say(&self, status: u16, message: &'static str) {
        *self.complaint.lock().unwrap() = (status, message);
    }

    /// How often something was asked whose path contains that.
    fn asked(&self, part: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|path| path.contains(part)).count()
    }
}

fn complain(
    stream: &UnixStream,
    complaint: &Mutex<Complaint>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let path = request?.split(' ').nth(1).unwrap_or_default().to_owned();
        for line in &mut lines {
            if line?.is_empty() {
                break;
            }
        }
        let (status, body) = if path == "/_ping" {
            (200, "OK".to_owned())
        } else if path.contains("/containers/json") {
            (200, "[]".to_owned())
        } else {
            let (status, message) = *complaint.lock().unwrap();
            (status, format!("{{\"message\":\"{message}\"}}"))
        };
        asked.lock().unwrap().push(path);
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} Word\r\nApi-Version: 1.41\r\nServer: Docker/20.10.24\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        (&*stream).write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Reads the request, so that the answer is not cut short by what was not read.
fn answer(mut stream: UnixStream, text: &str) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    let _ = stream.write_all(text.as_bytes());
}

/// Keeps the connection until the other side has had enough.
fn say_nothing(mut stream: UnixStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

fn host(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

fn command(docker_host: &str, container: &str, more: &[&str]) -> Command {
    let mut command = Enforcer::command(&Place::default(), ["run", "--reject", "2001:db8::/32"]).unwrap();
    command
        .args(["--container", container])
        .args(more)
        .env("DOCKER_HOST", docker_host)
        .env_remove("CONTAINER_HOST");
    command
}

/// A name that no container has.
fn nobody() -> String {
    format!("enforcer-test-nobody-{}", std::process::id())
}

/// Runs enforcer where it is to refuse, and says what it said.
fn refused(command: Command, code: i32) -> String {
    let finished = Enforcer::start(command).unwrap().finish(PATIENCE).unwrap();
    let said = finished.stderr.join("\n");
    assert_eq!(finished.status.code(), Some(code), "{said}");
    assert!(finished.stdout.is_empty(), "{:?}", finished.stdout);
    assert!(!finished.stderr.iter().any(|line| is_ready(line)), "{said}");
    assert!(said.contains("hint: "), "{said}");
    said
}

#[test]
fn an_engine_that_does_not_behave_is_named_with_what_it_did() {
    let cases: [(Behaviour, &str); 6] = [
        (drop, "does not answer as a container engine does"),
        (
            |stream| answer(stream, "220 mail.example ESMTP\r\n"),
            "does not answer as a container engine does",
        ),
        (
            |stream| answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"),
            "does not answer as a container engine does: status 200 and no Api-Version",
        ),
        (
            // It says that more will come, and does not say it.
            |stream| {
                answer(
                    stream,
                    "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 9\r\n\r\nOK",
                )
            },
            "does not answer as a container engine does",
        ),
        (
            |stream| {
                answer(
                    stream,
                    "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nX: \u{1b}]0;x\u{7}",
                )
            },
            "does not answer as a container engine does",
        ),
        (say_nothing, "did not answer within 5 s"),
    ];
    thread::scope(|scope| {
        for (behaviour, expected) in cases {
            scope.spawn(move || {
                let (_directory, socket) = engine(behaviour);
                let said = refused(command(&host(&socket), &nobody(), &[]), 1);
                let expected = format!("{} {expected}", socket.display());
                assert!(said.contains(&expected), "{said}");
                assert!(said.contains(&nobody()), "{said}");
            });
        }
    });
}

/// The silent one has had its time: only the other is asked what there is instead.
#[test]
fn an_engine_that_is_silent_is_asked_once_and_named_beside_one_that_does_not_know_the_container() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (_directory, silent) = engine(move |stream| {
        count.fetch_add(1, Ordering::Relaxed);
        say_nothing(stream);
    });
    let other = Complaining::new(404, "No such container");
    let mut command = command(&host(&silent), &nobody(), &[]);
    command.env("CONTAINER_HOST", host(&other.socket));
    let said = refused(command, 1);
    assert!(
        said.contains(&format!("there is no container {}", nobody())),
        "{said}"
    );
    let [silent, socket] = [&silent, &other.socket].map(|path| path.display());
    assert!(said.contains(&format!("Docker at {socket}")), "{said}");
    assert!(
        said.contains(&format!("; {silent} did not answer within 5 s")),
        "{said}"
    );
    assert_eq!(
        (asked.load(Ordering::Relaxed), other.asked("/containers/json")),
        (1, 1)
    );
}

#[test]
fn what_an_engine_refuses_is_told_in_its_words_and_not_waited_for() {
    let engine = Complaining::new(400, "multiple IDs found with provided prefix: ab");
    let socket = engine.socket.display();
    for more in [&[][..], &["--wait"]] {
        let said = refused(command(&host(&engine.socket), "ab", more), 1);
        let expected = format!(
            "cannot learn what container ab is: {socket} answers with status 400: multiple IDs found with provided \
             prefix: ab"
        );
        assert!(said.contains(&expected), "{said}");
        assert!(
            said.contains("hint: give more of the identifier, or the whole name"),
            "{said}"
        );
    }
    engine.say(403, "Forbidden");
    let said = refused(command(&host(&engine.socket), "ab", &[]), 1);
    assert!(
        said.contains("hint: name a socket at which this process may look at containers"),
        "{said}"
    );
}

#[test]
fn why_is_said_when_the_wait_begins_and_whenever_that_changes() {
    let engine = Complaining::new(404, "No such container");
    let enforcer = Enforcer::start(command(&host(&engine.socket), &nobody(), &["--wait"])).unwrap();
    let said = |reason: &str| {
        let expected = format!("enforcer: note: {reason}");
        enforcer
            .wait_for_line(Stream::Stderr, PATIENCE, |line| line.starts_with(&expected))
            .unwrap();
    };
    said(&format!("waiting for container {}", nobody()));
    said(&format!("there is no container {}: asked ", nobody()));
    eventually("it to ask three times", PATIENCE, || {
        (engine.asked(&nobody()) > 3).then_some(())
    })
    .unwrap();
    engine.say(503, "not now");
    let socket = engine.socket.display();
    said(&format!(
        "cannot learn what container {} is: {socket} answers with status 503: not now",
        nobody()
    ));
    engine.say(409, "never");
    let finished = enforcer.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1));
    let notes: Vec<_> = finished
        .stderr
        .iter()
        .filter(|line| line.starts_with("enforcer: note: "))
        .collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    let last = finished
        .stderr
        .iter()
        .find(|line| line.starts_with("enforcer: error: "));
    assert!(
        last.unwrap().ends_with("answers with status 409: never"),
        "{finished:?}"
    );
    // The list of all containers is for a hint that is not given.
    assert_eq!(engine.asked("/containers/json"), 0);
}

#[test]
fn what_is_no_socket_is_named_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file, directory.path().join("absent"), directory.path().to_owned()] {
        let said = refused(command(&host(&path), &nobody(), &[]), 1);
        let expected = format!("cannot connect to {}: ", path.display());
        assert!(said.contains(&expected), "{said}");
    }
    for elsewhere in [
        "tcp://192.0.2.1:2376",
        "ssh://root@example.com",
        "/run/docker.sock",
    ] {
        let said = refused(command(elsewhere, &nobody(), &[]), 1);
        let expected =
            format!("DOCKER_HOST is {elsewhere}, and only unix:// leads to an engine of this machine");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn who_may_not_use_the_engine_is_told_so() {
    let (directory, socket) = engine(say_nothing);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    // Where the program was built, others may not be let in.
    let program = directory.path().join("enforcer");
    fs::copy(Enforcer::program().unwrap(), &program).unwrap();
    let told = command(&host(&socket), &nobody(), &["--wait"]);
    let mut command = Place::default().command(&program).unwrap();
    command
        .args(told.get_args())
        .env("DOCKER_HOST", host(&socket))
        .env_remove("CONTAINER_HOST")
        .uid(NOBODY)
        .gid(NOBODY);
    let said = refused(command, 1);
    let expected = format!("cannot connect to {}: Permission denied", socket.display());
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("hint: run as root"), "{said}");
}

#[test]
fn an_engine_that_is_not_there_yet_is_waited_for_until_a_signal() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let waiting = command(&host(&absent), &nobody(), &["--wait"]);
        let mut enforcer = Enforcer::start(waiting).unwrap();
        let note = format!("enforcer: note: waiting for container {}", nobody());
        enforcer
            .wait_for_line(Stream::Stderr, PATIENCE, |line| line == note)
            .unwrap();
        enforcer.process().signal(signal).unwrap();
        assert_eq!(enforcer.finish(PATIENCE).unwrap().status.code(), Some(0));
    }
}

#[test]
fn what_no_container_can_be_called_is_a_malformed_argument() {
    for (name, expected) in [
        ("", "`` is not the name or identifier of a container"),
        (
            "../../images/json",
            "`../../images/json` is not the name or identifier of a container",
        ),
        ("/web", "did you mean `web`?"),
        ("web?x=1", "write it as `docker ps` and `podman ps` show it"),
    ] {
        let said = refused(command("unix:///nowhere", name, &[]), 2);
        assert!(said.contains(expected), "{said}");
    }
}

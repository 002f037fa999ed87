//! Engines that answer from a script: what real ones say is for the integration tests.

use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use super::*;

const ID: &str = "5c8dedf48688dacce6887c204177482e1d196efd2e9edbf964f13c0abd2f9f32";

/// A socket at which each request is answered by what `answer` makes of its path; it is gone with the value.
struct Scripted {
    directory: TempDir,
}

impl Scripted {
    fn new(answer: impl Fn(&str) -> String + Send + Sync + Clone + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, answer.clone()));
            }
        });
        Self { directory }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            socket: self.directory.path().join("socket"),
            is_usual: false,
        }
    }
}

async fn converse(mut stream: UnixStream, answer: impl Fn(&str) -> String) -> io::Result<()> {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await? > 0 {
        while let Some(end) = request.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).into_owned();
            request.drain(..end + 4);
            let path = head.split(' ').nth(1).unwrap_or_default();
            stream.write_all(answer(path).as_bytes()).await?;
        }
    }
    Ok(())
}

fn response(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} Word\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// Headers as Docker 20.10 and Podman 4.3 write them.
const DOCKER: &str = "Api-Version: 1.41\r\nServer: Docker/20.10.24+dfsg1 (linux)\r\n";
const PODMAN: &str = "Api-Version: 1.41\r\nLibpod-Api-Version: 4.3.1\r\nServer: Libpod/4.3.1 (linux)\r\n";

fn scripted(headers: &'static str, path: &'static str, status: u16, body: String) -> Scripted {
    Scripted::new(move |asked| match asked {
        "/_ping" => response(200, headers, "OK"),
        asked if asked == path => response(status, "", &body),
        _ => response(500, "", "{\"message\":\"asked for something else\"}"),
    })
}

#[test]
fn variables_come_first_and_a_socket_with_two_names_is_asked_once() {
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    fs::write(&real, "").unwrap();
    symlink(&real, &link).unwrap();
    let absent = directory.path().join("absent");
    let named = [
        ("DOCKER_HOST", format!("unix://{}", real.display())),
        (
            "CONTAINER_HOST",
            "ssh://root@elsewhere/run/podman.sock".to_owned(),
        ),
    ];
    let (endpoints, errors) = collect(&named, [link.as_path(), &absent]);
    let sockets: Vec<_> = endpoints.into_iter().map(|endpoint| endpoint.socket).collect();
    assert_eq!(sockets, [real, absent]);
    let [error] = &errors[..] else {
        panic!("{errors:?}")
    };
    assert!(
        error
            .to_string()
            .starts_with("CONTAINER_HOST is ssh://root@elsewhere"),
        "{error}"
    );
    let unset = VARIABLES.map(|variable| (variable, String::new()));
    let (endpoints, errors) = collect(&unset, []);
    assert!(endpoints.is_empty() && errors.is_empty());
}

#[tokio::test]
async fn docker_is_asked_in_its_newest_version() {
    let body = format!(
        r#"{{"Id":"{ID}","Name":"/web","State":{{"Status":"running","Pid":7}},"HostConfig":{{"Runtime":"runc"}}}}"#
    );
    let docker = scripted(DOCKER, "/v1.41/containers/web/json", 200, body);
    let inspected = docker.endpoint().inspect("web").await.unwrap();
    assert_eq!(inspected.engine.product, "Docker");
    let expected = Container {
        id: ID.to_owned(),
        name: "web".to_owned(),
        status: "running".to_owned(),
        pid: Some(7),
        runtime: "runc".to_owned(),
    };
    assert_eq!(inspected.container, Some(expected));
}

#[tokio::test]
async fn podman_is_asked_for_its_runtime_and_may_have_states_of_its_own() {
    let body = format!(
        r#"{{"Id":"{ID}","Name":"web","State":{{"Status":"initialized","Pid":0}},"OCIRuntime":"kata","HostConfig":{{"Runtime":"oci"}}}}"#
    );
    let podman = scripted(PODMAN, "/v4.3.1/libpod/containers/web/json", 200, body);
    let inspected = podman.endpoint().inspect("web").await.unwrap();
    assert_eq!(inspected.engine.product, "Podman");
    let container = inspected.container.unwrap();
    assert_eq!(
        (
            container.runtime.as_str(),
            container.status.as_str(),
            container.pid
        ),
        ("kata", "initialized", None)
    );
}

#[tokio::test]
async fn an_unknown_name_is_no_error_and_an_ambiguous_one_is_the_engines_word() {
    let path = "/v1.41/containers/we/json";
    let none = scripted(
        DOCKER,
        path,
        404,
        r#"{"message":"No such container: we"}"#.to_owned(),
    );
    assert_eq!(none.endpoint().inspect("we").await.unwrap().container, None);
    let message = "Multiple IDs found with provided prefix: we";
    let several = scripted(DOCKER, path, 500, format!(r#"{{"message":"{message}"}}"#));
    let error = several.endpoint().inspect("we").await.unwrap_err();
    assert!(
        error.to_string().ends_with(&format!("status 500: {message}")),
        "{error}"
    );
    assert!(error.is_final());
}

/// The answers are those of Podman 4.3.
#[tokio::test]
async fn podman_tells_none_from_several_by_the_cause_alone() {
    let podman = |cause: &str, message: &str| {
        let body = format!(r#"{{"cause":"{cause}","message":"{message}: {cause}","response":404}}"#);
        scripted(PODMAN, "/v4.3.1/libpod/containers/1/json", 404, body)
    };
    let none = podman("no such container", "no container with name or ID 1 found");
    assert_eq!(none.endpoint().inspect("1").await.unwrap().container, None);
    let several = podman(
        "container already exists",
        "more than one result for container ID 1",
    );
    let error = several.endpoint().inspect("1").await.unwrap_err();
    assert!(
        error.is_final()
            && error
                .to_string()
                .contains("more than one result for container ID 1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_list_has_names_without_their_slash() {
    let body = r#"[{"Names":["/web"],"State":"running"},{"Names":["/db"],"State":"stopped"},{"Names":[]}]"#;
    let docker = scripted(DOCKER, "/v1.41/containers/json?all=true", 200, body.to_owned());
    let listed = docker.endpoint().list().await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|listed| (listed.name.as_str(), listed.is_running))
        .collect();
    assert_eq!(listed, [("web", true), ("db", false)]);
}

#[tokio::test]
async fn what_no_engine_says_is_garbage() {
    let inspect = "/v1.41/containers/web/json";
    let inspected = |body: &str| scripted(DOCKER, inspect, 200, body.to_owned());
    let cases = [
        (
            "no HTTP",
            Scripted::new(|_| "220 mail.example ESMTP\r\n".to_owned()),
        ),
        ("another server", Scripted::new(|_| response(200, "", "<html>"))),
        ("no JSON", inspected("<html>")),
        ("other JSON", inspected("[1, 2]")),
        (
            "no identifier",
            inspected(r#"{"Id":"","Name":"/web","State":{"Status":"running","Pid":1}}"#),
        ),
    ];
    for (what, engine) in cases {
        let error = engine.endpoint().inspect("web").await.unwrap_err();
        assert!(matches!(error, EngineError::Garbage { .. }), "{what}: {error:?}");
        assert!(std::error::Error::source(&error).is_some(), "{what}");
    }
}

#[tokio::test]
async fn who_may_not_connect_is_told_apart_from_nobody_there() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = Endpoint {
        socket: directory.path().join("absent"),
        is_usual: true,
    };
    let error = nobody.inspect("web").await.unwrap_err();
    assert!(!error.is_denied() && nobody.is_simply_absent(&error), "{error:?}");
    let claimed = Endpoint {
        is_usual: false,
        ..nobody.clone()
    };
    assert!(!claimed.is_simply_absent(&error));
    let denied = EngineError::Connect {
        socket: nobody.socket,
        source: io::ErrorKind::PermissionDenied.into(),
    };
    assert!(denied.is_denied() && !claimed.is_simply_absent(&denied));
}

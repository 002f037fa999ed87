//! Which cgroup is the container's, and what is said where there is none.

use super::*;
use crate::targets::engine::Listed;

const ID: &str = "5c8dedf48688dacce6887c204177482e1d196efd2e9edbf964f13c0abd2f9f32";

fn engine() -> Engine {
    Engine {
        product: "Docker",
        socket: "/run/docker.sock".into(),
    }
}

fn container(status: &str, pid: Option<u32>, runtime: &str) -> Container {
    Container {
        id: ID.to_owned(),
        name: "web".to_owned(),
        status: status.to_owned(),
        pid,
        runtime: runtime.to_owned(),
    }
}

#[test]
fn the_topmost_cgroup_with_the_identifier_is_the_containers_own() {
    let cases = [
        ("/docker/ID", "/docker/ID"),
        ("/docker/ID/init.scope", "/docker/ID"),
        ("/system.slice/docker-ID.scope", "/system.slice/docker-ID.scope"),
        (
            "/system.slice/docker-ID.scope/system.slice/nginx.service",
            "/system.slice/docker-ID.scope",
        ),
        ("/libpod_parent/libpod-ID", "/libpod_parent/libpod-ID"),
        (
            "/machine.slice/libpod-ID.scope/container",
            "/machine.slice/libpod-ID.scope",
        ),
        (
            "/system.slice/web.service/libpod-payload-ID",
            "/system.slice/web.service/libpod-payload-ID",
        ),
    ];
    for (path, own) in cases {
        let [path, own] = [path, own].map(|path| path.replace("ID", ID));
        assert_eq!(own_level(Path::new(&path), ID), Some(own.into()));
    }
    let other = ID.replace('5', "6");
    for path in [
        "/",
        "/user.slice",
        &format!("/docker/{other}"),
        &format!("/docker/{}", &ID[..12]),
    ] {
        assert_eq!(own_level(Path::new(path), ID), None, "{path}");
    }
}

#[test]
fn only_a_running_container_has_a_process() {
    let pid = main_process(&engine(), &container("running", Some(7), "runc")).unwrap();
    assert_eq!(pid, 7);
    for (status, pid) in [
        ("created", None),
        ("exited", None),
        ("running", None),
        ("paused", Some(7)),
        ("restarting", Some(7)),
    ] {
        let error = main_process(&engine(), &container(status, pid, "runc")).unwrap_err();
        assert!(error.may_pass(), "{error}");
        assert!(error.hint().unwrap().contains("--wait"), "{error}");
        let message = format!("container web of Docker at /run/docker.sock does not run: it is {status}");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn sandboxes_are_refused_by_the_names_of_their_runtimes() {
    for runtime in [
        "runsc",
        "io.containerd.runsc.v1",
        "kata-qemu",
        "io.containerd.kata.v2",
    ] {
        let error = main_process(&engine(), &container("running", Some(7), runtime)).unwrap_err();
        assert!(
            matches!(error, ContainerError::Sandboxed { .. }) && !error.may_pass(),
            "{runtime}: {error}"
        );
        assert!(error.to_string().contains(runtime), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_process_elsewhere_is_not_taken_for_the_containers() {
    let hierarchy = Hierarchy::find().unwrap();
    // This test's own process stands for one that was given the number of the container's.
    let error = own_cgroup(
        &hierarchy,
        &container("running", None, "runc"),
        std::process::id(),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            ContainerError::Foreign { .. } | ContainerError::Root { .. }
        ),
        "{error}"
    );
    assert!(!error.may_pass() && error.hint().is_some());
    let gone = own_cgroup(&hierarchy, &container("running", None, "runc"), u32::MAX).unwrap_err();
    assert!(gone.may_pass() && gone.hint().is_some(), "{gone}");
}

#[test]
fn a_missing_container_is_answered_with_names_like_it_or_with_what_runs() {
    let all = [("web-1", true), ("web-2", false), ("database", true)].map(|(name, is_running)| Listed {
        name: name.to_owned(),
        is_running,
    });
    let absent = |name: &str, all: &[Listed], rootless: &[PathBuf]| {
        ContainerError::absent(name.to_owned(), vec![engine()], Vec::new(), all, rootless)
    };
    let similar = absent("web-3", &all, &[]);
    assert_eq!(
        similar.to_string(),
        "there is no container web-3: asked Docker at /run/docker.sock"
    );
    assert_eq!(similar.hint().unwrap(), "did you mean web-1 or web-2?");
    let other = absent("xyz", &all, &[]).hint().unwrap();
    assert!(other.starts_with("running are web-1, database;"), "{other}");
    let rootless = absent("xyz", &[], &["/run/user/1000/docker.sock".into()])
        .hint()
        .unwrap();
    assert!(
        rootless.contains("DOCKER_HOST=unix:///run/user/1000/docker.sock"),
        "{rootless}"
    );
}

#[test]
fn what_an_engine_refuses_passes_only_if_it_is_the_engine_that_fails() {
    let refused = |status| EngineError::Refused {
        socket: "/run/docker.sock".into(),
        status,
        message: "why".to_owned(),
    };
    let garbage = || EngineError::Garbage {
        socket: "/run/other.sock".into(),
        source: "no".into(),
    };
    let silent = || EngineError::Silent {
        socket: "/run/other.sock".into(),
    };
    let cases = [
        (400, false, "give more of the identifier"),
        (403, false, "name a socket at which"),
        (500, true, "give more of the identifier"),
    ];
    for (status, may_pass, hint) in cases {
        let error = ContainerError::Refused {
            name: "ab".to_owned(),
            failed: vec![silent(), refused(status)],
        };
        assert_eq!(error.may_pass(), may_pass, "{error}");
        assert!(error.hint().unwrap().starts_with(hint), "{error}");
        assert!(
            error
                .to_string()
                .ends_with(&format!("/run/docker.sock answers with status {status}: why")),
            "{error}"
        );
    }
    assert!(is_refusal(&[silent(), refused(500)], true));
    assert!(is_refusal(&[garbage()], false));
    // Somebody has answered that there is none: that something else is no engine does not change it.
    assert!(!is_refusal(&[garbage()], true));
    assert!(!is_refusal(&[silent()], false));
}

#[test]
fn every_engine_that_failed_is_named_with_its_reason() {
    let error = |failed| ContainerError::NoEngine {
        name: "web".to_owned(),
        failed,
        rootless: Vec::new(),
    };
    let absent = || EngineError::Connect {
        socket: "/run/docker.sock".into(),
        source: std::io::ErrorKind::NotFound.into(),
    };
    let remote = || EngineError::NotUnix {
        variable: "DOCKER_HOST",
        value: "tcp://10.0.0.1:2376".to_owned(),
    };
    let none = error(vec![remote(), absent()]);
    let said = none.to_string();
    assert!(
        said.contains("DOCKER_HOST is tcp://10.0.0.1:2376, and only unix://"),
        "{said}"
    );
    assert!(
        said.ends_with("cannot connect to /run/docker.sock: entity not found"),
        "{said}"
    );
    assert!(none.may_pass() && none.hint().unwrap().contains("DOCKER_HOST=unix://"));
    let denied = error(vec![EngineError::Connect {
        socket: "/run/docker.sock".into(),
        source: std::io::ErrorKind::PermissionDenied.into(),
    }]);
    assert!(!denied.may_pass() && denied.hint().unwrap().contains("root"));
}

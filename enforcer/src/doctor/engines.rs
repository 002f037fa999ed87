//! Container engines, found by the sockets they listen on. Nothing is asked of them, and nothing connects: that alone could
//! start an engine, with all the containers it is to restart.

use std::{
    collections::BTreeSet,
    env, fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use super::{
    listeners::{Answer, Listeners},
    report::{Item, Level},
};

/// What listens where, when it runs as root.
const SOCKETS: &[(&str, &str)] = &[
    ("Docker", "/run/docker.sock"),
    ("Docker", "/var/run/docker.sock"),
    ("Podman", "/run/podman/podman.sock"),
    ("containerd", "/run/containerd/containerd.sock"),
    ("containerd", "/run/k3s/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("CRI-O", "/var/run/crio/crio.sock"),
];

/// And when it runs as a user: below each folder of [`USERS`].
const ROOTLESS: &[(&str, &str)] = &[
    ("Docker", "docker.sock"),
    ("Podman", "podman/podman.sock"),
    ("containerd", "containerd-rootless/containerd.sock"),
];

/// `XDG_RUNTIME_DIR` of each user who is logged in.
const USERS: &str = "/run/user";

/// Variables that name a socket to clients, and what those are clients of.
const VARIABLES: [(&str, &str); 2] = [("DOCKER_HOST", "Docker"), ("CONTAINER_HOST", "Podman")];

/// A socket that is there, or that a variable names.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    /// As it is usually called, or as it was named.
    path: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
    engine: &'static str,
    /// Whose it is, if not root's.
    user: Option<String>,
    is_socket: bool,
}

/// What a variable says.
struct Named {
    variable: &'static str,
    engine: &'static str,
    value: String,
}

impl Named {
    /// The socket, if it names one.
    fn path(&self) -> Option<&Path> {
        let path = self.value.strip_prefix("unix://").map(Path::new)?;
        path.is_absolute().then_some(path)
    }
}

pub(super) fn examine() -> Vec<Item> {
    let named: Vec<_> = VARIABLES
        .into_iter()
        .filter_map(|(variable, engine)| {
            let value = env::var_os(variable).filter(|value| !value.is_empty())?;
            Some(Named {
                variable,
                engine,
                value: value.to_string_lossy().into_owned(),
            })
        })
        .collect();
    let mut items: Vec<_> = named
        .iter()
        .filter(|it| it.path().is_none())
        .map(not_asked)
        .collect();
    let listeners = Listeners::find();
    items.extend(
        sockets(Path::new("/"), &named)
            .iter()
            .map(|socket| about(socket, listeners.as_ref())),
    );
    if items.is_empty() {
        items.push(
            Item::new(
                "engines",
                "container engines",
                Level::Ok,
                "no socket of one found",
            )
            .follows("containers can be governed all the same, with --pid or --cgroup"),
        );
    }
    items
}

fn not_asked(named: &Named) -> Item {
    let Named {
        variable,
        engine,
        value,
    } = named;
    let state = format!("{variable} is {value}: not asked");
    Item::new("engine", *engine, Level::Note, state)
        .subject(value)
        .follows("only unix:// leads for certain to an engine of this machine")
}

/// The sockets below `root` that exist, and those that are named; each once though several paths lead to it.
fn sockets(root: &Path, named: &[Named]) -> Vec<Socket> {
    let users = root.join(USERS.trim_start_matches('/'));
    let real_users = fs::canonicalize(&users).unwrap_or_else(|_| users.clone());
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |engine, path: PathBuf, is_named: bool| {
        let is_socket = fs::metadata(&path).is_ok_and(|it| it.file_type().is_socket());
        let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        if (is_socket || is_named) && seen.insert(real.clone()) {
            let user = real
                .strip_prefix(&real_users)
                .ok()
                .and_then(|below| below.components().next())
                .map(|user| user.as_os_str().to_string_lossy().into_owned());
            found.push(Socket {
                path,
                real,
                engine,
                user,
                is_socket,
            });
        }
    };
    for (engine, path) in SOCKETS {
        add(engine, root.join(path.trim_start_matches('/')), false);
    }
    let mut users: Vec<_> = fs::read_dir(users)
        .into_iter()
        .flatten()
        .flatten()
        .map(|user| user.path())
        .collect();
    users.sort();
    for user in users {
        for (engine, path) in ROOTLESS {
            add(engine, user.join(path), false);
        }
    }
    for it in named {
        if let Some(path) = it.path() {
            add(it.engine, path.to_owned(), true);
        }
    }
    found
}

fn about(socket: &Socket, listeners: Result<&Listeners, &io::Error>) -> Item {
    let path = socket.path.display().to_string();
    let (level, answer) = if socket.is_socket {
        match listeners {
            // A rootless Docker's daemon is in the network namespace of its rootlesskit.
            Ok(listeners) => match listeners.at(&socket.real, socket.user.is_some()) {
                Answer::Somebody => (Level::Ok, "somebody listens".to_owned()),
                Answer::NobodyFound => (Level::Note, "nobody was found to listen".to_owned()),
                Answer::Unknown => (
                    Level::Unknown,
                    "cannot tell whether somebody listens: nobody does in this network namespace".to_owned(),
                ),
            },
            Err(error) => (
                Level::Unknown,
                format!("cannot tell whether somebody listens: {error}"),
            ),
        }
    } else {
        match fs::metadata(&socket.path) {
            Ok(_) => (Level::Note, "no socket".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (Level::Note, "does not exist".to_owned())
            }
            Err(error) => (Level::Unknown, format!("cannot be looked at: {error}")),
        }
    };
    let (kind, name) = match &socket.user {
        Some(user) => ("rootless", format!("{}, rootless (uid {user})", socket.engine)),
        None => ("rootful", socket.engine.to_owned()),
    };
    let item = Item::new("engine", name, level, format!("{path}: {answer}"))
        .subject(path)
        .text("engine", socket.engine)
        .text("kind", kind)
        .text("answer", answer);
    if socket.user.is_some() {
        item.follows(
            "its containers are cgroups below that user's slice and can be governed by root only, with --container \
             (DOCKER_HOST or CONTAINER_HOST names this socket), --pid or --cgroup; connects are judged in the container, before slirp4netns or pasta carries them out",
        )
    } else {
        item
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn named(variable: &'static str, value: String) -> Named {
        let engine = VARIABLES.iter().find(|(name, _)| *name == variable).unwrap().1;
        Named {
            variable,
            engine,
            value,
        }
    }

    #[test]
    fn sockets_are_found_once_rootless_ones_apart_and_files_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("run/user/1000/podman")).unwrap();
        fs::create_dir_all(root.join("run/crio")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        symlink(root.join("run"), root.join("var/run")).unwrap();
        fs::write(root.join("run/crio/crio.sock"), "").unwrap();
        let _docker = UnixListener::bind(root.join("run/docker.sock")).unwrap();
        let podman = UnixListener::bind(root.join("run/user/1000/podman/podman.sock")).unwrap();
        drop(podman);

        let found = sockets(root, &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].engine, found[0].user.as_deref()), ("Docker", None));
        assert_eq!(
            (found[1].engine, found[1].user.as_deref()),
            ("Podman", Some("1000"))
        );
        let listeners = Listeners::find();
        let [docker, podman] = [0, 1].map(|index| about(&found[index], listeners.as_ref()));
        assert!(docker.state.ends_with("somebody listens"), "{docker:?}");
        // Who listens there may be in a network namespace that is not looked at.
        assert_eq!(podman.level, Level::Unknown);
    }

    #[test]
    fn a_socket_that_a_variable_names_is_the_usual_one_or_a_users_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("run/user/1000/engine")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        symlink(root.join("run"), root.join("var/run")).unwrap();
        let _docker = UnixListener::bind(root.join("run/docker.sock")).unwrap();
        let _podman = UnixListener::bind(root.join("run/user/1000/engine/podman.sock")).unwrap();
        let host = |path: &str| format!("unix://{}", root.join(path).display());
        let found = |docker: String, container: String| {
            let named = [named("DOCKER_HOST", docker), named("CONTAINER_HOST", container)];
            let found = sockets(root, &named).into_iter();
            found
                .map(|it| (it.engine, it.user, it.is_socket))
                .collect::<Vec<_>>()
        };
        let docker = || ("Docker", None, true);
        let users = host("var/run/user/1000/engine/podman.sock");
        assert_eq!(
            found(host("var/run/docker.sock"), users),
            [docker(), ("Podman", Some("1000".to_owned()), true)]
        );
        assert_eq!(
            found("tcp://127.0.0.1:2375".to_owned(), host("run/absent")),
            [docker(), ("Podman", None, false)]
        );
        let elsewhere = not_asked(&named("DOCKER_HOST", "tcp://127.0.0.1:2375".to_owned()));
        assert_eq!(elsewhere.state, "DOCKER_HOST is tcp://127.0.0.1:2375: not asked");
    }
}
